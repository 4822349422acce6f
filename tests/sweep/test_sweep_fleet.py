from __future__ import annotations

import json
from pathlib import Path

import pytest

from deployfold.config.precision import Precision
from deployfold.errors import UsageError
from deployfold.sweep.fleet import read_fleet
from deployfold.sweep.jobs import RECORD, cells_of, pending
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
        ("", "names no model"),
        ("precisions = 3\n" + MODEL, "list of words"),
        ('precisions = ["fp12"]\n' + MODEL, "fp12"),
        ('targets = ["voodoo2"]\n' + MODEL, "voodoo2"),
        ("jobs = 0\n" + MODEL, "jobs"),
        ("memory-gib = nan\n" + MODEL, "memory-gib"),
        ("speed = 1\n" + MODEL, "speed"),
        ("[build]\nfp16 = true\n" + MODEL, "for the sweep to decide"),
        ("[build]\nwarp = 1\n" + MODEL, "line 2: unknown key 'warp'"),
        (MODEL + MODEL, "two models"),
        (MODEL + 'name = "../out"\n', "no name"),
        (MODEL + 'calib = "evil.module:function"\n', "would run code"),
        ("[[model]]\n", "no source"),
        ("= 3", "not a readable fleet file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
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


def test_a_job_says_its_settings_as_flags(tmp_path: Path) -> None:
    text = (
        'precisions = ["fp16"]\ntargets = ["l4", "a10"]\n[build]\nno-measure = true\n'
        'input = ["1x3x8x8"]\n' + MODEL
    )
    (job,) = pending(cells_of(read_fleet(fleet(tmp_path, text))), (), tmp_path)
    assert job.command == [
        "build", str(tmp_path / "net.pt"), "--fp16", "--target", "l4", "--target", "a10",
        "--no-measure", "--input=1x3x8x8",
    ]  # fmt: skip


def test_a_model_is_taken_to_need_what_another_build_of_it_took(tmp_path: Path) -> None:
    (job,) = pending(cells_of(read_fleet(fleet(tmp_path, MODEL))), (), tmp_path / "out")
    guess = expected_memory(job)
    assert guess == BASE_BYTES + PER_BYTE * len(b"weights")
    other = tmp_path / "out" / "net" / "fp32-0123456789ab"
    other.mkdir(parents=True)
    for peak, expected in ((1 << 40, 1 << 40), (1 << 20, guess), (None, guess)):
        (other / RECORD).write_text(json.dumps({"peak_bytes": peak}))
        assert expected_memory(job) == expected
