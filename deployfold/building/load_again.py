"""Loads the original model of an earlier build again, as the build had it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from deployfold.config.build_options import build_options
from deployfold.config.flag_values import is_function
from deployfold.config.inputs import InputSpec, TensorSpec
from deployfold.config.make_spec import make_spec
from deployfold.config.option_field import Option, Panel
from deployfold.config.schema import check_written
from deployfold.loading import LoadedModel
from deployfold.loading.transformers_zoo import PACKAGE
from deployfold.reporting.report import Report

from .journal import Journal
from .load import load


def inputs_of(report: Report) -> InputSpec:
    """The inputs of a build's files."""
    tensors = tuple(TensorSpec(item.shape, item.name, item.dtype) for item in report.inputs)
    return InputSpec(tensors, origin="the report of the build")


def load_again(
    report: Report, inputs: InputSpec, *, allow_globals: tuple[str, ...] = (), trust: bool = False
) -> LoadedModel:
    """The original model after the load stage of the build, whose options the report has.

    The statistics of ``--reestimate-bn`` are missing.

    Args:
        report: the report of the build.
        inputs: the inputs of the build's files.
        allow_globals, trust: permissions, as for loading. Those of the build do not count.

    Raises:
        LoadError: the source cannot be read, or needs a permission.
        UsageError: the options of the report do not fit the source.
    """
    source = report.source
    written = {one.key: value for one, value in _options_of_the_model(report)}
    check_written(written)
    spec = make_spec(source.path, written)
    if spec.image_input is None:  # else these are the inputs behind the pictures
        spec = replace(spec, inputs=inputs)
    if source.kind == "state_dict":
        spec = replace(spec, arch=source.arch)
    return load(replace(spec, allow_globals=allow_globals, trust=trust), Journal()).model


def _options_of_the_model(report: Report) -> Iterator[tuple[Option, Any]]:
    """The options of a build that affect its model, except data, with their written values."""
    given = report.options or {}
    for one in build_options():
        if one.key in given and one.panel in (Panel.MODEL, Panel.IMAGES) and not one.data:
            yield one, given[one.key]


def named_code(report: Report) -> str | None:
    """The user's code that a report names, and that :func:`load_again` would run.

    A report can come from anywhere, so such code needs the user's trust. Every name counts that
    could be one of code, because the report may call its source what it likes.
    """
    source = report.source
    names = [source.arch, *(value for one, value in _options_of_the_model(report) if one.code)]
    if not Path(source.path).exists():
        names.append(source.path)
    of_library = f"{PACKAGE}:"
    found = (one for one in names if is_function(one) and not str(one).startswith(of_library))
    return next(found, None)
