from __future__ import annotations

import os
from pathlib import Path

import pytest

from deployfold.targets.catalogue import identify, load_targets, resolve
from deployfold.targets.machine import (
    Gpu,
    Machine,
    detect,
    library_version,
    parse_device_tree,
    parse_nvidia_smi,
)

TARGETS = load_targets()


def test_nvidia_smis_csv_is_read() -> None:
    text = (
        "GPU-12, NVIDIA GeForce RTX 4090, 8.9, 570.133.20, 24564 MiB\n"
        "GPU-34, Tesla T4, 7.5, 570.133.20, 15360\n"
    )
    assert parse_nvidia_smi(text) == (
        Gpu("NVIDIA GeForce RTX 4090", (8, 9), "570.133.20", 24564 / 1024, "GPU-12"),
        Gpu("Tesla T4", (7, 5), "570.133.20", 15.0, "GPU-34"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No devices were found\n",
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n",
        "[N/A], Orin (nvgpu), [N/A], 540.3.0, [N/A]\n",
    ],
)
def test_no_gpu_is_made_up_from_an_error_text(text: str) -> None:
    assert parse_nvidia_smi(text) == ()


def test_a_gpu_without_a_memory_reading_is_still_a_gpu() -> None:
    (gpu,) = parse_nvidia_smi("GPU-5, NVIDIA GB10, 12.1, 580.95.05, [N/A]")
    assert gpu == Gpu("NVIDIA GB10", (12, 1), "580.95.05", None, "GPU-5")


@pytest.mark.parametrize(
    ("model", "title", "capability"),
    [
        ("NVIDIA Jetson AGX Orin Developer Kit\0", "Jetson AGX Orin", (8, 7)),
        ("NVIDIA Jetson Orin Nano Developer Kit", "Jetson Orin Nano", (8, 7)),
        ("NVIDIA Jetson Xavier NX Developer Kit", "Jetson Xavier NX", (7, 2)),
        ("NVIDIA Jetson AGX Thor Developer Kit", "Jetson AGX Thor (T5000)", (11, 0)),
    ],
)
def test_a_jetson_is_known_by_its_device_tree(
    model: str, title: str, capability: tuple[int, int]
) -> None:
    gpu = parse_device_tree(model, TARGETS)
    assert gpu is not None
    assert (gpu.name, gpu.compute_capability) == (title, capability)


def test_other_boards_are_not_taken_for_a_jetson() -> None:
    assert parse_device_tree("Raspberry Pi 5 Model B Rev 1.0", TARGETS) is None


def test_the_machine_holds_the_model_and_not_just_the_architecture() -> None:
    gpu = Gpu("NVIDIA L4", (8, 9))
    machine = Machine(gpu=gpu, profile=identify(gpu.name, TARGETS))
    assert machine.gpu_for(resolve("l4", TARGETS))
    assert machine.gpu_for(resolve("sm_89", TARGETS))
    assert not machine.gpu_for(resolve("rtx4090", TARGETS))
    assert not machine.gpu_for(resolve("a10", TARGETS))
    assert not Machine().gpu_for(resolve("l4", TARGETS))


def test_installed_libraries_are_found_with_their_versions() -> None:
    import tensorrt_rtx

    assert library_version("tensorrt_rtx") == tensorrt_rtx.__version__
    assert library_version("no_such_library") is None
    assert detect().tensorrt_rtx == tensorrt_rtx.__version__


def test_a_users_own_file_does_not_count_as_tensorrt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt_fake_library.py").write_text("")
    package = tmp_path / "tensorrt_fake_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    assert library_version("tensorrt_fake_package") is None
    monkeypatch.syspath_prepend(os.fspath(tmp_path))
    assert library_version("tensorrt_fake_package") is None  # still where the user stands
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert library_version("tensorrt_fake_library") is None  # a module, and TensorRT is a package
    assert library_version("tensorrt_fake_package") == "unknown"


def test_a_version_is_found_whatever_the_distribution_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, distribution in (("tensorrt_a", "tensorrt-a-cu13"), ("tensorrt_b", "other")):
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").write_text("")
        info = tmp_path / f"{distribution.replace('-', '_')}-13.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 13.2\n"
        )
        (info / "RECORD").write_text(f"{module}/lib.so,,\n{module}/__init__.py,,\n")
    monkeypatch.syspath_prepend(os.fspath(tmp_path))
    assert library_version("tensorrt_a") == library_version("tensorrt_b") == "13.2"
    second = tmp_path / "older-1.0.dist-info"
    second.mkdir()
    (second / "METADATA").write_text("Metadata-Version: 2.1\nName: older\nVersion: 1.0\n")
    (second / "RECORD").write_text("tensorrt_a/__init__.py,,\n")
    monkeypatch.syspath_prepend(os.fspath(tmp_path / "empty"))  # the answer is kept for a path
    assert library_version("tensorrt_a") == "unknown", "two distributions claim it"


def test_an_imported_module_tells_its_own_version(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorrt_rtx

    monkeypatch.setattr(tensorrt_rtx, "__version__", "9.9+cu13")
    assert library_version("tensorrt_rtx") == "9.9"
