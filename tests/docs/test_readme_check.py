"""``make readme-check`` finds what the pages show as printed, and sees a difference."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import readme_check


def test_the_pages_show_outputs() -> None:
    commands = [command for _, command, _ in readme_check.shown()]
    assert "python tests/benchmarks/folded_parameters.py" in commands
    assert all(output for _, _, output in readme_check.shown())


def test_a_difference_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "python -c 'print(8448)'"
    monkeypatch.setattr(readme_check, "shown", lambda: [("page.md", command, "8448\n")])
    assert readme_check.main() == 0
    monkeypatch.setattr(readme_check, "shown", lambda: [("page.md", command, "8449\n")])
    assert readme_check.main() == 1
    assert "-8449\n+8448" in capsys.readouterr().out
