"""Takes samples from Python objects: the tensors of ``.pt`` files, and the user's functions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from deployfold.errors import LoadError, UsageError, one_line
from deployfold.loading.formats import detect, pickled
from deployfold.loading.importing import import_function, working_directory_importable
from deployfold.util.arrays import Array

from .arrays import array_source, by_input
from .samples import Sample, SampleForm, SampleSource, text_shape

_T = TypeVar("_T")
_TENSORS = "Save a tensor with the samples along its first axis, or a list or dict of such tensors."
_YIELD = (
    "The function takes no arguments and yields, for each sample, a tensor, a tuple in the order "
    "of the inputs, or a dict by input name."
)


def tensor_source(path: Path, form: SampleForm) -> SampleSource:
    """The tensors that ``torch.save`` wrote to ``path``; the file runs no code.

    Raises:
        UsageError: the file cannot be read, could run code, or does not match the inputs.
    """
    try:
        is_pickle = detect(path) is pickled.FORMAT
        value = pickled.load_pickle(path, strict=True) if is_pickle else None
    except LoadError as error:
        reason = error.message.rstrip(".")
        raise UsageError(f"{path} cannot be read: {reason}.", hint=_TENSORS) from error
    if not is_pickle:
        raise UsageError(f"{path} holds a model instead of samples.", hint=_TENSORS)
    found = _of_object(value, form, f"samples of {path.name}", str(path))
    if found is None:
        raise UsageError(f"{path} holds a {type(value).__name__}, not tensors.", hint=_TENSORS)
    return found


def function_source(name: str, form: SampleForm, samples: int) -> SampleSource:
    """The samples that the function ``package.module:function`` returns or yields.

    The function is called without arguments. It may return any object that a ``.pt`` file may
    have, or an iterable, whose first ``samples`` samples are taken.

    Raises:
        UsageError: the function is not found, raises, or does not match the inputs.
    """
    function = import_function(name, hint=_YIELD)
    with working_directory_importable():
        value = _call(name, function)
        what = f"samples from {name}"
        found = _of_object(value, form, what, f"The result of {name}")
        if found is not None:
            return found
        if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
            raise UsageError(f"{name} returned a {type(value).__name__}.", hint=_YIELD)
        taken = list(itertools.islice(_iterated(name, value, form), samples))
    return SampleSource(len(taken), taken.__getitem__, what)


def _call(name: str, step: Callable[[], _T]) -> _T:
    """Run the user's code, and turn any exception into a :class:`UsageError`."""
    try:
        return step()
    except (Exception, SystemExit) as error:
        name_of_error = type(error).__name__
        reason = f": {one_line(error)}" if str(error).strip() else ""
        raise UsageError(f"{name} raised {name_of_error}{reason}.", hint=_YIELD) from error


def _iterated(name: str, value: Iterable[Any], form: SampleForm) -> Iterator[Sample]:
    iterator = _call(name, lambda: iter(value))
    end = object()
    for number in itertools.count():
        item = _call(name, lambda: next(iterator, end))
        if item is end:
            return
        where = f"Item {number} from {name}"
        arrays, count = _of_item(item, form, where)
        for row in range(count):
            yield _row(arrays, row, form, where)


def _of_object(value: Any, form: SampleForm, what: str, where: str) -> SampleSource | None:
    """The samples of a tensor, or of a list or dict of tensors; ``None`` for anything else."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return array_source({"": _array(value, where)}, form, what, where)
    if isinstance(value, Mapping):
        named = by_input(value, form, where)
        arrays = {name: _array(item, f"{name!r} in {where}") for name, item in named.items()}
        return array_source(arrays, form, what, where)
    if not isinstance(value, (list, tuple)):
        return None
    plain = all(isinstance(item, (torch.Tensor, np.ndarray)) for item in value)
    if plain and len(form.names) > 1 and len(value) == len(form.names):
        arrays = {n: _array(item, where) for n, item in zip(form.names, value, strict=True)}
        return array_source(arrays, form, what, where)
    return _of_list(list(value), form, what, where)


def _of_list(items: list[Any], form: SampleForm, what: str, where: str) -> SampleSource:
    rows: list[tuple[list[Array], int, str]] = []
    for number, item in enumerate(items):
        place = f"Item {number} of {where}"
        arrays, count = _of_item(item, form, place)
        rows += [(arrays, row, place) for row in range(count)]

    def read(index: int) -> Sample:
        arrays, row, place = rows[index]
        return _row(arrays, row, form, place)

    return SampleSource(len(rows), read, what)


def _of_item(item: Any, form: SampleForm, where: str) -> tuple[list[Array], int]:
    """The arrays of a sample or batch, one per input, with a batch axis; and the batch size."""
    if isinstance(item, Mapping):
        named = by_input(item, form, where)
        values = [named[name] for name in form.names]
    else:
        values = list(item) if isinstance(item, (list, tuple)) else [item]
    if len(values) != len(form.names):
        inputs = f"{len(form.names)} input{'' if len(form.names) == 1 else 's'}"
        raise UsageError(
            f"{where} holds {len(values)} values, but the model has {inputs}.",
            hint="Give inputs only; labels belong to --labels.",
        )
    arrays = []
    for index, value in enumerate(values):
        array = _array(value, where)
        form.check_dtype(index, array.dtype, where)
        shape = form.shapes[index]
        if array.shape == shape:
            array = array[np.newaxis]
        elif not form.stacked or array.shape[1:] != shape or not array.ndim:
            raise UsageError(
                f"{where} has the shape {text_shape(array.shape)}, but the input "
                f"{form.names[index]!r} takes {text_shape(shape)}"
                f"{', or a batch of that' if form.stacked else ''}."
            )
        arrays.append(array)
    counts = {len(array) for array in arrays}
    if len(counts) > 1:
        raise UsageError(f"{where} holds batches of different sizes.")
    return arrays, counts.pop()


def _row(arrays: list[Array], row: int, form: SampleForm, where: str) -> Sample:
    place = where if len(arrays[0]) == 1 else f"Sample {row} of {where[0].lower()}{where[1:]}"
    return {
        name: form.conform(index, arrays[index][row], place)
        for index, name in enumerate(form.names)
    }


def _array(value: Any, where: str) -> Array:
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value)
    if not isinstance(value, torch.Tensor):
        raise UsageError(f"{where} holds a {type(value).__name__}, not a tensor or array.")
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise UsageError(f"{where} holds a tensor that is sparse, quantised or on the meta device.")
    value = value.detach().cpu().resolve_conj().resolve_neg()
    array: Array = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return array
