"""The options of folding."""

from __future__ import annotations

from dataclasses import dataclass

from .option_field import Panel, option


@dataclass(frozen=True)
class FoldOptions:
    """What to fold beside BatchNorms, and what to leave; see :func:`deployfold.folding.fold`."""

    reparam: bool = option(
        True,
        "Do not merge parallel branches (RepVGG) or fold constant scales (LayerScale).",
        Panel.MODEL,
    )
    norm_affine: bool = option(
        True,
        "Leave the affine parameters of LayerNorm, RMSNorm, GroupNorm and InstanceNorm.",
        Panel.MODEL,
        key="fold-norm-affine",
    )
    keep_parametrizations: bool = option(
        False,
        "Leave weights that pruning, weight_norm and the like compute at each call.",
        Panel.MODEL,
    )
