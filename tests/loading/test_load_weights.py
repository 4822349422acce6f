"""Weights are found by structure and fitted by names, however a trainer wrapped them."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import pathlib
import random
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from deployfold.errors import LoadError, UsageError
from deployfold.loading import load_model

ARCH = f"{__name__}:net"


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    )


class Headed(nn.Module):
    """Has names at the top that no trainer uses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stem(x).mean((2, 3)))


State = dict[str, torch.Tensor]


class Checkpoint(NamedTuple):
    state: State
    step: int


NORMED = f"{__name__}:normed"


def normed() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))


def without_bias() -> nn.Module:
    return nn.Linear(3, 3, bias=False)


def headed() -> State:
    torch.manual_seed(1)
    return Headed().state_dict()


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def other(state: State) -> State:
    """The same names with other values."""
    return {k: v * 1.01 if v.is_floating_point() else v for k, v in state.items()}


def load(tmp_path: pathlib.Path, content: Any, arch: str | None = ARCH, **options: Any) -> Any:
    torch.save(content, tmp_path / "w.pth")
    return load_model(str(tmp_path / "w.pth"), arch=arch, **options)


SHAPES: dict[str, Callable[[State], Any]] = {
    "params": lambda s: {"params": s},
    "params_ema": lambda s: {"params_ema": s},
    "model_state": lambda s: {"model_state": s},
    "generator": lambda s: {"generator": s, "discriminator": {"x.weight": torch.ones(2)}},
    "g_ema": lambda s: {"g_ema": s},
    "backbone": lambda s: {"backbone": s},
    "network": lambda s: {"network": s},
    "any key": lambda s: {"my_weights": s, "epoch": 1},
    "three levels": lambda s: {"checkpoint": {"model": {"state_dict": s}}},
    "list": lambda s: [s],
    "tuple with metadata": lambda s: (s, {"epoch": 3}),
    "list of pairs": lambda s: list(s.items()),
    "twice the same": lambda s: {"encoder": s, "decoder": s},
    "Parameters": lambda s: {k: nn.Parameter(v, v.is_floating_point()) for k, v in s.items()},
    "numpy arrays": lambda s: {"model": {k: v.numpy() for k, v in s.items()}},
    "in two parts": lambda s: {
        "model": {
            "0": {k[2:]: v for k, v in s.items() if k.startswith("0.")},
            "1": {k[2:]: v for k, v in s.items() if k.startswith("1.")},
            "2": {k[2:]: v for k, v in s.items() if k.startswith("2.")},
        }
    },
    "as a tree of modules": lambda s: {
        "0": {key: s[f"0.{key}"] for key in ("weight", "bias")},
        "1": {k[2:]: v for k, v in s.items() if k.startswith("1.")},
        "2": {n: {k[4:]: v for k, v in s.items() if k.startswith(f"2.{n}.")} for n in "01"},
    },
    "named tuple": lambda s: Checkpoint(s, 3),
    "beside an optimizer": lambda s: {
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []},
        "state_dict": s,
    },
    "model.": lambda s: under("model.", s),
    "net.": lambda s: {"state_dict": under("net.", s)},
    "model._orig_mod.": lambda s: {"state_dict": under("model._orig_mod.", s)},
    "_orig_mod.module.": lambda s: under("_orig_mod.module.", s),
    "_orig_mod in the middle": lambda s: {
        k.replace("2.", "2._orig_mod.", 1) if k.startswith("2.") else k: v for k, v in s.items()
    },
    "FSDP": lambda s: under("_fsdp_wrapped_module.", s),
    "module in the middle": lambda s: {
        k.replace("2.", "2.module.", 1) if k.startswith("2.") else k: v for k, v in s.items()
    },
    "loss weight": lambda s: {
        "state_dict": under("model.", s) | {"criterion.pos_weight": torch.ones(1)}
    },
    "metric": lambda s: {"state_dict": under("model.", s) | {"val_acc.total": torch.tensor(3)}},
    "a tensor beside": lambda s: s | {"pos_weight": torch.ones(1)},
    "mean and std": lambda s: under("model.", s) | {"mean": torch.ones(3), "std": torch.ones(3)},
    "student and teacher": lambda s: under("student.", s) | under("teacher.", other(s)),
    "average beside": lambda s: under("model.", s) | under("ema_model.module.", other(s)),
    "mmengine's average": lambda s: (
        under("backbone.", s)
        | {f"ema_backbone_{k.replace('.', '_')}": v for k, v in other(s).items()}
    ),
    "mmengine's average of all": lambda s: (
        s | {f"ema_{k.replace('.', '_')}": v for k, v in other(s).items()}
    ),
    "auxiliary head": lambda s: s | {"aux.weight": torch.ones(2)},
    "profiled": lambda s: s | {"total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)},
    "pruned": lambda s: {
        **{k: v for k, v in s.items() if k != "0.weight"},
        "0.weight_orig": s["0.weight"],
        "0.weight_mask": torch.ones_like(s["0.weight"]),
    },
    "without counters": lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_found_wherever_they_stand(shape: str, tmp_path: pathlib.Path) -> None:
    wanted = net()
    loaded = load(tmp_path, SHAPES[shape](wanted.state_dict()))
    found = loaded.module.state_dict()
    for key, value in wanted.state_dict().items():
        assert torch.equal(found[key], value) or key.endswith("num_batches_tracked"), key


@pytest.mark.parametrize(
    "content",
    [
        lambda s: {"params": s, "params_ema": other(s)},
        lambda s: {"state_dict": s, "ema_state_dict": other(s)},
        lambda s: under("model.", s) | under("ema_model.module.", other(s)),
        lambda s: {"netG": s, "netG_ema": other(s)},
        lambda s: s | {f"ema_{k.replace('.', '_')}": v for k, v in other(s).items()},
    ],
)
def test_an_average_beside_the_weights_is_reported_and_chosen_by_key(
    content: Callable[[State], Any], tmp_path: pathlib.Path
) -> None:
    state = net().state_dict()
    raw = load(tmp_path, content(state))
    assert torch.equal(raw.module[0].weight, state["0.weight"])
    assert sum("averaged weights" in n and "are not used; --weights" in n for n in raw.notes) == 1
    averaged = load(tmp_path, content(state), weights="ema")
    assert torch.equal(averaged.module[0].weight, other(state)["0.weight"])
    with pytest.raises(UsageError, match="No weights under 'nothing'"):
        load(tmp_path, content(state), weights="nothing")


def test_an_average_beside_a_module_is_reported_and_chosen_by_key(tmp_path: pathlib.Path) -> None:
    model, average = net(), net()
    average.load_state_dict(other(model.state_dict()))
    torch.save({"model": model, "ema": average, "epoch": 3}, tmp_path / "w.pt")
    raw = load_model(str(tmp_path / "w.pt"))
    assert torch.equal(raw.module[0].weight, model[0].weight)
    assert any("averaged weights under 'ema' are not used" in note for note in raw.notes)
    averaged = load_model(str(tmp_path / "w.pt"), weights="ema")
    assert torch.equal(averaged.module[0].weight, average[0].weight)


def test_an_average_of_tensors_beside_a_module_takes_its_place(tmp_path: pathlib.Path) -> None:
    model = net()
    torch.save({"model": model, "model_ema": other(model.state_dict())}, tmp_path / "w.pt")
    raw = load_model(str(tmp_path / "w.pt"))
    assert any("averaged weights under 'model_ema' are not used" in note for note in raw.notes)
    averaged = load_model(str(tmp_path / "w.pt"), weights="ema")
    assert torch.equal(averaged.module[0].weight, other(model.state_dict())["0.weight"])
    with pytest.raises(UsageError, match="No weights under 'nothing'"):
        load_model(str(tmp_path / "w.pt"), weights="nothing")


def test_an_average_without_names_is_reported(tmp_path: pathlib.Path) -> None:
    model = net()
    state = model.state_dict()
    ema = {"decay": 0.99, "shadow_params": [one.detach() for one in model.parameters()]}
    for content in ({"model": state, "ema": ema}, state | {"ema": ema}, {"model": model, **ema}):
        notes = load(tmp_path, content, arch=None if "decay" in content else ARCH).notes
        assert sum("a list without names and are not used" in note for note in notes) == 1
        assert "shadow_params" in notes[-1]
    losses = {"model": state, "ema": {"losses": [torch.ones(()), torch.ones(())]}}
    assert not any("without names" in note for note in load(tmp_path, losses).notes)


def test_the_architecture_may_be_named_in_the_file(tmp_path: pathlib.Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    state = under("module.", torchvision.models.resnet18().state_dict())
    torch.save({"arch": "resnet18", "state_dict": state}, tmp_path / "model_best.pth.tar")
    loaded = load_model(str(tmp_path / "model_best.pth.tar"))
    assert (loaded.arch, loaded.name) == ("torchvision:resnet18", "model_best")


def test_old_names_of_densenet_and_of_weight_normalisation(tmp_path: pathlib.Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    wanted = torchvision.models.densenet121().state_dict()
    old = {re.sub(r"(denselayer\d+\.\w+)(\d)\.", r"\1.\2.", k): v for k, v in wanted.items()}
    assert old.keys() != wanted.keys()
    loaded = load(tmp_path, old, arch="torchvision:densenet121")
    key = "features.denseblock1.denselayer1.conv2.weight"
    assert torch.equal(loaded.module.state_dict()[key], wanted[key])
    by_hook = torch.nn.utils.weight_norm(nn.Linear(3, 2))  # type: ignore[no-untyped-call]
    found = load(tmp_path, {f"0.{k}": v for k, v in by_hook.state_dict().items()}, arch=NORMED)
    assert torch.allclose(found.module[0].weight, by_hook.weight)


def test_several_that_fit_and_differ_are_listed(tmp_path: pathlib.Path) -> None:
    state = net().state_dict()
    with pytest.raises(LoadError, match="several sets") as caught:
        load(tmp_path, {"left": state, "right": other(state)})
    assert "'left' (14 tensors" in caught.value.message
    assert "--weights left" in str(caught.value.hint)
    chosen = load(tmp_path, {"left": state, "right": other(state)}, weights="right.")
    assert torch.equal(chosen.module[0].weight, other(state)["0.weight"])


@pytest.mark.parametrize(
    ("first", "second"),
    [("module.encoder_q.", "module.encoder_k."), ("online.net.", "target.net.")],
)
def test_two_copies_under_equally_usual_names_are_not_chosen_between(
    first: str, second: str, tmp_path: pathlib.Path
) -> None:
    state = net().state_dict()
    content = {"state_dict": under(first, state) | under(second, other(state))}
    with pytest.raises(LoadError, match="several sets") as caught:
        load(tmp_path, content)
    assert f"--weights state_dict.{first.rstrip('.')}" in str(caught.value.hint)
    usual = {"state_dict": under("module.net.", state) | under("module.other.", other(state))}
    assert torch.equal(load(tmp_path, usual).module[0].weight, state["0.weight"])


def test_several_modules_are_listed_and_one_is_chosen(tmp_path: pathlib.Path) -> None:
    left, right = net(), net()
    right.load_state_dict(other(left.state_dict()))
    for content in ({"left": left, "right": right}, nn.ModuleDict({"left": left, "right": right})):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(LoadError, match=r"several models: 'left' \(Sequential\); 'right'"):
            load_model(str(tmp_path / "w.pt"))
        chosen = load_model(str(tmp_path / "w.pt"), weights="right").module
        assert torch.equal(chosen[0].weight, right[0].weight)
    torch.save({"left": left, "copy": left, "loss": nn.CrossEntropyLoss()}, tmp_path / "w.pt")
    assert torch.equal(load_model(str(tmp_path / "w.pt")).module[0].weight, left[0].weight)


UNFIT: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "int8": (lambda w: w.to(torch.int8), "stem.weight is int8, so it is quantised"),
    "bool": (lambda w: w > 0, "stem.weight is bool, so it is quantised"),
    "float8": (lambda w: w.to(torch.float8_e4m3fn), "stem.weight is float8_e4m3fn, so it"),
    "complex": (lambda w: w.to(torch.complex64), "is complex"),
    "sparse": (lambda w: w.to_sparse(), "is a sparse tensor"),
    "nested": (lambda w: torch.nested.nested_tensor([w, w]), "stem.weight is nested in the check"),
    "meta": (lambda w: w.to("meta"), "on the meta device"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", UNFIT)
def test_weights_that_would_change_when_copied_are_refused(
    kind: str, tmp_path: pathlib.Path
) -> None:
    change, words = UNFIT[kind]
    state = headed()
    state["stem.weight"] = change(state["stem.weight"])
    with pytest.raises(LoadError, match=words):
        load(tmp_path, state, arch=f"{__name__}:Headed")
    if kind in ("float8", "sparse"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3))
        model[0].weight = nn.Parameter(state["stem.weight"], requires_grad=False)
        torch.save(model, tmp_path / "whole.pt")
        with pytest.raises(LoadError, match=words.replace("stem", "0")):
            load_model(str(tmp_path / "whole.pt"))


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2))


class Features(nn.ModuleDict):
    """A dictionary of modules with a forward, as timm's and torchvision's feature extractors."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [layer(x) for layer in self.values()]


def test_a_part_of_a_module_is_not_taken_for_the_model(tmp_path: pathlib.Path) -> None:
    torch.save(Features({"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 4, 1)}), tmp_path / "w.pt")
    found = load_model(str(tmp_path / "w.pt"), allow_globals=(f"{__name__}.*",)).module
    assert type(found) is Features
    torch.save(torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 2))), tmp_path / "w.pt")
    with pytest.raises(LoadError, match="reduce_graph_module"):
        load_model(str(tmp_path / "w.pt"))
    assert load_model(str(tmp_path / "w.pt"), arch=f"{__name__}:linear").kind == "state_dict"


def test_the_nearest_attempt_is_shown_with_names_of_both_sides(tmp_path: pathlib.Path) -> None:
    state = headed()
    state["classifier.weight"] = state.pop("head.weight")
    with pytest.raises(LoadError) as caught:
        load(tmp_path, {"ema": {}, "net": under("model.", state)}, arch=f"{__name__}:Headed")
    assert "3 of its 4 tensors under 'net.model'" in caught.value.message
    assert "head.weight is missing" in caught.value.message
    assert "classifier.weight is unexpected" in caught.value.message
    assert "Names in the file: model.stem.weight" in str(caught.value.hint)
    assert "--arch " not in str(caught.value.hint)


def test_a_longer_network_does_not_fit_a_shorter_one(tmp_path: pathlib.Path) -> None:
    longer = nn.Sequential(*net(), nn.Conv2d(4, 4, 1))
    with pytest.raises(LoadError, match=r"3\.bias is unexpected") as caught:
        load(tmp_path, longer.state_dict())
    assert "delete them from the file" in str(caught.value.hint)
    deeper = headed() | {"stem.extra.weight": torch.ones(2)}
    with pytest.raises(LoadError, match=r"stem\.extra\.weight is unexpected"):
        load(tmp_path, deeper, arch=f"{__name__}:Headed")
    with pytest.raises(LoadError, match="bias is unexpected"):
        load(tmp_path, nn.Linear(3, 3).state_dict(), arch=f"{__name__}:without_bias")


def test_a_network_that_contains_the_named_one_is_not_recognised_as_it(
    tmp_path: pathlib.Path,
) -> None:
    torchvision = pytest.importorskip("torchvision")
    state = under("backbone.", torchvision.models.resnet18().state_dict())
    path = tmp_path / "resnet18_unet.pth"
    torch.save(state | {"decoder.weight": torch.ones(1000, 1000)}, path)
    with pytest.raises(LoadError, match="not known"):
        load_model(str(path))
    torch.save(state | {"criterion.weight": torch.ones(10)}, path)
    assert load_model(str(path)).arch == "torchvision:resnet18"


class Tied(nn.Module):
    def __init__(self, *, tie: bool = True) -> None:
        super().__init__()
        self.encoder = nn.Embedding(11, 6)
        self.decoder = nn.Linear(6, 11, bias=False)
        if tie:
            self.decoder.weight = self.encoder.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(ids))


class TiedLater(Tied):
    def __init__(self) -> None:
        super().__init__(tie=False)

    def tie_weights(self) -> None:
        self.decoder.weight = self.encoder.weight


@pytest.mark.parametrize("arch", ["Tied", "TiedLater"])
@pytest.mark.parametrize("kind", ["save_model", "without encoder", "without decoder"])
def test_one_of_two_tied_tensors_is_enough(arch: str, kind: str, tmp_path: pathlib.Path) -> None:
    wanted = Tied()
    path = tmp_path / "w.safetensors"
    if kind == "save_model":
        save_model(wanted, str(path))
    else:
        gone = f"{kind.split()[1]}.weight"
        save_file({k: v for k, v in wanted.state_dict().items() if k != gone}, path)
    found = load_model(str(path), arch=f"{__name__}:{arch}").module
    ids = torch.arange(5)[None]
    assert torch.equal(found(ids), wanted(ids))


def test_two_values_for_one_tied_tensor_are_refused(tmp_path: pathlib.Path) -> None:
    state = Tied().state_dict()
    state["decoder.weight"] = state["decoder.weight"] + 1
    with pytest.raises(LoadError, match=r"encoder\.weight and decoder\.weight are one tensor in"):
        load(tmp_path, state, arch=f"{__name__}:Tied")
    untied = load(tmp_path, state, arch=f"{__name__}:TiedLater").module
    assert torch.equal(untied.decoder.weight, state["decoder.weight"])


def test_shards_with_an_index(tmp_path: pathlib.Path) -> None:
    state = net().state_dict()
    parts = {"a.safetensors": {}, "b.safetensors": {}}
    for number, (key, value) in enumerate(state.items()):
        parts["ab"[number % 2] + ".safetensors"][key] = value
    for name, part in parts.items():
        save_file(part, tmp_path / name)
    weight_map = {key: name for name, part in parts.items() for key in part}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(__import__("json").dumps({"metadata": {}, "weight_map": weight_map}))
    for source in (index, tmp_path):
        loaded = load_model(str(source), arch=ARCH)
        assert torch.equal(loaded.module[2][0].weight, state["2.0.weight"])
        assert loaded.name == tmp_path.name
    index.write_text('{"weight_map": {"a": "../../etc/passwd"}}')
    with pytest.raises(LoadError, match="outside its folder"):
        load_model(str(index), arch=ARCH)


def test_one_shard_is_refused_as_such(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model-00001-of-00002.safetensors"
    save_file(net().state_dict(), path)
    with pytest.raises(LoadError, match="is one of 2 files of one model"):
        load_model(str(path), arch=ARCH)


def test_a_header_of_safetensors_may_begin_as_a_pickle_does(tmp_path: pathlib.Path) -> None:
    path, state = tmp_path / "w.safetensors", net().state_dict()
    for pad in range(600):
        save_file(state, path, metadata={"pad": "x" * pad})
        if path.read_bytes()[:1] == b"\x80":
            break
    content = path.read_bytes()
    assert content[1] in (2, 3, 4, 5)
    loaded = load_model(str(path), arch=ARCH)
    assert torch.equal(loaded.module[2][0].weight, state["2.0.weight"])


def test_lora_adapters_are_to_be_merged(tmp_path: pathlib.Path) -> None:
    state = {**net().state_dict(), "2.0.lora_A.default.weight": torch.ones(2, 2)}
    with pytest.raises(LoadError, match="does not fit") as caught:
        load(tmp_path, state)
    assert "merge_and_unload" in str(caught.value.hint)


class Colour(enum.Enum):
    RED = 1


class Config(dict):  # type: ignore[type-arg]
    """A dictionary with attributes, as configuration libraries have them."""


class Slotted:
    __slots__ = ("a",)

    def __init__(self) -> None:
        self.a = 1


def configuration() -> Config:
    made = Config(lr=0.1)
    made.frozen = True  # type: ignore[attr-defined]
    return made


BESIDE = {
    "numpy float64": np.float64(0.9), "numpy float32": np.float32(0.9),
    "numpy array": np.arange(3), "numpy bool": np.bool_(True), "numpy dtype": np.dtype("float32"),
    "numpy state": np.random.get_state(), "numpy objects": np.array(["a", None], dtype=object),
    "numpy strings": np.array(["a", "bb"]), "namespace": argparse.Namespace(lr=0.1),
    "path": pathlib.Path("a"), "date": datetime.datetime(2026, 1, 1),
    "duration": datetime.timedelta(1), "random state": random.getstate(),
    "defaultdict": collections.defaultdict(list, a=[1]), "deque": collections.deque([1, 2]),
    "slice": slice(1, 2), "enum": Colour.RED, "enum as key": {Colour.RED: 1},
    "set of enums": {Colour.RED}, "config": configuration(), "slots": Slotted(),
    "device": torch.device("cuda:0"), "class": Slotted, "function": configuration,
    "scaler": torch.amp.GradScaler("cpu").state_dict(),
}  # fmt: skip


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", BESIDE)
def test_objects_beside_the_weights_need_not_be_loaded(
    name: str, legacy: bool, tmp_path: pathlib.Path
) -> None:
    state = net().state_dict()
    content = {"epoch": 1, "before": BESIDE[name], "state_dict": state, "after": BESIDE[name]}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    loaded = load_model(str(tmp_path / "w.pth"), arch=ARCH)
    assert torch.equal(loaded.module[0].weight, state["0.weight"])


@pytest.mark.parametrize("name", ["namespace", "config"])
def test_weights_inside_an_object_that_is_not_loaded(name: str, tmp_path: pathlib.Path) -> None:
    state = net().state_dict()
    inside = argparse.Namespace(model=state) if name == "namespace" else Config(model=state)
    loaded = load(tmp_path, {"run": inside})
    assert torch.equal(loaded.module[0].weight, state["0.weight"])


class Foreign(nn.Module):
    """A class that the product does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.body = net()
        self.register_buffer("scratch", torch.ones(2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def test_weights_of_a_pickled_module_are_taken_for_a_named_architecture(
    tmp_path: pathlib.Path,
) -> None:
    loaded = load(tmp_path, {"model": Foreign().half(), "epoch": 2}, arch=f"{__name__}:Foreign")
    assert loaded.kind == "state_dict"
    assert torch.equal(loaded.module.body[0].weight, net()[0].weight.half())


def test_all_classes_that_a_module_needs_are_listed_once(tmp_path: pathlib.Path) -> None:
    model = Foreign()
    model.body.append(Headed())
    torch.save({"model": model, "args": argparse.Namespace(a=1)}, tmp_path / "w.pt")
    with pytest.raises(LoadError, match="could run code") as caught:
        load_model(str(tmp_path / "w.pt"))
    hint = str(caught.value.hint)
    assert f"--allow-global {__name__}.Foreign" in hint
    assert f"--allow-global {__name__}.Headed" in hint
    assert "argparse" not in hint
    both = (f"{__name__}.Foreign", f"{__name__}.Headed")
    assert type(load_model(str(tmp_path / "w.pt"), allow_globals=both).module) is Foreign
    loaded = load_model(str(tmp_path / "w.pt"), allow_globals=(f"{__name__}.*",))
    assert type(loaded.module) is Foreign


def test_a_package_is_allowed_for_its_modules_alone(tmp_path: pathlib.Path) -> None:
    torch.save({"model": net(), "x": Slotted()}, tmp_path / "w.pt")
    assert load_model(str(tmp_path / "w.pt"), allow_globals=(f"{__name__}.*",)).kind == "module"
    torch.save(nn.Sequential(Headed()), tmp_path / "w.pt")
    with pytest.raises(LoadError, match="Headed"):
        load_model(str(tmp_path / "w.pt"), allow_globals=("another.*",))


def test_an_attribute_that_was_not_loaded_raises_when_it_is_used(tmp_path: pathlib.Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    model.args = argparse.Namespace(scale=2.0)
    torch.save(model, tmp_path / "w.pt")
    loaded = load_model(str(tmp_path / "w.pt")).module
    assert loaded(torch.ones(1, 3, 2, 2)).shape == (1, 4, 2, 2)
    for use in (bool, len, iter, lambda x: x.scale, lambda x: x(), lambda x: x[0], type):
        if use is type:
            with pytest.raises(LoadError, match=r"argparse\.Namespace"):
                type(loaded.args)()
            continue
        with pytest.raises(LoadError, match=r"argparse\.Namespace"):
            use(loaded.args)
    torch.save(loaded, tmp_path / "again.pt")
    again = load_model(str(tmp_path / "again.pt")).module
    with pytest.raises(LoadError, match=r"argparse\.Namespace"):
        bool(again.args)


def test_a_hook_or_a_part_that_was_not_loaded_is_refused(tmp_path: pathlib.Path) -> None:
    model = nn.Sequential(nn.ReLU())
    model.register_forward_hook(configuration)
    torch.save(model, tmp_path / "w.pt")
    with pytest.raises(LoadError, match="configuration"):
        load_model(str(tmp_path / "w.pt"))
    model = nn.Sequential(nn.ReLU())
    model.settings = configuration()
    torch.save(model, tmp_path / "w.pt")
    with pytest.raises(LoadError, match="Config"):
        load_model(str(tmp_path / "w.pt"))
