"""Loads the original model of an earlier build again, as the build had it."""

from __future__ import annotations

from dataclasses import replace

from deployfold.config.build_options import build_options
from deployfold.config.flag_values import is_zoo_name
from deployfold.config.inputs import InputSpec, TensorSpec
from deployfold.config.make_spec import make_spec
from deployfold.config.option_field import Panel
from deployfold.config.schema import check_written
from deployfold.loading import LoadedModel
from deployfold.loading.transformers_zoo import PACKAGE
from deployfold.reporting.conditions import Source
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
    given = report.options or {}
    written = {
        one.key: given[one.key]
        for one in build_options()
        if one.key in given and one.panel in (Panel.MODEL, Panel.IMAGES) and not one.data
    }  # without data, which can be the user's code
    check_written(written)
    spec = make_spec(source.path, written)
    if spec.image_input is None:  # else these are the inputs behind the pictures
        spec = replace(spec, inputs=inputs)
    if source.kind == "state_dict":
        spec = replace(spec, arch=source.arch)
    return load(replace(spec, allow_globals=allow_globals, trust=trust), Journal()).model


def named_code(source: Source) -> str | None:
    """The user's code that a report names as the architecture, which loading would run.

    A report can come from anywhere, so such code needs the user's trust.
    """
    name = source.arch if source.kind in ("state_dict", "factory") else None
    library = name is None or is_zoo_name(name) or name.startswith(f"{PACKAGE}:")
    return None if library else name
