"""The options of folding."""

from __future__ import annotations

from dataclasses import dataclass

from deployfold.errors import UsageError

from .option_field import Panel, torch_option
from .real_data import RANDOM, CalibrationSpec

REESTIMATION_SAMPLES = 128
"""Samples for ``--reestimate-bn``, which run as one batch.

A late layer of 7x7 positions then has 6,272 values a channel, and ResNet-50 at 224x224 takes about
2 GB.
"""


def _read_reestimation(source: str | None) -> CalibrationSpec | None:
    if source == RANDOM:
        raise UsageError(
            "--reestimate-bn random: random inputs have other statistics than real ones.",
            hint="Give real samples: a folder of images, .npy, .npz or package.module:function.",
        )
    return None if source is None else CalibrationSpec(source, samples=REESTIMATION_SAMPLES)


@dataclass(frozen=True)
class FoldOptions:
    """The choices of folding beside BatchNorms; see :func:`deployfold.folding.fold`."""

    reparam: bool = torch_option(
        True,
        "Do not merge parallel branches (RepVGG) or fold constant scales (LayerScale).",
        Panel.MODEL,
    )
    norm_affine: bool = torch_option(
        True,
        "Leave the affine parameters of LayerNorm, RMSNorm, GroupNorm and InstanceNorm.",
        Panel.MODEL,
        key="fold-norm-affine",
    )
    keep_parametrizations: bool = torch_option(
        False,
        "Leave weights that pruning, weight_norm and the like compute at each call.",
        Panel.MODEL,
    )
    reestimate_bn: CalibrationSpec | None = torch_option(
        None,
        "Replace the running statistics of every BatchNorm by those of these samples, before "
        "folding; the result is another function than the checkpoint.",
        Panel.MODEL,
        metavar="SOURCE",
        path=True,
        code=True,
        data=True,
        read=_read_reestimation,
    )
