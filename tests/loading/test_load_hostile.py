"""A checkpoint never runs code unasked, and a broken one gives one sentence."""

from __future__ import annotations

import builtins
import functools
import io
import json
import operator
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from deployfold.errors import LoadError
from deployfold.loading import load_model
from deployfold.loading.archive import read_entries


class Reduces:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class SetsState(nn.Module):
    def __setstate__(self, state):
        Path(state["target"]).touch()


def payloads(target: Path) -> dict[str, object]:
    command = f"touch {target}"
    acting = SetsState()
    acting.__dict__["target"] = str(target)
    return {
        "os.system": Reduces(os.system, command),
        "eval": Reduces(eval, f"open({str(target)!r}, 'w')"),
        "exec": Reduces(exec, f"open({str(target)!r}, 'w')"),
        "getattr chain": Reduces(Reduces(getattr, os, "system"), command),
        "attrgetter": Reduces(operator.attrgetter("system"), os),
        "partial": Reduces(functools.partial(os.system, command)),
        "partial in a hook": {
            "model": nn.Identity(),
            "hook": functools.partial(os.system, command),
        },
        "torch.load": Reduces(torch.load, str(target), None),
        "torch.hub": Reduces(torch.hub.load, "x/y", "z"),
        "builtins.open": Reduces(builtins.open, str(target), "w"),
        "__setstate__": acting,
    }


NAMES = list(payloads(Path("x")))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_malicious_pickle_does_not_run(name, form, tmp_path):
    target, path = tmp_path / "ran", tmp_path / "resnet50.pt"
    payload = payloads(target)[name]
    try:
        if form == "bare":
            path.write_bytes(pickle.dumps(payload, protocol=2))
        else:
            torch.save(payload, path, _use_new_zipfile_serialization=form == "zip")
    except (TypeError, AttributeError, pickle.PicklingError):
        pytest.skip("pickle itself refuses to write it")
    with pytest.raises(LoadError) as caught:
        load_model(str(path))
    assert not target.exists()
    assert caught.value.message


def test_the_offending_global_and_both_ways_out_are_named(tmp_path):
    torch.save(Reduces(os.system, "true"), tmp_path / "net.pt")
    with pytest.raises(LoadError, match=r"posix\.system|os\.system") as caught:
        load_model(str(tmp_path / "net.pt"))
    assert "--allow-global" in caught.value.hint
    assert "--trust" in caught.value.hint


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x)


def test_own_class_needs_a_flag(tmp_path):
    path = tmp_path / "own.pt"
    torch.save(Own(), path)
    name = f"{Own.__module__}.Own"
    with pytest.raises(LoadError, match="Own"):
        load_model(str(path))
    assert isinstance(load_model(str(path), allow_globals=(name,)).module, Own)
    assert isinstance(load_model(str(path), trust=True).module, Own)


def test_trust_runs_the_code_of_the_checkpoint(tmp_path):
    target = tmp_path / "ran"
    torch.save(Reduces(os.system, f"touch {target}"), tmp_path / "net.pt")
    with pytest.raises(LoadError, match="neither a module nor a state dict"):
        load_model(str(tmp_path / "net.pt"), trust=True)
    assert target.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"hello world, this is text\n" * 9, "not a checkpoint"),
        (os.urandom(4096).replace(b"PK", b"xx"), "."),
        (b"PK\x03\x04" + b"\0" * 100, "damaged"),
        (b"\x80\x02garbage", "damaged"),
        (pickle.dumps({"0.weight": [1.0]}), "torch.save did not write"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        ((10**9).to_bytes(8, "little") + b"{}", "not a checkpoint"),
        ((60).to_bytes(8, "little") + b'{"a": 1' + b" " * 60, "damaged"),
    ],
)
def test_the_error_says_what_the_file_is_instead_of_a_checkpoint(content, words, tmp_path):
    path = tmp_path / "resnet50.pt"
    path.write_bytes(content)
    with pytest.raises(LoadError, match=words):
        load_model(str(path))


@pytest.mark.parametrize("name", [b"a\0b", b"a\x1b[2Jb", b"\xff", b""])
def test_a_global_with_an_odd_name_is_one_printable_sentence(name, tmp_path):
    (tmp_path / "net.pt").write_bytes(b"\x80\x02c" + name + b"\nx\n)R.")
    with pytest.raises(LoadError) as caught:
        load_model(str(tmp_path / "net.pt"))
    assert caught.value.message.isprintable()
    assert str(caught.value.hint).isprintable()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_that_was_cut_off_is_refused(share, legacy, tmp_path):
    path = tmp_path / "net.pt"
    torch.save(nn.Conv2d(3, 64, 3), path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(LoadError):
        load_model(str(path))


@pytest.mark.parametrize(
    "content", [{}, {"epoch": 3}, torch.zeros(3), [1, 2], {"optimizer": {"a": 1}}]
)
def test_the_error_for_a_checkpoint_without_a_model_lists_its_contents(content, tmp_path):
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(LoadError, match="neither a module nor a state dict"):
        load_model(str(tmp_path / "net.pt"))


def test_directory_and_missing_file(tmp_path):
    with pytest.raises(LoadError, match="is a directory"):
        load_model(str(tmp_path))
    with pytest.raises(LoadError, match="does not exist"):
        load_model(str(tmp_path / "nothing.pt"))
    (tmp_path / "link.pt").symlink_to(tmp_path / "gone.pt")
    with pytest.raises(LoadError, match=r"is a link to .*gone\.pt, which does not exist"):
        load_model(str(tmp_path / "link.pt"))


def test_decompression_bomb_is_refused(tmp_path):
    path = tmp_path / "net.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    with pytest.raises(LoadError, match="far more than its size"):
        load_model(str(path))


@pytest.fixture
def program(tmp_path) -> Path:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    batch = torch.export.Dim("batch", min=1, max=8)
    exported = torch.export.export(
        model.eval(), (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(exported, tmp_path / "net.pt2")
    return tmp_path / "net.pt2"


def rewrite(path: Path, change) -> None:
    """Pass every entry of an archive through ``change(name, bytes)``."""
    copy = path.with_suffix(".copy")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w") as target:
        for entry in source.namelist():
            target.writestr(entry, change(entry, source.read(entry)))
    shutil.move(copy, path)


def replacing(key: str, value: str):
    def visit(item):
        if isinstance(item, dict):
            return {
                k: value if k == key and isinstance(v, str) else visit(v) for k, v in item.items()
            }
        return [visit(child) for child in item] if isinstance(item, list) else item

    def change(name: str, content: bytes) -> bytes:
        if name.endswith("models/model.json"):
            return json.dumps(visit(json.loads(content))).encode()
        return content

    return change


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("expr_str", "__import__('os').system('touch ran')"),
        ("expr_str", "().__class__.__base__"),
        ("target", "torch.hub.load"),
        ("target", "_operator.attrgetter.x"),
        ("name", "x\nimport os"),
    ],
)
def test_program_that_could_run_code_is_refused(key, value, program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_model(str(program)).kind == "program"
    rewrite(program, replacing(key, value))
    with pytest.raises(LoadError, match="could run code"):
        load_model(str(program))
    assert not (tmp_path / "ran").exists()


def test_program_with_malicious_sample_inputs_is_refused(program, tmp_path):
    target = tmp_path / "ran"
    buffer = io.BytesIO()
    torch.save(Reduces(os.system, f"touch {target}"), buffer)
    rewrite(
        program,
        lambda name, content: buffer.getvalue() if "sample_inputs" in name else content,
    )
    with pytest.raises(LoadError, match="system"):
        load_model(str(program))
    assert not target.exists()


def test_torchscript_that_reaches_files_is_refused(tmp_path):
    class Saves(nn.Module):
        def forward(self, x):
            torch.save(x, "somewhere")
            return x

    try:
        script = torch.jit.script(Saves())
    except RuntimeError:
        pytest.skip("this torch has no TorchScript operator for saving")
    torch.jit.save(script, tmp_path / "net.pt")
    with pytest.raises(LoadError, match="reaches files or libraries"):
        load_model(str(tmp_path / "net.pt"))


def test_a_changed_byte_of_a_weight_is_refused(tmp_path):
    path = tmp_path / "net.pt"
    torch.save(nn.Conv2d(1, 1, 1, bias=False), path)
    weight = torch.load(path, weights_only=False).weight.detach().numpy().tobytes()
    path.write_bytes(path.read_bytes().replace(weight, weight[::-1]))
    with pytest.raises(LoadError, match="damaged archive: Bad CRC"):
        load_model(str(path))


def test_another_pickle_protocol_is_named(tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "net.pt", pickle_protocol=4)
    with pytest.raises(LoadError, match="reads pickle protocol 2 only"):
        load_model(str(tmp_path / "net.pt"))


def test_weights_without_numbers_are_refused(tmp_path):
    torch.save(nn.Conv2d(3, 4, 3, device="meta").state_dict(), tmp_path / "net.pt")
    with pytest.raises(LoadError, match="weight is on the meta device"):
        load_model(str(tmp_path / "net.pt"), arch=f"{__name__}:conv")


def conv():
    return nn.Conv2d(3, 4, 3)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "net.pt")
    with pytest.raises(LoadError, match="is not a regular file"):
        load_model(str(tmp_path / "net.pt"))


def test_an_entry_that_does_not_inflate_is_a_sentence(tmp_path):
    path = tmp_path / "net.ts.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/code/__torch__.py", "class Net: pass\n" * 50)
    content = bytearray(path.read_bytes())
    start = content.index(b"__torch__.py") + len(b"__torch__.py")
    content[start : start + 4] = b"\xff" * 4
    path.write_bytes(bytes(content))
    with pytest.raises(LoadError, match="damaged archive"):
        read_entries(path, lambda name: True)
