"""The notebook in ``examples/`` runs from its first cell to its last, and shows its report."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "fold_export_compare.ipynb"


def run_cells(notebook: dict[str, Any]) -> list[object]:
    """The values that the code cells end with, as Jupyter would show them."""
    names: dict[str, Any] = {}
    shown = []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        body = ast.parse("".join(cell["source"])).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), NOTEBOOK.name, "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names))
    return shown


def test_the_notebook_is_stored_without_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert all(not cell.get("outputs") for cell in notebook["cells"])


@pytest.mark.slow
def test_every_cell_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torchvision")
    monkeypatch.chdir(tmp_path)
    shown = run_cells(json.loads(NOTEBOOK.read_text(encoding="utf-8")))
    printed = capsys.readouterr().out
    assert "20 BatchNorm layers before, 0 after" in printed
    assert "bn1 -> conv1 (into the producer)" in printed
    page = shown[-1]._repr_html_()  # type: ignore[attr-defined]
    assert page.startswith("<iframe sandbox")
    assert "20 of 20 BatchNorm folded" in page
    assert (tmp_path / "built" / "resnet18.fp16.onnx").is_file()
