"""Reads and prepares Triton model repositories in tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from deployfold.reporting.report import load_report, write_report
from deployfold.reporting.row import Row


def model_config() -> Any:
    """``model_config_pb2`` of the client; the package around it would import grpc."""
    spec = importlib.util.find_spec("tritonclient")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("tritonclient is not installed")
    path = Path(next(iter(spec.submodule_search_locations))) / "grpc" / "model_config_pb2.py"
    found = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


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
