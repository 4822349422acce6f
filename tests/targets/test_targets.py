from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployfold.config.profiles_root import profiles_root
from deployfold.errors import UsageError
from deployfold.targets.catalogue import (
    PRECISIONS,
    identify,
    load_targets,
    normalise,
    read_target,
    resolve,
)

TARGETS = load_targets()

# From https://developer.nvidia.com/cuda-gpus and https://developer.nvidia.com/cuda-legacy-gpus.
OFFICIAL = {
    "t4": (7, 5),
    "rtx2080ti": (7, 5),
    "a100": (8, 0),
    "a30": (8, 0),
    "a10": (8, 6),
    "a40": (8, 6),
    "a2": (8, 6),
    "a16": (8, 6),
    "rtx3090": (8, 6),
    "rtxa6000": (8, 6),
    "l4": (8, 9),
    "l40s": (8, 9),
    "rtx4090": (8, 9),
    "rtx6000ada": (8, 9),
    "h100": (9, 0),
    "h200": (9, 0),
    "gh200": (9, 0),
    "b200": (10, 0),
    "gb200": (10, 0),
    "b300": (10, 3),
    "rtx5090": (12, 0),
    "rtxpro6000": (12, 0),
    "dgx-spark": (12, 1),
    "jetson-xavier-nx": (7, 2),
    "jetson-agx-xavier": (7, 2),
    "jetson-orin-nano": (8, 7),
    "jetson-orin-nx": (8, 7),
    "jetson-agx-orin": (8, 7),
    "jetson-agx-thor": (11, 0),
}

GOOD = """\
name = "x1"
aliases = ["x one"]
title = "NVIDIA X1"
family = "X"
compute_capability = "8.9"
memory_gib = 24
precisions = ["fp16"]
source = "https://example.com/cc"
memory_source = "https://example.com/memory"
"""


def test_the_shipped_profiles_cover_the_gpus_with_nvidias_compute_capabilities() -> None:
    found = {target.name: target.compute_capability for target in TARGETS}
    assert len(TARGETS) >= 30
    assert {name: found.get(name) for name in OFFICIAL} == OFFICIAL


def test_every_profile_lies_in_a_file_of_its_name_and_cites_nvidia() -> None:
    files = {path.stem for path in (profiles_root() / "gpus").glob("*.toml")}
    assert files == {target.name for target in TARGETS}
    for target in TARGETS:
        for address in (target.source, target.memory_source):
            assert re.match(r"https://(www|docs|developer)\.nvidia\.com/", address), target.name


def test_tensor_core_precisions_follow_the_architecture() -> None:
    for target in TARGETS:
        capability = target.compute_capability
        assert {"fp16", "int8"} <= set(target.precisions), target.name
        assert ("bf16" in target.precisions) == (capability >= (8, 0)), target.name
        assert ("fp8" in target.precisions) == (capability >= (8, 9)), target.name
        assert ("fp4" in target.precisions) == (capability >= (10, 0)), target.name
        assert list(target.precisions) == sorted(target.precisions, key=PRECISIONS.index)


@pytest.mark.parametrize(
    "name", ["rtx4090", "RTX 4090", "rtx-4090", "GeForce RTX 4090", "NVIDIA GeForce RTX 4090"]
)
def test_a_name_is_found_however_it_is_spelled(name: str) -> None:
    assert resolve(name, TARGETS).name == "rtx4090"


@given(target=st.sampled_from(TARGETS), data=st.data())
def test_case_spaces_and_dashes_do_not_matter(target: object, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from([target.name, target.title, *target.aliases]))
    swapped = key.swapcase().replace(" ", data.draw(st.sampled_from([" ", "-", "_", "  "])))
    assert resolve(swapped, TARGETS) == target


@pytest.mark.parametrize("name", ["sm_89", "sm89", "SM_89", "8.9", " 8.9 "])
def test_a_compute_capability_is_a_target(name: str) -> None:
    target = resolve(name, TARGETS)
    assert (target.name, target.compute_capability) == ("sm_89", (8, 9))
    assert target.precisions == ("tf32", "fp16", "bf16", "int8", "fp8")


def test_two_digit_majors_are_read_right() -> None:
    assert resolve("sm_120", TARGETS).compute_capability == (12, 0)
    assert resolve("10.3", TARGETS).compute_capability == (10, 3)


@pytest.mark.parametrize(
    ("name", "guess"), [("rtx4091", "rtx4090"), ("jetson-orin-nan", "jetson-orin-nano")]
)
def test_an_unknown_name_suggests_the_nearest(name: str, guess: str) -> None:
    with pytest.raises(UsageError, match=re.escape(repr(name))) as caught:
        resolve(name, TARGETS)
    assert guess in caught.value.hint
    assert "deployfold targets" in caught.value.hint


def test_an_unknown_sm_suggests_real_ones() -> None:
    with pytest.raises(UsageError) as caught:
        resolve("sm_98", TARGETS)
    assert "sm_89" in caught.value.hint


def test_the_empty_name_is_refused() -> None:
    for name in ("", " ", "nvidia", "-"):
        with pytest.raises(UsageError):
            resolve(name, TARGETS)


@pytest.mark.parametrize(
    ("driver_name", "target"),
    [
        ("Tesla T4", "t4"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA A10G", "a10"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "rtx4070tisuper"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx6000ada"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_the_drivers_name_is_recognised(driver_name: str, target: str | None) -> None:
    found = identify(driver_name, TARGETS)
    assert (found and found.name) == target


def test_normalise_keeps_what_tells_gpus_apart() -> None:
    names = [target.name for target in TARGETS]
    assert len({normalise(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "x1"\n', "", "'name' is missing"),
        ("memory_gib = 24", "memory_gib = -1", "'memory_gib' must be positive"),
        ("memory_gib = 24", "memory_gib = true", "'memory_gib' must be a number"),
        ("memory_gib = 24", "memory_gib = nan", "'memory_gib' must be positive"),
        ('"8.9"', '"sm_89"', "'compute_capability'"),
        ('"8.9"', "8.9", "'compute_capability' must be a string"),
        ('["fp16"]', '["fp17"]', "'precisions' has the unknown value 'fp17'"),
        ('["fp16"]', "[16]", "'precisions' must be a list of words"),
        ('"https://example.com/cc"', '"a friend"', "'source' must be an https address"),
        ('family = "X"', 'famly = "X"', "unknown key 'famly'"),
        ('title = "NVIDIA X1"', 'title = ""', "'title' is empty"),
        ('name = "x1"', "name = ", "not a readable GPU profile"),
    ],
)
def test_a_bad_profile_is_an_error_that_names_file_and_key(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(GOOD)
    assert read_target(path).aliases == ("x one",)
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(UsageError) as caught:
        read_target(path)
    assert says in caught.value.message
    assert "bad.toml" in caught.value.message


def test_two_profiles_may_not_share_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(GOOD)
    (tmp_path / "b.toml").write_text(GOOD.replace('"x1"', '"x2"').replace("NVIDIA X1", "X2"))
    with pytest.raises(UsageError, match="'xone'"):
        load_targets(tmp_path)


def test_the_package_imports_nothing_heavy() -> None:
    heavy = ("torch", "onnx", "onnxruntime", "numpy", "tensorrt_rtx", "tensorrt", "pydantic")
    code = (
        "import sys, deployfold.targets.catalogue as catalogue; catalogue.load_targets();"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
