from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from lower_toys import node, normal, write_graph

from deployfold.config.precision import Precision
from deployfold.errors import UsageError
from deployfold.exporting.session import open_session, run_session
from deployfold.exporting.storage import write_model
from deployfold.lowering import lower
from deployfold.lowering.cache import LoweringCache, cache_key, default_cache_directory
from deployfold.lowering.request import LoweringData
from deployfold.util.numerics import sqnr_db
from deployfold.util.onnx_files import data_path

FACTS = {"ranges": {"x": [0.0, 1.5]}, "notes": ["a", "b"]}


def key(number: int = 0) -> str:
    return cache_key({"model": str(number)})


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    weights = {"w": normal((256,))}  # 1 kB, since less never becomes external
    nodes, shape = [node("Add", "x w", "y")], ("batch", 256)
    return write_graph(tmp_path / "net.int8.onnx", nodes, weights=weights, shape=shape)


@pytest.fixture
def cache(tmp_path: Path) -> LoweringCache:
    return LoweringCache(tmp_path / "cache")


def run(path: Path) -> np.ndarray:
    return run_session(open_session(path), {"x": normal((2, 256), 1)})[0]


def test_the_cache_returns_stored_values(
    cache: LoweringCache, artifact: Path, tmp_path: Path
) -> None:
    target = tmp_path / "new" / "other.onnx"
    assert cache.get(key(), target) is None
    assert not target.exists()
    cache.put(key(), artifact, FACTS)
    assert cache.get(key(1), target) is None
    assert cache.get(key(), target) == FACTS
    assert target.read_bytes() == artifact.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["other.onnx"]


@pytest.mark.parametrize("name", ["net.int8.onnx", "other.onnx"])
def test_external_data_comes_along_under_any_name(
    cache: LoweringCache, artifact: Path, tmp_path: Path, name: str
) -> None:
    assert write_model(ir.load(artifact), artifact, threshold=0)
    expected = run(artifact)
    cache.put(key(), artifact, FACTS)
    artifact.unlink()
    data_path(artifact).unlink()
    target = tmp_path / "new" / name
    assert cache.get(key(), target) == FACTS
    assert sorted(path.name for path in target.parent.iterdir()) == [name, f"{name}.data"]
    np.testing.assert_array_equal(run(target), expected)


def test_the_key_depends_on_every_part() -> None:
    parts = {"model": "a", "data": "b"}
    assert cache_key(parts) == cache_key(dict(reversed(parts.items())))
    others = [{"model": "b", "data": "b"}, {"model": "a"}, {"model": "ab", "data": ""}]
    assert len({cache_key(parts), *map(cache_key, others)}) == 4


def test_other_external_weights_are_another_model(cache: LoweringCache, tmp_path: Path) -> None:
    """Two checkpoints of one architecture have equal graphs, and other weights beside them."""
    weights = []
    for number in (1, 2):
        source = tmp_path / str(number) / "net.onnx"
        source.parent.mkdir()
        write_graph(
            source, [node("MatMul", "x w", "y")],
            weights={"w": normal((32, 32), number)}, shape=(1, 32),
        )  # fmt: skip
        assert write_model(ir.load(source), source, threshold=0)
        feed = {"x": normal((1, 32))}
        data = LoweringData(inputs=[feed], digest="of the same data")
        target = source.with_name("net.int8.onnx")
        lower(source, target, Precision.INT8_WEIGHTS, data, cache=cache)
        weights.append(run_session(open_session(target), feed)[0])
    assert sqnr_db([weights[0]], [weights[1]]) < 6


def test_another_program_finds_no_result(
    cache: LoweringCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A development install changes without a new version."""
    source = write_graph(
        tmp_path / "net.onnx", [node("MatMul", "x w", "y")],
        weights={"w": normal((32, 32))}, shape=(1, 32),
    )  # fmt: skip
    data = LoweringData(inputs=[{"x": normal((1, 32))}], digest="of the same data")
    program = tmp_path / "program"
    program.mkdir()
    monkeypatch.setattr("deployfold.lowering.cache._PACKAGE", program)
    counts = []
    for code in ("a = 1", "a = 1", "a = 2"):
        (program / "lower.py").write_text(code)
        lower(source, tmp_path / "int8.onnx", Precision.INT8_WEIGHTS, data, cache=cache)
        counts.append(len(list((tmp_path / "cache").iterdir())))
    assert counts == [1, 1, 2]


def test_a_key_cannot_be_a_path(cache: LoweringCache, artifact: Path) -> None:
    with pytest.raises(ValueError, match="not a SHA-256"):
        cache.put("../../etc", artifact, {})


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "json", "facts", "format", "escape"])
def test_damaged_entries_are_removed(
    cache: LoweringCache, artifact: Path, tmp_path: Path, damage: str
) -> None:
    cache.put(key(), artifact, FACTS)
    entry = tmp_path / "cache" / key()
    model, facts = entry / artifact.name, entry / "facts.json"
    record = json.loads(facts.read_text())
    if damage == "flip":
        content = bytearray(model.read_bytes())
        content[len(content) // 2] ^= 1
        model.write_bytes(content)
    elif damage == "cut":
        model.write_bytes(model.read_bytes()[:-1])
    elif damage == "gone":
        model.unlink()
    elif damage == "json":
        facts.write_text(facts.read_text()[:-2])
    elif damage == "facts":
        facts.write_text(json.dumps(record | {"facts": '{"ranges": {}}'}))
    elif damage == "format":
        facts.write_text(json.dumps(record | {"format": 99}))
    else:
        (tmp_path / "cache" / "secret").write_text("x")
        digests = {"../secret": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}
        facts.write_text(json.dumps(record | {"name": "../secret", "files": digests}))
    target = tmp_path / "out.onnx"
    target.write_text("before")
    assert cache.get(key(), target) is None
    assert target.read_text() == "before"
    assert not entry.exists()
    assert not list(tmp_path.glob(".tmp-*"))


def test_only_the_newest_are_kept(artifact: Path, tmp_path: Path) -> None:
    cache = LoweringCache(tmp_path / "cache", entries=3)
    for number in range(3):
        cache.put(key(number), artifact, FACTS)
        age = time.time() - 100 + number
        os.utime(tmp_path / "cache" / key(number), (age, age))
    assert cache.get(key(0), tmp_path / "out.onnx") is not None  # used, and so the newest
    cache.put(key(3), artifact, FACTS)
    kept = {path.name for path in (tmp_path / "cache").iterdir()}
    assert kept == {key(0), key(2), key(3)}


def test_bytes_are_bounded(artifact: Path, tmp_path: Path) -> None:
    LoweringCache(tmp_path / "cache").put(key(), artifact, FACTS)
    size = sum(file.stat().st_size for file in (tmp_path / "cache" / key()).iterdir())
    cache = LoweringCache(tmp_path / "cache", limit=5 * size // 2)
    for number in range(4):
        cache.put(key(number), artifact, FACTS)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_leftovers_of_dead_runs_go(cache: LoweringCache, artifact: Path, tmp_path: Path) -> None:
    for name, age in (("old", 2 * 86400), ("new", 60)):
        left = tmp_path / "cache" / f".tmp-{name}"
        left.mkdir(parents=True)
        os.utime(left, (time.time() - age, time.time() - age))
    cache.put(key(), artifact, FACTS)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {".tmp-new", key()}


def test_without_a_directory_nothing_is_cached(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for directory in (None, tmp_path / "file" / "cache", Path("/proc/nothing")):
        cache = LoweringCache(directory)
        cache.put(key(), artifact, FACTS)
        assert cache.get(key(), tmp_path / "out.onnx") is None


def test_an_unwritable_destination_is_the_users(
    cache: LoweringCache, artifact: Path, tmp_path: Path
) -> None:
    cache.put(key(), artifact, FACTS)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="Cannot write"):
        cache.get(key(), tmp_path / "file" / "out.onnx")
    assert (tmp_path / "cache" / key()).exists()


def test_many_at_once(artifact: Path, tmp_path: Path) -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        cache = LoweringCache(tmp_path / "cache", entries=2)
        for turn in range(15):
            cache.put(key(turn % 3), artifact, {"turn": turn % 3})
            target = tmp_path / f"out{number}.onnx"
            facts = cache.get(key(turn % 3), target)
            if facts is not None and (
                facts != {"turn": turn % 3} or target.read_bytes() != artifact.read_bytes()
            ):
                wrong.append(facts)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not list((tmp_path / "cache").glob(".tmp-*"))


def test_the_cache_is_in_the_users_cache_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_directory() == tmp_path / "xdg" / "deployfold"
    monkeypatch.setenv("HOME", str(tmp_path))
    for ignored in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert default_cache_directory() == tmp_path / ".cache" / "deployfold"
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    assert default_cache_directory() is None
