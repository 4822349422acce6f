"""``deployfold init``: a profile that builds, with what was found in the model."""

from __future__ import annotations

import shlex
from pathlib import Path

import onnx_files
import pytest
import torch
from cli_runs import QUICK, SHAPE, fails, run
from torch import nn

from deployfold.building.starting_profile import starting_profile
from deployfold.config.build_profiles import merge, read_profile
from deployfold.config.make_spec import make_spec
from deployfold.targets.catalogue import resolve
from deployfold.targets.machine import Gpu, Machine


def next_command(done) -> list[str]:
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("next: ")]
    return shlex.split(line.removeprefix("next: "))[1:]


def test_a_checkpoint_gets_a_profile_that_builds(folder, tmp_path):
    target = tmp_path / "net profile.toml"
    done = run("init", "net.pt", "--input", SHAPE, "-o", str(target), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "2 BatchNorm layers" in done.stdout
    command = next_command(done)
    assert command == ["build", "net.pt", "--profile", str(target)]
    assert f"--profile '{target}'" in target.read_text(encoding="utf-8")
    quick = [word for word in QUICK if word not in ("--input", SHAPE)]
    words = (*quick, "--no-engine", "-o", str(tmp_path / "built"))
    built = run(*command, *words, cwd=folder)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "built" / "net.fp16.onnx").is_file()


def test_weights_with_code_for_an_architecture_keep_it_on_the_command_line(folder, tmp_path):
    target = tmp_path / "w.toml"
    flags = ("--arch", "cli_nets:make", "--input", "1x3x16x16")
    done = run("init", "weights.pth", *flags, "-o", str(target), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert next_command(done)[-2:] == ["--arch", "cli_nets:make"]
    assert "arch" not in read_profile(str(target))
    plan = run(*next_command(done), "--dry-run", cwd=folder)
    assert plan.returncode == 0, plan.stderr


def test_an_onnx_is_a_model_too(tmp_path):
    onnx_files.save(onnx_files.detector(size=64), tmp_path / "det.onnx")
    done = run("init", "det.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_profile(str(tmp_path / "det.toml"))["input"] == ["1x3x64x64:float32"]
    plan = run(*next_command(done), "--dry-run", cwd=tmp_path)
    assert plan.returncode == 0, plan.stderr


def test_an_edited_profile_is_not_replaced(folder, tmp_path):
    target = tmp_path / "mine.toml"
    target.write_text("fp16 = true\n")
    words = ("init", "net.pt", "-o", str(target))
    fails(run(*words, cwd=folder), 2, "already exists", "--force")
    assert target.read_text() == "fp16 = true\n"
    done = run(*words, "--force", "--input", SHAPE, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "int8" in target.read_text()


def test_init_writes_nothing_for_a_model_that_cannot_be_loaded(tmp_path):
    fails(run("init", "nothing.pt", cwd=tmp_path), 3, "nothing.pt does not exist")
    assert list(tmp_path.iterdir()) == []


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.norm(left + right)


TRUSTED = {"allow-global": [f"{Two.__module__}.Two"]}


def profile_for(folder: Path, machine: Machine, **written: object) -> tuple[str, dict]:
    torch.save(Two().eval(), folder / "two.pt")
    made = starting_profile(
        make_spec(str(folder / "two.pt"), {**TRUSTED, **written}), machine, None
    )
    (folder / "two.toml").write_text(made.text, encoding="utf-8")
    return made.text, read_profile(str(folder / "two.toml"))


def test_unknown_inputs_are_to_be_filled_in(tmp_path):
    text, table = profile_for(tmp_path, Machine())
    assert "input" not in table
    assert '# input = ["1x3x224x224"]' in text


def test_several_inputs_have_their_names(tmp_path):
    given = ["left=1x4", "right=1x4"]
    _, table = profile_for(tmp_path, Machine(), input=given)
    assert table["input"] == ["left=1x4:float32", "right=1x4:float32"]
    spec = merge(str(tmp_path / "two.toml"), {}).spec("two.pt")
    assert spec.inputs is not None
    assert spec.inputs.names == ("left", "right")


@pytest.mark.parametrize(
    ("target", "offered", "not_offered"),
    [("l4", ("int8", "fp8", "bf16"), ()), ("t4", ("int8",), ("fp8", "bf16"))],
)
def test_only_what_the_gpu_has_is_offered(target, offered, not_offered, tmp_path):
    profile = resolve(target)
    machine = Machine(Gpu(profile.title, profile.compute_capability), profile=profile)
    text, table = profile_for(tmp_path, machine)
    assert table["fp16"] is True
    assert f"# For the GPU in this machine: {profile.title}." in text
    assert all(f"# {name} = true" in text for name in offered)
    assert not any(f"# {name} = true" in text for name in not_offered)


def test_every_commented_line_is_a_valid_one(tmp_path):
    text, _ = profile_for(tmp_path, Machine())
    lines = [line.removeprefix("# ") for line in text.splitlines()]
    keys = [line for line in lines if " = " in line and not line.startswith("description")]
    path = tmp_path / "all.toml"
    path.write_text("\n".join(keys))
    table = read_profile(str(path))
    assert {"input", "target", "int8", "calib", "labels", "dynamic-batch", "min-speedup"} <= set(
        table
    )
