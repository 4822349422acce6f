"""A merged branch leaves nothing in the ONNX: no second convolution and no addition."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from export_toys import export_onnx, export_program
from torch import nn

import deployfold
from deployfold.config.inputs import InputSpec, TensorSpec
from deployfold.folding import fold


class Block(nn.Module):
    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.large, self.small = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.in_place = in_place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        if self.in_place:
            y += self.large(x)
            y += self.small(x)
            return y
        return y + self.large(x) + self.small(x)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("dynamo", [False, True])
def test_additions_of_merged_branches_disappear(
    in_place: bool, dynamo: bool, tmp_path: Path
) -> None:
    model = nn.Sequential(nn.ReLU(), Block(in_place)).eval()
    inputs = (torch.randn(1, 4, 6, 6),)
    folded = fold(model, inputs).model
    spec = InputSpec((TensorSpec((1, 4, 6, 6)),))
    program = export_program(folded, inputs, tmp_path / "m.pt2", spec=spec)[0] if dynamo else None
    path = tmp_path / "m.onnx"
    export_onnx(folded, inputs, path, spec=spec, program=program)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert sorted(kinds) == ["Conv", "Relu"]
    (output,) = onnxruntime.InferenceSession(path).run(None, {"input": inputs[0].numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(output), model(*inputs), rtol=1e-4, atol=1e-5)


class Twice(nn.Module):
    """Returns one tensor several times: unchanged, and with a zero added or subtracted."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("zero", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.conv(x)
        return y, y, y + self.zero, y - self.zero, x


@pytest.mark.parametrize("scripted", [False, True])
def test_every_output_keeps_its_name_where_one_tensor_is_returned_several_times(
    scripted: bool, tmp_path: Path
) -> None:
    model: nn.Module = Twice().eval()
    inputs = (torch.randn(1, 3, 6, 6),)
    if scripted:
        model = torch.jit.trace(model, inputs)
    files = deployfold.export(model, inputs, tmp_path, formats=("onnx",))
    graph = onnx.load(files["onnx"].path).graph
    assert [item.name for item in graph.output] == [f"output_{index}" for index in range(5)]
