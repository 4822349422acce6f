"""The GPUs and precisions of each engine library, by its record and its version."""

from __future__ import annotations

import pytest

from deployfold.targets.libraries import LIBRARIES, tensorrt_builds_for, version_parts


def test_a_portable_engine_is_for_gpus_that_the_library_builds_for() -> None:
    for record in LIBRARIES.values():
        assert set(record.portable) <= set(record.compute_capabilities)


@pytest.mark.parametrize(
    ("version", "parts"),
    [("11.2.1.2", (11, 2, 1, 2)), ("10.3.0.post1", (10, 3, 0)), ("10", (10,)), ("unknown", ())],
)
def test_a_version_is_its_leading_numbers(version: str, parts: tuple[int, ...]) -> None:
    assert version_parts(version) == parts


@pytest.mark.parametrize(
    ("version", "capability", "builds"),
    [
        ("10.3.0", (7, 0), True),
        ("10.3.0", (6, 1), False),
        ("10.4.9", (7, 2), True),
        ("10.5.0", (7, 0), False),
        ("11.4.0", (7, 5), True),
        ("unknown", (7, 0), True),
    ],
)
def test_tensorrt_10_5_is_the_first_without_volta(
    version: str, capability: tuple[int, int], builds: bool
) -> None:
    assert tensorrt_builds_for(version, capability) == builds
