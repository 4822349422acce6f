"""Opens the data that the user names, as a source of samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deployfold.config.flag_values import is_function
from deployfold.config.inputs import DTYPES, InputSpec, TensorSpec
from deployfold.config.real_data import CalibrationSpec
from deployfold.errors import UsageError

from .arrays import SUFFIXES, array_source, open_arrays
from .images import image_source
from .labels import labels_in
from .objects import function_source, tensor_source
from .preprocess.resolve import resolve_preprocess
from .samples import SOURCES, SampleForm, SampleSource

_LABELS = "labels"
"""The array of an ``.npz`` that holds labels, unless the model has an input of that name."""


def open_source(
    spec: CalibrationSpec, inputs: InputSpec, form: SampleForm, arch: str | None, role: str
) -> SampleSource:
    """The samples in ``spec.source``, which are read on demand.

    Args:
        spec: the source, the number of samples, and the preprocessing of images.
        inputs: the model's inputs.
        arch: ``torchvision:NAME`` or ``timm:NAME``, for the preprocessing of images.
        role: the name of the data in messages, such as «calibration data».

    Raises:
        UsageError: the source does not exist, or does not match the inputs.
    """
    path = Path(spec.source)
    if path.is_dir():
        return image_source(path, form, resolve_preprocess(spec.preprocess, inputs, arch))
    if not path.exists():
        if is_function(spec.source):
            return function_source(spec.source, form, spec.samples)
        raise UsageError(f"The {role} {path} does not exist.", hint=SOURCES)
    if not path.is_file():
        raise UsageError(f"The {role} {path} is neither a file nor a folder.", hint=SOURCES)
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        arrays = open_arrays(path)
        labels = None
        if len(arrays) > 1 and _LABELS in arrays and _LABELS not in form.names:
            labels = tuple(labels_in(arrays.pop(_LABELS), f"in {path}"))
        found = array_source(arrays, form, f"samples of {path.name}", str(path))
        return replace(found, labels=labels)
    if suffix in (".pt", ".pth"):
        return tensor_source(path, form)
    raise UsageError(f"{path} is not a supported kind of {role}.", hint=SOURCES)


def inputs_in(source: str) -> InputSpec | None:
    """The model inputs for a file of arrays: one per array, with the array's dtype.

    The first axis of the arrays counts the samples, and the inputs have batch 1. Arrays that
    cannot have such an axis, because one is a scalar or their first axes differ, are one inference.

    Args:
        source: the source of real inputs, as the user named it.

    Returns:
        The inputs; ``None`` for any other kind of source, and for arrays that no input takes. The
        input for a single array has no name, because a single array may have any name.

    Raises:
        UsageError: the file is damaged.
    """
    path = Path(source)
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return None
    tensors = []
    arrays = open_arrays(path)
    if len(arrays) > 1:
        arrays.pop(_LABELS, None)
    first_axes = {array.shape[:1] for array in arrays.values()}
    stacked = len(first_axes) == 1 and () not in first_axes
    for name, array in arrays.items():
        dtype = str(array.dtype.newbyteorder("="))
        dtype = "float32" if dtype == "float64" else dtype
        if 0 in array.shape or dtype not in DTYPES:
            return None
        shape = (1, *array.shape[1:]) if stacked else array.shape
        tensors.append(TensorSpec(shape, name, dtype))
    if len(tensors) == 1:
        only = tensors[0]
        tensors = [TensorSpec(only.shape, None, only.dtype)] if only.dtype != "uint8" else []
    return InputSpec(tuple(tensors), origin=path.name) if tensors else None
