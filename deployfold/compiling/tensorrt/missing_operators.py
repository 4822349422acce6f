"""The operators that TensorRT-RTX does not build, and why."""

from __future__ import annotations

_BY_VALUES = "how much it gives depends on the values it reads"
_UNKNOWN = "its ONNX parser does not know the operator"
_SEQUENCE = "an engine has no sequences of tensors"

MISSING_OPERATORS = {
    "NonMaxSuppression": _BY_VALUES,
    "NonZero": _BY_VALUES,
    "Unique": _BY_VALUES,
    "Compress": _BY_VALUES,
    "RoiAlign": "it is a plugin, which TensorRT-RTX does not bring along",
    "Det": "it has no layer for determinants",
    "ConcatFromSequence": _SEQUENCE,
    "SequenceAt": _SEQUENCE,
    "SequenceConstruct": _SEQUENCE,
    "SequenceEmpty": _SEQUENCE,
    "SequenceErase": _SEQUENCE,
    "SequenceInsert": _SEQUENCE,
    "SequenceLength": _SEQUENCE,
    "SplitToSequence": _SEQUENCE,
    **dict.fromkeys(
        "AffineGrid Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad "
        "Col2Im CumProd DFT DeformConv MaxRoiPool MaxUnpool MelWeightMatrix Multinomial".split(),
        _UNKNOWN,
    ),
}
"""ONNX operators, each with the reason as a clause. TensorRT-RTX 1.7.1 refused NonMaxSuppression
("has no runners that implement it"), NonZero, Unique, Compress, RoiAlign, Det, SplitToSequence and
ConcatFromSequence, each in a model of its own. TensorRT has layers for the first two. The others
are those for which ``OnnxParser.supports_operator`` of 1.7.1 is false."""
