"""A summary of one forward pass without sizes: passes with equal summaries fold alike."""

from __future__ import annotations

from typing import Any

from deployfold.folding.operators.table import Kind, record_of

from .graph import Op, Value

READS_OUTSIDE_TORCH = frozenset({"tolist", "numpy", "__array__", "__dlpack__", "data_ptr"})
"""Functions that pass a tensor's numbers to code outside torch, unseen by the dispatcher."""

_READS = READS_OUTSIDE_TORCH | {"_local_scalar_dense", "item", "is_nonzero", "equal"}
_AXES = frozenset({"dim", "dims", "dim0", "dim1", "start_dim", "end_dim", "axis0", "axis1"})
_REDUCTION = frozenset({"dim", "keepdim", "padding", "ceil_mode", "count_include_pad"})


def reads_data(op: Op) -> bool:
    """Whether ``op`` passes numbers that depend on the input to Python or other outside code."""
    return op.name in _READS and any(not value.constant for value in op.inputs)


def outline_of(inputs: list[Value], ops: list[Op]) -> object:
    """Summarise a pass as a hashable value without sizes.

    The summary holds the operators, the sources of their inputs, and the arguments that folding
    depends on.
    """
    numbers: dict[Value, object] = {value: index for index, value in enumerate(inputs)}
    for position, op in enumerate(ops):
        for index, value in enumerate(op.outputs):
            numbers[value] = (position, index)

    def described(item: Any) -> object:
        if isinstance(item, Value):
            return numbers.get(item, item.name or "constant")
        if isinstance(item, (list, tuple)):
            return tuple(described(element) for element in item)
        return repr(item)

    lines: list[object] = []
    for op in ops:
        outputs = [(len(value.shape), value.constant) for value in op.outputs]
        arguments = {key: described(item) for key, item in _relevant(op).items()}
        lines.append(
            (
                op.name,
                op.call.path,
                tuple(outputs),
                tuple(described(value) for value in op.inputs),
                tuple(sorted(arguments.items(), key=lambda item: item[0])),
            )
        )
    return tuple(lines)


def _relevant(op: Op) -> dict[str, Any]:
    """The arguments of ``op`` that folding depends on, without sizes."""
    record = record_of(op)
    if all(value.constant for value in op.outputs) and op.outputs:
        return {}
    if record.kind is Kind.MOVE:
        axes = {key: item for key, item in op.arguments.items() if key in _AXES}
        pads = op.arguments.get("pad")
        return axes if pads is None else {**axes, "pads": any(pads)}
    if record.kind is Kind.REDUCTION:
        return {key: item for key, item in op.arguments.items() if key in _REDUCTION}
    if record.layer is None and record.links is None and not record.batch_norm:
        return {}
    return op.arguments
