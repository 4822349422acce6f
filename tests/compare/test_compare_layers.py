"""Two forms of a model, layer by layer: intended changes do not depart, and a fault is named."""

from __future__ import annotations

import copy
import shutil
import warnings

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from export_toys import export_onnx, export_program
from lowering_calls import lower_bf16, lower_fp16, lower_qdq
from onnx import numpy_helper
from torch import nn

import deployfold
from deployfold.compare.layers import compare_files
from deployfold.compare.layers.differences import compare_pairs
from deployfold.compare.layers.eager import EagerSide
from deployfold.compare.layers.pairing import pair
from deployfold.compare.layers.result import Limits
from deployfold.config.inputs import InputSpec, TensorSpec
from deployfold.config.precision import Precision
from deployfold.errors import DeployfoldError, LoadError, UsageError
from deployfold.folding import fold
from deployfold.lowering.qdq.recentre import SHIFT_KEY

SHAPE = (2, 3, 16, 16)
SPEC = InputSpec((TensorSpec(SHAPE, "x"),))
FORMS = ("net.pt", "net.folded.pt", "net.onnx", "old.onnx", "net.fp16.onnx", "net.bf16.onnx",
         "net.int8.onnx")  # fmt: skip


class Block(nn.Module):
    """A residual block whose activation module runs twice, the second time on a sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + x)


class Net(nn.Module):
    """A stem, a block that runs twice, a BatchNorm in front of a convolution, and a head."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, bias=False), nn.BatchNorm2d(width))
        self.block = Block(width)
        self.norm = nn.BatchNorm2d(width)
        self.reduce = nn.Conv2d(width, 4, 1)
        self.drop = nn.Dropout()
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = self.block(self.block(x))
        x = torch.relu(self.reduce(self.norm(torch.tanh(x))))
        return self.head(self.drop(x.mean((2, 3))))


class Branches(nn.Module):
    """RepVGG's three branches."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.dense = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.point = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.skip = nn.BatchNorm2d(8)
        self.act = nn.ReLU()
        self.last = nn.Conv2d(8, 4, 3)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.last(self.act(self.dense(x) + self.point(x) + self.skip(x)))


class Joined(nn.Module):
    """A BatchNorm behind a concatenation, taken up by both of what it joins."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3)
        self.right = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 4, 3)

    def forward(self, x):
        return self.last(torch.relu(self.norm(torch.cat([self.left(x), self.right(x)], 1))))


def randomised(net: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return net.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One net in all forms. The files are trusted, because torch has to import their classes."""
    place = tmp_path_factory.mktemp("layerwise")
    torch.manual_seed(0)
    net, x = randomised(Net()), torch.randn(SHAPE)
    result = fold(net, (x,))
    assert result.left == ()
    folded = result.model
    torch.save(net, place / "net.pt")
    torch.save(folded, place / "net.folded.pt")
    program, _ = export_program(folded, (x,), place / "net.pt2", spec=SPEC)
    for name, given in (("net.onnx", program), ("old.onnx", None)):
        export_onnx(folded, (x,), place / name, spec=SPEC, program=given)
    feeds = [{"x": np.random.default_rng(i).normal(size=SHAPE).astype("f")} for i in range(8)]
    lower_fp16(place / "net.onnx", place / "net.fp16.onnx", inputs=feeds)
    lower_bf16(place / "net.onnx", place / "net.bf16.onnx", inputs=feeds)
    lower_qdq(
        place / "net.onnx", place / "net.int8.onnx",
        precision=Precision.INT8, calibration=feeds, held_back=feeds,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(net, x), place / "net.ts.pt")
    return place


def compare(old, new, **options):
    return compare_files(str(old), str(new), inputs=SPEC, trust=True, **options)


@pytest.mark.parametrize("new", FORMS[1:])
@pytest.mark.parametrize("old", FORMS[:3])
def test_no_layer_departs_between_forms_of_one_model(folder, old, new):
    found = compare(folder / old, folder / new)
    assert found.passed, found.departing
    names = {layer.name for layer in found.layers}
    assert {"stem.0", "block.conv1", "block.conv2", "reduce", "head"} <= names
    assert found.layers[-1].shape == (2, 10)


def test_a_folded_batchnorm_is_compared_behind_the_layer_that_took_it_up(folder):
    found = compare(folder / "net.pt", folder / "net.onnx")
    folded = {layer.name: (layer.folded, layer.kind) for layer in found.layers if layer.folded}
    assert folded["stem.0"] == ("stem.1", "Conv2d + BN")
    assert folded["block.conv2"] == ("block.bn2", "Conv2d + BN")
    names = [layer.name for layer in found.layers]
    assert names.count("block.conv1") == 2  # the block runs twice
    assert "norm" in found.skipped  # it went into the layer behind it, as its inputs
    assert "norm" not in names
    assert "reduce" in names
    back = compare(folder / "net.onnx", folder / "net.pt")
    assert {x.name for x in back.layers if x.folded} == set(folded)
    assert back.passed


def broken(folder, name, layer, tmp_path):
    """A copy of one form in which the weight of ``layer`` is wrong in every second channel."""
    path = tmp_path / name
    if name.endswith(".pt"):
        net = torch.load(folder / name, weights_only=False)
        with torch.no_grad():
            net.get_submodule(layer).weight[::2].mul_(-3)
        torch.save(net, path)
        return path
    model = onnx.load(folder / name)
    (node,) = [n for n in model.graph.node if f"/{layer}" in module_of(n)][:1]
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    made = {output: n for n in model.graph.node for output in n.output}
    weight = node.input[1]
    if weight not in known:  # Q/DQ: the scales of the channels
        weight = made[weight].input[1]
    array = numpy_helper.to_array(known[weight]).copy()
    array[::2] *= -3
    known[weight].CopyFrom(numpy_helper.from_array(array, weight))
    onnx.save(model, path)
    return path


def module_of(node):
    """``/block.conv2``, or ``/block/conv2/Conv`` of the older exporter with dots."""
    for prop in node.metadata_props:
        if prop.key == "deployfold.module":
            return f"/{prop.value}"
    return node.name.replace("/", ".").replace(".", "/", 1).removesuffix(".Conv")


@pytest.mark.parametrize("name", FORMS[1:])
@pytest.mark.parametrize("layer", ["block.conv2", "reduce"])
def test_a_broken_layer_is_named_first(folder, name, layer, tmp_path):
    path = broken(folder, name, layer, tmp_path)
    for old in ("net.pt", "net.onnx"):
        found = compare(folder / old, path)
        assert found.departing[0].name == layer, found.departing
        assert "SQNR" in found.departing[0].departs


def test_a_wrong_fold_is_named(folder, tmp_path):
    net = torch.load(folder / "net.folded.pt", weights_only=False)
    with torch.no_grad():
        net.block.conv1.bias.add_(0.5)
    torch.save(net, tmp_path / "wrong.pt")
    found = compare(folder / "net.pt", tmp_path / "wrong.pt")
    assert found.departing[0].name == "block.conv1"
    assert found.departing[0].folded == "block.bn1"


def test_another_shape_is_named(folder, tmp_path):
    class Wider(Net):
        pass

    net = torch.load(folder / "net.folded.pt", weights_only=False)
    wide = copy.deepcopy(net)
    wide.reduce, wide.head = nn.Conv2d(8, 6, 1), nn.Linear(6, 10)
    torch.save(wide, tmp_path / "wide.pt")
    found = compare(folder / "net.onnx", tmp_path / "wide.pt")
    assert found.departing[0].name == "reduce"
    assert found.departing[0].departs == "its shape is 2x6x14x14, not 2x4x14x14"
    assert found.departing[0].sqnr_db is None
    assert found.layers[0].sqnr_db > 100


@pytest.mark.parametrize("make", [Branches, Joined])
def test_changes_made_by_folding_do_not_depart(make):
    torch.manual_seed(0)
    net, feeds = randomised(make()), [(torch.randn(SHAPE),), (torch.randn(SHAPE),)]
    result = fold(net, feeds[0])
    assert result.left == ()
    for sides in ((net, result.model), (result.model, net)):
        first, second = (EagerSide("net", side, feeds) for side in sides)
        pairing = pair(first, second)
        found = compare_pairs(first, second, pairing.pairs, Limits(60.0))
        assert [layer.departs for layer in found] == [None] * len(found)
        assert {"last"} <= {layer.name for layer in found}
        assert pairing.skipped
    with torch.no_grad():
        result.model.last.weight.mul_(2)
    first, second = EagerSide("a", net, feeds), EagerSide("b", result.model, feeds)
    found = compare_pairs(first, second, pair(first, second).pairs, Limits(60.0))
    assert [layer.name for layer in found if layer.departs] == ["last"]


def test_every_part_gives_the_same_as_all_at_once(folder):
    net = torch.load(folder / "net.pt", weights_only=False)
    feeds = [(torch.randn(SHAPE),), (torch.randn(SHAPE),)]
    folded = fold(net, feeds[0]).model
    first, second = EagerSide("a", net, feeds), EagerSide("b", folded, feeds)
    pairs = pair(first, second).pairs
    whole = compare_pairs(first, second, pairs, Limits(60.0))
    assert compare_pairs(first, second, pairs, Limits(60.0), budget=1) == whole


def test_limits_are_the_users(folder):
    old, new = folder / "net.pt", folder / "net.int8.onnx"
    found = compare(old, new, min_sqnr=90.0)
    assert found.departing[0] is found.layers[0]
    assert found.departing[0].departs.endswith("is below 90 dB")
    found = compare(old, new, max_diff=1e-9)
    assert "max |Δ|" in found.departing[0].departs
    assert compare(old, new).min_sqnr_db == 10.0
    assert compare(old, folder / "net.fp16.onnx").min_sqnr_db == 20.0


def test_layers_centred_for_int8_are_compared_at_the_original_point(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU6(), nn.Conv2d(8, 4, 1)).eval()
    net[0].bias.data += 3.0
    x, sources = torch.randn(SHAPE), [tmp_path / "net.onnx", tmp_path / "net.int8.onnx"]
    export_onnx(net, (x,), sources[0], spec=SPEC)
    feeds = [{"x": np.random.default_rng(i).normal(size=SHAPE).astype("f")} for i in range(8)]
    lower_qdq(*sources, precision=Precision.INT8, calibration=feeds, held_back=feeds)
    shifts = [node.metadata_props.get(SHIFT_KEY) for node in onnx_ir.load(sources[1]).graph]
    assert len([shift for shift in shifts if shift]) == 2, "the convolution and its ReLU6"
    found = compare(*sources, min_sqnr=25.0)
    assert found.passed, found.departing
    assert {"Conv", "Clip"} <= {layer.kind for layer in found.layers}


def test_rounding_to_16_bits_is_seen(folder):
    """ONNX Runtime would compute the file in float32."""
    for name, least, most in (("net.fp16.onnx", 50, 100), ("net.bf16.onnx", 30, 80)):
        found = compare(folder / "net.onnx", folder / name)
        assert all(least < layer.sqnr_db < most for layer in found.layers), found.layers


def test_real_inputs_are_run(folder, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(5).normal(size=(6, *SHAPE[1:])).astype("f"))
    found = compare(folder / "net.pt", folder / "net.onnx", data=tmp_path / "x.npy")
    assert "6 samples of x.npy" in found.input_data
    assert found.passed


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("net.ts.pt", "compiled graph"),
        (".", "is a directory"),
        ("gone.onnx", "does not exist"),
        ("gone.pt", "does not exist"),
        ("bad.onnx", "cannot be read as ONNX"),
        ("x.engine", "engine has fused"),
        ("other.pt", "no layer in common"),
    ],
)
def test_a_file_without_layers_is_refused(folder, tmp_path, name, words):
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x07\x12\xff\xff not ONNX")
    (tmp_path / "x.engine").write_bytes(b"")
    torch.save(nn.Sequential(nn.Sequential(nn.Conv2d(3, 5, 3))), tmp_path / "other.pt")
    path = tmp_path if name == "." else tmp_path / name
    path = folder / name if name == "net.ts.pt" else path
    with pytest.raises((UsageError, LoadError), match=words):
        compare(folder / "net.onnx", path)


def test_a_pickle_runs_no_code(tmp_path, folder):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save(Evil(), tmp_path / "evil.pt")
    with pytest.raises(DeployfoldError):
        compare_files(str(folder / "net.onnx"), str(tmp_path / "evil.pt"), inputs=SPEC)
    assert not (tmp_path / "ran").exists()


def test_the_original_is_compared_as_its_build_loaded_it(tmp_path, monkeypatch):
    """Half precision and the choice among weights: the file alone is another model."""
    monkeypatch.chdir(tmp_path)
    nets = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        nets.append(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).half().eval())
    torch.save({"model": nets[0], "ema": nets[1]}, "two.pt")
    deployfold.build(
        "two.pt", weights="model", inputs=["1x3x8x8"], output="o", engine=False, measure=False
    )
    (tmp_path / "o" / "below").mkdir()
    for folder, up in ((".", ""), ("o/below", "../../")):  # the report has the path two.pt
        monkeypatch.chdir(tmp_path / folder)
        found = compare_files(f"{up}two.pt", f"{up}o/two.onnx")
        assert min(layer.sqnr_db for layer in found.layers) > 100
    monkeypatch.chdir(tmp_path)
    torch.save(nets[0], "half.pt")
    shutil.copy("o/two.onnx", "alone.onnx")  # without the report of its build
    found = compare_files("half.pt", "alone.onnx")
    assert min(layer.sqnr_db for layer in found.layers) > 100
