"""Traces a model: runs its forward and records every operator, tensor and module call.

The forward pass runs under ``torch.inference_mode`` with a ``TorchDispatchMode``. In inference mode
the composite operators (``conv2d``, ``linear``, ``batch_norm``, ``reshape``, …) reach the mode
whole, so the record is close to the source code, whatever Python control flow led there. The trace
is not symbolic and contains only the operators that the example inputs reach.

The forward pass runs on the meta device, which knows shapes and computes no numbers. Code that
reads a number fails there, and the trace then repeats the pass on the real numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from operator import methodcaller
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from deployfold.errors import FoldError, first_line
from deployfold.folding.modules import (
    copy_modules,
    map_tensors,
    tensors_in,
    without_numbers,
)
from deployfold.folding.proof.compare import forward_failed, run_model

from .devices import Devices
from .graph import Graph
from .outline import READS_OUTSIDE_TORCH, outline_of
from .recorder import Inputs, Recorder
from .sizes.branches import scripted_tests
from .sizes.comparisons import Comparisons
from .sizes.kinds import SIZES, SPLITS


def trace(
    model: torch.nn.Module,
    *samples: Inputs,
    others: Sequence[Sequence[Inputs]] = (),
    further: Sequence[Iterable[Inputs]] = ((), ()),
    apart: Iterable[Inputs] = (),
) -> Graph:
    """Record one forward pass of ``model`` for each sample that runs a new list of operators.

    The graph holds the module calls of all passes. A fold must be correct for every call.

    The model does not change: the passes run on a second set of module objects, which share the
    parameters and own copies of the buffers. The trace restores a parameter that a pass writes to.
    Process state does not change either, so other threads may run and fold models meanwhile.

    Args:
        others: groups of additional inputs, which the model may refuse. The trace tries the first
            input of each group, and the rest of the group if the model refuses the first.
            ``Graph.taken`` holds the accepted inputs, and ``Graph.differing`` those that lead to
            other operators. If the model reads numbers from its data, the trace skips ``others``.
        further: inputs of sizes farther away and of the next sizes. They are tried one by one while
            the forward compares sizes and every size had the same answer, and kept if they change
            one; the next sizes only while such a comparison is not of order. ``Graph.one_sided``
            holds the places left.
        apart: inputs in which one tensor alone has another size, tried if the code asks whether two
            sizes are equal.

    Raises:
        FoldError: the forward pass fails on ``samples``, or the model cannot be copied.
    """
    shadow = copy_modules(model)
    try:
        shapes = [map_tensors(inputs, _on_meta) for inputs in samples]
        with without_numbers(shadow), torch.device("meta"):
            return _record_all(shadow, shapes, others, further, apart, Devices(model, samples))
    except Exception:  # model code may need numbers, or tensors outside the module
        try:
            return _record_all(copy_modules(model), samples, others)
        except FoldError as error:
            raise _only_when_traced(model, samples, error) or error from error.__cause__


def _only_when_traced(
    model: torch.nn.Module, samples: Sequence[Inputs], error: FoldError
) -> FoldError | None:
    """The error for a forward that runs, but not in inference mode as the trace does."""
    cause = error.__cause__
    if cause is None or isinstance(cause, RecursionError):
        return None
    try:
        for inputs in samples:
            run_model(copy_modules(model), inputs)
    except Exception:
        return None
    return FoldError(
        "The model's forward pass runs, but fails in torch.inference_mode, in which folding traces "
        f"it: {type(cause).__name__}: {first_line(cause)}",
        hint="A forward that computes gradients, or starts threads, cannot be folded.",
    )


_on_meta = methodcaller("to", "meta")


def _record_all(
    shadow: torch.nn.Module,
    samples: Sequence[Inputs],
    others: Sequence[Sequence[Inputs]],
    further: Sequence[Iterable[Inputs]] = ((), ()),
    apart: Iterable[Inputs] = (),
    devices: Devices | None = None,
) -> Graph:
    recorder = Recorder(shadow, devices)
    comparisons = Comparisons(shadow)
    outlines: dict[object, None] = {}
    taken: list[Inputs] = []
    differing: list[Inputs] = []

    def record(inputs: Inputs) -> bool:
        """Record one pass; return whether the pass differs from all earlier passes."""
        start = recorder.begin()
        try:
            _record_pass(recorder, comparisons, shadow, inputs)
        except FoldError:
            recorder.undo(start)
            raise
        outline = outline_of(*recorder.since(start))
        if outline in outlines:
            recorder.undo(start)
            return False
        outlines[outline] = None
        return True

    def record_other(inputs: Inputs) -> bool:
        """Record one pass that the model may refuse; return whether the model accepts the input."""
        try:
            new = record(map_tensors(inputs, _on_meta) if recorder.devices else inputs)
        except FoldError:
            return False
        taken.append(inputs)
        if new:
            differing.append(inputs)
        return True

    def try_size(inputs: Inputs) -> None:
        """Record one pass, and keep it only if a comparison has its other answer there.

        The proof runs every kept input, and one of sixteen times the area is dear.
        """
        start, before, sides = recorder.begin(), len(differing), comparisons.one_sided()
        accepted = record_other(inputs)
        changed = comparisons.lines.unfollowed() or not sides <= comparisons.one_sided()
        if accepted and len(differing) > before and not changed:
            recorder.undo(start)
            outlines.popitem()
            differing.pop()
            taken.pop()

    try:
        with torch.inference_mode():
            for inputs in samples:
                record(inputs)
            for group in others if not recorder.reads_data else ():
                if not record_other(group[0]):
                    for inputs in group[1:]:
                        record_other(inputs)
            for inputs in apart:
                if not comparisons.any_pair:
                    break
                record_other(inputs)
            for of_order, sizes in zip((True, False), further, strict=True):
                tried = iter(sizes)
                while (
                    comparisons.lines.unfollowed()
                    or (comparisons.any and not _any_of_another_size(taken, samples[0]))
                    or any(of_order or not side.place.ordered for side in comparisons.one_sided())
                ):
                    more = next(tried, None)
                    if more is None:
                        break
                    try_size(more)
        places = [side.place for side in comparisons.one_sided()]
        one_sided = sorted({place.line for place in places if place.direct} | comparisons.hidden())
        unfollowed = [line for line, branches in comparisons.lines.unfollowed() if branches]
        return replace(
            recorder.graph(),
            taken=tuple(taken),
            differing=tuple(differing),
            one_sided=tuple(one_sided),
            unfollowed=(*unfollowed, *scripted_tests(shadow)),
        )
    finally:
        recorder.restore_parameters()


def _any_of_another_size(taken: Sequence[Inputs], sample: Inputs) -> bool:
    """Whether a tensor of one of the inputs differs from that of ``sample`` behind the batch."""
    own = [tensor.shape[1:] for tensor in tensors_in(sample)]
    return any([tensor.shape[1:] for tensor in tensors_in(item)] != own for item in taken)


def _record_pass(
    recorder: Recorder, comparisons: Comparisons, shadow: torch.nn.Module, inputs: Inputs
) -> None:
    try:
        arguments = tuple(recorder.adopt_input(argument) for argument in inputs)
        comparisons.begin()
        reads = Reads(recorder, comparisons)
        with recorder.watching_modules(), reads, recorder:
            outputs = shadow(*arguments)
        recorder.adopt_outputs(outputs)
        comparisons.lines.note_caught(reads.raised)
    except FoldError:
        raise
    except Exception as error:
        raise forward_failed(inputs, error) from error


class Reads(TorchFunctionMode):
    """A function mode that records what no operator shows.

    Code outside torch may read a tensor's numbers, or compare its sizes.

    Attributes:
        raised: the places where a function of torch raised an error, which the forward may catch.
    """

    def __init__(self, recorder: Recorder, comparisons: Comparisons) -> None:
        super().__init__()
        self._recorder = recorder
        self._comparisons = comparisons
        self.raised: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if (devices := self._recorder.devices) is not None:
            answer = devices.answer(func, args, sys._getframe(1))
            if answer is not None:
                return answer
            args, kwargs = devices.on_meta(args, kwargs)
        if torch._C._functorch.peek_interpreter_stack() is not None:
            self._recorder.note_transform()
        if name == "__getitem__":
            args = (args[0], self._with_tensors(args[1]))
        try:
            result = func(*args, **kwargs)
        except Exception:
            self.raised += self._comparisons.lines.caller()
            raise
        if name == "__getitem__":
            for length, end in _cuts(*args):
                self._comparisons.note_bound(length, end)
        if name in READS_OUTSIDE_TORCH and args and torch.is_tensor(args[0]):
            self._recorder.note_read(name, args[0])
        sizes = type(result) is torch.Size or name in ("size", "numel", "nelement")
        if sizes or name in SIZES or (type(result) is int and name in ("__get__", "__len__")):
            self._comparisons.lines.note("read")
        elif name in SPLITS and args and torch.is_tensor(args[0]):
            length, parts = _split(name, *args, **kwargs)
            self._comparisons.lines.note_split(length)
            if name == "split" and type(parts) is int:
                self._comparisons.note_bound(length, parts)
        stored = sizes and self._recorder.stores(args[0])  # the same size in every pass
        return self._comparisons.watched(result) if sizes and not stored else result

    def _with_tensors(self, index: Any) -> Any:
        """An index of a tensor, with tensors in the place of lists of numbers."""
        if isinstance(index, tuple):
            return tuple(map(self._with_tensors, index))
        if isinstance(index, list) and _is_of_integers(index):
            return self._recorder.bind_index(index)
        return index


def _split(name: str, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[int, Any]:
    """The length of the axis that a function of torch splits, and into what it splits the axis."""
    given = args[name != "unbind" :]
    axis = kwargs.get("dim", given[0] if given else 0)
    length = len(tensor) if name in ("hsplit", "vsplit", "dsplit") else int(tensor.shape[axis])
    return length, args[0] if args else kwargs.get("split_size")


def _cuts(tensor: torch.Tensor, index: Any) -> Iterator[tuple[int, int]]:
    """The lengths that ``tensor[index]`` cuts at a fixed place, which may lie beyond their ends."""
    items = [item for item in (index if type(index) is tuple else (index,)) if item is not None]
    dots = next((at for at, item in enumerate(items) if item is ...), len(items))
    for place, item in enumerate(items):
        axis = place if place < dots else place - len(items)
        for end in (item.start, item.stop) if isinstance(item, slice) else ():
            if type(end) is int and abs(end) > 1:
                yield tensor.shape[axis], abs(end)


def _is_of_integers(items: list[Any]) -> bool:
    """Whether a list, which may be nested, holds integers or booleans alone, and at least one."""
    return bool(items) and all(
        _is_of_integers(item) if isinstance(item, list) else isinstance(item, int) for item in items
    )
