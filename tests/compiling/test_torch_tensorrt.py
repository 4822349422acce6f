"""torch-tensorrt without a GPU: its API, and the messages where it is missing.

``torch_tensorrt_api.json`` holds the parameters of ``torch_tensorrt.dynamo.compile`` and ``save``,
and the keywords that ``Input`` reads, from the sources of the wheels 2.6.0 and 2.14.0.
"""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path

import pytest

import deployfold.compiling.torch_tensorrt.builder as worker
from deployfold.compiling.records import NoEngine
from deployfold.compiling.torch_tensorrt.builder import count_parts, save_options, settings
from deployfold.compiling.torch_tensorrt.compile import compile_torch_tensorrt
from deployfold.config.inputs import InputSpec
from deployfold.config.optimization_profiles import DynamicBatch
from deployfold.config.precision import Precision
from deployfold.targets.machine import library_version

API = json.loads(Path(__file__).with_name("torch_tensorrt_api.json").read_text())
INPUTS = InputSpec.parse(["x=1x3x16x16"])


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A torch_tensorrt that cannot be imported, as the real one without a driver."""
    path = tmp_path / "site" / "torch_tensorrt"
    path.mkdir(parents=True)
    (path / "__init__.py").write_text("raise OSError('libcuda.so.1: cannot open it.')\n")
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.setenv("PYTHONPATH", str(path.parent))
    return path


@pytest.mark.parametrize("version", API)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("dynamic", [True, False])
def test_every_keyword_is_one_of_the_real_function(
    version: str, precision: str, dynamic: bool
) -> None:
    api = API[version]
    asked = settings(api["dynamo.compile"], precision)
    assert {*asked, "arg_inputs"} <= set(api["dynamo.compile"])
    assert ("float16" in str(asked)) == (precision == "fp16")
    saved = save_options(api["save"], dynamic=dynamic)
    assert {*saved, "output_format", "arg_inputs"} <= set(api["save"])
    assert saved["retrace"] == (not dynamic or version == "2.14.0")


@pytest.mark.parametrize("version", API)
def test_every_keyword_of_a_call_in_the_source_is_a_real_one(version: str) -> None:
    known = {"compile": "dynamo.compile", "save": "save", "Input": "Input"}
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(worker))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            if owner in ("tt", "tt.dynamo"):
                found.add(node.func.attr)
                given = {keyword.arg for keyword in node.keywords if keyword.arg}
                assert given <= set(API[version][known[node.func.attr]]), ast.unparse(node)
    assert found == set(known)


def test_the_parts_are_counted_by_their_names() -> None:
    names = ("_run_on_acc_0", "_run_on_gpu_1", "_run_on_acc_tensorrt_2", "output")
    assert count_parts(iter(names)) == (2, 1)


@pytest.mark.skipif(library_version("torch_tensorrt") is not None, reason="it is installed here")
def test_a_missing_package_gives_its_row_the_install_command(tmp_path: Path) -> None:
    answer = compile_torch_tensorrt(
        tmp_path / "net.pt2", tmp_path / "out.pt2", precision=Precision.FP16, inputs=INPUTS
    )
    assert isinstance(answer, NoEngine)
    assert answer.target == "torch-tensorrt"
    assert "pip install 'deployfold[torch-tensorrt]'" in answer.reason
    assert not list(tmp_path.iterdir())


def test_int8_is_refused_with_the_reason(tmp_path: Path) -> None:
    answer = compile_torch_tensorrt(
        tmp_path / "net.pt2", tmp_path / "out.pt2", precision=Precision.INT8, inputs=INPUTS
    )
    assert isinstance(answer, NoEngine)
    assert "ModelOpt" in answer.reason


def test_a_package_that_cannot_be_imported_is_a_row_with_the_reason(
    package: Path, tmp_path: Path
) -> None:
    inputs = INPUTS.with_profiles((DynamicBatch(1, 2, 4),))
    answer = compile_torch_tensorrt(
        tmp_path / "net.pt2", tmp_path / "out.pt2", precision=Precision.FP32, inputs=inputs
    )
    assert answer == NoEngine(
        "torch-tensorrt",
        "No torch-tensorrt: it cannot be imported here (libcuda.so.1: cannot open it).",
    )
    assert {path.name for path in tmp_path.iterdir()} == {"site", "out.pt2.log"}
