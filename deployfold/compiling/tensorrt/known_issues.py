"""Versions of TensorRT that are known to fail or to be wrong, each with its report.

Only what others reported is here; nothing of it was seen by deployfold itself. An entry applies
where the version lies within its bounds and the network has what it names. It costs a note in the
report where the build went well, and is the hint where it failed: an engine is never refused for
what it might be.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from deployfold.compiling.request import LIBRARY_TITLES, Library

Version = tuple[int, ...]


@dataclass(frozen=True)
class KnownIssue:
    """One report.

    Attributes:
        library: the package that has it.
        first, last: the first and the last version it was reported of, both included; compared by
            as many parts as they have.
        summary: what goes wrong, as the end of a sentence that begins with the version.
        source: the address of the report.
        precisions: it concerns only these; all if empty.
        layers: it concerns only networks with one of these, by name of ``trt.LayerType``.
        dla: it concerns only builds for a DLA.
        fails: the build fails; otherwise the engine is wrong.
        retry_in_fp32: a build that fails is tried again with grouped convolutions in fp32.
    """

    library: Library
    first: Version
    last: Version
    summary: str
    source: str
    precisions: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    dla: bool = False
    fails: bool = True
    retry_in_fp32: bool = False


KNOWN_ISSUES: tuple[KnownIssue, ...] = (
    KnownIssue(
        library="tensorrt",
        first=(11, 2, 1),
        last=(11, 2, 1),
        summary="has no fp16 kernel for some grouped convolutions; another version has",
        source="https://github.com/NVIDIA/TensorRT/issues/4838",
        precisions=("fp16",),
        layers=("CONVOLUTION",),
        retry_in_fp32=True,
    ),
    KnownIssue(
        library="tensorrt",
        first=(11, 0),
        last=(11, 2),
        summary="has no bf16 kernel for some transposed convolutions; fp16 has them",
        source="https://github.com/NVIDIA/TensorRT/issues/4829",
        precisions=("bf16",),
        layers=("DECONVOLUTION",),
    ),
    KnownIssue(
        library="tensorrt",
        first=(10, 13, 3),
        last=(11, 1),
        summary="gives wrong outputs for some networks with GridSample; compare the engine's "
        "outputs with the ONNX's, or build with 10.12 or older",
        source="https://github.com/NVIDIA/TensorRT/issues/4813",
        layers=("GRID_SAMPLE",),
        fails=False,
    ),
    KnownIssue(
        library="tensorrt",
        first=(10, 13),
        last=(10, 13),
        summary="is reported to lose accuracy in fp16 on a detector (YOLOv10) for which 10.3 does "
        "not; compare the engine's outputs with the ONNX's",
        source="https://github.com/NVIDIA/TensorRT/issues/4820",
        precisions=("fp16",),
        fails=False,
    ),
    KnownIssue(
        library="tensorrt",
        first=(10, 8),
        last=(11, 4, 0),
        summary="does not support DLA: 10.7 was the last that does before 11.4.1 for Jetson AGX "
        "Orin with JetPack 7.2.2",
        source="https://docs.nvidia.com/deeplearning/tensorrt/11.4.1/inference-library/"
        "dla-strongly-typed-networks.html",
        dla=True,
    ),
)
"""Every report, newest first within a library."""


def known_issues(
    library: Library,
    version: str,
    *,
    precision: str,
    layers: Collection[str] = (),
    dla: bool = False,
) -> tuple[KnownIssue, ...]:
    """The entries of :data:`KNOWN_ISSUES` that concern one build.

    Args:
        version: what the library calls itself, such as ``11.2.1.2``.
        precision: of the engine: ``fp16``.
        layers: names of ``trt.LayerType`` that the network has.
        dla: it is built for a DLA.
    """
    return tuple(_matching(library, version_parts(version), precision, layers, dla))


def sentence(issue: KnownIssue, version: str) -> str:
    """``TensorRT 11.2.1.2 has no fp16 kernel … (https://…).``"""
    return f"{LIBRARY_TITLES[issue.library]} {version} {issue.summary} ({issue.source})."


def version_parts(version: str) -> Version:
    """``(11, 2, 1, 2)`` for ``11.2.1.2``; what follows the numbers is left out."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def _matching(
    library: Library, version: Version, precision: str, layers: Collection[str], dla: bool
) -> Iterator[KnownIssue]:
    for issue in KNOWN_ISSUES:
        if issue.library != library or (issue.dla and not dla):
            continue
        if not issue.first <= version[: len(issue.first)]:
            continue
        if not version[: len(issue.last)] <= issue.last:
            continue
        if issue.precisions and precision not in issue.precisions:
            continue
        if issue.layers and not set(issue.layers) & set(layers):
            continue
        yield issue
