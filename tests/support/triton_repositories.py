"""Reads and prepares Triton model repositories in tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deployfold.reporting.report import Row, load_report, write_report


def read_config(proto: Any, repository: Path, model: str) -> Any:
    from google.protobuf import text_format

    config = proto.ModelConfig()
    content = (repository / model / "config.pbtxt").read_text()
    return text_format.Parse(content, config)


def add_torchscript(build: Path, *, fixed_batch: bool = False) -> None:
    (build / "net.ts.pt").write_bytes(b"an archive")
    report = load_report(build / "report.json")
    row = Row(
        name="torchscript", title="TorchScript", artifact="net.ts.pt", fixed_batch=fixed_batch
    )
    write_report(report.model_copy(update={"rows": (*report.rows, row)}), build / "report.json")
