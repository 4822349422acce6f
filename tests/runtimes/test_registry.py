"""The records of all runtimes: the files that they open, and the runtimes of third parties."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from cli_runs import run
from pydantic import TypeAdapter

from deployfold.measuring.cold_start import cold_start, opened_file
from deployfold.runtimes import RUNTIMES, runtime_by_key, runtime_of
from deployfold.runtimes.settings import RunSettings

EXAMPLE = Path(__file__).parents[1] / "support" / "example_runtime"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("net.pt", "eager"),
        ("net.folded.pt", "eager"),
        ("net.ts.pt", "torchscript"),
        ("net.pt2", "program"),
        ("net.fp16.trt.pt2", "torch_tensorrt"),
        ("net.fp16.onnx", "onnxruntime"),
        ("net.fp16.sm_89.engine", "tensorrt"),
        ("net.engine.json", None),
        ("notes.txt", None),
    ],
)
def test_the_longest_suffix_decides_which_runtime_opens_a_file(name: str, key: str | None) -> None:
    runtime = runtime_of(Path("somewhere") / name)
    assert (None if runtime is None else runtime.key) == key


def test_keys_and_suffixes_belong_to_one_runtime_each() -> None:
    keys = [one.key for one in RUNTIMES]
    suffixes = [suffix for one in RUNTIMES for suffix in one.suffixes]
    assert len(set(keys)) == len(keys)
    assert len(set(suffixes)) == len(suffixes)
    assert all(runtime_by_key(key).key == key for key in keys)
    with pytest.raises(KeyError, match="abacus"):
        runtime_by_key("abacus")


def test_listing_the_runtimes_imports_none_of_their_libraries() -> None:
    code = (
        "import sys\nfrom deployfold.runtimes import all_runtimes\nall_runtimes()\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'tensorrt', 'tensorrt_rtx', 'torch_tensorrt'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_settings_survive_json() -> None:
    settings = RunSettings(
        threads=3,
        provider="cuda",
        cuda_graph=False,
        runtime_cache=Path("cache"),
        trust=True,
        allow_globals=("a.B",),
    )
    adapter = TypeAdapter(RunSettings)
    assert adapter.validate_json(adapter.dump_json(settings)) == settings
    assert adapter.validate_json(adapter.dump_json(RunSettings())) == RunSettings()


def test_a_package_of_a_third_party_brings_a_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command reads the entry points of a real distribution on its path."""
    weight = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.savez(tmp_path / "net.affine.npz", weight=weight, bias=np.float32([1, 2]))
    np.save(tmp_path / "x.npy", np.ones((1, 3), np.float32))
    done = run(
        "run", "net.affine.npz", "--input", "x.npy", "-o", "y.npy",
        cwd=tmp_path, PYTHONPATH=str(EXAMPLE),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "net.affine.npz in Affine" in done.stdout
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), [[7.0, 11.0]])
    done = run(
        "bench", "net.affine.npz", "--max-seconds", "0.2", "--json",
        cwd=tmp_path, PYTHONPATH=str(EXAMPLE),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert row["latency"] is not None
    assert [one["shape"] for one in json.loads(done.stdout)["inputs"]] == [[1, 3]]
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLE))
    monkeypatch.syspath_prepend(EXAMPLE)
    path, settings = tmp_path / "net.affine.npz", RunSettings()
    runner = import_module("example_runtime").AffineRunner(path, settings)
    assert opened_file(runner) == ("affine", settings)
    assert cold_start("affine", path, (np.ones((1, 3), np.float32),), runs=1).total_ms is not None


def test_a_third_partys_faults_are_reported_and_disable_its_runtime_alone() -> None:
    code = (
        "from deployfold.runtimes import all_runtimes, broken_runtimes\n"
        "print([one.key for one in all_runtimes()][-1])\n"
        "print(*(f'{one.name}: {one.reason}' for one in broken_runtimes()), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(EXAMPLE)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    last, clash, gone, text = done.stdout.splitlines()
    assert last == "affine"
    assert clash.startswith("clash: example_runtime:CLASH of example-runtime opens .onnx files")
    assert clash.endswith("which ONNX Runtime already opens.")
    assert "gone: example_runtime_gone:RUNTIME of example-runtime cannot be imported" in gone
    assert text.endswith("is a str, not a deployfold Runtime.")
