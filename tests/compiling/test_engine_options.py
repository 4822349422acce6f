"""The builder's options: what is refused before a build, and what TensorRT-RTX really takes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from compile_nets import MakeNet
from pydantic import TypeAdapter

from deployfold.compiling.planning import plan_engines
from deployfold.compiling.records import EngineRequest, NoEngine
from deployfold.compiling.tensorrt.builder import cache_file
from deployfold.compiling.tensorrt.compile import compile_engine
from deployfold.compiling.tensorrt.known_issues import KNOWN_ISSUES, known_issues, sentence
from deployfold.config.engine import EngineOptions
from deployfold.config.precision import Precision
from deployfold.errors import CompileError, UsageError
from deployfold.runtimes.tensorrt_library import first_containing
from deployfold.targets.libraries import capabilities_with, precision_refusal
from deployfold.targets.machine import Machine

RequestFor = Callable[..., EngineRequest]


@pytest.mark.parametrize(
    "bad",
    [
        {"optimization_level": 6},
        {"optimization_level": -1},
        {"hardware_compatibility": "hopper_plus"},
        {"exclude_lean_runtime": True},
        {"dla_core": -1},
    ],
)
def test_options_that_make_no_sense_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        EngineOptions(**bad)


OPTIONS = TypeAdapter(EngineOptions)


def test_options_survive_json_and_a_newer_deployfolds() -> None:
    options = EngineOptions(
        optimization_level=5, timing_cache=Path("cache"), version_compatible=True, dla_core=1
    )
    written = json.loads(OPTIONS.dump_json(options))
    assert OPTIONS.validate_python({**written, "of_the_future": 1}) == options
    assert options.changed == (
        "optimization_level",
        "timing_cache",
        "version_compatible",
        "dla_core",
    )
    assert EngineOptions().changed == ()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (EngineOptions(timing_cache=Path("x")), "timing cache does nothing"),
        (EngineOptions(hardware_compatibility="ampere_plus"), "no hardware compatibility level"),
        (EngineOptions(version_compatible=True), "without the lean runtime"),
        (EngineOptions(dla_core=0), "only for GPUs"),
        (EngineOptions(strip_plan=True), "only on a machine with the GPU"),
        (EngineOptions(refit=True), "only on a machine with the GPU"),
    ],
)
def test_options_that_rtx_cannot_build_without_a_gpu_are_refused_before_the_start(
    conv_net: MakeNet,
    request_for: RequestFor,
    tmp_path: Path,
    options: EngineOptions,
    expected: str,
) -> None:
    request = dataclasses.replace(request_for(), options=options)
    with pytest.raises(CompileError, match=expected) as caught:
        compile_engine(conv_net(), tmp_path / "out" / "net.engine", request)
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


def test_rtx_really_fails_where_it_is_refused(
    conv_net: MakeNet,
    request_for: RequestFor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A failure means that a newer TensorRT-RTX supports the option. Remove the refusal then."""
    if compile_on_gpu():
        pytest.skip("there is a GPU here")
    monkeypatch.setattr(
        "deployfold.compiling.tensorrt.compile.option_refusal", lambda request: None
    )
    for number, options in enumerate(
        (
            EngineOptions(strip_plan=True),
            EngineOptions(refit=True),
            EngineOptions(version_compatible=True),
        )
    ):
        request = dataclasses.replace(request_for(), options=options)
        with pytest.raises(CompileError, match="could not build the engine") as caught:
            compile_engine(conv_net(), tmp_path / f"{number}.engine", request)
        lacks_lean = "pip install tensorrt-lean" in str(caught.value.hint)
        assert lacks_lean == options.version_compatible


def compile_on_gpu() -> bool:
    from deployfold.targets.machine import detect

    return detect().gpu is not None


def test_weight_streaming_builds_and_is_in_the_sidecar(
    conv_net: MakeNet, request_for: RequestFor, tmp_path: Path
) -> None:
    options = EngineOptions(weight_streaming=True, optimization_level=2)
    request = dataclasses.replace(request_for(), options=options)
    made = compile_engine(conv_net(), tmp_path / "net.engine", request)
    sidecar = json.loads(made.sidecar.read_text())
    assert OPTIONS.validate_python(sidecar["options"]) == options


def test_caches_of_different_gpus_libraries_and_versions_have_different_names() -> None:
    names = {
        cache_file(Path("c"), gpu, library, version).name
        for gpu in ("NVIDIA L4 sm_89", "NVIDIA A10 sm_86")
        for library in ("tensorrt", "tensorrt_rtx")
        for version in ("11.4.0", "10.3.0")
    }
    assert len(names) == 8
    assert cache_file(Path("c"), "../Tesla T4 sm_75", "tensorrt", "11.4").parent == Path("c")


@pytest.mark.parametrize(
    ("precision", "capability", "builds"),
    [
        ("fp32", (7, 5), True),
        ("fp16", (7, 5), True),
        ("int8", (7, 5), False),
        ("int8", (8, 0), True),
        ("bf16", (7, 5), False),
        ("bf16", (8, 0), True),
        ("int4", (7, 5), False),
        ("int4", (8, 0), True),
        ("fp8", (8, 6), False),
        ("fp8", (8, 9), True),
    ],
)
def test_a_precision_that_the_gpu_lacks_is_refused_in_a_sentence(
    precision: str, capability: tuple[int, int], builds: bool
) -> None:
    refusal = precision_refusal(Precision(precision), [capability], "tensorrt_rtx")
    assert (refusal is None) == builds
    if refusal is not None:
        assert f"No {precision} engine for sm_{capability[0]}{capability[1]}" in refusal
        assert refusal.endswith("and newer. Take --fp16 there.")


def test_a_build_for_a_gpu_without_the_precision_is_refused_before_it_starts(
    conv_net: MakeNet,
    request_for: RequestFor,
    tmp_path: Path,
) -> None:
    here = Machine(tensorrt_rtx="1.7.1")
    (entry,) = plan_engines(["a100"], Precision.FP8, here)
    assert isinstance(entry, NoEngine)
    assert entry.reason.startswith("No fp8 engine for sm_80")
    (entry,) = plan_engines(["l4"], Precision.FP8, here)
    assert isinstance(entry, EngineRequest)
    (entry,) = plan_engines(["auto"], Precision.FP8, here)
    assert isinstance(entry, EngineRequest)
    assert entry.compute_capabilities == ((8, 9), (12, 0))
    request = request_for(Precision.FP8, (8, 0), (8, 9))
    with pytest.raises(CompileError, match="No fp8 engine for sm_80"):
        compile_engine(conv_net(), tmp_path / "out" / "net.engine", request)
    assert not (tmp_path / "out").exists()


def test_a_portable_engine_leaves_out_the_gpus_without_the_precision() -> None:
    four = ((8, 0), (8, 6), (8, 9), (12, 0))
    assert capabilities_with(Precision.FP8, four, "tensorrt_rtx") == ((8, 9), (12, 0))
    assert capabilities_with(Precision.FP16, four, "tensorrt_rtx") == four


@pytest.mark.parametrize(
    ("version", "precision", "layers", "dla", "issues"),
    [
        ("11.2.1.2", "fp16", {"CONVOLUTION"}, False, ["4838"]),
        ("11.2.1.2", "fp32", {"CONVOLUTION"}, False, []),
        ("11.2.1.2", "fp16", {"MATRIX_MULTIPLY"}, False, []),
        ("11.2.2", "fp16", {"CONVOLUTION"}, False, []),
        ("11.2.0", "fp16", {"CONVOLUTION"}, False, []),
        ("11.1.0.106", "fp32", {"GRID_SAMPLE"}, False, ["4813"]),
        ("10.13.2", "fp32", {"GRID_SAMPLE"}, False, []),
        ("10.13.3", "fp16", {"GRID_SAMPLE"}, False, ["4813", "4820"]),
        ("11.4.0.106", "fp16", set(), True, ["dla-strongly"]),
        ("11.4.1", "fp16", set(), True, []),
        ("10.7.0", "fp16", set(), True, []),
        ("10.3.0", "fp16", {"CONVOLUTION", "GRID_SAMPLE", "DECONVOLUTION"}, False, []),
    ],
)
def test_known_issues_concern_the_versions_they_were_reported_of(
    version: str, precision: str, layers: set[str], dla: bool, issues: list[str]
) -> None:
    build = {"precision": Precision(precision), "layers": layers, "dla": dla}
    found = known_issues("tensorrt", version, **build)
    assert len(found) == len(issues)
    for issue, number in zip(found, issues, strict=True):
        assert number in issue.source
        assert sentence(issue, version).startswith(f"TensorRT {version} ")
    assert not known_issues("tensorrt_rtx", version, **build)


def test_every_known_issue_has_a_report_and_bounds_in_order() -> None:
    import tensorrt_rtx

    for issue in KNOWN_ISSUES:
        assert issue.source.startswith("https://")
        assert issue.first <= issue.last
        assert not issue.summary.endswith(".")
        assert set(issue.layers) <= set(tensorrt_rtx.LayerType.__members__)


@pytest.mark.parametrize(
    ("shapes", "index"),
    [
        ({"x": (1, 3), "y": (1,)}, 0),
        ({"x": (4, 3), "y": (1,)}, 0),
        ({"x": (5, 3), "y": (1,)}, 1),
        ({"x": (1, 3), "y": (2,)}, 1),
        ({"x": (9, 3), "y": (1,)}, None),
        ({"x": (1, 3, 1), "y": (1,)}, None),
    ],
)
def test_the_first_profile_that_holds_all_inputs_is_used(
    shapes: dict[str, tuple[int, ...]], index: int | None
) -> None:
    profiles = [
        {"x": ((1, 3), (2, 3), (4, 3)), "y": ((1,), (1,), (1,))},
        {"x": ((1, 3), (8, 3), (8, 3)), "y": ((1,), (2,), (2,))},
    ]
    assert first_containing(profiles, shapes) == index


def test_a_request_of_fp16_still_means_fp16(request_for: RequestFor) -> None:
    request = request_for(Precision.FP16)
    assert EngineRequest.from_json(json.loads(json.dumps(request.to_json()))) == request
