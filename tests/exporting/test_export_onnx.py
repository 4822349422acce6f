from __future__ import annotations

import logging
import re
from pathlib import Path

import export_toys as toys
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torchvision_nets import torchvision_model

from deployfold.errors import ExportError
from deployfold.exporting import onnx_graph
from deployfold.exporting.onnx import OnnxArtifact
from deployfold.util.onnx_files import data_path

METADATA = {"deployfold.version": "0.1.0", "deployfold.source_sha256": "ab" * 32}


def export(
    module: torch.nn.Module,
    inputs: tuple[torch.Tensor, ...],
    path: Path,
    *names: str,
    dynamic: tuple[int, int, int] | None = None,
    exporter: str = "dynamo",
    **options: int,
) -> OnnxArtifact:
    spec = toys.spec_for(inputs, *names, dynamic=dynamic)
    program = None
    if exporter == "dynamo":
        program, _ = toys.export_program(module, inputs, path.with_suffix(".pt2"), spec=spec)
    return toys.export_onnx(
        module, inputs, path, spec=spec, program=program, metadata=METADATA, **options
    )


def dimensions(values: list[onnx.ValueInfoProto]) -> dict[str, list[int | str]]:
    return {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in values
    }


OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7)
EXPORTERS = pytest.mark.parametrize(
    "exporter",
    [
        pytest.param(
            "dynamo", marks=pytest.mark.skipif(OLD, reason="torch 2.6's refuses BatchNorm")
        ),
        "torchscript",
    ],
)


@EXPORTERS
def test_a_static_model(tmp_path: Path, exporter: str) -> None:
    module, inputs = toys.conv_bn(), toys.image_inputs(2)
    artifact = export(module, inputs, tmp_path / "m.onnx", exporter=exporter)
    assert artifact.exporter == exporter
    assert (artifact.fallback_reason is None) == (exporter == "dynamo")
    assert artifact.opset == 20
    assert artifact.batchnorm_nodes == 0
    assert (artifact.input_names, artifact.output_names) == (("image",), ("output",))
    assert artifact.max_abs_diff < 1e-5
    assert not artifact.external_data
    assert artifact.bytes == artifact.path.stat().st_size
    model = onnx.load(str(artifact.path))
    onnx.checker.check_model(model, full_check=True)
    assert dimensions(list(model.graph.input)) == {"image": [2, 3, 8, 8]}
    assert {entry.key: entry.value for entry in model.metadata_props} == METADATA
    session = ort.InferenceSession(str(artifact.path), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"image": inputs[0].numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(output, module(*inputs).numpy(), atol=1e-5)


@EXPORTERS
def test_a_dynamic_batch_is_called_batch_everywhere(tmp_path: Path, exporter: str) -> None:
    class Merged(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = toys.conv_bn()

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
            result = self.module(image)
            token = result.unsqueeze(1)
            return result, torch.cat([result, result]), token  # the second: twice the batch

    module, inputs = Merged().eval(), toys.image_inputs(1)
    path = tmp_path / "m.onnx"
    artifact = export(module, inputs, path, dynamic=(1, 2, 8), exporter=exporter)
    assert artifact.exporter == exporter
    model = onnx.load(str(path))
    assert dimensions(list(model.graph.input)) == {"image": ["batch", 3, 8, 8]}
    outputs = dimensions(list(model.graph.output))
    assert outputs["output_0"] == ["batch", 5]
    assert isinstance(outputs["output_1"][0], str)
    assert outputs["output_1"][0] != "batch"
    assert outputs["output_2"] == ["batch", 1, 5]
    symbols = {str(d) for dims in dimensions(list(model.graph.value_info)).values() for d in dims}
    assert not [symbol for symbol in symbols if re.fullmatch(r".*\bs\d+\b.*", symbol)]
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (1, 5, 8):
        single, double, _ = session.run(None, {"image": toys.image_inputs(batch)[0].numpy()})
        assert (len(single), len(double)) == (batch, 2 * batch)


def test_an_axis_that_does_not_follow_the_batch_is_not_called_batch() -> None:
    graph = "net (float[s0, 4] x) => (float[s0, s0, 4] y) { one = Constant<value_ints = [1]>() "
    text = f'<ir_version: 8, opset_import: ["" : 17]> {graph} y = Unsqueeze(x, one) }}'
    model = ir.from_proto(onnx.parser.parse_model(text))
    inputs, outputs = (((1, 4),), ((2, 4),)), (((1, 1, 4),), ((2, 1, 4),))
    onnx_graph.name_axes(model, inputs, outputs, (1, 2))
    assert [str(size) for size in model.graph.outputs[0].shape or ()] == ["batch", "1", "4"]


@EXPORTERS
def test_names_of_dict_outputs_and_an_input_that_is_not_used(tmp_path: Path, exporter: str) -> None:
    inputs = (torch.randn(1, 3, 8, 8), torch.randn(1, 7), torch.randn(1, 5))
    names = ("image", "unused", "aux_1")  # the last is an output's name as well
    module = toys.TwoInputs().eval()
    path = tmp_path / "m.onnx"
    artifact = export(module, inputs, path, *names, dynamic=(1, 2, 4), exporter=exporter)
    assert artifact.exporter == exporter
    assert artifact.input_names == names
    assert artifact.output_names == ("out", "aux_0", "aux_1_output")
    model = onnx.load(str(path))
    assert dimensions(list(model.graph.input)) == {
        "image": ["batch", 3, 8, 8],
        "unused": ["batch", 7],
        "aux_1": ["batch", 5],
    }
    assert dimensions(list(model.graph.output))["aux_0"] == ["batch", 4]
    if exporter == "torchscript":
        assert artifact.notes == ("The model does not use its input 'unused'.",)


def test_a_model_that_torch_export_refuses_is_exported_by_tracing(tmp_path: Path) -> None:
    module, inputs = toys.Branching().eval(), (torch.ones(2, 4),)
    spec = toys.spec_for(inputs)
    path, reason = tmp_path / "m.onnx", "its forward branches"
    artifact = toys.export_onnx(module, inputs, path, spec=spec, program=reason)
    assert (artifact.exporter, artifact.fallback_reason) == ("torchscript", "its forward branches")
    assert any("a branch at export_toys.py" in note for note in artifact.notes)


@pytest.mark.skipif(OLD, reason="torch 2.6's dynamo exporter does not refuse this")
def test_a_model_that_the_dynamo_exporter_refuses_is_exported_by_tracing(tmp_path: Path) -> None:
    class Counting(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
            return x * 2, 3  # torch.export takes the number, the ONNX exporter does not

    artifact = export(Counting(), (torch.ones(1, 2),), tmp_path / "m.onnx")
    assert artifact.exporter == "torchscript"
    assert str(artifact.fallback_reason).startswith("the dynamo exporter failed: ")
    assert "\n" not in str(artifact.fallback_reason)
    assert artifact.output_names == ("output_0",)


def test_torchscript_keeps_its_control_flow(tmp_path: Path) -> None:
    eager, inputs = toys.Branching().eval(), (torch.ones(2, 4),)
    module = torch.jit.script(eager)
    path = tmp_path / "m.onnx"
    artifact = export(module, inputs, path, dynamic=(1, 2, 4), exporter="torchscript")
    assert "TorchScript" in str(artifact.fallback_reason)
    assert "If" in {node.op_type for node in onnx.load(str(path)).graph.node}
    large = torch.full((2, 4), 1e8) * eager.linear.weight.detach().sum().sign()
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"image": large.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(output, eager(large).numpy(), rtol=1e-5)


@pytest.mark.parametrize("kind", ["dynamo", "torchscript", "script"])
def test_equal_models_are_equal_files_without_paths(tmp_path: Path, kind: str) -> None:
    module, inputs = toys.conv_bn(), toys.image_inputs()
    exporter = "dynamo" if kind == "dynamo" else "torchscript"
    if kind == "script":
        module, inputs = torch.jit.script(toys.Branching().eval()), (torch.ones(2, 4),)
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path in files:
        export(module, inputs, path, exporter=exporter)
    content = files[0].read_bytes()
    assert content == files[1].read_bytes()
    if kind == "script":
        assert b"/linear/Gemm" in content  # the scopes are lost in a graph that was run or exported
    for trace in (b"stack_trace", b"pkg.torch", b"site-packages", b".py"):
        assert trace not in content


def test_batchnorm_that_is_left_is_counted(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.BatchNorm2d(3)).eval()
    artifact = export(module, toys.image_inputs(), tmp_path / "m.onnx")
    assert artifact.batchnorm_nodes == 1


def test_large_weights_go_to_a_file_of_their_own(tmp_path: Path) -> None:
    module, inputs = toys.conv_bn(), toys.image_inputs()
    path = tmp_path / "m.onnx"
    for exporter in ("dynamo", "torchscript"):
        artifact = export(module, inputs, path, exporter=exporter, external_threshold=1000)
        assert artifact.external_data
        data = data_path(path)
        assert artifact.bytes == path.stat().st_size + data.stat().st_size
        assert data.stat().st_size >= 8 * 36 * 5 * 4
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (output,) = session.run(None, {"image": inputs[0].numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(output, module(*inputs).numpy(), atol=1e-5)
    artifact = export(module, inputs, path)
    assert not artifact.external_data
    assert not data_path(path).exists()
    assert artifact.bytes == path.stat().st_size


def test_a_failed_export_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")

    class Random(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.rand_like(x)

    inputs = (torch.ones(1, 100),)
    spec = toys.spec_for(inputs)
    with pytest.raises(ExportError, match="not the same function"):
        toys.export_onnx(Random(), inputs, path, spec=spec)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_a_model_that_both_exporters_refuse_is_one_error(tmp_path: Path) -> None:
    class Inverse(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvalsh(x)

    net = torch.nn.Sequential(torch.nn.Identity(), Inverse())
    with pytest.raises(ExportError, match=r"Neither ONNX exporter .* Dynamo: ") as caught:
        export(net, (torch.eye(3),), tmp_path / "m.onnx")
    assert re.search(r"[^.]\. Dynamo: .*[^.]\.$", caught.value.message)
    line = r"linalg_eigvalsh, which the module '1' calls \(test_export_onnx.py:\d+\)\."
    assert OLD or re.search(line, caught.value.message)
    assert "before it" in str(caught.value.hint)


class Text(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, str]:
        return x + 1, "softmax"


def test_text_among_the_outputs_is_the_reason(tmp_path: Path) -> None:
    inputs, text = (torch.ones(1, 3),), "returns text among its outputs"
    with pytest.raises(ExportError, match=text):
        export(torch.jit.script(Text()), inputs, tmp_path / "m.onnx", exporter="torchscript")
    with pytest.raises(ExportError, match=text):
        toys.export_program(Text(), inputs, tmp_path / "m.pt2", spec=toys.spec_for(inputs))
    assert not list(tmp_path.iterdir())


def test_a_batch_that_tracing_bakes_in_is_found_at_the_second_size(tmp_path: Path) -> None:
    class Scaled(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * float(len(x.tolist()))

    inputs, path = (torch.ones(2, 4),), tmp_path / "m.onnx"
    with pytest.raises(ExportError, match="not the same function"):
        export(Scaled(), inputs, path, dynamic=(1, 2, 4), exporter="torchscript")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    inputs = (torch.randn(2, 4).to(dtype),)
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).to(dtype)
    artifact = export(module, inputs, tmp_path / "m.onnx")
    (value,) = onnx.load(str(artifact.path)).graph.input
    expected = {torch.float16: onnx.TensorProto.FLOAT16, torch.float64: onnx.TensorProto.DOUBLE}
    assert value.type.tensor_type.elem_type == expected[dtype]


def test_an_onnx_that_onnx_runtime_cannot_run_is_one_error(tmp_path: Path) -> None:
    inputs = (toys.image_inputs()[0].double(),)  # there is no float64 convolution
    with pytest.raises(ExportError, match="Conv") as caught:
        export(toys.conv_bn().double(), inputs, tmp_path / "m.onnx")
    assert ".float()" in str(caught.value.hint)
    assert not (tmp_path / "m.onnx").exists()


def test_bfloat16_is_refused_with_the_way_out(tmp_path: Path) -> None:
    inputs = (toys.image_inputs()[0].to(torch.bfloat16),)
    with pytest.raises(ExportError, match="bfloat16") as caught:
        export(toys.conv_bn().to(torch.bfloat16), inputs, tmp_path / "m.onnx")
    assert ".float()" in str(caught.value.hint)


def test_weights_that_are_not_finite_are_noted(tmp_path: Path) -> None:
    module = toys.conv_bn()
    with torch.no_grad():
        module[4].weight[0, 0] = float("inf")
    artifact = export(module, toys.image_inputs(), tmp_path / "m.onnx")
    assert any("infinities or NaN" in note for note in artifact.notes)


def test_the_exporters_are_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    level = logging.root.manager.disable
    for exporter in ("dynamo", "torchscript"):
        export(toys.conv_bn(), toys.image_inputs(), tmp_path / "m.onnx", exporter=exporter)
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == level


def test_integer_inputs_and_a_scalar(tmp_path: Path) -> None:
    class Embedding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(10, 4)

        def forward(self, ids: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return self.table(ids) * scale

    inputs = (torch.tensor([[1, 2, 3]]), torch.tensor(2.0))
    artifact = export(Embedding(), inputs, tmp_path / "m.onnx", "ids", "scale", dynamic=(1, 2, 4))
    model = onnx.load(str(artifact.path))
    assert dimensions(list(model.graph.input)) == {"ids": ["batch", 3], "scale": []}


@pytest.mark.parametrize(
    "name", ["resnet18", pytest.param("mobilenet_v3_small", marks=pytest.mark.slow)]
)
def test_real_models_with_both_exporters(tmp_path: Path, name: str) -> None:
    module = torchvision_model(name)
    inputs = (torch.randn(1, 3, 64, 64),)
    for exporter in ("torchscript",) if OLD else ("dynamo", "torchscript"):
        path = tmp_path / f"{exporter}.onnx"
        artifact = export(module, inputs, path, dynamic=(1, 2, 4), exporter=exporter)
        assert artifact.exporter == exporter
        assert artifact.max_abs_diff < 1e-4
        assert artifact.batchnorm_nodes == 0


class Named(torch.nn.Module):
    """Returns a dictionary, by a branch on the values of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.linear(x)
        if bool(x.sum() > 0):
            scores = -scores
        return {"scores": scores, "best": scores.argmax(1)}


def test_torchscript_that_returns_a_dictionary_keeps_its_branches(tmp_path: Path) -> None:
    torch.manual_seed(0)
    scripted = torch.jit.freeze(torch.jit.script(Named().eval()))
    x = torch.ones(2, 4)
    artifact = export(scripted, (x,), tmp_path / "net.onnx", exporter="torchscript")
    assert artifact.output_names == ("scores", "best")
    session = ort.InferenceSession(artifact.path)
    for value in (x, -x):
        expected = scripted(value)
        found = session.run(None, {artifact.input_names[0]: value.numpy()})
        np.testing.assert_allclose(found[0], expected["scores"].detach(), atol=1e-5)
        np.testing.assert_array_equal(found[1], expected["best"])
