from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from calibration_toys import folder, load, picture, refusal
from hypothesis import given
from hypothesis import strategies as st

from deployfold.data.labels import Label, parse_labels
from deployfold.data.labels import load_labels as load_labels_of
from deployfold.data.preprocess.steps import Preprocess
from deployfold.data.samples import SampleSource
from deployfold.errors import UsageError

STEPS = Preprocess((8, 8), "cover", (8, 8), "bilinear", (0.0,), (1.0,), "nchw", "rgb")


def load_labels(
    path: Path, *, folder: Path | None, files: tuple[str, ...] | None, count: int
) -> tuple[tuple[Label, ...], tuple[str, ...]]:
    steps = None if files is None else STEPS
    source = SampleSource(count, lambda index: {}, "samples", files, preprocess=steps)
    return load_labels_of(path, source, folder=folder)


LABELS = st.integers(0, 10**9 - 1)
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="\t"),
    min_size=1,
)


@given(st.lists(LABELS, min_size=1), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_one_integer_a_line(labels: list[int], end: str) -> None:
    assert parse_labels(end.join(map(str, labels)) + end, "labels.txt") == labels


@given(
    st.dictionaries(NAMES, LABELS, min_size=1), st.sampled_from(",\t"), st.booleans(), st.booleans()
)
def test_tables(labels: dict[str, int], delimiter: str, heading: bool, quoted: bool) -> None:
    file = io.StringIO()
    quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator="\n")
    if heading:
        writer.writerow(["filename", "label"])
    writer.writerows(labels.items())
    assert parse_labels(file.getvalue(), "labels.csv") == labels


@given(st.lists(LABELS) | st.dictionaries(NAMES, LABELS))
def test_json(labels: list[int] | dict[str, int]) -> None:
    assert parse_labels(json.dumps(labels), "labels.json") == labels


@given(st.text(), st.sampled_from(["labels.txt", "labels.json"]))
def test_any_text_is_labels_or_an_error_that_names_the_file(text: str, where: str) -> None:
    try:
        labels = parse_labels(text, where)
    except UsageError as error:
        labels, where = {}, error.message
    values = labels.values() if isinstance(labels, dict) else labels
    assert all(0 <= value < 10**9 for value in values)
    assert "labels." in where


@pytest.mark.parametrize(
    ("where", "text", "message"),
    [
        ("l.txt", "1\n\n2\nthree\n", "l.txt, line 4: 'three' is not a label"),
        ("l.txt", "1\n-2\n", "l.txt, line 2: '-2' is not a label"),
        ("l.txt", "\n \n", "The labels l.txt are empty."),
        ("l.csv", "a.png,1\nb.png,cat\n", "l.csv, line 2: 'cat' is not a label"),
        ("l.csv", "filename,label\na.png,1,2\n", "l.csv, line 2: 3 columns, not two."),
        ("l.csv", "a.png,1\nb.png,2\na.png,1\n", "l.csv has two labels for 'a.png'."),
        ("l.csv", 'a.png,1\n"b', "l.csv, line 2: unexpected end of data."),
        ("l.json", "[1, 2", "l.json is not JSON: "),
        ("l.json", "[1, true]", "l.json, entry 1: 'True' is not a label"),
        ("l.json", '{"a": 1.5}', "l.json, 'a': '1.5' is not a label"),
        ("l.json", '{"a": 1, "a": 2}', "l.json has two labels for 'a'."),
        ("l.json", "3", "l.json holds neither a list nor an object."),
    ],
)
def test_an_invalid_label_is_named_with_its_line(where: str, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_labels(text, where)
    assert caught.value.message.startswith(message)


def test_a_byte_order_mark_is_not_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes(b"\xef\xbb\xbfa.png,3\n")
    assert load_labels(tmp_path / "l.csv", folder=tmp_path, files=("a.png",), count=1)[0] == (3,)


def test_names_are_paths_or_unique(tmp_path: Path) -> None:
    table = tmp_path / "l.csv"
    table.write_text("x/a.png,1\ny/a.png,2\nb.png,3\nelse.png,4\n")
    files = ("x/a.png", "y/a.png", "z/b.png")
    assert load_labels(table, folder=tmp_path, files=files, count=3)[0] == (1, 2, 3)
    with pytest.raises(UsageError, match=r"no label for x/b.png, z/b.png\."):
        load_labels(table, folder=tmp_path, files=("x/b.png", "z/b.png"), count=2)


def test_class_folders_give_labels_only_with_the_option(tmp_path: Path) -> None:
    source = tmp_path / "pictures"
    for number, name in enumerate(["zebra", "10", "9", "ape"]):
        folder(source / name, 3, start=3 * number)
    (source / ".ipynb_checkpoints").mkdir()
    assert load(source).labels is None
    data = load(source, labels=source, held_back=0.5)
    assert data.labels is not None
    assert set(data.labels) <= {0, 1, 2, 3}
    assert "Labels 0 to 3 are the class folders of pictures/" in data.notes[-2]
    files = ("10/a.png", "9/a.png", "ape/sub/a.png", "zebra/a.png")
    labels, _ = load_labels(source, folder=source, files=files, count=4)
    assert labels == (0, 1, 2, 3)  # in the order of their names, as ImageFolder has them
    picture(1).save(source / "loose.png")
    assert "loose.png lies outside the class folders" in refusal(source, labels=source)


def test_labels_that_do_not_match_the_images(tmp_path: Path) -> None:
    source = folder(tmp_path / "pictures", 3)
    (tmp_path / "l.txt").write_text("1\n2\n")
    assert "2 labels, but there are 3 images." in refusal(source, labels=tmp_path / "l.txt")
    assert "Cannot read the labels" in refusal(source, labels=tmp_path / "none.csv")
    assert "has no mask for" in refusal(source, labels=tmp_path)
    (tmp_path / "l.txt").write_bytes(b"\xff\xfe1\x00")
    assert "are not UTF-8 text" in refusal(source, labels=tmp_path / "l.txt")


def test_labels_by_name_need_files() -> None:
    with pytest.raises(UsageError, match="Cannot read"):
        load_labels(Path("none.csv"), folder=None, files=None, count=3)


def test_labels_by_name_do_not_fit_arrays(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("a.png,1\n")
    with pytest.raises(UsageError, match="the samples are not files"):
        load_labels(tmp_path / "l.csv", folder=None, files=None, count=3)
