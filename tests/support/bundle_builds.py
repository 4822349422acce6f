"""Makes a small finished build without compiling, and archives that a reader must refuse."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from backports import zstd
from small_onnx import make_onnx

from deployfold.bundle.manifest import MANIFEST, FileEntry, HowToRun, Manifest
from deployfold.bundle.tar import END, header, padding
from deployfold.finish.reference import read_reference, write_reference
from deployfold.reporting.conditions import Environment, ModelInput, Source
from deployfold.reporting.report import Report, Status, ThresholdResult, load_report, write_report
from deployfold.reporting.row import Accuracy, Row

SHAPE = (1, 3, 16, 16)
PREPROCESS = {
    "resize": [18, 18], "fit": "cover", "crop": [16, 16], "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "layout": "nchw",
    "channels": "rgb", "notes": ["Resized to 18 and cropped to 16."],
}  # fmt: skip


def make_engine(
    path: Path, capability: str = "8.9", library: str = "tensorrt", precision: str = "fp16"
) -> Path:
    """Write a stand-in for an engine (packing one does not look inside) and its sidecar."""
    path.write_bytes(b"engine " * 40 + capability.encode())
    shape = [-1, *SHAPE[1:]]
    sidecar = {
        "schema_version": 1,
        "engine": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "library": library,
        "library_version": "11.4.1",
        "compute_capabilities": [capability],
        "precision": precision,
        "tensors": [
            {"name": "x", "mode": "input", "shape": shape, "dtype": "float32"},
            {"name": "y", "mode": "output", "shape": [-1, 7], "dtype": "float32"},
        ],
        "profiles": [
            [{"name": "x", "min": [1, *SHAPE[1:]], "opt": [4, *SHAPE[1:]], "max": [8, *SHAPE[1:]]}]
        ],
        "options": {},
    }
    path.with_name(f"{path.name}.json").write_text(json.dumps(sidecar))
    return path


def make_build(
    folder: Path,
    *,
    engines: Sequence[tuple[str, str]] = (("8.9", "tensorrt"),),
    status: Status | None = None,
    thresholds: Sequence[ThresholdResult] = (),
) -> Path:
    """Write the files of a build of ``net``; ``engines`` are compute capabilities and libraries."""
    folder.mkdir(parents=True)
    path = make_onnx(folder / "net.onnx")
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    write_reference(folder / "reference.npz", [x], session.run(None, {"x": x}))
    (folder / "preprocess.json").write_text(json.dumps(PREPROCESS))
    rows = [
        Row(name="pytorch", title="PyTorch (original)"),
        Row(
            name="onnxruntime",
            title="ONNX Runtime",
            artifact="net.onnx",
            bytes=path.stat().st_size,
            accuracy=Accuracy(max_abs_diff=0.0, sqnr_db=float("inf")),
        ),
    ]
    for capability, library in engines:
        engine = make_engine(
            folder / f"net.fp16.sm_{capability.replace('.', '')}.engine", capability, library
        )
        row = f"tensorrt-fp16-{capability}"
        size = engine.stat().st_size
        rows.append(Row(name=row, title=row, artifact=engine.name, bytes=size))
    report = Report(
        deployfold_version="0.1.0",
        created="2026-11-24T00:00:00Z",
        source=Source(path="/data/net.pt", kind="module", sha256="ab" * 32),
        inputs=(ModelInput(name="x", shape=SHAPE, dtype="float32"),),
        rows=tuple(rows),
        environment=Environment(
            cpu="a CPU", physical_cores=1, threads=1, os="an OS", python="3",
            packages={"torch": "2.14.1", "onnx": "1.23.2"},
        ),
        thresholds=tuple(thresholds),
        status=status or Status(),
    )  # fmt: skip
    write_report(report, folder / "report.json")
    return folder


def replace_onnx(build: Path, model: onnx.ModelProto) -> None:
    """Give a build of :func:`make_build` another ONNX, with its reference and its bytes."""
    path = build / "net.onnx"
    onnx.save(model, path)
    inputs, _ = read_reference(build / "reference.npz")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    write_reference(build / "reference.npz", inputs, session.run(None, {"x": inputs[0]}))
    change_row(build, "net.onnx", bytes=path.stat().st_size)


def change_row(build: Path, artifact: str, /, **changes: object) -> None:
    """Change the row of an artifact in the report of a build."""
    report = load_report(build / "report.json")
    rows = tuple(
        row.model_copy(update=changes) if row.artifact == artifact else row for row in report.rows
    )
    write_report(report.model_copy(update={"rows": rows}), build / "report.json")


def entry(name: str, content: bytes) -> FileEntry:
    return FileEntry(path=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def make_manifest(*files: FileEntry) -> Manifest:
    return Manifest(
        name="net",
        deployfold_version="0.1.0",
        source=Source(path="net.pt", kind="module"),
        inputs=(),
        reference="reference.npz",
        artifacts=(),
        run=HowToRun(command="python run.py", needs=(), runtimes=()),
        bill_of_materials="bom.cdx.json",
        files=files,
    )


def member(name: str, content: bytes, **changes: object) -> bytes:
    """A file of a tar archive; ``changes`` are to the header that a bundle has."""
    block = header(name, len(content)) if not changes else _header(name, len(content), changes)
    return block + content + padding(len(content))


def _header(name: str, size: int, changes: dict[str, object]) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, 315_532_800, 0o644
    for key, value in changes.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def pack(
    path: Path, *members: bytes, manifest: Manifest | bytes | None = None, end: bytes = END
) -> Path:
    """Write an archive of the manifest and those members, whatever they are."""
    text = manifest.to_json().encode() if isinstance(manifest, Manifest) else manifest
    tar = io.BytesIO()
    if text is not None:
        tar.write(member(f"net/{MANIFEST}", text))
    tar.writelines(members)
    tar.write(end)
    path.write_bytes(zstd.compress(tar.getvalue()))
    return path
