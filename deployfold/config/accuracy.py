"""The accuracy that lowered models must keep, and the nodes that are quantised or stay in fp32."""

from __future__ import annotations

import math
from dataclasses import dataclass

from deployfold.errors import UsageError

from .flag_values import split_number
from .option_field import Panel, check_ranges, option
from .precision import Precision


@dataclass(frozen=True)
class QdqSpec:
    """Where the Q/DQ nodes of a quantised model stand."""

    residual_qdq: bool = option(
        False,
        "Also quantise the skip inputs of residual sums: less memory traffic, more error.",
        Panel.QUANTIZATION,
    )
    tune: bool = option(
        False,
        "Keep Q/DQ nodes only where they make the engine faster on the GPU in this machine.",
        Panel.QUANTIZATION,
    )


@dataclass(frozen=True)
class KeepSpec:
    """The nodes that must stay in fp32, by name and by operator."""

    names: tuple[str, ...] = option(
        (),
        "Keep this node or module in fp32, such as head or blocks.*.norm; repeat it for several.",
        Panel.QUANTIZATION,
        key="keep-fp32",
        metavar="PATTERN",
    )
    operators: tuple[str, ...] = option(
        (),
        "Keep every node of this ONNX operator in fp32, such as Softmax; repeat it for several.",
        Panel.QUANTIZATION,
        key="keep-fp32-op",
        metavar="OP",
    )


def parse_min_sqnr(texts: tuple[str, ...]) -> tuple[tuple[Precision, float], ...]:
    """Read every ``--min-sqnr-for PRECISION=DB``.

    Raises:
        UsageError: a text is not ``PRECISION=DB``, or the precision is not a lowered one.
    """
    lowered = {one.value: one for one in Precision if one.record.family != "none"}
    limits = []
    for text in texts:
        name, limit = split_number(text)
        if name not in lowered or not math.isfinite(limit):
            raise UsageError(
                f"--min-sqnr-for {text}: expected PRECISION=DB, such as fp16=40.",
                hint=f"The precisions are {', '.join(lowered)}.",
            )
        limits.append((lowered[name], limit))
    return tuple(limits)


@dataclass(frozen=True)
class GuardSpec:
    """The accuracy that lowered models must keep.

    Quantised models are measured on the held-back inputs.

    Attributes:
        min_sqnr_db: least signal-to-quantisation-noise ratio in dB of every output of a quantised
            model. 20 dB is noise of a tenth of the signal.
        by_precision: least SQNR in dB for single precisions. Other quantised precisions must keep
            ``min_sqnr_db``; fp16 and bf16 must keep the default of their precision record.
        enabled: ``False`` lowers every layer that can be lowered, regardless of accuracy.

    Raises:
        UsageError: a number is out of range.
    """

    min_sqnr_db: float = option(
        Precision.INT8.record.min_sqnr_db,
        "SQNR that quantised models must keep; every output must keep it, and the layers that "
        "cost most go back to --rest-precision.",
        Panel.QUANTIZATION,
        key="min-sqnr",
        metavar="DB",
        common=True,
    )
    by_precision: tuple[tuple[Precision, float], ...] = option(
        (),
        "SQNR that one precision must keep, such as fp16=40; fp16 keeps 30 by default, bf16 20. "
        "The nodes that cost most go back to fp32.",
        Panel.QUANTIZATION,
        key="min-sqnr-for",
        metavar="PRECISION=DB",
        read=parse_min_sqnr,
    )
    min_agreement: float | None = option(
        None,
        "Share of samples whose top-1 class must stay.",
        Panel.QUANTIZATION,
        metavar="SHARE",
        least=0,
        most=1,
    )
    min_quantized_share: float = option(
        0.5,
        "Share of the multiply-accumulates that must stay quantised, or the precision is refused.",
        Panel.QUANTIZATION,
        older_keys=("min-int8-share",),
        metavar="SHARE",
        least=0,
        most=1,
    )
    enabled: bool = option(
        True, "Lower every layer, whatever accuracy it costs.", Panel.QUANTIZATION, key="guard"
    )

    def __post_init__(self) -> None:
        check_ranges(self)

    def min_sqnr(self, precision: Precision) -> float:
        """The least SQNR in dB of one precision."""
        record = precision.record
        default = self.min_sqnr_db if record.family == "qdq" else record.min_sqnr_db
        return dict(self.by_precision).get(precision, default)
