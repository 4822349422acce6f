from __future__ import annotations

import warnings
from pathlib import Path

import export_toys as toys
import pytest
import torch

import deployfold
from deployfold.errors import ExportError
from deployfold.exporting.outputs import flatten_outputs


class Scaled(torch.nn.Module):
    """Multiplies by the batch size as Python saw it, which tracing bakes in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(len(x.tolist()))


def test_a_traced_model_computes_what_the_eager_one_does(tmp_path: Path) -> None:
    module, inputs = toys.conv_bn(), toys.image_inputs()
    artifact = toys.export_torchscript(module, inputs, tmp_path / "m.ts.pt")
    assert artifact.method == "traced"
    assert artifact.bytes == (tmp_path / "m.ts.pt").stat().st_size
    assert artifact.max_abs_diff < 1e-5
    loaded = torch.jit.load(str(artifact.path))
    torch.testing.assert_close(loaded(*inputs), module(*inputs))
    assert not list(loaded.parameters())  # frozen: the weights are constants
    assert [path.name for path in tmp_path.iterdir()] == ["m.ts.pt"]


def test_a_forward_that_works_on_its_input_in_place_is_exported(tmp_path: Path) -> None:
    class Scales(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mul_(2).relu()

    x = torch.randn(2, 3)
    before = x.clone()
    artifact = toys.export_torchscript(Scales().eval(), (x,), tmp_path / "m.ts.pt")
    assert torch.equal(x, before)
    loaded = torch.jit.load(str(artifact.path))
    assert torch.equal(loaded(x.clone()), (2 * before).relu())


def test_freezing_does_not_fold_batchnorm_behind_our_back(tmp_path: Path) -> None:
    artifact = toys.export_torchscript(toys.conv_bn(), toys.image_inputs(), tmp_path / "m.ts.pt")
    assert "batch_norm" in str(torch.jit.load(str(artifact.path)).graph)


def test_dict_outputs_and_several_inputs(tmp_path: Path) -> None:
    inputs = (torch.randn(2, 3, 8, 8), torch.randn(2, 7), torch.randn(2, 5))
    module = toys.TwoInputs().eval()

    class Tensors(torch.nn.Module):  # TorchScript has no dict of mixed values
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *values: torch.Tensor) -> dict[str, torch.Tensor]:
            result = self.module(*values)
            return {"out": result["out"], "aux": result["aux"][0]}

    wrapped = Tensors().eval()
    artifact = toys.export_torchscript(wrapped, inputs, tmp_path / "m.ts.pt")
    _, names = flatten_outputs(torch.jit.load(str(artifact.path))(*inputs))
    assert names == ("out", "aux")


def test_scripting_keeps_the_branch_and_tracing_says_that_it_does_not(tmp_path: Path) -> None:
    module, inputs = toys.Branching().eval(), (torch.ones(2, 4),)
    large = torch.full((2, 4), 1e8) * module.linear.weight.sum().sign()
    traced = toys.export_torchscript(module, inputs, tmp_path / "traced.ts.pt")
    scripted = toys.export_torchscript(module, inputs, tmp_path / "scripted.ts.pt", script=True)
    assert any("a branch at export_toys.py" in note for note in traced.notes)
    assert (scripted.method, scripted.notes) == ("scripted", ())
    assert module.linear(large).sum() > 1e6, "the input must take the other branch"
    torch.testing.assert_close(torch.jit.load(str(scripted.path))(large), module(large))
    assert not torch.allclose(torch.jit.load(str(traced.path))(large), module(large))


def test_torchscript_goes_through_as_it_is(tmp_path: Path) -> None:
    module, inputs = torch.jit.script(toys.Branching().eval()), (torch.ones(2, 4),)
    artifact = toys.export_torchscript(module, inputs, tmp_path / "a.ts.pt")
    assert artifact.method == "frozen"
    again = toys.export_torchscript(
        torch.jit.load(str(artifact.path)), inputs, tmp_path / "b.ts.pt"
    )
    assert again.method == "frozen"
    assert again.max_abs_diff == 0.0


def test_an_exported_program_can_be_traced(tmp_path: Path) -> None:
    inputs = toys.image_inputs(2)
    module = torch.export.export(toys.conv_bn(), inputs, strict=False).module()
    assert toys.export_torchscript(module, inputs, tmp_path / "m.ts.pt").max_abs_diff < 1e-5


def test_a_baked_in_batch_is_noted(tmp_path: Path) -> None:
    inputs = (torch.ones(2, 3),)
    spec = toys.spec_for(inputs, dynamic=(1, 2, 4))
    baked = toys.export_torchscript(Scaled(), inputs, tmp_path / "a.ts.pt", spec=spec)
    assert baked.fixed_batch
    assert any("serves only the batch size" in note for note in baked.notes)
    inputs = toys.image_inputs(2)
    spec = toys.spec_for(inputs, dynamic=(1, 2, 4))
    good = toys.export_torchscript(toys.conv_bn(), inputs, tmp_path / "b.ts.pt", spec=spec)
    assert not good.fixed_batch
    assert good.notes == ("The TorchScript model was also compared at batch 1.",)


def test_a_model_that_cannot_be_traced_or_scripted_is_one_error_and_no_file(tmp_path: Path) -> None:
    class Refuses(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if torch.jit.is_tracing():
                raise ValueError("not while tracing")
            return sorted({"a": x}.items(), key=lambda item: item[0])[0][1]

    for script, message in ((False, "not while tracing"), (True, "cannot compile")):
        with pytest.raises(ExportError, match=message) as caught:
            toys.export_torchscript(
                Refuses(), (torch.ones(1),), tmp_path / "m.ts.pt", script=script
            )
        assert caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_random_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="not the same function"):
        toys.export_torchscript(
            torch.nn.Dropout().train(), (torch.ones(100),), tmp_path / "m.ts.pt"
        )
    assert not list(tmp_path.iterdir())


def test_torchs_deprecation_warnings_are_hidden(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        toys.export_torchscript(toys.conv_bn(), toys.image_inputs(), tmp_path / "m.ts.pt")
    assert capfd.readouterr() == ("", "")


def test_a_torch_without_torchscript_costs_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.jit, "trace")
    with pytest.raises(ExportError, match="no TorchScript"):
        toys.export_torchscript(toys.conv_bn(), toys.image_inputs(), tmp_path / "m.ts.pt")


class Unattached(torch.nn.Module):
    """A property raises, as LightningModule.trainer does outside of training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    @property
    def trainer(self) -> object:
        raise RuntimeError("Unattached is not attached to a Trainer. And more.")

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.conv(x)}


class SwishFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)


class WithFunction(torch.nn.Module):
    """A function with a backward of its own, which TorchScript cannot save."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return SwishFunction.apply(self.conv(x))


@pytest.mark.parametrize(
    ("net", "reason"),
    [(Unattached, "is not attached to a Trainer"), (WithFunction, "function call 'SwishFunction'")],
)
def test_code_that_torchscript_cannot_take_is_traced_from_the_exported_program(
    tmp_path: Path, net: type[torch.nn.Module], reason: str
) -> None:
    module, x = net().eval(), torch.randn(2, 3, 8, 8)
    made = deployfold.export(
        module, (x,), tmp_path, formats=("torchscript",), dynamic_batch=(1, 2, 4)
    )
    artifact = made["torchscript"]
    assert any(reason in note and "exported program" in note for note in artifact.notes)
    assert not any("And more" in note for note in artifact.notes)
    loaded, other = torch.jit.load(str(artifact.path)), torch.randn(3, 3, 8, 8)
    expected, found = module(other), loaded(other)
    for one, two in zip(
        expected.values() if isinstance(expected, dict) else [expected],
        found.values() if isinstance(found, dict) else [found],
        strict=True,
    ):
        torch.testing.assert_close(two, one)
