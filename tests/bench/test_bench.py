"""The artifacts that ``deployfold bench`` measures, and their names."""

from __future__ import annotations

import copy
import importlib
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import deployfold
from deployfold.bench.artifacts import LeftOut, original
from deployfold.bench.bench import bench
from deployfold.building.artifact import Artifact
from deployfold.building.rows import Extras, interrupted_rows, measure_rows
from deployfold.config.build_spec import BuildSpec
from deployfold.config.inputs import InputSpec
from deployfold.errors import UsageError
from deployfold.events import StageProgress
from deployfold.measuring.measurements import MeasurementInterrupted
from deployfold.reporting.conditions import Source
from deployfold.reporting.report import load_report
from deployfold.runtimes.eager import EagerRunner
from deployfold.runtimes.settings import RunSettings
from deployfold.util.files import sha256

QUICK = {"threads": 1, "max_seconds": 0.3, "trust": True}
SHAPE = InputSpec.parse(["1x3x8x8"])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A state dict that needs ``--arch``, and a build of it."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "bench_nets.py").write_text(
        "from torch import nn\n\n\ndef make():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))\n"
    )
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    torch.save(net.state_dict(), folder / "weights.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        deployfold.build(
            "weights.pth", arch="bench_nets:make", inputs=["1x3x8x8"], output="o", fp16=True,
            engine=False, measure=False,
        )  # fmt: skip
    return folder


@pytest.fixture
def here(built, tmp_path, monkeypatch):
    """The working directory of a test: a copy of :func:`built`."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_build_is_measured_against_its_original(here):
    rows = {row.name: row for row in bench([here / "o"], **QUICK).rows}
    assert list(rows) == [
        "pytorch", "folded", "torchscript", "program", "onnxruntime", "onnxruntime-fp16",
    ]  # fmt: skip
    assert rows["pytorch"].batchnorm_layers == 1
    assert rows["onnxruntime"].accuracy.max_abs_diff < 1e-5
    lowered = rows.pop("onnxruntime-fp16")
    assert "no fp16 kernels" in lowered.not_measured
    assert lowered.accuracy is not None, "as measured when it was lowered"
    assert all(row.latency is not None for row in rows.values())


SHARDED = "sharded/model.safetensors.index.json"
ORIGINALS = {
    "one of two sets of weights, with an argument of the architecture": (
        {"path": "two.pt", "kind": "state_dict", "arch": "bench_nets:wide"},
        {"arch-arg": ["width=6"], "weights": "ema"},
        None,
    ),
    "a model by the user's code": (
        {"path": "bench_nets:wide", "kind": "factory", "arch": "bench_nets:wide"}, {}, None,
    ),
    "a module in half precision": ({"path": "half.pt", "kind": "module"}, {}, None),
    "shards": ({"path": SHARDED, "kind": "state_dict", "arch": "bench_nets:wide"}, {}, None),
    "raw pictures": (
        {"path": "half.pt", "kind": "module"},
        {"image-input": "nhwc", "mean": "0.5,0.5,0.5", "std": "0.2,0.2,0.2", "input": ["1x3x8x8"]},
        InputSpec.parse(["1x8x8x3:uint8"]),
    ),
}  # fmt: skip


@pytest.fixture
def originals(here):
    """The files of :data:`ORIGINALS`, and the outputs of the original of each."""
    source = "import torch\nfrom torch import nn\n\n\ndef wide(width=4):\n"
    source += "    torch.manual_seed(width)\n    return nn.Sequential(nn.Conv2d(3, width, 3))\n"
    (here / "bench_nets.py").write_text(source)
    sys.modules.pop("bench_nets", None)
    nets = importlib.import_module("bench_nets")
    raw, average = nets.wide(6), nets.wide(6)
    average[0].bias.data += 1
    torch.save({"model": raw.state_dict(), "ema": average.state_dict()}, "two.pt")
    half = nets.wide().half()
    torch.save(half, "half.pt")
    shard = here / "sharded" / "a.safetensors"
    shard.parent.mkdir()
    save_file(nets.wide().state_dict(), shard)
    (here / SHARDED).write_text(
        json.dumps({"weight_map": dict.fromkeys(half.state_dict(), shard.name)})
    )
    pictures, floats = torch.randint(0, 256, (1, 8, 8, 3)), torch.randn(1, 3, 8, 8)
    single = copy.deepcopy(half).float()
    with torch.inference_mode():
        outputs = [(floats, net(floats)) for net in (average, nets.wide(), single, nets.wide())]
        shown = (pictures.permute(0, 3, 1, 2) / 255 - 0.5) / 0.2
        outputs.append((pictures.to(torch.uint8), single(shown)))
    return dict(zip(ORIGINALS, outputs, strict=True))


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_original_is_loaded_as_the_build_loaded_it(here, originals, name):
    source, options, inputs = ORIGINALS[name]
    given, expected = originals[name]
    report = load_report(here / "o" / "report.json")
    path = here / source["path"]
    files = sorted(path.parent.iterdir(), reverse=True) if "sharded" in path.parts else [path]
    digest = sha256(*files) if path.exists() else None
    report = report.model_copy(
        update={"source": Source(**source, sha256=digest), "options": options}
    )
    runner = original(report, inputs or SHAPE, RunSettings(trust=True))
    runner.load()
    np.testing.assert_allclose(runner.run([given])[0], expected, atol=1e-5)
    if "sharded" in path.parts:
        save_file({"0.weight": torch.zeros(4, 3, 3, 3), "0.bias": torch.zeros(4)}, files[-1])
        with pytest.raises(LeftOut, match="has changed since the build"):
            original(report, SHAPE, RunSettings(trust=True))


def test_code_that_a_report_names_runs_only_for_a_user_who_trusts_it(here):
    """The directory can be somebody else's, and its report can name any function."""
    (here / "bench_nets.py").write_text("raise SystemExit('code of the report ran')\n")
    sys.modules.pop("bench_nets", None)
    report = bench([here / "o"], **{**QUICK, "trust": False})
    assert report.rows[0].name == "folded"
    assert any("code, bench_nets:make" in note for note in report.notes)


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ({"path": "bench_nets:make", "kind": "zoo"}, {}),
        ({"path": "weights.pth", "kind": "module"}, {"arch": "bench_nets:make"}),
    ],
)
def test_a_report_cannot_hide_the_code_that_it_names(here, source, options):
    (here / "bench_nets.py").write_text("raise SystemExit('code of the report ran')\n")
    sys.modules.pop("bench_nets", None)
    changed = {"source": Source(**source), "options": options}
    report = load_report(here / "o").model_copy(update=changed)
    with pytest.raises(LeftOut, match="code, bench_nets:make"):
        original(report, SHAPE, RunSettings())


@pytest.mark.parametrize(
    ("change", "expected"),
    [(b"other", "has changed"), (None, "no longer exists")],
)
def test_without_its_original_the_folded_model_is_the_baseline(here, change, expected):
    weights = here / "weights.pth"
    if change is None:
        weights.unlink()
    else:
        weights.write_bytes(change)
    report = bench([here / "o"], **QUICK)
    assert report.rows[0].name == "folded"
    assert report.rows[0].latency.speedup.value == 1
    assert expected in report.notes[0]


def test_a_pickled_module_also_runs_in_fp16_with_the_option(here):
    rows = {row.name: row for row in bench([here / "o"], torch_fp16=True, **QUICK).rows}
    half = rows["folded-fp16"]
    assert half.title == "PyTorch, folded, fp16"
    assert half.latency is not None
    assert 1e-6 < half.accuracy.max_abs_diff < 1e-2, "rounded to fp16"
    assert "pytorch-fp16" not in rows

    files = [here / "o" / name for name in ("weights.folded.pt", "weights.onnx")]
    names = [row.name for row in bench(files, inputs=SHAPE, torch_fp16=True, **QUICK).rows]
    assert names == ["weights.folded.pt", "weights.folded.pt-fp16", "weights.onnx"]


def test_files_of_the_same_name_have_rows_of_their_own(tmp_path):
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "net.pt")
        torch.save(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), paths[-1])
    report = bench(paths, inputs=SHAPE, **QUICK)
    assert [row.name for row in report.rows] == [str(path) for path in paths]
    assert report.rows[1].accuracy.max_abs_diff > 0.01, "two models, not one of them twice"
    with pytest.raises(UsageError, match="twice"):
        bench([paths[0], paths[0]], inputs=SHAPE, **QUICK)


def test_a_directory_without_artifacts_is_refused(here):
    (here / "weights.pth").unlink()
    for path in (here / "o").iterdir():
        if path.name != "report.json":
            path.unlink()
    with pytest.raises(UsageError, match="No artifact"):
        bench([here / "o"], **QUICK)
    with pytest.raises(UsageError, match="one directory"):
        bench([here / "o", here / "o"], **QUICK)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["nothing.onnx"], "does not exist"),
        (["bench_nets.py"], "not an artifact"),
        (["."], "report.json"),
    ],
)
def test_artifacts_that_cannot_be_measured_are_a_usage_error(here, names, expected):
    with pytest.raises(UsageError, match=expected):
        bench([here / name for name in names], inputs=SHAPE, **QUICK)
    with pytest.raises(UsageError, match="lists the shapes"):
        bench([here / "o" / "weights.ts.pt"], **QUICK)


def test_only_some_rows_are_measured_beside_the_original(here):
    report = bench([here / "o"], only=("onnxruntime",), **QUICK)
    assert [row.name for row in report.rows] == ["pytorch", "onnxruntime"]
    with pytest.raises(UsageError, match="Did you mean onnxruntime"):
        bench([here / "o"], only=("onnxruntim",), **QUICK)


def test_a_sweep_and_a_cold_start_stand_in_their_rows(here):
    report = bench([here / "o"], only=("onnxruntime",), batches=(1, 3), cold_start=True, **QUICK)
    rows = {row.name: row for row in report.rows}
    assert [point.batch for point in rows["pytorch"].sweep] == [1, 3]
    assert all(point.throughput > 0 for point in rows["pytorch"].sweep)
    fixed = rows["onnxruntime"].sweep[1]
    assert fixed.throughput is None, "it was exported with the batch 1"
    assert fixed.not_measured
    assert rows["pytorch"].cold_start is None, "it is in memory"
    assert rows["onnxruntime"].cold_start.total_ms > 0
    assert rows["onnxruntime"].cold_start.runs == 3


def test_real_inputs_and_labels_give_an_accuracy_to_every_row(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 7)).eval()
    images = torch.randn(11, 3, 2, 2)
    labels = net(images).argmax(1)
    labels[:4] = (labels[:4] + 1) % 7  # of the 10 that are run, 4 are wrong
    other = nn.Sequential(nn.Flatten(), nn.Linear(12, 7)).eval()
    for name, module in (("net.pt", net), ("other.pt", other)):
        torch.save(module, tmp_path / name)
    np.save(tmp_path / "x.npy", images.numpy())
    np.save(tmp_path / "y.npy", labels.numpy())
    shape = InputSpec.parse(["2x3x2x2"])
    report = bench(
        [tmp_path / "net.pt", tmp_path / "other.pt"],
        inputs=shape, data=tmp_path / "x.npy", labels=tmp_path / "y.npy", metrics=("top1",),
        **QUICK,
    )  # fmt: skip
    assert report.rows[0].scores == {"top1": 0.6}
    assert report.rows[1].scores == {"top1": report.rows[1].accuracy.accuracy}
    first, second = (row.accuracy for row in report.rows)
    assert (first.accuracy, first.samples, first.max_abs_diff) == (0.6, 10, 0.0)
    assert second.accuracy < 0.6
    with torch.inference_mode():
        agree = (net(images[:10]).argmax(1) == other(images[:10]).argmax(1)).float().mean().item()
    assert second.top1_agreement == pytest.approx(agree)
    assert report.input_data == "x.npy, 10 samples"
    with pytest.raises(UsageError, match="need the inputs"):
        bench([tmp_path / "net.pt"], inputs=shape, labels=tmp_path / "y.npy", **QUICK)
    with pytest.raises(UsageError, match="--metric top1 takes labels of classes"):
        bench(
            [tmp_path / "net.pt"], inputs=shape, data=tmp_path / "x.npy", metrics=("top1",), **QUICK
        )
    (tmp_path / "y.txt").write_text("1\n" * 9)
    with pytest.raises(UsageError, match="9 labels, but there are 11 samples"):
        bench(
            [tmp_path / "net.pt"],
            inputs=shape, data=tmp_path / "x.npy", labels=tmp_path / "y.txt", **QUICK,
        )  # fmt: skip


class Reshaped(nn.Module):
    def forward(self, x):
        return x.flatten()


def artifacts():
    return [
        Artifact("a", "A", EagerRunner(nn.Identity())),
        Artifact("b", "B", EagerRunner(Reshaped())),
    ]


SPEC = BuildSpec(source="x", **QUICK)


def test_outputs_of_another_shape_cost_the_accuracy_alone():
    rows = measure_rows(artifacts(), (torch.zeros(1, 3),), SPEC)
    assert rows[1].latency is not None
    assert rows[1].accuracy is None
    assert "shape (3,)" in rows[1].notes[0]


def test_ctrl_c_in_the_extras_keeps_the_latencies_and_finished_extras():
    def stop(event):
        if isinstance(event, StageProgress) and event.detail == "batch 2":
            raise KeyboardInterrupt

    feeds = ((torch.ones(1, 3),), (torch.zeros(1, 3),))
    extras = Extras(batches=(2,), make_inputs=lambda n: (torch.zeros(n, 3),), feeds=feeds)
    first = artifacts()[0]
    both = [first, Artifact("c", "C", EagerRunner(nn.Identity()))]
    with pytest.raises(MeasurementInterrupted) as caught:
        measure_rows(both, (torch.zeros(1, 3),), SPEC, extras=extras, emit=stop)
    rows = interrupted_rows(both, caught.value)
    assert all(row.latency is not None for row in rows)
    assert rows[1].accuracy.samples == 2
