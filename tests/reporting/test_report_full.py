"""The tables of optional measurements, as users see them."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt
from rendered import HOSTILE, parse, plain, styled, tables
from report_sample import full_report, sample_report
from rich.cells import cell_len
from rich.console import Group
from test_report_table import GOLDEN

from deployfold.reporting.comparison import Mark
from deployfold.reporting.conditions import Environment
from deployfold.reporting.details import cold_start_grid, engine_grids, layer_grids, sweep_grid
from deployfold.reporting.footnotes import stability_lines
from deployfold.reporting.html import render_html
from deployfold.reporting.layers import BuiltLayer, EngineLayers
from deployfold.reporting.markdown import render_markdown
from deployfold.reporting.report import Report
from deployfold.reporting.row import BatchPoint, GpuState, Latency, Row, Speedup
from deployfold.reporting.terminal import (
    ComparisonTable,
    grid_table,
    layers_table,
    summary_panel,
)


def everything(report: Report) -> Group:
    grids = [grid for grid in (sweep_grid(report), cold_start_grid(report)) if grid]
    return Group(ComparisonTable(report), *map(grid_table, grids), layers_table(report))


@pytest.mark.parametrize("width", [80, 120])
def test_the_full_report_is_as_agreed(width: int) -> None:
    expected = (GOLDEN / f"full-{width}.txt").read_text(encoding="utf-8")
    output = plain(everything(full_report()), width)
    assert all(cell_len(line) <= width for line in output.splitlines())
    assert output == expected


def test_a_title_wraps_and_is_never_cut() -> None:
    output = plain(ComparisonTable(full_report()), 60)
    assert "…" not in output
    joined = "".join(line[:16].strip() for line in output.splitlines())
    assert "TensorRT-RTXfp16,sm_80-sm_86-sm_89-sm_120" in joined


def test_colours_of_the_full_report() -> None:
    cells = dict(styled(everything(full_report()), 120))
    assert cells["uncalibrated"] == "red"
    assert cells["74.8 %"] == "red", "1.3 points below the original"
    assert cells["97.1 %"] == "red"
    assert cells["17.2 dB"] == "red"
    assert cells["~43.0"] == "bold green"
    wide = dict(styled(everything(full_report()), 160))
    assert wide["24.9 dB"] == "red"


def test_without_the_extras_their_tables_are_not_there() -> None:
    report = sample_report()
    assert sweep_grid(report) is None
    assert cold_start_grid(report) is None
    assert layer_grids(report) == []
    assert plain(layers_table(report), 80).strip() == ""


def test_layers_come_the_worst_first_and_the_unmeasured_last() -> None:
    (grid,) = layer_grids(full_report())
    assert [str(row[0]) for row in grid.rows] == ["fc", "layer1.0.conv1", "conv1"]


def with_engine() -> Report:
    """A report with an engine that computes one of two int8 layers in int8."""
    report = sample_report()
    layers = (
        BuiltLayer(name="conv", kind="CONVOLUTION", asked="int8", got="int8", writes="fp32"),
        BuiltLayer(name="up", kind="DECONVOLUTION", asked="int8", got="fp16", writes="fp16"),
    )
    engine = EngineLayers(kernels=5, conversions=1, layers=layers)
    rows = (*report.rows[:-1], report.rows[-1].model_copy(update={"engine_layers": engine}))
    return report.model_copy(update={"rows": rows})


def test_the_layers_of_an_engine_are_listed_with_what_they_asked_for() -> None:
    report = with_engine()
    (grid,) = engine_grids(report)
    assert grid.title.endswith(
        "the engine computes 1 of 2 int8 layers in int8; of these with fp32 outputs: 1; "
        "kernels: 5, for conversions alone: 1"
    )
    assert [list(map(str, row)) for row in grid.rows] == [
        ["conv", "convolution", "int8", "int8", "fp32"],
        ["up", "deconvolution", "int8", "fp16", "fp16"],
    ]
    assert grid.rows[1][3].mark is Mark.LOST
    for text in (render_markdown(report), render_html(report), plain(layers_table(report), 120)):
        assert "deconvolution" in text
    again = Report.model_validate_json(report.to_json())
    assert again.rows[-1].engine_layers == report.rows[-1].engine_layers


def test_markdown_has_them_too() -> None:
    text = render_markdown(full_report())
    found = tables(parse(text))
    assert [table[0][0] for table in found] == [
        "artifact", "artifact", "artifact", "layer", "BatchNorm", "stage",
    ]  # fmt: skip
    assert found[0][6][0].endswith("int8 in 93.8 % of MACs, uncalibrated")
    assert found[1][1] == ["PyTorch", "33.7", "42.6", "~43.0", "batch 8"]
    assert "uncalibrated: its ranges come from random inputs" in text


def test_hostile_names_in_them_are_not_obeyed() -> None:
    report = full_report()
    rows = []
    for row in report.rows:
        int8 = row.quantization
        if int8 is not None:
            layers = tuple(one.model_copy(update={"name": HOSTILE}) for one in int8.layers)
            int8 = int8.model_copy(update={"layers": layers})
        sweep = (BatchPoint(batch=1, not_measured=HOSTILE),)
        rows.append(row.model_copy(update={"title": HOSTILE, "quantization": int8, "sweep": sweep}))
    report = report.model_copy(update={"rows": tuple(rows)})
    output = plain(everything(report), 120)
    assert not any(c in output for c in "\x1b\x07\u202e\ud800")
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(render_markdown(report))
    kinds = {child.type for token in tokens for child in token.children or []}
    assert not kinds & {"link_open", "image", "html_inline", "em_open", "code_inline"}


def one_round() -> Report:
    report = sample_report()
    rows: list[Row] = []
    for row in report.rows[:3]:
        assert row.latency is not None
        note = "1 round: too few rounds for an interval (at least 6)"
        update = {"rounds": 1, "stable": False, "note": note, "variation": 0.0}
        if rows:
            update["speedup"] = Speedup(value=2.0, low=0.0, high=float("inf"))
        rows.append(row.model_copy(update={"latency": row.latency.model_copy(update=update)}))
    return report.model_copy(update={"rows": tuple(rows)})


def test_one_round_claims_nothing() -> None:
    report = one_round()
    output = plain(ComparisonTable(report), 80)
    assert "2.00" not in output
    assert "≈" not in output
    assert "1 round is too few for an interval" in output
    assert "with its 95 % interval" not in output
    assert "Not stable: every row (1 round, too few for an interval" in output
    assert "too few rounds to say" in plain(summary_panel(report), 80)


@pytest.mark.parametrize(("rounds", "said"), [(6, True), (29, True), (30, False)])
def test_few_rounds_say_what_their_interval_cannot_see(rounds: int, said: bool) -> None:
    report = sample_report()
    rows = [
        row.model_copy(update={"latency": row.latency.model_copy(update={"rounds": rounds})})
        for row in report.rows
        if row.latency is not None
    ]
    output = plain(ComparisonTable(report.model_copy(update={"rows": tuple(rows)})), 200)
    assert f"median of {rounds} interleaved rounds" in output
    assert ("can be too narrow where the machine was slow for a while" in output) == said


def measured(**changes: object) -> Latency:
    latency = sample_report().rows[1].latency
    assert latency is not None
    return latency.model_copy(update={"stable": False, "note": "why", **changes})


def lines(latencies: list[Latency], **machine: object) -> str:
    report = sample_report()
    rows = tuple(
        row.model_copy(update={"latency": latency})
        for row, latency in zip(report.rows, latencies, strict=False)
    )
    environment: Environment = report.environment.model_copy(update={"cpus": 2, **machine})
    report = report.model_copy(update={"rows": rows, "environment": environment})
    return " ".join(stability_lines(report))


def test_the_footnote_says_what_to_do() -> None:
    one = lines([measured(stable=True, note=None)])
    assert one.startswith("Stable: calls vary by at most 2.5 %")
    busy = lines([measured(other_cpus=0.9, variation=0.4)] * 2)
    assert "every row (coefficient of variation up to 40 %; report.json says why)" in busy
    assert "kept 0.9 of 2 CPUs busy: close them, or use --threads 1." in busy
    assert "--threads" not in lines([measured(other_cpus=0.9)], threads=1)
    slow = lines([measured()], governor="powersave")
    assert "The CPU governor is powersave: sudo cpupower frequency-set -g performance." in slow
    assert "governor" not in lines([measured()], governor="performance")
    assert "--max-seconds" in lines(
        [measured(note="time ran out at ±5 %, short of ±2 %", doubts=("time",))]
    )
    wording = lines(
        [
            measured(
                note="other programs took 0.9 of 2 CPUs; close them",
                doubts=("contended",),
                other_cpus=0.9,
            )
        ]
    )
    assert wording.count("close them") == 1


def test_the_gpu_is_described_and_its_throttling_advised_on() -> None:
    state = GpuState(
        sm_clock_mhz=1410, max_sm_clock_mhz=1980, temperature_c=54, power_w=210.4,
        power_limit_w=300, throttled_by=("the power limit",),
    )  # fmt: skip
    text = lines([measured(gpu=state)])
    assert "Lock the GPU's clocks" in text
    assert (
        "GPU after the last round: 1,410 of 1,980 MHz, 54 °C, 210 of 300 W,"
        " held down by the power limit" in text
    )


def test_the_summary_names_the_baseline_of_files_and_no_lone_size() -> None:
    report = sample_report()
    files = tuple(
        row.model_copy(update={"name": f"net{i}.onnx", "title": f"net{i}.onnx"})
        for i, row in enumerate((report.rows[0], report.rows[3]))
    )
    output = plain(summary_panel(report.model_copy(update={"rows": files})), 80)
    assert "nothing is faster than net0.onnx" in output
    folded = report.rows[1].model_copy(update={"bytes": None, "latency": None})
    alone = report.model_copy(update={"rows": (report.rows[0], folded)})
    assert "smallest" not in plain(summary_panel(alone), 80)
