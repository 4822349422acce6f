"""Convert written values into a :class:`~deployfold.config.build_spec.BuildSpec`.

The command line, build profiles and the Python API all use this module.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployfold.errors import UsageError, nearest

from .build_options import build_options
from .build_spec import BuildSpec
from .option_field import Option, groups_of
from .precision import Precision


def make_spec(source: str, written: Mapping[str, Any], **values: Any) -> BuildSpec:
    """The specification of one build.

    Args:
        written: values by key, such as ``{"no-engine": True}``, of the types that
            :func:`~deployfold.config.schema.written_model` checks.
        values: fields of ``BuildSpec`` in their final form, which override ``written``.

    Raises:
        UsageError: a value is malformed or out of range, or two values contradict each other.
    """
    groups: dict[str, dict[str, Any]] = {name: {} for name in groups_of(BuildSpec)}
    fields: dict[str, Any] = {}
    precisions = []
    for one in build_options():
        value = written.get(one.key)
        if value is None:
            continue
        if one.name == "precisions":
            precisions += [Precision(one.key)] * value
        else:
            (groups[one.group] if one.group else fields)[one.name] = one.value(value)
    fields["precisions"] = tuple(precisions)
    for name, cls in groups_of(BuildSpec).items():
        if name != "calibration":
            fields[name] = cls(**groups[name])
    fields |= values
    fields |= _data(fields, groups["calibration"])
    given = {key: value for key, value in written.items() if value is not None}
    return BuildSpec(source, **fields, written=tuple(given.items()))


def _data(fields: Mapping[str, Any], calibration: Mapping[str, Any]) -> dict[str, Any]:
    """The fields ``calibration`` and ``input_data``, with seed, labels and preprocessing.

    The two share the seed and the preprocessing. ``--labels`` belongs to ``--calib``, or to
    ``--input-data`` if ``--calib`` is absent.
    """
    calibrated = any(one.record.calibration != "none" for one in fields["precisions"])
    shared = {"seed": fields.get("seed", BuildSpec.seed), "preprocess": fields["preprocess"]}
    labels, found = fields.get("labels"), {}
    if "calibration" not in fields and calibrated and "source" in calibration:
        cls = groups_of(BuildSpec)["calibration"]
        found["calibration"] = cls(**calibration, **shared, labels=labels)
        labels = None
    data = fields.get("input_data")
    if data is not None and data.labels is None:
        found["input_data"] = dataclasses.replace(data, **shared, labels=labels)
    return found


def spec_of_keywords(source: str, keywords: Mapping[str, Any]) -> BuildSpec:
    """The specification of one build from the keywords of :func:`deployfold.build`.

    A keyword is an option (``no_engine=True``, ``calib="pictures"``) or a field of ``BuildSpec``
    (``engine=False``, ``guard=GuardSpec(…)``). A text for a field is parsed as its flag is.

    Raises:
        UsageError: a keyword is unknown, or its value is malformed.
    """
    options = {one.keyword: one for one in build_options()}
    options |= {one.name: one for one in build_options() if not one.group}
    fields = {one.name for one in dataclasses.fields(BuildSpec)} - {"source", "written"}
    older = {key.replace("-", "_"): one for one in build_options() for key in one.older_keys}
    written, values = {}, {}
    for given, value in keywords.items():
        name = older[given].keyword if given in older else given
        if name not in options and name not in fields:
            near = nearest(name, [*options, *fields])
            raise UsageError(
                f"build() has no option {name!r}.",
                hint=near or "Its options are the flags of build.",
            )
        one = options.get(name)
        if value is None:
            continue
        if one is None or not _is_written(one, name, value):
            values[name] = value
        else:
            written[one.key] = value
    from .schema import check_written

    check_written(written)
    return make_spec(source, written, **values)


def _is_written(one: Option, name: str, value: Any) -> bool:
    """Whether a keyword's value has the form in which users write the option."""
    if name == one.keyword and (name != one.name or one.read is None):
        return True
    texts = value if isinstance(value, (list, tuple)) else (value,)
    return one.kind is not bool and all(isinstance(text, (str, Path)) for text in texts)
