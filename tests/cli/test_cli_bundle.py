"""``deployfold bundle`` of a real build, run in an environment without deployfold."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import fails, run
from jsonschema import validate


@pytest.fixture(scope="module")
def bundled(folder, built) -> Path:
    assert built.returncode == 0, built.stderr
    done = run("bundle", "out", "-o", "net.tar.zst", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "net.ts.pt, net.onnx, net.fp16.onnx, net.fp16.sm_89.engine" in done.stdout
    assert "engines for sm_89" in done.stdout
    assert "next        deployfold bundle unpack net.tar.zst net" in done.stdout
    return folder / "net.tar.zst"


def test_a_bundle_of_a_build_is_verified_and_unpacked(bundled, tmp_path):
    done = run("bundle", "verify", str(bundled), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert [one["precision"] for one in manifest["artifacts"]] == ["fp32", "fp32", "fp16", "fp16"]
    validate(manifest, json.loads(run("schema", "manifest", cwd=tmp_path).stdout))
    done = run("bundle", "unpack", str(bundled), "net", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "run it      python net/run.py" in done.stdout
    checked = subprocess.run(
        [sys.executable, "net/run.py", "--json"], cwd=tmp_path, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
    found = json.loads(checked.stdout)
    assert found["artifact"] == "net.onnx"
    assert found["check"]["max_abs_diff"] < 1e-4, "the original's own outputs are the reference"
    # What is unpacked is a build again: its kit can be finished on the device.
    fails(run("finish", "net", "--target", "h100", cwd=tmp_path), 6, "sm_90")


def test_a_layout_of_a_build_says_how_to_push_it(folder, built, tmp_path):
    words = ("bundle", "out", "--format", "oci", "--cpp", "-o", str(tmp_path / "net.oci"))
    done = run(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert f"oras cp --from-oci-layout {tmp_path}/net.oci:latest" in done.stdout
    assert (tmp_path / "net.oci" / "index.json").is_file()
    fails(run(*words, "--sign", "key", cwd=folder), 2, "--sign signs an archive")
    triton = ("bundle", "out", "--format", "triton", "--cpp", "-o", str(tmp_path / "t"))
    fails(run(*triton, cwd=folder), 2, "Remove --cpp")


def test_bundle_create_equals_bundle_without_a_subcommand(bundled, folder, tmp_path):
    done = run("bundle", "create", "-o", str(tmp_path / "m"), "out", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "m").read_bytes() == bundled.read_bytes()
    text = run("bundle", "--help", cwd=tmp_path).stdout
    assert all(f"│ {command} " in text for command in ("create", "verify", "unpack"))


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_a_bundle_is_signed_and_verify_requires_the_signature(folder, built, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"])
    done = run("bundle", str(folder / "out"), "-o", "m", "--sign", "key", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "signers").write_text(f"us@example.org {(tmp_path / 'key.pub').read_text()}")
    done = run("bundle", "verify", "m", "--signers", "signers", cwd=tmp_path)
    assert "verified, signed by us@example.org" in done.stdout
    (tmp_path / "m.sig").unlink()
    unsigned = run("bundle", "unpack", "m", "net", "--signers", "signers", cwd=tmp_path)
    fails(unsigned, 10, "no signature")
    assert not (tmp_path / "net").exists()


def test_a_tampered_bundle_is_refused(bundled, tmp_path):
    content = bytearray(bundled.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "m.tar.zst").write_bytes(content)
    fails(run("bundle", "verify", "m.tar.zst", cwd=tmp_path), 10, "m.tar.zst")
    fails(run("bundle", "unpack", "m.tar.zst", "net", cwd=tmp_path), 10)
    assert [path.name for path in tmp_path.iterdir()] == ["m.tar.zst"]


def test_a_build_becomes_a_triton_repository(folder, built, tmp_path):
    words = ("bundle", str(folder / "out"), "--format", "triton", "-o", "models")
    done = run(*words, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not of TensorRT-RTX" in done.stderr
    found = json.loads(done.stdout)
    assert found["version"] == 1
    assert found["models"] == [
        "net_pytorch_fp32", "net_onnxruntime_fp32", "net_onnxruntime_fp16",
    ]  # fmt: skip
    config = (tmp_path / "models" / "net_onnxruntime_fp16" / "config.pbtxt").read_text()
    assert "dims: [ 2, 3, 16, 16 ]" in config
    again = run(*words, "--verbose", cwd=tmp_path)
    assert "already has this build, as version 1" in again.stderr
    assert str(Path("models/net_pytorch_fp32/1")) in again.stdout
    fails(run("bundle", "out", "--format", "zip", cwd=folder), 2, "'zip' is not a format")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--format", "triton", "--sign", "key"), "--sign signs an archive"),
        (("--sign", "key"), "There is no key key"),
        (("--instances", "2"), "--instances needs --format triton"),
        (("--max-batch", "2"), "--max-batch needs --format triton"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused_before_any_work(folder, built, words, expected):
    fails(run("bundle", "out", "-o", "ignored", *words, cwd=folder), 2, expected)
    assert not (folder / "ignored").exists()


def test_errors_are_one_sentence_and_a_code(folder, tmp_path):
    fails(run("bundle", "-o", "m", "gone", cwd=tmp_path), 2, "no directory gone")
    (tmp_path / "m.tar.zst").write_text("a file")
    fails(run("bundle", "m.tar.zst", cwd=tmp_path), 2, "deployfold bundle verify m.tar.zst")
    (tmp_path / "x").write_text("no bundle")
    fails(run("bundle", "verify", "x", cwd=tmp_path), 10, "not a zstd file")


def test_a_missing_extra_is_named_with_its_install_command(folder, built, tmp_path):
    code = (
        "import sys\nsys.modules['cyclonedx'] = None\n"
        "from deployfold.cli import main\n"
        f"sys.argv = ['deployfold', 'bundle', 'out', '-o', {str(tmp_path / 'm')!r}]\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    fails(done, 10, "pip install 'deployfold[bundle]'")
    assert not list(tmp_path.iterdir())


def test_verifying_and_unpacking_need_neither_torch_nor_onnx(bundled, tmp_path):
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'PIL', 'cyclonedx'):\n"
        "    sys.modules[name] = None\n"
        "from deployfold.cli import main\n"
        f"sys.argv = ['deployfold', 'bundle', 'unpack', {str(bundled)!r}, 'net']\nmain()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "net" / "run.py").is_file()
