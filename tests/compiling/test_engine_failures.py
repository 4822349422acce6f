"""Every failure of an engine build gives one clear error, a log and a script, and no partial
engine.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from compile_nets import MakeNet, make_model
from onnx import TensorProto, helper

from deployfold.compiling.records import EngineRequest
from deployfold.compiling.tensorrt.compile import compile_engine
from deployfold.compiling.worker import ORPHANED
from deployfold.errors import CompileError, UsageError
from deployfold.events import Event

RequestFor = Callable[..., EngineRequest]
LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")


def children() -> list[int]:
    """The process ids of the workers that this process has running."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid() and fields[0] != "Z":
                command = (entry / "cmdline").read_bytes()
                found += [int(entry.name)] if b"deployfold.compiling.worker" in command else []
        except (OSError, ValueError, IndexError):
            continue
    return found


def leftovers(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def failed(onnx_path: Path, path: Path, request: EngineRequest, **options: object) -> CompileError:
    with pytest.raises(CompileError) as caught:
        compile_engine(onnx_path, path, request, **options)
    assert leftovers(path.parent) == {f"{path.name}.log", f"{path.name}.reproduce.sh"}
    assert f"{path}.log" in caught.value.hint
    assert f"{path}.reproduce.sh" in caught.value.hint
    return caught.value


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "net.engine"


def test_a_garbage_onnx(tmp_path: Path, engine: Path, request_for: RequestFor) -> None:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(b"\x08" * 100)
    error = failed(path, engine, request_for())
    assert "garbage.onnx is not a valid ONNX" in error.message


def test_weights_that_are_not_finite(
    conv_net: MakeNet, engine: Path, request_for: RequestFor
) -> None:
    error = failed(conv_net(spoil=math.inf), engine, request_for())
    assert "'conv.weight'" in error.message


def test_an_operator_that_tensorrt_lacks_is_named(
    tmp_path: Path, engine: Path, request_for: RequestFor
) -> None:
    model = make_model(
        [helper.make_node("Det", ["x"], ["y"], name="the_det")],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        {},
    )
    model.graph.node[0].metadata_props.add(key="deployfold.module", value="head")
    onnx.save(model, tmp_path / "det.onnx")
    error = failed(tmp_path / "det.onnx", engine, request_for())
    assert (
        "TensorRT-RTX cannot parse det.onnx: Det node 'the_det' of the module 'head': the parser "
        "does not know this operator."
    ) in error.message


def test_an_attribute_that_tensorrt_lacks_is_named_with_its_operator(
    tmp_path: Path, engine: Path, request_for: RequestFor
) -> None:
    model = make_model(
        [helper.make_node("ScatterElements", ["x", "i", "x"], ["y"], name="s", reduction="add")],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        {"i": np.arange(4)},
    )
    onnx.save(model, tmp_path / "scatter.onnx")
    error = failed(tmp_path / "scatter.onnx", engine, request_for())
    assert "ScatterElements node 's': Unsupported reduction type" in error.message


def test_a_library_that_is_not_installed(
    conv_net: MakeNet, engine: Path, request_for: RequestFor
) -> None:
    request = dataclasses.replace(request_for(), library="tensorrt", current_gpu=True)
    try:
        import tensorrt  # noqa: F401
    except ImportError:
        error = failed(conv_net(), engine, request)
        assert "TensorRT cannot be imported: No module named 'tensorrt'" in error.message
        assert "deployfold doctor" in error.hint
    else:
        pytest.skip("tensorrt is installed here")


def test_a_build_past_its_time_is_stopped(
    conv_net: MakeNet, engine: Path, request_for: RequestFor
) -> None:
    error = failed(conv_net(), engine, request_for(), timeout=0.1)
    assert error.message == (
        "The engine build took longer than 0.1 s and was stopped (phase: starting)."
    )
    assert "--timeout" in error.hint


@LINUX
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL"])
def test_a_crash_is_an_error_that_names_the_signal(
    conv_net: MakeNet, engine: Path, request_for: RequestFor, name: str
) -> None:
    def kill(event: Event) -> None:
        for child in children():
            os.kill(child, signal.Signals[name])

    error = failed(conv_net(), engine, request_for(), emit=kill)
    assert f"killed by {name}" in error.message
    assert ("memory runs out" in error.hint) == (name == "SIGKILL")


@LINUX
def test_ctrl_c_ends_the_worker_and_leaves_no_temporary_file(
    conv_net: MakeNet, engine: Path, request_for: RequestFor
) -> None:
    seen: list[int] = []

    def interrupt(event: Event) -> None:
        seen.extend(children())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_engine(conv_net(), engine, request_for(), emit=interrupt)
    assert len(seen) == 1
    assert children() == []
    assert leftovers(engine.parent) == {"net.engine.log"}


def test_an_orphaned_worker_leaves(
    conv_net: MakeNet, tmp_path: Path, engine: Path, request_for: RequestFor
) -> None:
    job = {"request": request_for().to_json(), "onnx": str(conv_net()), "engine": str(engine)}
    (tmp_path / "request.json").write_text(json.dumps(job))
    process = subprocess.run(
        [sys.executable, "-m", "deployfold.compiling.worker", str(tmp_path / "request.json")],
        stdin=subprocess.DEVNULL,  # at its end at once, as when the parent died
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == ORPHANED


def test_output_of_libraries_does_not_reach_the_pipe() -> None:
    code = """
import os
from deployfold.compiling.worker import _claim_stdout
channel = _claim_stdout()
os.write(1, b"native noise\\n")
print("python noise", flush=True)
channel.write("message\\n")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "message\n"
    assert done.stderr == "native noise\npython noise\n"


@pytest.mark.parametrize("python_path", [None, "", ":"])
def test_a_file_of_the_users_does_not_shadow_the_library(
    conv_net: MakeNet,
    tmp_path: Path,
    engine: Path,
    request_for: RequestFor,
    monkeypatch: pytest.MonkeyPatch,
    python_path: str | None,
) -> None:
    for name in ("tensorrt_rtx", "tensorrt", "onnx", "numpy", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    if python_path is None:
        monkeypatch.delenv("PYTHONPATH", raising=False)
    else:
        monkeypatch.setenv("PYTHONPATH", python_path)
    compile_engine(conv_net(), engine, request_for())
    assert engine.exists()


def test_a_shadow_on_the_python_path_is_called_by_name(
    conv_net: MakeNet,
    tmp_path: Path,
    engine: Path,
    request_for: RequestFor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "tensorrt_rtx.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
    error = failed(conv_net(), engine, request_for())
    assert re.search(r"lib/tensorrt_rtx\.py is not NVIDIA's TensorRT-RTX", error.message)


def test_an_output_that_cannot_be_written(
    conv_net: MakeNet, tmp_path: Path, request_for: RequestFor
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Cannot write"):
        compile_engine(conv_net(), tmp_path / "file" / "net.engine", request_for())


def test_a_log_that_cannot_be_written(
    conv_net: MakeNet, engine: Path, request_for: RequestFor
) -> None:
    Path(f"{engine}.log").mkdir()
    with pytest.raises(UsageError, match=r"net\.engine\.log"):
        compile_engine(conv_net(), engine, request_for())
    assert leftovers(engine.parent) == {"net.engine.log"}


def test_a_failure_keeps_the_earlier_engine_whole(
    conv_net: MakeNet, engine: Path, request_for: RequestFor
) -> None:
    made = compile_engine(conv_net(), engine, request_for())
    before = (engine.read_bytes(), made.sidecar.read_text())
    with pytest.raises(CompileError):
        compile_engine(conv_net(spoil=math.nan), engine, request_for())
    assert (engine.read_bytes(), made.sidecar.read_text()) == before


def test_the_script_runs_the_failed_build_again_and_goes_when_it_succeeds(
    conv_net: MakeNet, tmp_path: Path, engine: Path, request_for: RequestFor
) -> None:
    path = conv_net(spoil=math.nan)
    failed(path, engine, request_for())
    script = Path(f"{engine}.reproduce.sh")
    done = subprocess.run([str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["event"] == "error"
    assert "'conv.weight'" in last["message"]

    conv_net()  # the same file, healthy
    done = subprocess.run([str(script)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "done"
    assert Path(f"{engine}.reproduced").stat().st_size > 1000
    compile_engine(path, engine, request_for())
    assert not script.exists()


@LINUX
def test_an_interrupt_while_the_worker_is_started_leaves_none_running(
    conv_net: MakeNet, engine: Path, request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)
            seen.append(self.pid)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)  # Python handles the signal in here

    monkeypatch.setattr("deployfold.compiling.worker_process.subprocess.Popen", Interrupted)
    # A shell starts what runs in its background with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            compile_engine(conv_net(), engine, request_for())
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(seen) == 1
    assert not Path(f"/proc/{seen[0]}").exists()


@LINUX
def test_a_disk_that_is_full_names_the_engine(
    conv_net: MakeNet, engine: Path, request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker may write no file larger than a few kB, as on a disk that has no more."""
    onnx_path = conv_net()

    class Small(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, command: list[str], **options: object) -> None:
            limit = "import resource as r, signal as s; s.signal(s.SIGXFSZ, s.SIG_IGN); "
            limit += "r.setrlimit(r.RLIMIT_FSIZE, (65536, 65536))\n"
            command[2] = limit + command[2]
            super().__init__(command, **options)

    monkeypatch.setattr("deployfold.compiling.worker_process.subprocess.Popen", Small)
    with pytest.raises(UsageError) as caught:
        compile_engine(onnx_path, engine, request_for())
    assert caught.value.message == f"Cannot write {engine}: File too large."
    assert leftovers(engine.parent) == {"net.engine.log"}


def test_a_script_that_cannot_be_written_hides_no_error(
    conv_net: MakeNet, engine: Path, request_for: RequestFor
) -> None:
    Path(f"{engine}.reproduce.sh").mkdir()
    with pytest.raises(CompileError) as caught:
        compile_engine(conv_net(spoil=math.nan), engine, request_for())
    assert "'conv.weight'" in caught.value.message
    assert "same build again" not in str(caught.value.hint)
