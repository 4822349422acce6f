"""``deployfold schema``: what is read and written fits the schema that is printed for it."""

from __future__ import annotations

import json

import pytest
from cli_runs import fails, run
from jsonschema import Draft202012Validator

from deployfold.cli.commands.schema import FORMATS
from deployfold.cli.discovery import load
from deployfold.config.profiles_root import profiles_root
from deployfold.util.toml import parse_toml


def schema(name, folder):
    done = run("schema", name, cwd=folder)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    Draft202012Validator.check_schema(printed)
    return Draft202012Validator(printed)


def test_every_format_is_listed_and_an_unknown_one_is_refused(tmp_path):
    listed = run("schema", cwd=tmp_path).stdout
    assert all(name in listed for name in FORMATS)
    fails(run("schema", "engine", cwd=tmp_path), 2, "'engine' has no schema.")


def test_a_comparison_and_a_run_fit_their_schemas(folder, built, tmp_path):
    done = run("compare", "out", "out", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    schema("compare", tmp_path).validate(json.loads(done.stdout))

    done = run("run", "out/net.onnx", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["outputs"][0]["shape"] == [2, 10]
    validator = schema("run", tmp_path)
    validator.validate(record)
    assert not validator.is_valid(record | {"outputs": "none"})


def test_the_fleet_of_the_help_fits_its_schema(tmp_path):
    help = load("sweep").help
    lines = help[help.index("precisions =") : help.index("Each combination")].splitlines()
    fleet = parse_toml("\n".join(line.strip().replace("\\[", "[") for line in lines))
    validator = schema("fleet", tmp_path)
    validator.validate(fleet)
    for wrong in (
        {"model": []},
        fleet | {"target": ["l4"]},
        {"model": [{"source": "m", "fp16": True}]},
        {"model": [{"source": "m", "max-seconds": "long"}]},
    ):
        assert not validator.is_valid(wrong), wrong


def test_the_build_profiles_fit_their_schema(tmp_path):
    validator = schema("profile", tmp_path)
    paths = sorted((profiles_root() / "builds").glob("*.toml"))
    assert paths
    for path in paths:
        validator.validate(parse_toml(path.read_text("utf-8")))
    for wrong in ({"fp17": True}, {"fp16": "yes"}):
        assert not validator.is_valid(wrong), wrong


@pytest.mark.parametrize(
    ("words", "name"), [(("profile", "schema"), "profile"), (("report", "--schema"), "report")]
)
def test_the_older_spellings_print_the_same(words, name, tmp_path):
    assert run(*words, cwd=tmp_path).stdout == run("schema", name, cwd=tmp_path).stdout
