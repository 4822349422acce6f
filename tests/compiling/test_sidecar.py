"""The content of an engine's sidecar, and the explanation of a sidecar that does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compile_nets import MakeNet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployfold.compiling.records import EngineRequest
from deployfold.compiling.sidecar import Here, Sidecar, read_sidecar
from deployfold.compiling.tensorrt.compile import compile_engine
from deployfold.config.precision import Precision
from deployfold.errors import MeasureError

RequestFor = Callable[..., EngineRequest]


def sidecar(**changes: object) -> Sidecar:
    base = {
        "library": "tensorrt",
        "library_version": "11.4.0.106",
        "compute_capabilities": ["8.9"],
        "options": {},
    }
    return Sidecar.of({**base, **changes})


def test_the_sidecar_describes_the_engine(
    conv_net: MakeNet, request_for: RequestFor, tmp_path: Path
) -> None:
    onnx = conv_net(half=True)
    made = compile_engine(onnx, tmp_path / "net.engine", request_for(Precision.FP16))
    found = read_sidecar(made.path)
    assert found.content["tensors"] == [
        {"name": "x", "mode": "input", "shape": [1, 3, 16, 16], "dtype": "float32"},
        {"name": "y", "mode": "output", "shape": [1, 5], "dtype": "float32"},
    ]
    assert found.content["driver"] is None  # no GPU had part in it
    assert found.content["options"]["optimization_level"] is None
    assert found.wrong_size(made.path) is None
    assert found.describes(made.path)
    made.path.write_bytes(made.path.read_bytes()[:-1] + b"!")
    assert found.wrong_size(made.path) is None  # the size alone does not tell
    assert not found.describes(made.path)
    made.path.write_bytes(b"!")
    assert "1 bytes" in str(found.wrong_size(made.path))


def test_the_error_names_both_gpus_and_versions_and_the_command() -> None:
    assert sidecar().incompatibility(Here((8, 6), "10.3.0")) == (
        "built for sm_89 by TensorRT 11.4.0.106; this is sm_86 with TensorRT 10.3.0: "
        "run deployfold finish here"
    )


@pytest.mark.parametrize(
    ("changes", "here", "runs"),
    [
        ({}, Here((8, 9), "11.4.0.106"), True),
        ({}, Here((8, 9), "11.4.0.107"), True),  # the library itself decides of builds
        ({}, Here((8, 6), "11.4.0"), False),
        ({}, Here((8, 9), "11.4.1"), False),
        ({"options": {"hardware_compatibility": "ampere_plus"}}, Here((8, 6), "11.4.0"), True),
        ({"options": {"hardware_compatibility": "ampere_plus"}}, Here((7, 5), "11.4.0"), False),
        (
            {"options": {"hardware_compatibility": "same_compute_capability"}},
            Here((8, 6), "11.4.0"),
            False,
        ),
        ({"options": {"version_compatible": True}}, Here((8, 9), "11.5.0"), True),
        ({"options": {"version_compatible": True}}, Here((8, 9), "11.3.0"), False),
        ({"options": {"version_compatible": True}}, Here((8, 9), "12.0.0"), False),
        (
            {"library_version": "10.16.1.11", "options": {"version_compatible": True}},
            Here((8, 9), "11.0.0"),
            True,
        ),
        (
            {"library": "tensorrt_rtx", "compute_capabilities": ["8.0", "8.6", "12.0"]},
            Here((8, 6), "1.8.0"),
            True,
        ),
        (
            {"library": "tensorrt_rtx", "compute_capabilities": ["8.0", "8.6", "12.0"]},
            Here((8, 9), "1.7.1"),
            False,
        ),
        # What a sidecar does not say is not held against it.
        ({"library_version": None, "compute_capabilities": None}, Here((8, 6), "10.3"), True),
    ],
)
def test_the_sidecar_decides_where_an_engine_runs(
    changes: dict[str, Any], here: Here, runs: bool
) -> None:
    assert (sidecar(**changes).incompatibility(here) is None) == runs


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


# On a busy machine drawing nested values is slow, which says nothing of the code.
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.fixed_dictionaries(
        {"library": st.sampled_from(["tensorrt", "tensorrt_rtx"])},
        optional={
            "library_version": JSON,
            "compute_capabilities": JSON,
            "options": JSON,
        },
    )
)
def test_no_sidecar_makes_the_check_itself_fail(found: dict[str, Any]) -> None:
    reason = Sidecar.of(found).incompatibility(Here((8, 9), "11.4.0"))
    assert reason is None or reason.startswith("built for ")
    assert Sidecar.of(found).built_for


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"library": "os"}', "[" * 100_000])
def test_a_malformed_sidecar_is_refused(tmp_path: Path, text: str) -> None:
    engine = tmp_path / "net.engine"
    (tmp_path / "net.engine.json").write_text(text)
    with pytest.raises(MeasureError, match=r"net\.engine\.json"):
        read_sidecar(engine)


def test_the_runner_refuses_an_engine_of_another_size(tmp_path: Path) -> None:
    from deployfold.runtimes.tensorrt import TensorRTRunner

    engine = tmp_path / "net.engine"
    engine.write_bytes(b"half")
    (tmp_path / "net.engine.json").write_text(json.dumps(sidecar(bytes=8).content))
    with pytest.raises(MeasureError, match="is damaged: it has 4 bytes"):
        TensorRTRunner(engine).load()


def test_rtx_itself_says_what_is_wrong_with_a_file() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    from deployfold.runtimes.tensorrt_file import invalidity
    from deployfold.runtimes.tensorrt_library import collecting_logger

    logger = collecting_logger(trt, [])
    assert invalidity(trt, trt.Runtime(logger), b"no engine" * 200) == ", malformed engine"
