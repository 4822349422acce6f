"""AOTInductor: one build with a package in it, and everything that takes the package.

Compiling takes tens of seconds, so all tests but those of failures share one build.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import deployfold
from deployfold.bench.bench import bench
from deployfold.bundle.collect import collect
from deployfold.bundle.triton import write_repository
from deployfold.config.inputs import InputSpec, TensorSpec
from deployfold.config.optimization_profiles import DynamicBatch
from deployfold.errors import ExportError, MeasureError, UsageError
from deployfold.events import Note
from deployfold.exporting import ExportJob
from deployfold.exporting.aot_inductor import AOT_INDUCTOR, export_aot_inductor
from deployfold.infer.artifact import run_artifact
from deployfold.infer.inputs import parse_given
from deployfold.measuring.cold_start import cold_start
from deployfold.reporting.report import Report
from deployfold.runtimes.aot_inductor import AotInductorRunner, missing_compiler, stated_inputs
from deployfold.runtimes.settings import RunSettings

pytestmark = pytest.mark.skipif(missing_compiler() is not None, reason="needs a C++ compiler")
TRUSTED = RunSettings(threads=1, trust=True)
ROW = "aot-inductor"


def make() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU()).eval()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("aot")
    torch.save(make(), folder / "net.pt")
    with pytest.MonkeyPatch.context() as patch:
        # A fifth of the time goes to optimising calls, and to asking the compiler for AVX.
        patch.setenv("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O0")
        patch.setenv("TORCHINDUCTOR_VEC_ISA_OK", "1")
        return deployfold.build(
            folder / "net.pt", inputs=["2x6"], output=str(folder / "out"),
            dynamic_batch=(1, 2, 8), aot_inductor=True, engine=False, threads=1, max_seconds=1.0,
        )  # fmt: skip


@pytest.fixture(scope="module")
def directory(report: Report) -> Path:
    return Path(report.source.path).parent / "out"


@pytest.fixture
def package(directory: Path) -> Path:
    return directory / "net.aoti.pt2"


@pytest.fixture
def runner(package: Path) -> Iterator[AotInductorRunner]:
    found = AotInductorRunner(package, TRUSTED)
    found.load()
    yield found
    found.close()


def test_a_build_has_a_row_that_was_measured_and_compared(report: Report, package: Path) -> None:
    rows = [row for row in report.rows if row.name == ROW]
    assert len(rows) == 1
    (row,) = rows
    assert (row.title, row.artifact) == ("AOTInductor", "net.aoti.pt2")
    assert row.bytes == package.stat().st_size
    assert row.latency is not None
    assert row.accuracy is not None
    assert row.accuracy.max_abs_diff < 1e-5
    assert row.notes[0].startswith("compiled for CPUs with ")


def test_nothing_but_the_package_is_left(directory: Path) -> None:
    assert [path.name for path in directory.glob("*aoti*")] == ["net.aoti.pt2"]


def test_run_takes_the_package_and_knows_its_inputs(package: Path) -> None:
    found, _ = run_artifact(package, settings=TRUSTED)
    assert found.runtime == "AOTInductor"
    assert [(one.name, one.shape) for one in found.inputs] == [("input", (2, 6))]
    other, _ = run_artifact(package, parse_given(["5x6"]), settings=TRUSTED)
    assert other.outputs[0].shape == (5, 4)


def test_bench_takes_the_package_by_itself(package: Path) -> None:
    (row,) = bench([package], trust=True, threads=1, max_seconds=0.2).rows
    assert row.latency is not None


def test_the_package_starts_cold_in_a_process_of_its_own(package: Path) -> None:
    found = cold_start("aot_inductor", package, (torch.zeros(2, 6),), settings=TRUSTED, runs=1)
    assert (found.runs, found.not_measured) == (1, None)


def test_native_code_of_unknown_authors_is_not_loaded(package: Path) -> None:
    with pytest.raises(MeasureError, match=r"net\.aoti\.pt2 contains native code.*--trust"):
        run_artifact(package)
    (row,) = bench([package], threads=1, max_seconds=0.2).rows
    assert row.latency is None
    assert "contains native code" in str(row.not_measured)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_every_batch_of_the_profile_gives_the_modules_outputs(
    runner: AotInductorRunner, batch: int
) -> None:
    x = torch.randn(batch, 6)
    with torch.no_grad():
        expected = make()(x).numpy()
    np.testing.assert_allclose(runner.run((x,))[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(runner.run((x.numpy(),))[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (torch.zeros(2, 5), "2x5 float32 was given"),
        (torch.zeros(9, 6), "9x6 float32 was given"),
        (torch.zeros(6), "6 float32 was given"),
        (torch.zeros(2, 6, dtype=torch.float64), "2x6 float64 was given"),
    ],
)
def test_inputs_that_would_be_read_past_their_end_are_refused(
    runner: AotInductorRunner, given: torch.Tensor, told: str
) -> None:
    """The compiled code does not check its inputs, and would read any memory."""
    for call in (runner.run, runner.prepare):
        with pytest.raises(MeasureError, match=r"takes 'input' as \?x6 float32") as caught:
            call((given,))
        assert told in caught.value.message
    with pytest.raises(MeasureError, match="takes 1 inputs, but 2 were given"):
        runner.run((torch.zeros(2, 6),) * 2)


def test_the_bundle_ships_the_package(directory: Path, tmp_path: Path) -> None:
    build = collect(directory)
    (artifact,) = (one for one in build.artifacts if one.row == ROW)
    assert (artifact.kind, artifact.files) == ("aot_inductor", ("net.aoti.pt2",))
    notes: list[str] = []
    _, models = write_repository(
        directory,
        tmp_path / "repository",
        emit=lambda event: notes.append(event.text) if isinstance(event, Note) else None,
    )
    assert not any("aot" in model for model in models)
    assert "net.aoti.pt2 is left out: Triton has no backend for it." in notes


def test_a_package_of_another_program_needs_its_shapes(tmp_path: Path) -> None:
    path = tmp_path / "other.aoti.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other/data/aotinductor/model/abc.wrapper_metadata.json", "{}")
    assert stated_inputs(path) is None
    runner = AotInductorRunner(path, TRUSTED)
    with pytest.raises(UsageError, match="does not list its inputs"):
        runner.inputs()
    asked = InputSpec.parse(["x=1x3"])
    assert runner.inputs(asked) == asked
    path.write_bytes(b"no archive")
    with pytest.raises(MeasureError, match="is not an AOTInductor package"):
        runner.inputs()


def job(timeout: float = 600.0) -> ExportJob:
    spec = InputSpec((TensorSpec((2, 6), "x"),)).with_profiles((DynamicBatch(1, 2, 8),))
    return ExportJob(make(), (torch.randn(2, 6),), spec, timeout=timeout)


def test_without_a_compiler_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "there is no no-such-compiler here" in str(missing_compiler())
    with pytest.raises(ExportError, match="there is no no-such-compiler here"):
        export_aot_inductor(job(), tmp_path / "net.aoti.pt2")
    assert not list(tmp_path.iterdir())


def test_a_compiler_that_fails_leaves_its_log_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(ExportError, match="AOTInductor cannot compile this model") as caught:
        export_aot_inductor(job(), tmp_path / "net.aoti.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["net.aoti.pt2.log"]
    assert "net.aoti.pt2.log" in str(caught.value.hint)


def test_a_compilation_past_its_time_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "net.aoti.pt2").write_text("an earlier one")
    with pytest.raises(ExportError, match=r"AOTInductor's compilation took longer than 0\.1 s"):
        export_aot_inductor(job(timeout=0.1), tmp_path / "net.aoti.pt2")
    assert (tmp_path / "net.aoti.pt2").read_text() == "an earlier one"


def test_the_option_asks_for_the_format() -> None:
    from deployfold.config.build_spec import BuildSpec

    assert AOT_INDUCTOR.option is not None
    assert getattr(BuildSpec(source="x"), AOT_INDUCTOR.option) is False
    assert AOT_INDUCTOR.row == ROW
