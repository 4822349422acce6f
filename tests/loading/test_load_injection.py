"""Files of harmless parts that would run code later, when the model is traced, exported or run."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import inspect
import json
import pkgutil
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from deployfold.errors import LoadError
from deployfold.loading import load_model
from deployfold.loading.safe_globals import harmless

pytest.importorskip("torchvision")
pytest.importorskip("timm")


def injecting_name(target: Path) -> str:
    command = f"touch {target}".replace(".", "\\x2e")  # a dot would split the name
    return f'training"), getattr(__import__("os"), "system")("{command}"), getattr(self, "training'


def with_evil_child(target: Path) -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    net._modules = {injecting_name(target): net[0]}
    return net


def test_a_name_that_torch_export_would_run_is_refused(tmp_path):
    target, net = tmp_path / "ran", with_evil_child(tmp_path / "ran")
    program = torch.export.export(net, (torch.randn(1, 3, 8, 8),), strict=False)
    with contextlib.suppress(AttributeError):
        program.module()(torch.randn(1, 3, 8, 8))
    if not target.exists():
        pytest.skip("this torch escapes the names it writes into source code")
    target.unlink()
    torch.save(net, tmp_path / "net.pt")
    torch.export.save(program, tmp_path / "net.pt2")
    for path in ("net.pt", "net.pt2"):
        with pytest.raises(LoadError, match=r"named|could run code"):
            load_model(str(tmp_path / path))
    assert not target.exists()


@pytest.mark.parametrize("place", ["parameter", "buffer", "attribute"])
def test_every_kind_of_name_counts(place, tmp_path):
    net = nn.Conv2d(3, 4, 3)
    owner = {"parameter": net._parameters, "buffer": net._buffers, "attribute": net.__dict__}[place]
    owner[injecting_name(tmp_path / "ran")] = nn.Parameter(torch.zeros(1))
    torch.save(net, tmp_path / "net.pt")
    with pytest.raises(LoadError, match="source code"):
        load_model(str(tmp_path / "net.pt"))


@pytest.mark.parametrize(
    "name",
    [
        "timm.models._features_fx.FeatureGraphNet",
        "torchvision.models.feature_extraction.DualGraphModule",
        "torchvision.models.feature_extraction._CodeOnlyModule",
        "torch.nn.modules.module.torch.jit.ScriptModule",
        "torch.nn.functional.handle_torch_function",
        "torchvision.models.get_model",
        "timm.models._hub.load_state_dict_from_hf",
        "torch.nn.parallel.distributed.DistributedDataParallel",
    ],
)
def test_classes_that_trace_and_functions_are_not_allowed(name):
    assert harmless(name) is None


ROOTS = (
    "torch.nn.modules", "torchvision.models", "torchvision.ops", "timm.layers", "timm.models",
    "torch.ao.nn.intrinsic", "torch.ao.nn.qat",
)  # fmt: skip
TRAINING = tuple(
    f"torch.ao.{name}"
    for name in (
        "nn.quantized.modules.functional_modules",
        "quantization.fake_quantize",
        "quantization.observer",
        "quantization.stubs",
    )
)
ACTING = frozenset(
    """open eval exec compile __import__ import_module system popen Popen check_output run_path
    load_url load_state_dict_from_url load_state_dict_from_hf hf_hub_download urlopen urlretrieve
    load_library CDLL symbolic_trace Tracer GraphModule create_feature_extractor script
    script_method from_file fromfile memmap unlink rmtree makedirs""".split()
)


def test_no_allowed_class_opens_imports_compiles_or_traces():
    """The review behind safe_globals, repeated on the installed torch, torchvision and timm."""
    names = [
        found.name
        for root in ROOTS
        for found in pkgutil.walk_packages(importlib.import_module(root).__path__, f"{root}.")
    ]
    classes = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in (*ROOTS, *TRAINING, *names):
            for name in list(vars(importlib.import_module(module))):
                item = harmless(f"{module}.{name}")
                if isinstance(item, type) and issubclass(item, nn.Module):
                    classes.add(item)
    assert len(classes) > 800
    # Module.compile is how a user asks for torch.compile; nothing in a state calls it.
    acting = {
        f"{item.__module__}.{item.__qualname__}: {used}"
        for item in classes - {nn.Module}
        for used in _names_used(item) & ACTING
    }
    assert not acting


def _names_used(item: type) -> set[str]:
    nodes = list(ast.walk(_definitions(item.__module__)[item.__qualname__.partition(".")[0]]))
    # obj.compile and the like are methods of whatever object; only bare names are builtins.
    builtins = {"open", "eval", "exec", "compile"}
    return {node.id for node in nodes if isinstance(node, ast.Name)} | {
        node.attr for node in nodes if isinstance(node, ast.Attribute) and node.attr not in builtins
    }


@functools.cache
def _definitions(module: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("program") / "net.pt2"
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval()
    torch.export.save(torch.export.export(net, (torch.randn(2, 3),)), path)
    return path


def edited(path: Path, target: Path, edit) -> Path:
    """A copy of a program whose graph passed through ``edit``."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for entry in source.namelist():
            content = source.read(entry)
            if entry.endswith("models/model.json"):
                model = json.loads(content)
                edit(model["graph_module"])
                content = json.dumps(model).encode()
            copy.writestr(entry, content)
    return target


def calling(operator: str, argument: dict[str, str], command: str):
    def edit(graph_module) -> None:
        graph = graph_module["graph"]
        graph["tensor_values"]["evil"] = next(iter(graph["tensor_values"].values()))
        arguments = [argument, {"as_string": command}]
        graph["nodes"].insert(
            0,
            {
                "target": operator,
                "inputs": [{"name": "", "arg": item, "kind": 1} for item in arguments],
                "outputs": [{"as_tensor": {"name": "evil"}}],
                "metadata": {},
                "is_hop_single_tensor_return": None,
                "name": "evil",
            },
        )

    return edit


@pytest.mark.parametrize(
    ("operator", "argument"),
    [
        ("_operator.call", {"as_operator": "torch.serialization.os.system"}),
        ("torch.ops.higher_order.wrap", {"as_operator": "torch.serialization.os.system"}),
        ("torch.ops.aten.relu.default", {"as_operator": "torch.serialization.os.system"}),
        ("torch.ops.aten.from_file.default", {"as_string": "x"}),
        ("torch.ops.aten.__class__.__init__", {"as_string": "x"}),
        ("_operator.methodcaller", {"as_string": "system"}),
    ],
)
def test_program_that_calls_outside_is_refused(operator, argument, program, tmp_path):
    edit = calling(operator, argument, f"touch {tmp_path / 'ran'}")
    path = edited(program, tmp_path / "net.pt2", edit)
    with pytest.raises(LoadError, match="could run code"):
        load_model(str(path))
    assert not (tmp_path / "ran").exists()


def test_program_whose_structure_imports_a_module_is_refused(program, tmp_path, monkeypatch):
    (tmp_path / "acting_on_import.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    context = json.dumps({"__enum__": True, "fqn": "acting_on_import:x", "name": "y"})
    structure = [1, {"type": "builtins.dict", "context": context, "children_spec": []}]

    def edit(graph_module) -> None:
        graph_module["module_call_graph"][0]["signature"]["in_spec"] = json.dumps(structure)

    with pytest.raises(LoadError, match="imports modules"):
        load_model(str(edited(program, tmp_path / "net.pt2", edit)))
    assert not (tmp_path / "ran").exists()


def test_archive_with_two_entries_of_one_name_is_refused(program, tmp_path):
    path = tmp_path / "net.pt2"
    path.write_bytes(program.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        entry = next(name for name in archive.namelist() if name.endswith("model.json"))
        archive.writestr(entry.replace("model.json", "MODEL.json"), archive.read(entry))
    with pytest.raises(LoadError, match="two entries of one name"):
        load_model(str(path))


def test_archive_with_an_entry_that_torch_does_not_see_is_refused(program, tmp_path):
    path = tmp_path / "net.pt2"
    path.write_bytes(program.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/models/model2.json", "{}")
    with pytest.raises(LoadError, match=r"reads differently|damaged"):
        load_model(str(path))


def test_torchscript_that_writes_files_when_loaded_or_run_is_refused(tmp_path):
    path = tmp_path / "net.pt"
    torch.jit.save(torch.jit.script(nn.Sequential(nn.ReLU())), path)
    evil = tmp_path / "evil.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(evil, "w") as copy:
        for entry in source.namelist():
            content = source.read(entry)
            # The file's name varies: torch mangles names that the process has used before.
            if "/code/" in entry and entry.endswith(".py"):
                content = content.replace(b"return _0", b"torch . save(_0, 'x')\n    return _0")
            copy.writestr(entry, content)
    assert load_model(str(path)).kind == "torchscript"
    with pytest.raises(LoadError, match="reaches files or libraries"):
        load_model(str(evil))


NONSENSE = {
    "no module": lambda net: net._modules.update({"1": {"no": "module"}}),
    "no modules": lambda net: net.__dict__.pop("_modules"),
    "no parameters": lambda net: net[0].__dict__.pop("_parameters"),
    "a list of modules": lambda net: net.__dict__.update(_modules=[]),
    "in itself": lambda net: net._modules.update({"1": net}),
    "its own wrapper": lambda net: net._modules.update({"_orig_mod": net}),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_a_module_put_together_from_nonsense_is_refused(what, tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    NONSENSE[what](net)
    torch.save(net, tmp_path / "net.pt")
    with pytest.raises(LoadError, match="not a well-formed module"):
        load_model(str(tmp_path / "net.pt"))
