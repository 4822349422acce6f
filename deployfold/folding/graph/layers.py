"""Linear layers in the traced graph: operators with a stored weight and an optional bias."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from deployfold.folding.operators.table import LayerKind, record_of

from .constants import number_of
from .contractions import Form
from .graph import Op, Value, forward_of

_FORWARDS = frozenset(
    {
        nn.Conv1d.forward,
        nn.Conv2d.forward,
        nn.Conv3d.forward,
        nn.ConvTranspose1d.forward,
        nn.ConvTranspose2d.forward,
        nn.ConvTranspose3d.forward,
        nn.Linear.forward,
        nn.Bilinear.forward,
    }
)


@dataclass(frozen=True)
class Layer:
    """A convolution, transposed convolution or linear layer, with the names of its tensors.

    A ``deform_conv`` is a convolution that interpolates between input elements and reads zeros
    outside its input. A ``product`` is a linear layer with a transposed weight. An ``embedding`` is
    a linear layer that reads indices; every row of its weight includes the bias.

    Attributes:
        path: the module whose forward runs the layer; ``""`` is the model itself.
        weight: the qualified name of the weight.
        bias: the qualified name of the bias; ``None`` if the layer has no bias yet.
        padded: outputs at borders read zeros. A transposed convolution sums other taps at other
            positions, unless each output reads one input.
        rank: the number of spatial axes; 0 for a linear layer.
        geometry: for every spatial axis: kernel size, stride, leading padding, dilation.
        functional: the forward ignores a ``bias`` attribute set on the module, so folding writes a
            new bias into the code of the forward.
        calls: every operator that runs the layer with this bias: module path, name, and position
            among the operators of that name in that module's forward.
        form: how a stored tensor that is not a matrix is read as the weight.
    """

    kind: LayerKind
    path: str
    weight: str
    bias: str | None
    in_channels: int
    out_channels: int
    rank: int = 0
    groups: int = 1
    geometry: tuple[tuple[int, int, int, int], ...] = ()
    padded: bool = False
    functional: bool = False
    calls: tuple[tuple[str, str, int], ...] = ()
    form: Form | None = None

    @property
    def key(self) -> tuple[str, str]:
        """The weight, and the bias or its future place: layers with one weight may have several."""
        if self.kind == "embedding":
            return self.weight, ""  # the rows of the weight take the shift
        return self.weight, self.bias or f"{self.path}.bias"

    @property
    def shift_barrier(self) -> str:
        """Why the layer cannot absorb a shift of its input, as a phrase; empty if it can."""
        if self.kind == "deform_conv":
            return "takes zeros beyond its borders"
        if self.padded and self.kind == "conv_transpose":
            return "sums other taps at other positions"
        if self.padded:
            return "pads with zeros, which the shift would have to change as well"
        return ""

    @property
    def transposed(self) -> bool:
        """Whether the first axis of the weight holds the input channels."""
        return self.kind in ("conv_transpose", "product", "embedding")


def is_layer(op: Op) -> bool:
    """Whether ``op`` is a convolution, transposed convolution or linear operator."""
    return record_of(op).layer is not None and {"input", "weight"} <= op.arguments.keys()


def ties(user: Op, op: Op) -> bool:
    """Whether ``user`` is a layer of the same kind as ``op``, with one weight for both."""
    return (
        is_layer(user)
        and user.name == op.name
        and user["weight"] is op["weight"]
        and user["input"] is not op["weight"]
        and all(user.arguments.get(key) == op.arguments.get(key) for key in ("groups", "form"))
    )


def same_bias(one: Op, other: Op) -> bool:
    """Whether two layers with one weight have one bias, or could only get one."""
    if one["bias"] is not None or record_of(one).layer == "embedding":
        return one["bias"] is other["bias"]
    return other["bias"] is None and one.call.path == other.call.path


def places_of(op: Op) -> list[Op]:
    """The places where the layer at ``op`` runs with one weight and one bias."""
    return [user for user in op["weight"].consumers if ties(user, op) and same_bias(user, op)]


def layer_of(op: Op) -> Layer | str:
    """The layer of the operator ``op``, or the reason why its weight cannot be rewritten."""
    weight: Value = op["weight"]
    bias: Value | None = op["bias"]
    if weight.name is None:
        return _computed_weight_reason(op)
    if bias is not None and _is_zero(bias):  # torchvision passes zeros if there is none
        bias = None
    if bias is not None and bias.name is None:
        return f"the bias of {op.call.path or 'the layer'} is computed in forward"
    if not weight.dtype.is_floating_point:
        return f"{op.call.path} has {weight.dtype} weights"
    kind, rank = record_of(op).layer, record_of(op).spatial_axes
    if kind is None:
        return f"{op.name} is not a linear layer"
    groups = op.arguments.get("groups", 1)
    form: Form | None = op.arguments.get("form")
    if form is not None:
        kind = "linear"
    geometry = _geometry(op, weight, rank) if kind == "conv" else ()
    if form is not None:
        out_channels, in_channels = form.rows, form.columns * groups
    elif kind in ("conv", "deform_conv", "linear"):
        out_channels, in_channels = weight.shape[0], weight.shape[1] * groups
    else:
        in_channels, out_channels = weight.shape[0], weight.shape[1] * groups
    return Layer(
        kind=kind,
        path=op.call.path,
        weight=weight.name,
        bias=None if bias is None else bias.name,
        in_channels=in_channels,
        out_channels=out_channels,
        rank=rank,
        groups=groups,
        geometry=geometry,
        padded=kind == "deform_conv"
        or (kind == "conv_transpose" and not _is_pointwise(op, weight, rank))
        or any(padding for _, _, padding, _ in geometry)
        or _same_padding_adds(op, geometry),
        functional=bias is None and not _reads_bias(op),
        calls=tuple(
            dict.fromkeys((user.call.path, user.name, user.occurrence) for user in places_of(op))
        ),
        form=form,
    )


def _is_zero(bias: Value) -> bool:
    number = number_of(bias) if bias.name is None else None
    return number is not None and not bool(number.any())


def channel_axis(op: Op, value: Value) -> int:
    """The channel axis of a layer's input or output: the last axis before any spatial axes."""
    return len(value.shape) - record_of(op).spatial_axes - 1


def _geometry(op: Op, weight: Value, rank: int) -> tuple[tuple[int, int, int, int], ...]:
    kernel = weight.shape[2:]
    stride, dilation = _spread(op["stride"], rank), _spread(op["dilation"], rank)
    padding = op["padding"]
    if padding == "valid":
        padding = 0
    if padding == "same":  # torch pads the odd element at the end
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        padding = [t // 2 for t in total]
    return tuple(zip(kernel, stride, _spread(padding, rank), dilation, strict=True))


def _same_padding_adds(op: Op, geometry: tuple[tuple[int, int, int, int], ...]) -> bool:
    return op.arguments.get("padding") == "same" and any(kernel > 1 for kernel, *_ in geometry)


def _is_pointwise(op: Op, weight: Value, rank: int) -> bool:
    """Whether each output of a transposed convolution reads one input, by the same tap."""
    gaps = max(_spread(op["output_padding"], rank), default=0)
    return {*weight.shape[2:], *_spread(op["stride"], rank)} == {1} and not gaps


def _spread(item: int | list[int] | tuple[int, ...], rank: int) -> list[int]:
    if isinstance(item, int):
        return [item] * rank
    return list(item) * rank if len(item) == 1 else list(item)


def _reads_bias(op: Op) -> bool:
    """Whether a bias set as an attribute of the module would reach the operator."""
    module = op.call.module
    if getattr(module, "bias", ()) is not None:
        return False
    if forward_of(module) in _FORWARDS or _is_torchvisions(module):
        return True
    if op["weight"].name not in {f"{op.call.path}.weight", "weight"}:
        return False
    if not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
        return False
    return _probe_bias(op)


def _is_torchvisions(module: nn.Module) -> bool:
    """Whether ``module`` is a ``torchvision.ops.DeformConv2d``; torchvision is optional."""
    kind = type(module)
    return (kind.__module__, kind.__name__) == ("torchvision.ops.deform_conv", "DeformConv2d")


def _probe_bias(op: Op) -> bool:
    # A subclass with its own forward may ignore self.bias. Only a trial run shows the answer.
    module = op.call.module
    if len(op.call.inputs) != 1:
        return False
    weight = module.get_parameter("weight")
    zeros = weight.new_zeros(op.call.inputs[0].shape)
    ones = weight.new_ones(op.output.shape[channel_axis(op, op.output)])
    try:
        with torch.inference_mode():
            module.register_parameter("bias", nn.Parameter(ones, requires_grad=False))
            return bool((module.forward(zeros) == 1).all())
    except Exception:
        return False
    finally:
        module.register_parameter("bias", None)


def _computed_weight_reason(op: Op) -> str:
    path = op.call.path or "the layer"
    module = op.call.module
    hint = ""
    if torch.nn.utils.parametrize.is_parametrized(module):
        hint = "; torch.nn.utils.parametrize.remove_parametrizations makes it foldable"
    elif any("weight_norm" in type(hook).__module__ for hook in module._forward_pre_hooks.values()):
        hint = "; torch.nn.utils.remove_weight_norm makes it foldable"
    elif any(type(hook).__name__ == "SpectralNorm" for hook in module._forward_pre_hooks.values()):
        hint = "; torch.nn.utils.remove_spectral_norm makes it foldable"
    return f"the weight of {path} is computed in forward{hint}"
