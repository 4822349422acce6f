from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from deployfold.config.precision import Precision
from deployfold.errors import ExitCode, UsageError
from deployfold.sweep.fleet import read_fleet
from deployfold.sweep.jobs import RECORD, cells_of, finished, pending, to_record
from deployfold.sweep.schedule import BASE_BYTES, PER_BYTE, expected_memory

MODEL = '[[model]]\nsource = "net.pt"\n'


def fleet(directory: Path, text: str) -> Path:
    path = directory / "fleet.toml"
    path.write_text(text, encoding="utf-8")
    (directory / "net.pt").write_bytes(b"weights")
    return path


def test_a_model_overrides_what_all_have(tmp_path: Path) -> None:
    text = (
        'precisions = ["fp16", "fp32"]\ntargets = ["l4"]\n[build]\nseed = 1\ncalib = "pictures"\n'
        f'{MODEL}seed = 2\n[[model]]\nname = "b"\nsource = "timm:resnet18"\ntargets = ["a10"]\n'
    )
    first, second = read_fleet(fleet(tmp_path, text)).models
    assert first.name == "net"
    assert first.source == str(tmp_path / "net.pt")
    assert first.settings == {"seed": 2, "calib": str(tmp_path / "pictures")}
    assert (second.source, second.targets) == ("timm:resnet18", ("a10",))
    assert second.precisions == (Precision.FP16, Precision.FP32)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "does not name a model"),
        ("precisions = 3\n" + MODEL, "list of words"),
        ('precisions = ["fp12"]\n' + MODEL, "fp12"),
        ('precisions = ["int8"]\n' + MODEL, "INT8 needs data to calibrate on"),
        ('targets = ["voodoo2"]\n' + MODEL, "voodoo2"),
        ("jobs = 0\n" + MODEL, "jobs"),
        ("memory-gib = nan\n" + MODEL, "memory-gib"),
        ("speed = 1\n" + MODEL, "speed"),
        ("[build]\nfp16 = true\n" + MODEL, "the sweep sets 'fp16' itself"),
        ("[build]\nwarp = 1\n" + MODEL, "line 2: unknown key 'warp'"),
        (MODEL + MODEL, "two models"),
        (MODEL + 'name = "../out"\n', "cannot be the name of a model"),
        (MODEL + 'calib = "evil.module:function"\n', "would run code"),
        (MODEL + 'arch = "evil.module:function"\n', "would run code"),
        ("[[model]]\n", "no source"),
        ("= 3", "not a readable fleet file"),
    ],
)
def test_a_mistake_in_a_fleet_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_fleet(fleet(tmp_path, text))
    assert words in str(caught.value)


def test_a_job_is_another_when_anything_that_decides_it_changes(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    picture = tmp_path / "pictures" / "a.jpg"
    picture.write_bytes(b"one")
    text = 'precisions = ["fp16"]\n[build]\ncalib = "pictures"\n' + MODEL

    def directory(text: str) -> Path:
        cells = cells_of(read_fleet(fleet(tmp_path, text)))
        (job,) = pending(cells, (), tmp_path / "out")
        return job.directory

    first = directory(text)
    assert directory(text) == first
    assert directory(text + "seed = 3\n") != first
    picture.write_bytes(b"two, and longer")
    assert directory(text) != first
    picture.write_bytes(b"one")
    assert directory(text) == first
    (tmp_path / "net.pt").write_bytes(b"other")
    assert directory(text) == first  # fleet() writes the same bytes again


def test_a_job_writes_its_settings_as_flags(tmp_path: Path) -> None:
    text = (
        'precisions = ["fp16"]\ntargets = ["l4", "a10"]\n[build]\nno-measure = true\n'
        'input = ["1x3x8x8"]\n' + MODEL
    )
    (job,) = pending(cells_of(read_fleet(fleet(tmp_path, text))), (), tmp_path)
    assert job.command == [
        "build", str(tmp_path / "net.pt"), "--fp16", "--target", "l4", "--target", "a10",
        "--no-measure", "--input=1x3x8x8",
    ]  # fmt: skip


def test_paths_are_relative_to_the_fleet_file(tmp_path: Path) -> None:
    text = '[build]\ninput-data = "inputs"\ntiming-cache = "cache"\ncalib = "random"\n' + MODEL
    (model,) = read_fleet(fleet(tmp_path, text)).models
    assert model.settings == {
        "input-data": str(tmp_path / "inputs"),
        "timing-cache": str(tmp_path / "cache"),
        "calib": "random",
    }


def _keys(directory: Path, text: str, gpu: str = "none", code: Sequence[str] = ()) -> list[str]:
    cells = cells_of(read_fleet(fleet(directory, text), code), gpu)
    return [cell.key for cell in cells]


def test_the_output_of_a_build_does_not_change_its_key(tmp_path: Path) -> None:
    text = f'[build]\ntiming-cache = "cache"\n{MODEL}'
    before = _keys(tmp_path, text)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "timing").write_bytes(b"what the build has put there")
    assert _keys(tmp_path, text) == before


def test_auto_means_the_gpu_of_the_machine(tmp_path: Path) -> None:
    text = f'targets = ["Auto", "l4"]\n{MODEL}'
    auto, named = _keys(tmp_path, text, "NVIDIA L4 8.9")
    other, same = _keys(tmp_path, text, "NVIDIA L40S 8.9")
    assert auto != other
    assert named == same


def test_a_fleet_may_name_the_functions_that_the_user_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = f'{MODEL}arch = "nets:Net"\n'
    with pytest.raises(UsageError) as caught:
        read_fleet(fleet(tmp_path, text))
    assert caught.value.hint == "If you trust the code, add: --allow-code nets:Net"
    (tmp_path / "nets.py").write_text("class Net: ...")
    first = _keys(tmp_path, text, code=["nets:Net"])
    (job,) = pending(cells_of(read_fleet(tmp_path / "fleet.toml", ["nets:Net"])), (), tmp_path)
    assert "--arch=nets:Net" in job.command
    assert job.code == tmp_path, "where the module lies"
    (tmp_path / "nets.py").write_text("class Net: 'another'")
    assert _keys(tmp_path, text, code=["nets:Net"]) != first


def test_one_build_makes_all_precisions_of_a_model(tmp_path: Path) -> None:
    text = (
        'precisions = ["fp32", "fp16", "int8"]\ntargets = ["l4", "a10"]\n[build]\n'
        f'calib = "random"\n{MODEL}[[model]]\nsource = "timm:resnet18"\nprecisions = ["fp16"]\n'
    )
    cells = cells_of(read_fleet(fleet(tmp_path, text)))
    jobs = pending(cells, (), tmp_path)
    assert [job.title for job in jobs] == [
        "net fp32 for l4, a10", "net fp16, int8 for l4, a10", "resnet18 fp16 for l4, a10",
    ]  # fmt: skip
    assert jobs[1].command[2:] == [
        "--fp16", "--int8", "--target", "l4", "--target", "a10", "--calib=random",
    ]  # fmt: skip
    assert "--calib=random" not in jobs[2].command, "nothing there is calibrated"
    record = tmp_path / "net" / "fp16+int8-0" / RECORD
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps(to_record(jobs[1])))
    done = finished(cells, tmp_path)
    assert set(done) == set(jobs[1].cells)
    assert [job.title for job in pending(cells, done, tmp_path)] == [jobs[0].title, jobs[2].title]
    # Only what is missing: fp16 for l4 is built already, so the two precisions part.
    apart = [job.title for job in pending(cells, jobs[1].cells[:1], tmp_path)]
    assert apart[1:3] == ["net fp16 for a10", "net int8 for l4, a10"]


def test_records_of_earlier_versions_and_damaged_ones_are_read(tmp_path: Path) -> None:
    cells = cells_of(read_fleet(fleet(tmp_path, MODEL)), "none")
    record = tmp_path / "net" / "fp16-0" / RECORD
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"key": cells[0].key, "precision": "fp16", "targets": ["auto"]}))
    assert list(finished(cells, tmp_path)) == [cells[0]]
    for damaged in ({"cells": [{}]}, {"targets": 3, "key": ""}, {"cells": None}, {}):
        record.write_text(json.dumps(damaged))
        assert finished(cells, tmp_path) == {}


def test_a_failed_job_is_built_again_in_parts(tmp_path: Path) -> None:
    text = f'precisions = ["fp16", "int8"]\ntargets = ["l4", "a10"]\n{MODEL}calib = "random"\n'
    (job,) = pending(cells_of(read_fleet(fleet(tmp_path, text))), (), tmp_path)
    for code in (ExitCode.OK, ExitCode.THRESHOLD, ExitCode.LOAD, ExitCode.FOLD):
        assert job.after(code) == ()
    for code in (ExitCode.USAGE, ExitCode.EXPORT, ExitCode.COMPILE, ExitCode.ACCURACY, -9):
        fp16, int8 = job.after(code)
        assert (fp16.title, int8.title) == ("net fp16 for l4, a10", "net int8 for l4, a10")
    assert fp16.after(ExitCode.ACCURACY) == ()
    l4, a10 = fp16.after(ExitCode.COMPILE)
    assert (l4.title, a10.title) == ("net fp16 for l4", "net fp16 for a10")
    assert l4.after(ExitCode.COMPILE) == ()


def test_a_model_is_taken_to_need_what_another_build_of_it_took(tmp_path: Path) -> None:
    (job,) = pending(cells_of(read_fleet(fleet(tmp_path, MODEL))), (), tmp_path / "out")
    guess = expected_memory(job)
    assert guess == BASE_BYTES + PER_BYTE * len(b"weights")
    other = tmp_path / "out" / "net" / "fp32-0123456789ab"
    other.mkdir(parents=True)
    for peak, expected in ((1 << 40, 1 << 40), (1 << 20, guess), (None, guess)):
        (other / RECORD).write_text(json.dumps({"peak_bytes": peak}))
        assert expected_memory(job) == expected
