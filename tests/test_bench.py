"""Which artifacts ``deployfold bench`` measures, and under which names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import deployfold
from deployfold.bench import bench
from deployfold.errors import UsageError
from deployfold.spec import InputSpec

QUICK = {"threads": 1, "max_seconds": 0.3}
SHAPE = InputSpec.parse(["1x3x8x8"])


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A state dict whose architecture only ``--arch`` tells, and a build of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "bench_nets.py").write_text(
        "from torch import nn\n\n\ndef make():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))\n"
    )
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    deployfold.build(
        "weights.pth", arch="bench_nets:make", inputs=["1x3x8x8"], output="o", fp16=True,
        engine=False, measure=False,
    )  # fmt: skip
    return tmp_path


def test_a_build_is_measured_against_its_original(here):
    rows = {row.name: row for row in bench([here / "o"], **QUICK).rows}
    assert list(rows) == [
        "pytorch", "folded", "torchscript", "program", "onnxruntime", "onnxruntime-fp16",
    ]  # fmt: skip
    assert rows["pytorch"].batchnorm_layers == 1
    assert rows["onnxruntime"].accuracy.max_abs_diff < 1e-5
    lowered = rows.pop("onnxruntime-fp16")
    assert "no fp16 kernels" in lowered.not_measured
    assert lowered.accuracy is not None, "as measured when it was lowered"
    assert all(row.latency is not None for row in rows.values())


@pytest.mark.parametrize(("change", "said"), [(b"other", "has changed"), (None, "is not there")])
def test_without_its_original_the_folded_model_is_the_baseline(here, change, said):
    weights = here / "weights.pth"
    if change is None:
        weights.unlink()
    else:
        weights.write_bytes(change)
    report = bench([here / "o"], **QUICK)
    assert report.baseline.name == "folded"
    assert report.baseline.latency.speedup.value == 1
    assert said in report.notes[0]


def test_files_of_the_same_name_are_told_apart(tmp_path):
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "net.pt")
        torch.save(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), paths[-1])
    report = bench(paths, inputs=SHAPE, **QUICK)
    assert [row.name for row in report.rows] == [str(path) for path in paths]
    assert report.rows[1].accuracy.max_abs_diff > 0.01, "two models, not one of them twice"
    with pytest.raises(UsageError, match="twice"):
        bench([paths[0], paths[0]], inputs=SHAPE, **QUICK)


def test_a_directory_without_artifacts_is_refused(here):
    (here / "weights.pth").unlink()
    for path in (here / "o").iterdir():
        if path.name != "report.json":
            path.unlink()
    with pytest.raises(UsageError, match="No artifact"):
        bench([here / "o"], **QUICK)
    with pytest.raises(UsageError, match="one directory"):
        bench([here / "o", here / "o"], **QUICK)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["nothing.onnx"], "does not exist"),
        (["bench_nets.py"], "no artifact"),
        (["."], "report.json"),
    ],
)
def test_what_cannot_be_measured_is_a_usage_error(here, names, said):
    with pytest.raises(UsageError, match=said):
        bench([here / name for name in names], inputs=SHAPE, **QUICK)
    with pytest.raises(UsageError, match="what shape"):
        bench([here / "o" / "weights.ts.pt"], **QUICK)
