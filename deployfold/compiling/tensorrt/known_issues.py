"""Known issues: versions of TensorRT that fail or give wrong engines, each with a public report.

All entries are reports by other people; deployfold has reproduced none of them. An entry applies if
the version lies within its bounds and the network has the named layers. After a successful build,
the entry is a note in the report; after a failed build, it is a hint. An entry never makes
deployfold refuse an engine.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from deployfold.config.precision import Precision
from deployfold.targets.libraries import LIBRARIES, Library, Version, version_parts


@dataclass(frozen=True)
class KnownIssue:
    """One report.

    Attributes:
        library: the package with the issue.
        first, last: the first and the last version with the issue, bounds included. Versions are
            compared by their leading parts: ``11.2.1.2`` equals ``11.2``.
        summary: the predicate of a sentence that begins with the version.
        source: the address of the report.
        precisions: the precisions with the issue; empty for all.
        layers: the network must have one of these, by name of ``trt.LayerType``; empty
            for any network.
        dla: whether the issue applies only to builds for a DLA.
        fails: whether the build fails; otherwise the engine computes wrong values.
        retry_in_fp32: whether to build again with grouped convolutions in fp32.
    """

    library: Library
    first: Version
    last: Version
    summary: str
    source: str
    precisions: tuple[Precision, ...] = ()
    layers: tuple[str, ...] = ()
    dla: bool = False
    fails: bool = True
    retry_in_fp32: bool = False


KNOWN_ISSUES: tuple[KnownIssue, ...] = (
    KnownIssue(
        library="tensorrt",
        first=(11, 2, 1),
        last=(11, 2, 1),
        summary="has no fp16 kernel for some grouped convolutions; other versions have",
        source="https://github.com/NVIDIA/TensorRT/issues/4838",
        precisions=(Precision.FP16,),
        layers=("CONVOLUTION",),
        retry_in_fp32=True,
    ),
    KnownIssue(
        library="tensorrt",
        first=(11, 0),
        last=(11, 2),
        summary="has no bf16 kernel for some transposed convolutions; fp16 has them",
        source="https://github.com/NVIDIA/TensorRT/issues/4829",
        precisions=(Precision.BF16,),
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
        summary="is reported to lose accuracy in fp16 on a detector (YOLOv10), and 10.3 is not; "
        "compare the engine's outputs with the ONNX's",
        source="https://github.com/NVIDIA/TensorRT/issues/4820",
        precisions=(Precision.FP16,),
        fails=False,
    ),
    KnownIssue(
        library="tensorrt",
        first=(10, 8),
        last=(11, 4, 0),
        summary="does not support DLA: 10.7 and older do, and 11.4.1 for Jetson AGX Orin with "
        "JetPack 7.2.2",
        source="https://docs.nvidia.com/deeplearning/tensorrt/11.4.1/inference-library/"
        "dla-strongly-typed-networks.html",
        dla=True,
    ),
)
"""All known issues, the newest version first."""


def known_issues(
    library: Library,
    version: str,
    *,
    precision: Precision,
    layers: Collection[str] = (),
    dla: bool = False,
) -> tuple[KnownIssue, ...]:
    """The entries of :data:`KNOWN_ISSUES` that apply to one build.

    Args:
        version: its version, such as ``11.2.1.2``.
        layers: the layers of the network, by name of ``trt.LayerType``.
    """
    parts = version_parts(version)
    return tuple(
        issue
        for issue in KNOWN_ISSUES
        if issue.library == library
        and issue.first <= parts[: len(issue.first)]
        and parts[: len(issue.last)] <= issue.last
        and (dla or not issue.dla)
        and (not issue.precisions or precision in issue.precisions)
        and (not issue.layers or set(issue.layers) & set(layers))
    )


def sentence(issue: KnownIssue, version: str) -> str:
    """The issue as a sentence: ``TensorRT 11.2.1.2 has no fp16 kernel … (https://…).``"""
    return f"{LIBRARIES[issue.library].title} {version} {issue.summary} ({issue.source})."
