"""``run.py`` of a bundle on a Python with numpy, Pillow and ONNX Runtime only."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from bundle_builds import PREPROCESS, make_build, make_engine
from PIL import Image

from deployfold.bundle.create import create
from deployfold.bundle.device.artifacts import Artifact, order
from deployfold.bundle.device.checking import bench, check
from deployfold.bundle.device_files import device_files
from deployfold.bundle.unpack import unpack
from deployfold.errors import MeasureError
from deployfold.runtimes.times import DeviceTimes


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    (folder / "labels").write_text("".join(f"class {index}\n" for index in range(7)))
    build = make_build(folder / "build", engines=[("8.9", "tensorrt"), ("12.0", "tensorrt_rtx")])
    create(build, folder / "m.tar.zst", labels=folder / "labels")
    unpack(folder / "m.tar.zst", folder / "net")
    return folder / "net"


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    pixels = np.random.default_rng(3).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def run(python: Path, device: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the program from another directory, as a service of the device would."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, device / "run.py", *words],
        cwd=device.parent, env=clean, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


def expected(device: Path, picture: Path) -> np.ndarray:
    """The outputs for a picture, by steps written out here."""
    import onnxruntime

    with Image.open(picture) as image:
        resized = image.resize((27, 18), Image.Resampling.BILINEAR)  # 60x40 at 18 pixels
        cropped = resized.crop((6, 1, 22, 17))
    values = (np.float32(cropped) / 255 - PREPROCESS["mean"]) / PREPROCESS["std"]
    session = onnxruntime.InferenceSession(device / "net.onnx")
    (outputs,) = session.run(None, {"x": np.float32(values.transpose(2, 0, 1)[None])})
    return outputs[0]


def test_a_picture_gives_its_five_best_classes(bare: Path, device: Path, picture: Path) -> None:
    done = run(bare, device, picture, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["artifact"] == "net.onnx"
    values = expected(device, picture)
    best = np.argsort(-values)[:5]
    assert [one["class"] for one in found["top"]] == best.tolist()
    np.testing.assert_allclose([one["value"] for one in found["top"]], values[best], rtol=1e-4)
    assert [one["label"] for one in found["top"]] == [f"class {index}" for index in best]
    text = run(bare, device, picture).stdout
    assert f"class {best[0]}" in text.splitlines()[1]


def test_engines_that_cannot_run_here_say_why_once(bare: Path, device: Path, picture: Path) -> None:
    done = run(bare, device, picture)
    if done.stdout.startswith("net.onnx"):
        assert done.stderr.count("does not run") == 1, "both for the same reason"
    assert run(bare, device, "--list").stdout.split() == [
        "net.fp16.sm_89.engine", "net.fp16.sm_120.engine", "net.onnx",
    ]  # fmt: skip
    alone = run(bare, device, picture, "--artifact", "net.fp16.sm_89.engine")
    assert alone.returncode == 8
    assert alone.stderr.startswith("Error: ")
    assert run(bare, device, "--artifact", "nothing.engine").returncode == 2


def test_an_engine_that_was_finished_on_the_device_is_taken(
    bare: Path, device: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(device, tmp_path / "other"))
    make_engine(other / "net.int8.sm_87.engine", "8.7", "tensorrt", "int8")
    (other / "alone.engine").write_bytes(b"without a sidecar it cannot be run")
    assert run(bare, other, "--list").stdout.split()[:2] == [
        "net.int8.sm_87.engine", "net.fp16.sm_89.engine",
    ]  # fmt: skip
    (other / "net.int8.sm_87.engine.json").write_text("{")
    done = run(bare, other, "--list")
    assert (done.returncode, "net.int8.sm_87.engine.json is not JSON" in done.stderr) == (8, True)


def test_an_engine_without_its_weights_is_not_run(bare: Path, device: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(device, tmp_path / "other"))
    path = other / "net.fp16.sm_89.engine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"options": {"strip_plan": True}}))
    done = run(bare, other, "--artifact", "net.fp16.sm_89.engine")
    assert (done.returncode, "weight-stripped" in done.stderr) == (8, True)


def test_without_an_input_the_device_is_checked(bare: Path, device: Path) -> None:
    done = run(bare, device, "--bench", "0.2", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["check"]["passed"] is True
    assert found["check"]["sqnr_db"] == "Infinity" or found["check"]["sqnr_db"] > 100
    bench = found["bench"]
    assert 0 < bench["low_ms"] <= bench["median_ms"] <= bench["high_ms"]
    assert bench["median_ms"] <= bench["p90_ms"] <= bench["p99_ms"]


def test_a_device_that_computes_something_else_fails_the_check(
    bare: Path, device: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(device, tmp_path / "other"))
    with np.load(other / "reference.npz") as arrays:
        changed = {name: arrays[name] for name in arrays.files}
    changed["output_0"] = changed["output_0"] * 1.1
    np.savez(other / "reference.npz", **changed)
    done = run(bare, other)
    assert done.returncode == 8
    assert "NOT as it was built" in done.stdout


def test_arrays_go_in_and_come_out(bare: Path, device: Path, tmp_path: Path) -> None:
    with np.load(device / "reference.npz") as arrays:
        x, y = arrays["input_0"], arrays["output_0"]
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    for name in ("x.npy", "x.npz"):
        done = run(bare, device, tmp_path / name, "-o", tmp_path / "y.npz")
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / "y.npz") as arrays:
            np.testing.assert_allclose(arrays["output_0"], y, rtol=1e-5, atol=1e-6)
    np.savez(tmp_path / "z.npz", z=x)
    done = run(bare, device, tmp_path / "z.npz")
    assert (done.returncode, "no array 'x'" in done.stderr) == (2, True)
    np.save(tmp_path / "bad.npy", x[:, :2])
    assert run(bare, device, tmp_path / "bad.npy").returncode == 8
    done = run(bare, device, tmp_path / "x.npz", "-o", tmp_path / "x.npy" / "y.npz")
    assert (done.returncode, "Error: Cannot write" in done.stderr) == (2, True)


def test_a_file_other_than_a_picture_is_an_error(bare: Path, device: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("not a picture")
    (tmp_path / "cut.npz").write_bytes((device / "reference.npz").read_bytes()[:200])
    for word in (tmp_path / "x.jpg", tmp_path / "cut.npz", tmp_path / "gone.jpg"):
        done = run(bare, device, word)
        assert done.returncode == 2
        assert any(line.startswith("Error: ") for line in done.stderr.splitlines()[-2:])


def test_the_part_that_runs_engines_is_there_too(bare: Path, device: Path) -> None:
    """Without a GPU, the code gets as far as the missing driver, and no module is missing."""
    code = (
        f"import sys; sys.path.insert(0, {str(device / 'lib')!r})\n"
        "import deployfold.compiling.sidecar, deployfold.runtimes.cuda\n"
        "import deployfold.runtimes.tensorrt_engine\n"
        "print(deployfold.runtimes.tensorrt_engine.__file__)\n"
    )
    done = subprocess.run(
        [bare, "-c", code], cwd=device, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(
        device / "lib" / "deployfold" / "runtimes" / "tensorrt_engine.py"
    )


def test_the_files_are_those_of_the_package() -> None:
    import deployfold

    root = Path(deployfold.__file__).parent
    for name, content in device_files().items():
        path = root / name.removeprefix("lib/deployfold/")
        if name == "run.py":
            path = root / "bundle" / "device" / "run.py"
        if path.name != "__init__.py":
            assert path.read_bytes() == content
        assert b"import torch" not in content or path.name == "config.py"


def test_the_order_is_engines_first_and_the_lowest_precision() -> None:
    def one(name: str, precision: str) -> Artifact:
        return Artifact(Path(name), precision, None)

    given = (
        one("a.onnx", "fp32"), one("b.onnx", "fp16"), one("c.onnx", "int8"),
        one("d.engine", "fp16"), one("e.engine", "int8"),
    )  # fmt: skip
    cpu = [artifact.file.name for artifact in order(given, gpu=False)]
    assert cpu == ["e.engine", "d.engine", "a.onnx", "b.onnx", "c.onnx"]
    gpu = [artifact.file.name for artifact in order(given, gpu=True)]
    assert gpu == ["e.engine", "d.engine", "b.onnx", "a.onnx", "c.onnx"]


def test_the_limit_of_a_check_follows_what_the_build_measured() -> None:
    y = np.ones(1000, np.float32)
    noisy = y * (1 + 10 ** (-30 / 20))  # 30 dB
    assert not check([noisy], [y], 120.0).passed
    assert check([noisy], [y], 33.0).passed
    assert not check([noisy], [y], 37.0).passed
    assert check([noisy], [y], None, "fp16").passed
    assert not check([noisy], [y], None, "fp32").passed
    with pytest.raises(MeasureError, match="shapes"):
        check([noisy[:5]], [y], None)


def test_a_bench_tells_of_every_call() -> None:
    calls = itertools.count(1)
    found = bench(lambda: DeviceTimes(float(next(calls) % 100), 0.0, 0.0), 0.02)
    assert found.calls >= 60
    assert found.low_ms <= found.median_ms <= found.high_ms
