from __future__ import annotations

from pathlib import Path

import export_toys as toys
import pytest
import torch

from deployfold.errors import ExportError


def test_a_program_with_a_fixed_batch(tmp_path: Path) -> None:
    module, inputs = toys.conv_bn(), toys.image_inputs()
    spec = toys.spec_for(inputs)
    _, artifact = toys.export_program(module, inputs, tmp_path / "m.pt2", spec=spec)
    assert artifact.bytes == (tmp_path / "m.pt2").stat().st_size
    assert artifact.max_abs_diff < 1e-5
    loaded = torch.export.load(str(artifact.path)).module()
    torch.testing.assert_close(loaded(*inputs), module(*inputs))
    with pytest.raises((AssertionError, RuntimeError)):  # the latter of torch 2.6
        loaded(*toys.image_inputs(2))
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt2"]


def test_a_dynamic_batch_is_not_specialised_to_the_one_given(tmp_path: Path) -> None:
    module, inputs = toys.conv_bn(), toys.image_inputs(1)
    spec = toys.spec_for(inputs, dynamic=(1, 4, 8))
    program, artifact = toys.export_program(module, inputs, tmp_path / "m.pt2", spec=spec)
    (batch,) = program.range_constraints.values()
    assert (batch.lower, batch.upper) == (1, 8)
    loaded = torch.export.load(str(artifact.path)).module()
    for size in (1, 3, 8):
        other = toys.image_inputs(size)
        torch.testing.assert_close(loaded(*other), module(*other))


def test_every_input_and_a_variadic_forward_share_the_batch(tmp_path: Path) -> None:
    class Sum(torch.nn.Module):
        def forward(self, first: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
            return first + rest[0] * rest[1]

    inputs = (torch.randn(1, 3), torch.randn(1, 3), torch.tensor(2.0))
    spec = toys.spec_for(inputs, "a", "b", "c", dynamic=(1, 2, 4))
    program, _ = toys.export_program(Sum(), inputs, tmp_path / "m.pt2", spec=spec)
    assert len(program.range_constraints) == 1


def test_a_program_with_a_dict_of_outputs(tmp_path: Path) -> None:
    inputs = (torch.randn(2, 3, 8, 8), torch.randn(2, 7), torch.randn(2, 5))
    spec = toys.spec_for(inputs, "image", "unused", "vector", dynamic=(1, 2, 4))
    _, artifact = toys.export_program(
        toys.TwoInputs().eval(), inputs, tmp_path / "m.pt2", spec=spec
    )
    assert artifact.max_abs_diff < 1e-6


@pytest.mark.parametrize(
    ("module", "inputs", "message"),
    [
        (toys.FixedBatch(), (torch.ones(2, 4),), "fixes the batch size to 2"),
        (toys.Branching(), (torch.ones(2, 4),), r"values of a tensor \(export_toys.py:\d+\)"),
        (torch.jit.script(toys.Branching()), (torch.ones(2, 4),), "does not take TorchScript"),
    ],
)
def test_a_failed_export_gives_the_reason(
    tmp_path: Path, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], message: str
) -> None:
    spec = toys.spec_for(inputs, dynamic=(2, 2, 4))
    if isinstance(module, toys.FixedBatch):
        inputs = (torch.ones(2, 4),)
    with pytest.raises(ExportError, match=message) as caught:
        toys.export_program(module, inputs, tmp_path / "m.pt2", spec=spec)
    assert caught.value.hint
    assert not list(tmp_path.iterdir())


def test_inputs_that_the_model_does_not_take(tmp_path: Path) -> None:
    inputs = (torch.randn(1, 4, 8, 8),)
    with pytest.raises(ExportError, match="inputs of shape 1x4x8x8") as caught:
        toys.export_program(toys.conv_bn(), inputs, tmp_path / "m.pt2", spec=toys.spec_for(inputs))
    assert "--input" in str(caught.value.hint)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    inputs = (toys.image_inputs()[0].to(dtype),)
    spec = toys.spec_for(inputs)
    module = toys.conv_bn().to(dtype)
    _, artifact = toys.export_program(module, inputs, tmp_path / "m.pt2", spec=spec)
    assert artifact.max_abs_diff == 0.0
