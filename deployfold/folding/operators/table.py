"""The table of operators: one record for each ATen operator that folding knows.

A record holds how channel-wise affine maps pass the operator (``links``), whether the operator is a
linear layer or a batch norm, and which activation module computes it. No map can pass an operator
without a record. To support another operator in folding, add its record here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from torch import nn

from deployfold.folding.graph.graph import Op

from .links import (
    Builder,
    Link,
    Reduction,
    adds,
    deviates,
    joins,
    moves,
    moves_by_index,
    multiplies,
    negates,
    passes,
    rectifies,
)
from .partial import NotSeparable
from .products import attends, bags, contracts, multiplies_two, unread

LayerKind = Literal["conv", "conv_transpose", "deform_conv", "linear", "product", "embedding"]


class Kind(Enum):
    """The meaning of an operator's arguments."""

    MOVE = "sizes and axes"
    REDUCTION = "windows and axes"
    OTHER = "anything else"


@dataclass(frozen=True)
class Operator:
    """The record of one ATen operator: how folding treats it.

    Attributes:
        name: the ATen name, without overload and without the underscore of an in-place form.
        links: the builder of the links by which channel-wise affine maps pass the operator; None if
            no map passes.
        arithmetic: the operator is affine in any one of its tensors (``div`` only in the first), so
            the code of a frozen BatchNorm may use it.
        elementwise: the operator is arithmetic on two tensors with the same axes.
        layer: the kind of linear layer; None for other operators.
        spatial_axes: the number of spatial axes of a convolution, behind the channel axis.
        batch_norm: the operator is a batch norm with running statistics.
        activation: the module that computes the operator, and the argument names that they share.
    """

    name: str
    links: Builder | None = None
    arithmetic: bool = False
    elementwise: bool = False
    layer: LayerKind | None = None
    spatial_axes: int = 0
    batch_norm: bool = False
    activation: tuple[type[nn.Module], tuple[str, ...]] | None = None

    @property
    def moves(self) -> bool:
        """Whether the operator only moves data; its result may share the memory of its input."""
        return self.kind is Kind.MOVE

    @property
    def kind(self) -> Kind:
        """The meaning of the operator's arguments, which follows from its links."""
        if self.links is moves:
            return Kind.MOVE
        return Kind.REDUCTION if isinstance(self.links, Reduction) else Kind.OTHER


def _several(names: str, links: Builder) -> tuple[Operator, ...]:
    return tuple(Operator(name, links) for name in names.split())


_RECORDS = (
    # Linear layers.
    *(Operator(f"conv{n}d", layer="conv", spatial_axes=n) for n in (1, 2, 3)),
    *(Operator(f"conv_transpose{n}d", layer="conv_transpose", spatial_axes=n) for n in (1, 2, 3)),
    Operator("deform_conv2d", layer="deform_conv", spatial_axes=2),
    Operator("linear", layer="linear"),
    Operator("mm", attends, layer="product"),
    Operator("matmul", attends, layer="product"),
    Operator("embedding", layer="embedding"),
    Operator("embedding_bag", bags, layer="embedding"),
    Operator("bilinear", multiplies_two, layer="linear"),
    *(
        Operator(name, unread, layer="linear")
        for name in """tensordot inner mv addmm baddbmm addbmm addmv linalg_multi_dot
        chain_matmul""".split()
    ),
    Operator("addr", unread),
    # Batch norms.
    Operator("batch_norm", batch_norm=True),
    Operator("cudnn_batch_norm", batch_norm=True),
    Operator("miopen_batch_norm", batch_norm=True),
    Operator("native_batch_norm", batch_norm=True),
    Operator("_native_batch_norm_legit_no_training", batch_norm=True),
    # Arithmetic.
    Operator("add", adds, arithmetic=True, elementwise=True),
    Operator("sub", adds, arithmetic=True, elementwise=True),
    Operator("rsub", adds, arithmetic=True),
    Operator("mul", multiplies, arithmetic=True, elementwise=True),
    Operator("div", multiplies, arithmetic=True, elementwise=True),
    Operator("neg", negates, arithmetic=True),
    Operator("addcmul", arithmetic=True),
    Operator("einsum", contracts, arithmetic=True, layer="linear"),
    # Activations.
    Operator("relu", rectifies, activation=(nn.ReLU, ())),
    Operator("leaky_relu", rectifies, activation=(nn.LeakyReLU, ("negative_slope",))),
    *_several("prelu rrelu abs clamp clamp_min threshold", rectifies),
    Operator("elu", activation=(nn.ELU, ("alpha",))),
    Operator("gelu", activation=(nn.GELU, ("approximate",))),
    Operator("hardsigmoid", activation=(nn.Hardsigmoid, ())),
    Operator("hardswish", activation=(nn.Hardswish, ())),
    Operator("hardtanh", activation=(nn.Hardtanh, ("min_val", "max_val"))),
    Operator("mish", activation=(nn.Mish, ())),
    Operator("relu6", activation=(nn.ReLU6, ())),
    Operator("selu", activation=(nn.SELU, ())),
    Operator("sigmoid", activation=(nn.Sigmoid, ())),
    Operator("silu", activation=(nn.SiLU, ())),
    Operator("softplus", activation=(nn.Softplus, ("beta", "threshold"))),
    Operator("tanh", activation=(nn.Tanh, ())),
    # Operators that return their input in evaluation mode.
    *_several("alpha_dropout dropout feature_alpha_dropout feature_dropout", passes),
    # Operators that move data: every output element is a copy of one input element, or padding.
    *_several(
        """adjoint alias channel_shuffle chunk clone constant_pad_nd contiguous detach diagonal
        dsplit expand flatten flip fliplr flipud hsplit im2col mH mT matrix_H moveaxis movedim
        narrow native_channel_shuffle numpy_T pad permute pixel_shuffle ravel vsplit
        pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d repeat
        repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape roll rot90
        select slice split split_with_sizes squeeze swapaxes swapdims t tensor_split tile transpose
        unbind unflatten unfold unsafe_chunk unsafe_split unsqueeze upsample_nearest1d
        upsample_nearest2d upsample_nearest3d view _reshape_alias _unsafe_view
        _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d""",
        moves,
    ),
    Operator("gather", moves_by_index),
    Operator("index", moves_by_index, layer="embedding"),
    Operator("index_select", moves_by_index, layer="embedding"),
    *_several("cat concat concatenate stack", joins),
    # Weighted averages and maxima, with the number of trailing axes; 0: the axes in the argument.
    *(
        Operator(f"{kind}avg_pool{n}d", Reduction(n))
        for n in (1, 2, 3)
        for kind in ("", "adaptive_")
    ),
    *(
        Operator(f"{kind}max_pool{n}d", Reduction(n, maximum=True))
        for n in (1, 2, 3)
        for kind in ("", "adaptive_")
    ),
    Operator("upsample_linear1d", Reduction(1)),
    Operator("upsample_bilinear2d", Reduction(2)),
    Operator("upsample_trilinear3d", Reduction(3)),
    Operator("upsample_bicubic2d", Reduction(2)),
    Operator("_upsample_bilinear2d_aa", Reduction(2)),
    Operator("_upsample_bicubic2d_aa", Reduction(2)),
    Operator("mean", Reduction(0)),
    Operator("sum", Reduction(0)),
    Operator("std", deviates),
    *(Operator(name, Reduction(0, maximum=True)) for name in ("amax", "amin", "max", "min")),
    # Products of two computed tensors.
    Operator("bmm", attends, layer="product"),
    Operator("scaled_dot_product_attention", attends),
)

OPERATORS = {record.name: record for record in _RECORDS}
"""The records by operator name."""

_UNKNOWN = Operator("")


def record_of(op: Op) -> Operator:
    """The record of an operator; an empty record if the table lacks the operator."""
    return OPERATORS.get(op.name.rstrip("_"), _UNKNOWN)


def links_of(op: Op) -> list[Link]:
    """The links of ``op``: every output as a weighted sum over the inputs.

    Raises:
        NotSeparable: no channel-wise affine map can pass the operator.
    """
    build = record_of(op).links
    if build is None:
        raise NotSeparable("no channel-wise map passes this operator")
    try:
        return build(op)
    except (KeyError, RuntimeError) as error:  # the operator cannot run on other numbers
        raise NotSeparable(f"the operator cannot run by itself ({type(error).__name__})") from error


def is_sum(op: Op) -> bool:
    """Whether ``op`` is a sum or a difference."""
    return record_of(op).links is adds


def may_be_view(op: Op) -> bool:
    """Whether the result of ``op`` may share the memory of its input."""
    record = record_of(op)
    if record.links is passes:
        return not op.arguments.get("train", False)
    return record.moves and not op.name.endswith("_")
