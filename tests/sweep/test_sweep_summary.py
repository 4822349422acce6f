from __future__ import annotations

import json
from pathlib import Path

from rendered import plain

from deployfold.config.precision import Precision
from deployfold.reporting.conditions import Environment, Source
from deployfold.reporting.metrics import METRICS
from deployfold.reporting.report import Report, Status, write_report
from deployfold.reporting.row import Row
from deployfold.sweep.fleet import FleetModel
from deployfold.sweep.jobs import RECORD, Cell
from deployfold.sweep.summary import CellResult, summarise, to_markdown, to_table


def test_an_fp16_engine_does_not_count_as_the_requested_int8(tmp_path: Path) -> None:
    """A build with a refused INT8 still makes the FP16 engine."""
    directory = tmp_path / "net" / "int8-0123456789ab"
    directory.mkdir(parents=True)
    (directory / RECORD).write_text("{}")
    name = "net.fp16.sm_89.engine"
    sidecar = {"library": "tensorrt_rtx", "precision": "fp16", "targets": ["l4"]}
    (directory / f"{name}.json").write_text(json.dumps(sidecar))
    environment = Environment(
        cpu="a CPU", physical_cores=1, threads=1, os="an OS", python="3", packages={}
    )
    report = Report(
        deployfold_version="0.1.0",
        created="2026-11-24T00:00:00Z",
        source=Source(path="net.pt", kind="module"),
        inputs=(),
        rows=(Row(name="tensorrt-fp16", title="TensorRT fp16", artifact=name, bytes=280),),
        environment=environment,
        status=Status(state="failed", stage="lower", message="INT8 gives 0.0 dB."),
    )
    write_report(report, directory / "report.json")
    precisions = (Precision.INT8, Precision.FP16)
    model = FleetModel("net", "net.pt", {}, precisions, ("l4",))
    cells = [Cell(model, precision, "l4", precision.value) for precision in precisions]
    int8, fp16 = summarise(cells, dict.fromkeys(cells, directory), (), tmp_path)
    assert (int8.state, int8.message, int8.bytes) == ("refused", "INT8 gives 0.0 dB.", None)
    assert (fp16.state, fp16.artifact) == ("built", name)


def test_figures_are_written_as_reports_write_them() -> None:
    result = CellResult(
        "mobilenetv3", "int8", "jetson-orin-nano", "built", bytes=9_421_003, parameters=5_470_832,
        median_ms=3.14159, sqnr_db=41.26, seconds=91.2, peak_bytes=1_204_000_000,
    )  # fmt: skip
    header, _, line = to_markdown([result]).splitlines()
    cells = dict(zip(header.split(" | "), line.split(" | "), strict=True))
    assert cells["size"] == "9.421 MB"
    assert cells["params"] == "5.471 M"
    assert cells[METRICS["latency"].header] == "3.14"
    assert cells[METRICS["sqnr"].header] == "41.3 dB"
    assert cells["build memory"] == "1.204 GB"
    table = plain(to_table([result]), 80)
    assert "3.14" in table
    assert "1.204 GB" not in table
    assert max(map(len, table.splitlines())) <= 80
