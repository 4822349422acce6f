"""The table of layer times, and the JSON that NVIDIA's tools read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_sample import sample_report

from deployfold.reporting.layer_times import layer_time_grids, untimed, write_layer_times
from deployfold.reporting.layers import LayerTimes, TimedLayer
from deployfold.reporting.report import Report


def report_with(*layers: TimedLayer, calls: int = 10) -> Report:
    report = sample_report()
    row = report.rows[1].model_copy(update={"layer_times": LayerTimes(layers=layers, calls=calls)})
    return report.model_copy(update={"rows": (report.rows[0], row)})


LAYERS = (
    TimedLayer(name="k1", kind="Conv", ms=3.0, module="stem"),
    TimedLayer(name="k2", kind="Cast", ms=0.5, module="stem"),
    TimedLayer(name="ReorderOutput", kind="ReorderOutput", ms=0.5),
    TimedLayer(name="k3", kind="Gemm", ms=6.0, module="head"),
)


def test_the_layers_of_a_module_are_added_up_and_the_slowest_comes_first() -> None:
    (grid,) = layer_time_grids(report_with(*LAYERS))
    cells = [[cell.text for cell in row] for row in grid.rows]
    assert cells == [
        ["head", "Gemm", "6.00", "60.0 %"],
        ["stem", "Conv, Cast", "3.50", "35.0 %"],
        ["ReorderOutput", "ReorderOutput", "0.500", "5.0 %"],
    ]
    assert "2 layers, 1.00 ms, 10.0 %" in grid.notes[1]


def test_many_modules_share_a_line_unless_all_are_asked_for() -> None:
    layers = [TimedLayer(name=f"n{i}", kind="Conv", ms=1.0, module=f"m{i}") for i in range(20)]
    (grid,) = layer_time_grids(report_with(*layers))
    assert len(grid.rows) == 16
    assert [cell.text for cell in grid.rows[-1]] == ["5 others", "", "5.00", "25.0 %"]
    (whole,) = layer_time_grids(report_with(*layers), everything=True)
    assert len(whole.rows) == 20


def test_the_files_have_the_form_of_trtexec(tmp_path: Path) -> None:
    report = report_with(*LAYERS)
    name = report.rows[1].name
    profile, layers = write_layer_times(report, tmp_path)
    assert (profile.name, layers.name) == (f"{name}.profile.json", f"{name}.layers.json")
    count, *times = json.loads(profile.read_text())
    assert count == {"count": 10}
    assert [one["name"] for one in times] == [one.name for one in LAYERS]
    assert sum(one["percentage"] for one in times) == pytest.approx(100)
    assert times[0]["timeMs"] == 10 * times[0]["averageMs"] == 30
    assert json.loads(layers.read_text())["Layers"][0]["LayerType"] == "Conv"


def test_a_row_without_times_says_why() -> None:
    report = report_with()
    row = report.rows[1].model_copy(update={"layer_times": LayerTimes(not_measured="no profiler")})
    report = report.model_copy(update={"rows": (report.rows[0], row)})
    assert layer_time_grids(report) == []
    assert untimed(report) == [f"{row.title}: no profiler"]
