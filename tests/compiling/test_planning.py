from __future__ import annotations

import dataclasses

import pytest

from deployfold.compiling.compiler_choice import compiler_for
from deployfold.compiling.planning import check_target, plan_engines
from deployfold.compiling.records import EngineRequest, NoEngine, optimization_profiles
from deployfold.config.inputs import InputSpec
from deployfold.config.optimization_profiles import DynamicBatch
from deployfold.config.precision import Precision
from deployfold.errors import UsageError
from deployfold.targets.catalogue import identify, load_targets, resolve
from deployfold.targets.libraries import LIBRARIES
from deployfold.targets.machine import Gpu, Machine

TARGETS = load_targets()
RTX = LIBRARIES["tensorrt_rtx"]
NO_GPU = Machine(tensorrt_rtx="1.7.1.116")


def machine(name: str, capability: tuple[int, int], **libraries: str) -> Machine:
    return Machine(gpu=Gpu(name, capability), profile=identify(name, TARGETS), **libraries)


def plan(name: str, where: Machine, precision: Precision = Precision.FP16) -> object:
    (entry,) = plan_engines([name], precision, where)
    return entry


def test_the_documented_sms_are_the_ones_the_library_has() -> None:
    import tensorrt_rtx

    members = tensorrt_rtx.ComputeCapability.__members__
    names = {"SM{}{}".format(*capability) for capability in RTX.compute_capabilities}
    assert {name for name in members if name.startswith("SM")} == names


def test_auto_without_a_gpu_is_one_portable_engine_and_says_so() -> None:
    entry = plan("auto", NO_GPU)
    assert isinstance(entry, EngineRequest)
    assert entry.library == "tensorrt_rtx"
    assert entry.compute_capabilities == RTX.portable
    assert (7, 5) not in entry.compute_capabilities
    assert not entry.current_gpu
    assert not entry.verify
    assert entry.label == "portable"
    assert "sm_80, sm_86, sm_89, sm_120" in entry.notes[0]


def test_portable_is_the_same_engine_on_any_machine() -> None:
    here = machine("NVIDIA L4", (8, 9), tensorrt="11.4.0", tensorrt_rtx="1.7.1")
    for one, verify in ((NO_GPU, False), (here, True)):
        entry = plan("portable", one)
        assert isinstance(entry, EngineRequest)
        assert entry.library == "tensorrt_rtx"
        assert entry.compute_capabilities == RTX.portable
        assert (entry.current_gpu, entry.verify) == (False, verify)
    missing = plan("portable", Machine())
    assert isinstance(missing, NoEngine)
    assert "pip install tensorrt-rtx" in missing.reason


def test_auto_without_a_gpu_or_a_library_plans_no_engine() -> None:
    entry = plan("auto", Machine())
    assert isinstance(entry, NoEngine)
    assert "tensorrt-rtx" in entry.reason


@pytest.mark.parametrize("precision", [Precision.FP8, Precision.FP16])
def test_a_device_is_offered_only_precisions_that_it_has(precision: Precision) -> None:
    entry = plan("jetson-agx-orin", NO_GPU, precision)
    assert isinstance(entry, NoEngine)
    assert entry.elsewhere is (precision is Precision.FP16)
    assert ("No fp8 engine for sm_87" in entry.reason) is (precision is Precision.FP8)


def test_auto_with_a_gpu_takes_tensorrt_first() -> None:
    here = machine("NVIDIA L4", (8, 9), tensorrt="11.4.0", tensorrt_rtx="1.7.1")
    entry = plan("auto", here)
    assert isinstance(entry, EngineRequest)
    assert (entry.library, entry.current_gpu, entry.verify) == ("tensorrt", True, True)
    assert entry.compute_capabilities == ((8, 9),)


def test_auto_with_a_gpu_and_only_rtx_builds_for_that_gpu() -> None:
    entry = plan("auto", machine("NVIDIA L4", (8, 9), tensorrt_rtx="1.7.1"))
    assert isinstance(entry, EngineRequest)
    assert (entry.library, entry.current_gpu, entry.verify) == ("tensorrt_rtx", True, True)


def test_auto_on_a_gpu_that_nothing_here_serves_says_what_to_install() -> None:
    entry = plan("auto", machine("NVIDIA H100 80GB HBM3", (9, 0), tensorrt_rtx="1.7.1"))
    assert isinstance(entry, NoEngine)
    assert "deployfold[tensorrt]" in entry.reason


def test_auto_on_a_gpu_newer_than_every_profile_still_uses_tensorrt() -> None:
    entry = plan("auto", machine("NVIDIA X9", (13, 0), tensorrt="12.0"))
    assert isinstance(entry, EngineRequest)
    assert entry.compute_capabilities == ((13, 0),)


@pytest.mark.parametrize("name", ["t4", "rtx4090", "l4", "sm_120", "dgx-spark", "a100"])
def test_rtx_serves_its_targets_without_a_gpu(name: str) -> None:
    entry = plan(name, NO_GPU)
    assert isinstance(entry, EngineRequest)
    assert entry.library == "tensorrt_rtx"
    assert entry.compute_capabilities == (resolve(name, TARGETS).compute_capability,)
    assert not entry.current_gpu


@pytest.mark.parametrize("name", ["jetson-orin-nano", "sm_87", "h100", "b200", "b300", "thor"])
def test_a_gpu_that_rtx_does_not_know_gets_a_reason(name: str) -> None:
    entry = plan(name, NO_GPU)
    assert isinstance(entry, NoEngine)
    assert entry.target == name
    assert resolve(name, TARGETS).sm in entry.reason
    assert "TensorRT-RTX does not know it" in entry.reason
    assert "not in this machine" in entry.reason


def test_xavier_is_refused_for_its_tensorrt() -> None:
    entry = plan("jetson-agx-xavier", NO_GPU)
    assert isinstance(entry, NoEngine)
    assert "TensorRT 8.5" in entry.reason


def test_orin_is_served_on_an_orin_with_jetpack_6() -> None:
    entry = plan("jetson-orin-nano", machine("Orin (nvgpu)", (8, 7), tensorrt="10.3.0"))
    assert isinstance(entry, EngineRequest)
    assert (entry.library, entry.current_gpu) == ("tensorrt", True)


def test_tensorrt_does_not_build_for_another_model_of_the_same_architecture() -> None:
    here = machine("NVIDIA L4", (8, 9), tensorrt="11.4.0", tensorrt_rtx="1.7.1")
    entry = plan("rtx4090", here)
    assert isinstance(entry, EngineRequest)
    assert entry.library == "tensorrt_rtx"
    assert entry.verify  # an engine for sm_89 loads on the L4


@pytest.mark.parametrize(("version", "serves"), [("10.3.0", True), ("10.5.0", False)])
def test_volta_ends_with_tensorrt_10_5(version: str, serves: bool) -> None:
    entry = plan("auto", machine("Tesla V100-SXM2-16GB", (7, 0), tensorrt=version))
    assert isinstance(entry, EngineRequest) == serves


def test_targets_of_the_same_engine_share_the_engine() -> None:
    entries = plan_engines(["l4", "t4", "rtx4090", "L4 "], Precision.FP16, NO_GPU)
    assert [entry.targets for entry in entries] == [("l4", "rtx4090", "L4"), ("t4",)]
    assert [entry.label for entry in entries] == ["sm_89", "sm_75"]


def test_int8_by_rtx_is_called_untested() -> None:
    assert "has not been run" in " ".join(plan("l4", NO_GPU, Precision.INT8).notes)
    assert "has not been run" not in " ".join(plan("l4", NO_GPU, Precision.FP16).notes)


def test_an_unknown_target_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        plan_engines(["auto", "rtx9999x"], Precision.FP16, NO_GPU)


def test_listing_needs_no_machine() -> None:
    served = {target.name: compiler_for(target).library for target in TARGETS}
    assert served["l4"] == "tensorrt_rtx"
    assert served["h100"] is None
    assert set(served.values()) == {"tensorrt_rtx", None}


def test_a_request_survives_json() -> None:
    spec = InputSpec.parse(["a=2x3x8x8", "b=2x4"])
    spec = spec.with_profiles((DynamicBatch(1, 4, 16), DynamicBatch(1, 1, 1)))
    request = dataclasses.replace(
        plan("auto", NO_GPU), profiles=optimization_profiles(spec), workspace_mib=512
    )
    assert EngineRequest.from_json(request.to_json()) == request


def test_a_dynamic_batch_becomes_min_opt_and_max() -> None:
    spec = InputSpec.parse(["a=2x3x8x8"]).with_profiles((DynamicBatch(1, 4, 16),))
    ((shapes,),) = optimization_profiles(spec)
    assert (shapes.name, shapes.min, shapes.opt, shapes.max) == (
        "a",
        (1, 3, 8, 8),
        (4, 3, 8, 8),
        (16, 3, 8, 8),
    )
    ((fixed,),) = optimization_profiles(InputSpec.parse(["a=2x3x8x8"]))
    assert fixed.min == fixed.opt == fixed.max == (2, 3, 8, 8)


@pytest.mark.parametrize(
    "change",
    [
        {"library": "tensorrt"},
        {"compute_capabilities": ()},
        {"workspace_mib": 0},
    ],
)
def test_a_request_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        dataclasses.replace(plan("l4", NO_GPU), **change)


def test_names_with_commas_between_share_one_engine() -> None:
    both, l4 = plan_engines(["rtx5090, l4", "l4"], Precision.FP16, Machine(tensorrt_rtx="1.7.1"))
    assert isinstance(both, EngineRequest)
    assert isinstance(l4, EngineRequest)
    assert both.compute_capabilities == ((8, 9), (12, 0))
    assert (both.label, l4.label) == ("sm_89-sm_120", "sm_89")
    assert both.notes == ("One TensorRT-RTX engine for sm_89, sm_120.",)
    check_target("rtx5090, l4")
    with pytest.raises(UsageError, match="'l5' is not a GPU"):
        check_target("l4,l5")


@pytest.mark.parametrize(
    ("names", "precision", "installed", "expected"),
    [
        ("l4,h100", Precision.FP16, "1.7.1", "does not know sm_90"),
        ("l4,a10", Precision.FP16, None, "pip install tensorrt-rtx"),
        ("l4,a10", Precision.FP8, "1.7.1", "No fp8 engine for sm_86"),
    ],
)
def test_one_engine_for_several_is_refused_with_the_reason(
    names: str, precision: Precision, installed: str | None, expected: str
) -> None:
    (entry,) = plan_engines([names], precision, Machine(tensorrt_rtx=installed))
    assert isinstance(entry, NoEngine)
    assert expected in entry.reason
    assert not entry.elsewhere, "no device builds one engine for several GPUs"
