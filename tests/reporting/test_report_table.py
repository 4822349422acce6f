"""The table as users see it: golden texts, colours, every width, hostile names."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rendered import hostile_report, plain, styled
from report_sample import sample_report
from rich.cells import cell_len
from rich.console import Console, RenderableType

from deployfold.reporting.fold import FoldedNorm, FoldSummary, LeftNorm
from deployfold.reporting.report import Status
from deployfold.reporting.terminal import ComparisonTable, fold_table, summary_panel

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("width", [80, 120])
def test_the_comparison_is_as_agreed(width: int) -> None:
    expected = (GOLDEN / f"comparison-{width}.txt").read_text(encoding="utf-8")
    assert plain(ComparisonTable(sample_report()), width) == expected


@pytest.mark.parametrize("name", ["fold", "fold-explained", "summary"])
def test_the_other_renderings_are_as_agreed(name: str) -> None:
    report = sample_report()
    renderable: RenderableType = {
        "fold": fold_table(report),
        "fold-explained": fold_table(report, explain=True),
        "summary": summary_panel(report),
    }[name]
    expected = (GOLDEN / f"{name}-80.txt").read_text(encoding="utf-8")
    assert plain(renderable, 80) == expected


@pytest.mark.parametrize("width", range(40, 140, 3))
def test_no_line_is_too_wide_and_no_number_is_cut(width: int) -> None:
    output = plain(ComparisonTable(sample_report()), width)
    assert all(cell_len(line) <= width for line in output.splitlines())
    lines = output.split("\n\n")[0].splitlines()
    assert len(lines) >= 2 + 7  # header, rule, a line a row or more: titles wrap
    for number in ("61.2", "55.9", "29.7", "84.1"):
        assert sum(number in line for line in lines) == 1
    assert "…" not in "".join(lines)


def test_footnote_marks_survive_a_wrapped_title() -> None:
    table = plain(ComparisonTable(sample_report()), 50).split("\n\n")[0]
    assert table.count("¹") == 1


def test_colours_say_best_lost_and_baseline() -> None:
    cells = dict(styled(ComparisonTable(sample_report()), 120))
    assert cells["2.06× [2.04, 2.09]"] == "bold green"
    assert cells["29.7"] == "bold green"
    assert cells["51.13 MB"] == "bold green"
    assert cells["equal"] == "bold green"
    assert cells["0.73× [0.72, 0.74]"] == "red"
    assert cells["84.1"] == "red"
    assert cells["104.7 MB"] == "red"  # 2 % larger than the original
    assert cells["18.2 dB"] == "red"
    assert cells["PyTorch"] == "dim"
    assert cells["1"].lower() in ("", "none")  # six rows share it: nothing to point at
    assert "25,530,472" in cells
    assert "green" not in cells["25,530,472"]
    assert cells["Machine: AMD EPYC 7763 · 2 threads · torch 2.14.1 · onnxruntime 1.32.0"] == "dim"
    assert cells["25,557,032"] == "dim"
    assert cells["not measured ²"] == "dim"
    assert cells["≈ [0.99, 1.02]"].lower() in ("", "none")


def test_an_undecided_row_is_never_best_in_speed() -> None:
    report = sample_report()
    two = report.model_copy(update={"rows": (report.rows[0], report.rows[2])})
    cells = dict(styled(ComparisonTable(two), 120))
    assert "green" not in cells["≈ [0.99, 1.02]"]


def test_the_same_reason_has_one_footnote() -> None:
    report = sample_report()
    engine = report.rows[-1]
    more = report.model_copy(
        update={"rows": (*report.rows, engine.model_copy(update={"name": "b", "title": "Other"}))}
    )
    output = plain(ComparisonTable(more), 80)
    assert output.count("not measured ²") == 2
    assert output.count("² built for sm_89; measure it there: deployfold bench DIR") == 1


@pytest.mark.parametrize("width", [60, 120])
def test_hostile_names_are_shown_and_not_obeyed(width: int) -> None:
    report = hostile_report()
    for renderable in (ComparisonTable(report), fold_table(report), summary_panel(report)):
        output = plain(renderable, width)
        assert "[red]" in output
        assert not any(c in output for c in "\x1b\x07\u202e\ud800")
    assert plain(fold_table(report), 300).count("[red]") == 2, "the name and the reason"


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=StringIO(), width=120, force_terminal=True, color_system="truecolor")
    console.print(ComparisonTable(sample_report()))
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[31m" not in output
    assert "32m" not in output


def test_a_report_without_rows_or_fold_still_renders() -> None:
    report = sample_report().model_copy(
        update={
            "rows": (),
            "fold": FoldSummary(batchnorm_before=0, parameters_before=1, parameters_after=1),
            "status": Status(state="interrupted", stage="measure"),
        }
    )
    assert "Machine" in plain(ComparisonTable(report), 80)
    assert "interrupted at measure" in plain(summary_panel(report), 80)
    assert plain(fold_table(report.model_copy(update={"fold": None})), 80)


def test_the_panel_says_what_failed_and_which_limit_was_missed() -> None:
    report = sample_report()
    missed = report.thresholds[0].model_copy(update={"passed": False, "limit": 3.0})
    output = plain(summary_panel(report.model_copy(update={"thresholds": (missed,)})), 80)
    assert "min-speedup 3 missed: 2.06 (onnxruntime)" in output


def test_a_hundred_notes_are_a_few_lines() -> None:
    report = sample_report()
    many = tuple(f"model.{index}.conv stays in fp32: it overflows" for index in range(100))
    rest = tuple(f"{word} note" for word in "one two three four five six seven eight nine".split())
    row = report.rows[1].model_copy(update={"notes": (*many, *rest)})
    crowded = report.model_copy(
        update={"rows": (report.rows[0], row, *report.rows[2:]), "notes": (*many, *rest)}
    )
    table = plain(ComparisonTable(crowded), 120)
    assert "¹⁰" not in table
    assert "model.0.conv stays in fp32: it overflows (and 99 more like it: model.1.conv," in table
    assert "5 more notes stand in report.json" in table
    panel = plain(summary_panel(crowded), 160)
    assert panel.count("│ note ") == 10
    assert "(and 99 more like it: model.1.conv, model.2.conv, model.3.conv, …)" in panel


def test_the_card_counts_batchnorms_apart_from_what_went_with_them() -> None:
    report = sample_report()
    fold = report.fold
    assert fold is not None
    branches = tuple(
        FoldedNorm(name=f"b{i}", rule="merged", into="c", kind="branch") for i in range(30)
    )
    merged = fold.model_copy(update={"folded": (*fold.folded, *branches)})
    panel = plain(summary_panel(report.model_copy(update={"fold": merged})), 80)
    assert "52 of 53 BatchNorm, 30 branches, 26,560 parameters fewer" in panel
    grown = merged.model_copy(update={"parameters_after": merged.parameters_before + 576})
    assert "576 parameters more" in plain(
        summary_panel(report.model_copy(update={"fold": grown})), 80
    )


def test_the_left_are_grouped_by_their_reason() -> None:
    report = sample_report()
    fold = report.fold
    assert fold is not None
    left = [LeftNorm(name=f"head.{i}.bn", reason="its input is shared") for i in range(9)]
    left.append(LeftNorm(name="neck.bn", reason="it is in training mode"))
    more = report.model_copy(update={"fold": fold.model_copy(update={"left": tuple(left)})})
    short, long = plain(fold_table(more), 120), plain(fold_table(more, explain=True), 120)
    assert "head.0.bn, head.1.bn, head.2.bn and 6 more" in short
    assert short.count("its input is shared") == 1
    assert "neck.bn" in short
    assert long.count("its input is shared") == 9
