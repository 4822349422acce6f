"""Flattens a model's outputs to named tensors, and compares an artifact's outputs with them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from deployfold.errors import ExportError, first_line
from deployfold.runtimes.tensors import to_array
from deployfold.util.arrays import Array
from deployfold.util.numerics import max_abs_diff
from deployfold.util.quiet import quiet

# Tolerance relative to the largest value of an output. A correct export differs only by rounding
# and summation order; the values are about ten times the greatest difference of deep networks.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
# Share of integers that may differ: another summation order can flip an argmax between near-ties,
# but a wrong graph flips many.
_INTEGER_TOLERANCE = 0.01


def flatten_outputs(outputs: object) -> tuple[tuple[torch.Tensor, ...], tuple[str, ...]]:
    """The tensors in a model's output, depth first, and a name for each.

    Tuples, lists, dicts, named tuples and all other types in torch's pytree registry may be nested.
    A single tensor is named ``output``, tensors in a sequence ``output_0``, ``output_1``, …, and
    tensors in a dict by their keys; ``_`` joins nested names. ``None`` and plain numbers are left
    out, because a graph cannot return them.

    Raises:
        ExportError: the outputs have no tensor, or an object that torch cannot flatten.
    """
    leaves, _ = pytree.tree_flatten_with_path(outputs)
    tensors: list[torch.Tensor] = []
    names: list[str] = []
    for path, leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            tensors.append(leaf)
            names.append(_unique(_name(path), names))
        elif leaf is not None and not isinstance(leaf, (bool, int, float, str)):
            raise ExportError(
                f"The model returns a {type(leaf).__name__}, which no exported graph can return.",
                hint="Wrap the model so that forward returns tensors, tuples, lists or dicts.",
            )
    if not tensors:
        raise ExportError(
            "The model does not return a tensor.", hint="Let the forward return its result."
        )
    return tuple(tensors), tuple(names)


def refuse_text(outputs: object, what: str) -> None:
    """Refuse outputs with text among them, for a format that fails on it with no true reason.

    Raises:
        ExportError: a leaf is a string; ``what`` is the format in the message.
    """
    if any(isinstance(leaf, str) for leaf in pytree.tree_leaves(outputs)):
        raise ExportError(
            f"The model returns text among its outputs, which {what} cannot return.",
            hint="Let the forward return tensors alone.",
        )


class FlatOutputs(torch.nn.Module):
    """A module that returns the tensors in its outputs as one flat tuple."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs, in the order of :func:`flatten_outputs`."""
        return flatten_outputs(self.module(*inputs))[0]


def is_flat(outputs: object) -> bool:
    """Whether the output is a tensor, or a tuple or list with only tensors."""
    if isinstance(outputs, torch.Tensor):
        return True
    return type(outputs) in (tuple, list) and all(
        isinstance(item, torch.Tensor)
        for item in outputs  # type: ignore[attr-defined]
    )


def is_torchscript(module: torch.nn.Module) -> bool:
    """Whether ``module`` is a ``ScriptModule``; false in a torch without TorchScript."""
    script_module = getattr(getattr(torch, "jit", None), "ScriptModule", None)
    return script_module is not None and isinstance(module, script_module)


def copies(inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Copies of the inputs, for a forward that works on its input in place."""
    return tuple(value.clone() for value in inputs)


def call_module(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> object:
    """Run ``module`` without gradients, and return its outputs with their nesting.

    Raises:
        ExportError: the model fails on these inputs.
    """
    try:
        with torch.no_grad():
            return module(*copies(inputs))
    except Exception as error:
        shapes = ", ".join("x".join(map(str, value.shape)) for value in inputs)
        raise ExportError(
            f"The model fails on inputs of shape {shapes}: {first_line(error)}",
            hint="Set the model's shapes with --input, such as --input 1x3x224x224. If an input "
            "has no batch axis, use --shapes instead of --dynamic-batch.",
        ) from error


def run_module(
    module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]
) -> tuple[tuple[torch.Tensor, ...], tuple[str, ...]]:
    """:func:`call_module`, its outputs flattened by :func:`flatten_outputs`."""
    return flatten_outputs(call_module(module, inputs))


class Reference:
    """The outputs of an eager module, which its exported files are compared with.

    Each input runs once: the module must be repeatable, see :func:`~.repeatable.check_repeatable`.

    Args:
        known: inputs with their outputs from earlier runs.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        known: Sequence[tuple[tuple[torch.Tensor, ...], object]] = (),
    ) -> None:
        self._module = module
        self._runs = list(known)

    def nested(self, inputs: tuple[torch.Tensor, ...]) -> object:
        """The outputs of :func:`call_module`, with its errors."""
        for known, outputs in self._runs:
            if len(known) == len(inputs) and all(
                one.dtype == other.dtype and torch.equal(one, other)
                for one, other in zip(known, inputs, strict=True)
            ):
                return outputs
        outputs = call_module(self._module, inputs)
        self._runs.append((inputs, outputs))
        return outputs

    def flat(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The tensors of :func:`run_module`, with its errors."""
        return flatten_outputs(self.nested(inputs))[0]


def compare_loaded(
    loaded: torch.nn.Module,
    inputs: tuple[torch.Tensor, ...],
    reference: tuple[torch.Tensor, ...],
    *,
    what: str,
) -> float:
    """Run an artifact that torch loaded, and compare it; see :func:`check_outputs`.

    Raises:
        ExportError: the artifact does not run, or its outputs differ.
    """
    try:
        with torch.no_grad(), quiet():
            outputs, _ = flatten_outputs(loaded(*copies(inputs)))
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"{what} does not run: {first_line(error)}") from error
    return check_outputs(reference, outputs, what=what)


def check_outputs(
    reference: Sequence[torch.Tensor], test: Sequence[torch.Tensor | Array], *, what: str
) -> float:
    """Compare an artifact's outputs with the eager module's.

    Args:
        reference: the eager module's outputs; their dtypes set the tolerance.
        test: the artifact's outputs on the same inputs.
        what: the artifact, as the start of a sentence: ``"The TorchScript model"``.

    Returns:
        The largest absolute difference over the floating-point outputs; 0.0 without any.

    Raises:
        ExportError: number, shape or values of the outputs differ by more than rounding explains.
    """
    if len(reference) != len(test):
        raise ExportError(f"{what} has {len(test)} outputs, but the original {len(reference)}.")
    largest = 0.0
    for index, (eager, output) in enumerate(zip(reference, test, strict=True)):
        expected = to_array(eager)
        actual = to_array(output) if isinstance(output, torch.Tensor) else output
        if expected.shape != actual.shape:
            raise ExportError(
                f"Output {index} of {what[0].lower()}{what[1:]} has the shape {actual.shape}, "
                f"but the original's is {expected.shape}."
            )
        if not eager.dtype.is_floating_point:
            if expected.size and np.mean(expected != actual) > _INTEGER_TOLERANCE:
                raise _mismatch(what, index, f"{np.mean(expected != actual):.1%} of its values")
            continue
        difference = max_abs_diff(expected, actual)
        finite = np.abs(expected[np.isfinite(expected)])
        scale = float(finite.max()) if finite.size else 0.0
        if difference > _TOLERANCE.get(eager.dtype, 1e-3) * max(scale, 1e-6):
            raise _mismatch(what, index, f"{difference:.3g} at values up to {scale:.3g}")
        largest = max(largest, difference)
    return largest


def _mismatch(what: str, index: int, by: str) -> ExportError:
    return ExportError(
        f"{what} is not the same function as the original: output {index} differs by {by}.",
        hint="The model may be random in evaluation mode, branch on its input's values, or sort by "
        "equal scores, as an untrained detector does.",
    )


def _name(path: tuple[Any, ...]) -> str:
    keys = [_key(entry) for entry in path]
    named = bool(path) and not isinstance(path[0], pytree.SequenceKey)
    text = "_".join(keys if named else ["output", *keys])
    return re.sub(r"[^\w.]", "_", text, flags=re.ASCII) or "output"


def _key(entry: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def _unique(name: str, taken: Sequence[str]) -> str:
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate
