"""The precisions that a model can be built in: one record each, and the only list of them.

Adding a precision takes a record and a member here, and one file in :mod:`deployfold.lowering`: a
:class:`~deployfold.lowering.cast.formats.CastFormat` for the family ``cast``, a
:class:`~deployfold.lowering.qdq.formats.Format` for the family ``qdq``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from deployfold.errors import UsageError

ANY_GPU = (0, 0)
"""The oldest compute capability of a precision that every supported GPU has."""


@dataclass(frozen=True)
class PrecisionRecord:
    """Everything that the rest of the package needs to know about one precision.

    Attributes:
        name: the value of the enum member, the flag, and the key in profiles and file names.
        title: for headings and messages.
        family: ``none`` is the exported fp32 model itself; ``cast`` changes the type of tensors;
            ``qdq`` puts QuantizeLinear and DequantizeLinear around layers.
        summary: one sentence for ``--help``.
        onnx_type: the tensor type in the ONNX file, a member of ``onnx.TensorProto.DataType``.
        tensorrt_type: the member of ``tensorrt.DataType`` that layers then compute in.
        dtype: the name of that type in numpy and ml_dtypes.
        oldest: the oldest compute capability that has the precision, by library. Libraries
            without an entry use that of ``default``.
        calibration: whether a build needs calibration data: ``required`` for the ranges of
            activations, ``optional`` where only weights are rounded.
        no_cpu_latency: the reason why a lowered ONNX has no latency on a CPU: the CPU would run
            another computation. Empty for fp32.
        min_sqnr_db: default limit of the accuracy guard: the least SQNR in dB of every output.
        layer_sqnr_db: limit for one layer in ``deployfold compare --layers``, in dB.
        common: the short ``--help`` of ``build`` lists it.
        weights_only: activations are not rounded.
        caveats: the report's remark on an engine of this precision, by library.
    """

    name: str
    title: str
    family: Literal["none", "cast", "qdq"]
    summary: str
    onnx_type: str
    tensorrt_type: str
    dtype: str
    no_cpu_latency: str
    min_sqnr_db: float
    layer_sqnr_db: float
    oldest: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    calibration: Literal["none", "optional", "required"] = "none"
    common: bool = False
    weights_only: bool = False
    caveats: Mapping[str, str] = field(default_factory=dict)

    @property
    def tensor_cores(self) -> bool:
        """Whether tensor cores compute in it, so that NVIDIA lists it for each GPU."""
        return self.family != "none" and not self.weights_only

    @property
    def quantises_activations(self) -> bool:
        """Whether Q/DQ nodes round its activations, and not only its weights."""
        return self.family == "qdq" and not self.weights_only

    def oldest_for(self, library: str) -> tuple[int, int]:
        """The oldest compute capability that ``library`` builds this precision for."""
        return self.oldest.get(library, self.oldest.get("default", ANY_GPU))


_FP32 = PrecisionRecord(
    name="fp32",
    title="FP32",
    family="none",
    summary="The exported model.",
    onnx_type="FLOAT",
    tensorrt_type="FLOAT",
    dtype="float32",
    no_cpu_latency="",
    min_sqnr_db=0.0,
    layer_sqnr_db=60.0,  # other summation orders leave 100 dB; deep networks still 80
)

_FP16 = PrecisionRecord(
    name="fp16",
    common=True,
    title="FP16",
    family="cast",
    summary="Build in FP16.",
    onnx_type="FLOAT16",
    tensorrt_type="HALF",
    dtype="float16",
    no_cpu_latency="ONNX Runtime has no fp16 kernels for CPUs: it casts to fp32",
    # Rounding one tensor leaves 73 dB, a deep network 40 to 60: below 30 something is broken.
    min_sqnr_db=30.0,
    # 60 to 70 dB a layer, which adds up with depth: an untrained ResNet-50 keeps less than 30 dB
    # from its 77th layer on.
    layer_sqnr_db=20.0,
)

_BF16 = PrecisionRecord(
    name="bf16",
    common=True,
    title="BF16",
    family="cast",
    summary="Build in BF16; the range of FP32, 8 bits of precision; Ampere and newer.",
    onnx_type="BFLOAT16",
    tensorrt_type="BF16",
    dtype="bfloat16",
    no_cpu_latency="ONNX Runtime has no bf16 kernels for CPUs",
    # 3 bits fewer than fp16 cost 18 dB; deep networks keep 25 to 45.
    min_sqnr_db=20.0,
    layer_sqnr_db=10.0,
    # TensorRT's support matrix, hardware and precision.
    oldest={"default": (8, 0)},
)

_INT8 = PrecisionRecord(
    name="int8",
    common=True,
    title="INT8",
    family="qdq",
    summary="Build in INT8, calibrated on --calib.",
    onnx_type="INT8",
    tensorrt_type="INT8",
    dtype="int8",
    no_cpu_latency="ONNX Runtime's int8 on a CPU is not what a GPU runs",
    min_sqnr_db=20.0,  # noise of a tenth of the signal
    layer_sqnr_db=10.0,  # an error of a third of the layer's output
    # NVIDIA lists nothing in INT8 for Turing in TensorRT-RTX's support matrix:
    # https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/getting-started/support-matrix.html
    oldest={"tensorrt_rtx": (8, 0)},
    calibration="required",
    caveats={
        "tensorrt_rtx": "INT8 activations are not documented by NVIDIA for TensorRT-RTX: "
        "--int8-weights is; this engine is compiled, and has not been run on a GPU here."
    },
)

_INT8_WEIGHTS = PrecisionRecord(
    name="int8-weights",
    title="INT8 weights",
    family="qdq",
    summary="Keep the weights in INT8 and compute in FP16; fitted to --calib if given; "
    "Ampere and newer.",
    onnx_type="INT8",
    tensorrt_type="INT8",
    dtype="int8",
    no_cpu_latency="ONNX Runtime on a CPU turns int8 weights back into fp32 and computes in that",
    min_sqnr_db=20.0,
    layer_sqnr_db=20.0,
    oldest=_INT8.oldest,
    calibration="optional",
    weights_only=True,
)

_FP8 = PrecisionRecord(
    name="fp8",
    common=True,
    title="FP8",
    family="qdq",
    summary="Build in FP8 (E4M3), calibrated on --calib; Ada and newer.",
    onnx_type="FLOAT8E4M3FN",
    tensorrt_type="FP8",
    dtype="float8_e4m3fn",
    no_cpu_latency="ONNX Runtime on a CPU turns fp8 back into fp32 and computes in that",
    min_sqnr_db=20.0,
    layer_sqnr_db=10.0,
    # TensorRT's support matrix, hardware and precision.
    oldest={"default": (8, 9)},
    calibration="required",
)

_INT4 = PrecisionRecord(
    name="int4",
    title="INT4",
    family="qdq",
    summary="Keep the weights of matrix products in INT4; fitted to --calib if given; "
    "Ampere and newer.",
    onnx_type="INT4",
    tensorrt_type="INT4",
    dtype="int4",
    no_cpu_latency="ONNX Runtime on a CPU turns int4 weights back into fp32 and computes in that",
    min_sqnr_db=20.0,
    layer_sqnr_db=10.0,
    # The builder of TensorRT-RTX 1.7.1 refuses older ones («HW-specific datatypes»); TensorRT has
    # no such bound.
    oldest={"tensorrt_rtx": (8, 0)},
    calibration="optional",
    weights_only=True,
)


_RECORDS = {one.name: one for one in (_FP32, _FP16, _BF16, _INT8_WEIGHTS, _INT8, _FP8, _INT4)}


class Precision(str, Enum):
    """The numeric precision written into a lowered ONNX, and so of the engine built from it.

    Members are ordered from fp32 to the narrowest.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8_WEIGHTS = "int8-weights"
    INT8 = "int8"
    FP8 = "fp8"
    INT4 = "int4"

    @property
    def record(self) -> PrecisionRecord:
        """The facts about this precision."""
        return _RECORDS[self.value]


QUANTISED = tuple(one for one in Precision if one.record.family == "qdq")
"""The precisions that put Q/DQ nodes around layers."""


def parse_precisions(names: Iterable[str], where: str = "") -> tuple[Precision, ...]:
    """The precisions of these names, such as ``int8-weights``.

    Args:
        where: the file that has the names, as the beginning of a message: ``fleet.toml: ``.

    Raises:
        UsageError: a name is not that of a precision.
    """
    known = [one.value for one in Precision]
    found = []
    for name in names:
        if name not in known:
            raise UsageError(
                f"{where}{name!r} is not a precision.", hint=f"Use {', '.join(known)}."
            )
        found.append(Precision(name))
    return tuple(found)


def titles(precisions: Iterable[Precision]) -> str:
    """Several precisions in a sentence: ``INT8, FP8 and INT4``."""
    return _enumeration([one.record.title for one in precisions], "and")


def flags(precisions: Iterable[Precision]) -> str:
    """The flags of several precisions in a sentence: ``--int8, --fp8 or --int4``."""
    return _enumeration([f"--{one.value}" for one in precisions], "or")


def _enumeration(words: list[str], conjunction: str) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {conjunction} {words[-1]}"
