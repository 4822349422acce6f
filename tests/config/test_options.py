"""One field makes a flag, a key, a keyword and an entry of the schema, and all of them agree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest

from deployfold.config.accuracy import GuardSpec
from deployfold.config.build_options import build_options
from deployfold.config.build_profiles import read_profile, shipped
from deployfold.config.build_spec import BuildSpec
from deployfold.config.make_spec import make_spec, spec_of_keywords
from deployfold.config.option_field import check_ranges, option, options_of
from deployfold.config.precision import Precision
from deployfold.config.real_data import CalibrationSpec
from deployfold.config.schema import check_written, profile_model
from deployfold.errors import UsageError

FLAGS = """
--fp16 --bf16 --int8 --fp8 --int4 --target --no-engine --io --workspace --timeout --torch-tensorrt
--optimization-level --timing-cache --hardware-compatibility --version-compatible
--exclude-lean-runtime --weight-streaming --strip-plan --refit --dla-core --no-gpu-fallback --calib
--calib-samples --held-back --min-sqnr --min-agreement --min-int8-share --no-guard --int8-rest
--residual-qdq --arch --input --input-data --labels --preprocess --resize --crop --mean --std
--layout --channels --dynamic-batch --shapes --allow-global --trust --no-reparam
--no-fold-norm-affine --keep-parametrizations --reestimate-bn --script --threads
--max-seconds --batch --cold-start --no-measure --no-cuda-graph --seed --min-speedup --max-diff
--max-latency-ms --output
""".split()
"""What users have in their scripts and profiles."""

OPTIONS = {one.key: one for one in build_options()}


@dataclass(frozen=True)
class Toy:
    """One option of each kind."""

    fast: bool = option(False, "Be fast.", "Toys")
    measure: bool = option(True, "Measure nothing.", "Toys")
    count: int | None = option(None, "How many.", "Toys", least=1)
    share: float = option(0.5, "How much.", "Toys", above=0, below=1)
    kind: Literal["a", "b"] = option("a", "Which.", "Toys")
    where: Path | None = option(None, "Where.", "Toys")
    names: tuple[str, ...] = option((), "Who.", "Toys", key="name")
    sizes: tuple[int, ...] = option(
        "1,2", "Sizes.", "Toys", read=lambda text: tuple(map(int, text.split(",")))
    )

    def __post_init__(self) -> None:
        check_ranges(self)


def test_one_field_makes_an_option_of_each_kind():
    assert [(one.flag, one.kind, one.default, one.many) for one in options_of(Toy)] == [
        ("--fast", bool, False, False),
        ("--no-measure", bool, False, False),
        ("--count", int, None, False),
        ("--share", float, 0.5, False),
        ("--kind", Literal["a", "b"], "a", False),
        ("--where", str, None, False),
        ("--name", str, (), True),
        ("--sizes", str, "1,2", False),
    ]
    assert Toy() == Toy(False, True, None, 0.5, "a", None, (), (1, 2))
    written = (True, True, 3, 0.1, "b", "x", ["y"], "3")
    values = [one.value(text) for one, text in zip(options_of(Toy), written, strict=True)]
    assert Toy(*values) == Toy(True, False, 3, 0.1, "b", Path("x"), ("y",), (3,))


@pytest.mark.parametrize(
    ("bad", "words"),
    [({"count": 0}, "--count must be at least 1, not 0"), ({"share": 0.0}, "--share"),
     ({"share": 1.0}, "--share must be more than 0 and less than 1, not 1")],
)  # fmt: skip
def test_a_range_holds_for_values_that_no_parser_saw(bad: dict[str, Any], words):
    with pytest.raises(UsageError, match=words):
        Toy(**bad)


def test_every_flag_of_older_versions_is_there():
    assert set(FLAGS) <= {flag for one in build_options() for flag in one.spellings}


def test_no_key_stands_twice():
    assert len(OPTIONS) == len(build_options())


@pytest.mark.parametrize("key", OPTIONS)
def test_writing_the_default_changes_nothing(key):
    one = OPTIONS[key]
    if one.default is not None:
        assert make_spec("net.pt", {key: one.default}) == BuildSpec("net.pt")


@pytest.mark.parametrize("key", [one.key for one in build_options() if one.least is not None])
def test_a_range_is_one_for_flags_profiles_and_python(key):
    one = OPTIONS[key]
    bad = one.kind(one.least) - 1
    with pytest.raises(UsageError, match=f"--{key}"):
        check_written({key: bad})
    with pytest.raises(UsageError, match=one.keyword.replace("_", ".")):
        spec_of_keywords("net.pt", {one.keyword: bad})
    schema = profile_model().model_json_schema(by_alias=True)
    assert not jsonschema.Draft202012Validator(schema).is_valid({key: bad})


def test_keywords_are_options_or_fields():
    written = make_spec("net.pt", {"no-engine": True, "input": ["1x3x8x8"], "batch": "1,8"})
    for keywords in (
        {"no_engine": True, "input": ["1x3x8x8"], "batch": "1,8"},
        {"engine": False, "inputs": ["1x3x8x8"], "batches": (1, 8)},
    ):
        assert spec_of_keywords("net.pt", keywords) == written
    guard = GuardSpec(min_sqnr_db=25.0)
    data = CalibrationSpec("pictures", samples=8)
    spec = spec_of_keywords(
        "net.pt", {"precisions": (Precision.INT8,), "calibration": data, "guard": guard}
    )
    assert (spec.calibration, spec.guard) == (data, guard)
    flat = {"int8": True, "calib": "pictures", "calib_samples": 8, "min_sqnr": 25.0}
    assert spec_of_keywords("net.pt", flat) == spec


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"fp61": True}, "no option 'fp61'"),
        ({"threads": "two"}, "--threads two"),
        ({"fp16": 3}, "--fp16 3"),
        ({"io": "fp8"}, "--io fp8"),
        ({"max_seconds": float("nan")}, "--max-seconds"),
    ],
)
def test_wrong_keywords_are_errors_that_name_them(keywords, words):
    with pytest.raises(UsageError, match=words):
        spec_of_keywords("net.pt", keywords)


def test_the_schema_takes_what_a_profile_may_hold_and_nothing_else():
    schema = profile_model().model_json_schema(by_alias=True)
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    assert set(schema["properties"]) == {
        "description", *(one.key for one in build_options() if one.in_profiles)
    }  # fmt: skip
    assert "trust" not in schema["properties"]
    assert schema["properties"]["io"]["description"] == OPTIONS["io"].help
    for name in shipped():
        validator.validate(read_profile(name))
    for bad in ({"fp61": True}, {"fp16": "yes"}, {"io": "fp8"}, {"target": "l4"}):
        assert not validator.is_valid(bad), bad


def test_labels_belong_to_the_calibration_data_or_else_to_the_inputs():
    written = {"input-data": "a.npz", "calib": "b.npz", "labels": "c.txt", "seed": 3}
    both = make_spec("net.pt", {**written, "int8": True})
    assert both.calibration is not None
    assert both.input_data is not None
    assert (both.calibration.labels, both.input_data.labels) == (Path("c.txt"), None)
    assert (both.calibration.seed, both.input_data.seed) == (3, 3)
    half = make_spec("net.pt", {**written, "fp16": True})
    assert half.calibration is None
    assert half.input_data is not None
    assert half.input_data.labels == Path("c.txt")


def test_keys_of_older_versions_are_still_taken(tmp_path):
    """``int8`` in them stood for three formats."""
    (tmp_path / "old.toml").write_text('int4 = true\nint8-rest = "fp32"\nmin-int8-share = 0.25\n')
    profile = make_spec("net.pt", read_profile(str(tmp_path / "old.toml")))
    keywords = spec_of_keywords(
        "net.pt", {"int4": True, "int8_rest": "fp32", "min_int8_share": 0.25}
    )
    current = spec_of_keywords(
        "net.pt", {"int4": True, "rest_precision": "fp32", "min_quantized_share": 0.25}
    )
    assert profile == keywords == current
    assert (profile.rest_precision.value, profile.guard.min_quantized_share) == ("fp32", 0.25)
