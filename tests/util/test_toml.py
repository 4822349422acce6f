from __future__ import annotations

from pathlib import Path

import pytest

from deployfold.errors import UsageError
from deployfold.util.toml import parse_toml, read_toml


def test_a_file_gives_its_table_and_its_text(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("a = 1\n")
    assert read_toml(tmp_path / "x.toml", "profile") == ({"a": 1}, "a = 1\n")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a = ", "Invalid value"),
        (b"a = '\xff'", "utf-8"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
        (None, "No such file"),
    ],
)
def test_the_error_names_a_toml_that_cannot_be_read_and_the_reason(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=reason) as caught:
        read_toml(path, "profile", hint="Write one.")
    assert caught.value.message.startswith(f"{path} is not a readable profile: ")
    assert caught.value.hint == "Write one."


def test_text_that_is_not_toml_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_toml("a = " + "[" * 100_000)
