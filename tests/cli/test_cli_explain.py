"""``deployfold explain``: an exit code, or the words of a message."""

from __future__ import annotations

import json

import pytest
from cli_runs import fails, run

from deployfold.cli.explanations import find_message, sections
from deployfold.errors import ExitCode


def test_every_exit_code_is_explained():
    assert [one.code for one in sections()] == sorted(int(code) for code in ExitCode)
    assert all(one.about or one.entries for one in sections())


def test_a_code_is_explained(tmp_path):
    done = run("explain", "6", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Exit code 6: an engine could not be built" in done.stdout
    assert "«cannot parse»" in done.stdout


def test_explain_explains_the_message_of_a_failed_command(folder):
    failed = run("build", "net.pt", "--int8", cwd=folder)
    printed = failed.stderr.splitlines()[0]
    done = run("explain", "--json", printed, cwd=folder)
    assert done.returncode == 0, done.stderr
    (section,) = json.loads(done.stdout)
    assert section["code"] == failed.returncode == 2
    (entry,) = section["messages"]
    assert entry["message"] == "needs data to calibrate on"
    assert "--calib" in entry["advice"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("There is no build profile 'mine', and no such file.", "There is no build profile"),
        ("forward pass fails", "The model's forward pass fails on the example input"),
        ("THE MODEL DRAWS RANDOM NUMBERS", "The model draws random numbers"),
    ],
)
def test_a_part_of_a_message_is_enough(words, message):
    assert [entry.message for _, entry in find_message(words)] == [message]


def test_an_unknown_code_is_an_error(tmp_path):
    fails(run("explain", "12", cwd=tmp_path), 2, "never ends with exit code 12", "0, 1, 2, 3")
    fails(run("explain", "xyzzy", cwd=tmp_path), 2, "No explanation contains the words 'xyzzy'")
