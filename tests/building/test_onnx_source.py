"""ONNX files as models: the information that a build reads, keeps and refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_files as files
import onnxruntime
import pytest
from onnx import helper
from qdq_trained import trained

import deployfold
from deployfold.building.pipeline import build
from deployfold.config.make_spec import make_spec
from deployfold.errors import DeployfoldError, LoadError, UsageError
from deployfold.reporting.report import Report


def _built(source: Path, **written: Any) -> tuple[Report, Path]:
    values = {"output": source.parent / "out", "no-engine": True, "no-measure": True, **written}
    report, directory = build(make_spec(str(source), values))
    return report, directory / f"{source.stem}.onnx"


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    dims = value.type.tensor_type.shape.dim
    return [one.dim_value if one.HasField("dim_value") else one.dim_param for one in dims]


def _run(path: Path, feeds: dict[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


@pytest.mark.parametrize("opset", [9, 10, 11, 13])
def test_a_detector_of_any_opset(opset: int, tmp_path: Path) -> None:
    source = files.save(files.detector(opset), tmp_path / "yolo.onnx")
    report, path = _built(source, fp16=True)
    assert [row.name for row in report.rows] == ["original", "onnxruntime", "onnxruntime-fp16"]
    assert report.fold is not None
    assert (report.fold.batchnorm_before, len(report.fold.folded)) == (5, 5)
    exact = report.fold.verification.float64_relative_difference
    assert exact is not None
    assert 0 < exact < 1e-12
    model = onnx.load(path)
    assert model.opset_import[0].version == 20
    assert [value.name for value in model.graph.input] == ["images"]
    assert [value.name for value in model.graph.output] == ["output0"]
    metadata = {one.key: one.value for one in model.metadata_props}
    assert metadata["names"] == "{0: 'square', 1: 'disc'}"
    assert metadata["deployfold.folded"] == "5 of 5 BatchNorm layers"
    x = np.random.default_rng(3).standard_normal((1, 3, 32, 32)).astype(np.float32)
    (before,), (after,) = _run(source, {"images": x}), _run(path, {"images": x})
    assert np.abs(before - after).max() < 1e-4


def test_what_onnx_runtime_overlooks_in_an_old_file_is_mended(tmp_path: Path) -> None:
    model = onnx.shape_inference.infer_shapes(files.resnet(8))
    model.ir_version, model.graph.name = 3, ""
    for weight in model.graph.initializer:
        dims = list(weight.dims)
        model.graph.input.insert(
            0, helper.make_tensor_value_info(weight.name, weight.data_type, dims)
        )
    for value in (*model.graph.value_info, model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 4  # as edits of a graph leave them
    model.graph.input[-1].type.tensor_type.shape.dim[0].dim_value = -1
    source = files.save(model, tmp_path / "net.onnx")
    report, path = _built(source, **{"image-input": "nchw"})
    assert report.fold is not None
    assert (report.fold.batchnorm_before, len(report.fold.folded)) == (6, 5)
    graph = onnx.load(path).graph
    assert [value.name for value in graph.input] == ["data"]
    assert _shape(graph.input[0]) == ["batch", 3, 32, 32]
    assert _shape(graph.output[0]) == ["batch", 10]
    made = {name for node in graph.node for name in node.output}
    assert {_shape(one)[0] for one in graph.value_info if one.name in made} == {"batch"}


def test_functions_of_the_file_are_inlined_before_its_opset_is_raised(tmp_path: Path) -> None:
    g = files.GraphWriter(17)
    x = g.norm(g.conv("x", 3, 4), 4)
    g.nodes.append(helper.make_node("Act", [x], ["y"], domain="mine"))
    shape = [1, 4, 8, 8]
    model = g.model(
        {"x": (files.FLOAT, [1, 3, 8, 8])}, {"y": (files.FLOAT, shape)}, domains=["mine"]
    )
    body = [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["b"])]
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("mine", "Act", ["a"], ["b"], body, opset))
    _, path = _built(files.save(model, tmp_path / "act.onnx"))
    built = onnx.load(path)
    assert [one.op_type for one in built.graph.node] == ["Conv", "Sigmoid", "Mul"]
    assert built.opset_import[0].version == 20


def test_names_of_free_axes_stay(tmp_path: Path) -> None:
    source = files.save(files.resnet(batch="N"), tmp_path / "net.onnx")
    _, path = _built(source)
    graph = onnx.load(path).graph
    assert _shape(graph.input[0]) == ["N", 3, 32, 32]
    assert _shape(graph.output[0]) == ["N", 10]
    x = np.random.default_rng(3).standard_normal((3, 3, 32, 32)).astype(np.float32)
    assert np.allclose(*_run(source, {"data": x}), *_run(path, {"data": x}), atol=1e-5)


def test_a_float16_model_is_built_from_float32(tmp_path: Path) -> None:
    source = files.save(files.resnet(dtype=np.float16), tmp_path / "half.onnx")
    report, path = _built(source, fp16=True)
    assert "The float16 tensors are computed in float32; --fp16 builds in float16." in report.notes
    assert report.inputs[0].dtype == "float32"
    kinds = {tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert onnx.TensorProto.FLOAT16 not in kinds
    lowered = onnx.load(path.with_name("half.fp16.onnx"))
    kinds = {tensor.data_type for tensor in lowered.graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds


def test_integer_inputs_keep_their_type(tmp_path: Path) -> None:
    source = files.save(files.embedding(), tmp_path / "text.onnx")
    report, path = _built(source)
    assert [(one.name, one.dtype, one.shape) for one in report.inputs] == [
        ("ids", "int64", (1, 6)),
        ("mask", "int64", (1, 6)),
    ]
    assert report.fold is not None
    assert not report.fold.left
    assert onnx.load(path).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT64


def test_one_size_settles_an_axis_of_the_same_name(tmp_path: Path) -> None:
    source = files.save(files.embedding("T"), tmp_path / "text.onnx")
    with pytest.raises(UsageError, match=r"any size along axis 1 of 'ids' \(T\)") as raised:
        _built(source)
    assert raised.value.hint == "Give it with --input ids=1xSIZE."
    report, _ = _built(source, input=("mask=2x5",))
    assert [one.shape for one in report.inputs] == [(2, 5), (2, 5)]


def test_uint8_inputs_and_the_cast_behind_them(tmp_path: Path) -> None:
    g = files.GraphWriter(13)
    x = g.node("Cast", g.node("Transpose", "frame", perm=[0, 3, 1, 2]), to=files.FLOAT)
    x = g.node("Div", x, g.weight(np.float32(255.0)))
    g.rename(g.block(x, 3, 4), "y")
    model = g.model(
        {"frame": (onnx.TensorProto.UINT8, [1, 8, 8, 3])}, {"y": (files.FLOAT, [1, 4, 8, 8])}
    )
    report, path = _built(files.save(model, tmp_path / "frames.onnx"))
    assert report.inputs[0].dtype == "uint8"
    assert onnx.load(path).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_external_data_and_control_flow(tmp_path: Path) -> None:
    source = files.save(files.resnet(), tmp_path / "model.onnx", external=True)
    report, _ = _built(source)
    assert report.source.bytes == source.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    source = files.save(files.branching(), tmp_path / "branch.onnx")
    report, path = _built(source)
    assert report.fold is not None
    assert len(report.fold.folded) == 2  # one of them inside the If
    for sign in (1, -1):
        x = sign * np.ones((1, 3, 12, 12), np.float32)
        assert np.allclose(*_run(source, {"x": x}), *_run(path, {"x": x}), atol=1e-5)


def test_contributed_operators_are_carried(tmp_path: Path) -> None:
    g = files.GraphWriter(13)
    x = g.block("x", 3, 4)
    g.nodes.append(helper.make_node("Gelu", [x], ["y"], domain="com.microsoft"))
    model = g.model(
        {"x": (files.FLOAT, [1, 3, 8, 8])}, {"y": (files.FLOAT, None)}, domains=["com.microsoft"]
    )
    report, path = _built(files.save(model, tmp_path / "gelu.onnx"))
    assert [node.domain for node in onnx.load(path).graph.node] == ["", "", "com.microsoft"]
    assert report.rows[1].batchnorm_layers == 0


def _without_weights(tmp_path: Path) -> Path:
    path = files.save(files.resnet(), tmp_path / "model.onnx", external=True)
    (tmp_path / "weights.bin").unlink()
    return path


def _weights_elsewhere(tmp_path: Path) -> Path:
    path = files.save(files.resnet(), tmp_path / "model.onnx", external=True)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret"
    path.write_bytes(model.SerializeToString())
    return path


def _foreign(tmp_path: Path) -> Path:
    g = files.GraphWriter(13)
    g.nodes.append(helper.make_node("DeformConv", ["x"], ["y"], domain="mmdeploy"))
    shape = [1, 3, 8, 8]
    model = g.model({"x": (files.FLOAT, shape)}, {"y": (files.FLOAT, shape)}, domains=["mmdeploy"])
    return files.save(model, tmp_path / "model.onnx")


def _strings(tmp_path: Path) -> Path:
    g = files.GraphWriter(13)
    g.rename(g.node("Identity", "x"), "y")
    kind = onnx.TensorProto.STRING
    return files.save(g.model({"x": (kind, [1])}, {"y": (kind, [1])}), tmp_path / "model.onnx")


def _without_axes(tmp_path: Path) -> Path:
    model = files.resnet()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    return files.save(model, tmp_path / "model.onnx")


def _sparse(tmp_path: Path) -> Path:
    model = files.resnet()
    values = helper.make_tensor("thin", files.FLOAT, [1], [2.0])
    places = helper.make_tensor("places", files.INT64, [1], [3])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [8]))
    return files.save(model, tmp_path / "model.onnx")


def _torn(tmp_path: Path) -> Path:
    path = files.save(files.resnet(), tmp_path / "model.onnx")
    path.write_bytes(path.read_bytes()[:-500])
    return path


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_without_weights, "are in weights.bin, and there is no such file"),
        (_weights_elsewhere, "names '../secret' for its weights, a file outside of its folder"),
        (_foreign, "uses the operator mmdeploy::DeformConv"),
        (_strings, "input 'x' of model.onnx is made of strings"),
        (_without_axes, "does not say how many axes its input 'data' has"),
        (_sparse, "weight 'thin' of model.onnx is stored as a sparse tensor"),
        (_torn, "cannot be read as ONNX"),
    ],
)
def test_an_operator_that_cannot_be_built_is_refused_by_name(
    make: Callable[[Path], Path], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(LoadError) as raised:
        _built(make(tmp_path))
    assert expected in raised.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"dynamic-batch": "1:2:4"}, "fixes axis 0 of 'data' to 1, so it cannot serve sizes from"),
        ({"input": ("2x3x32x32",)}, "takes 'data' as 1x3x32x32 float32, not as 2x3x32x32"),
        ({"input": ("x=1x3x32x32",)}, "has no input named 'x'"),
        ({"arch": "torchvision:resnet18"}, "is a whole model; --arch goes with a checkpoint"),
    ],
)
def test_a_request_that_does_not_fit_the_graph(
    written: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    source = files.save(files.resnet(), tmp_path / "net.onnx")
    with pytest.raises(DeployfoldError, match=expected.replace(":", r"\:")):
        _built(source, **written)


def test_the_model_itself_is_not_overwritten(tmp_path: Path) -> None:
    source = files.save(files.resnet(), tmp_path / "net.onnx")
    before = source.read_bytes()
    with pytest.raises(UsageError, match="is the model itself"):
        _built(source, output=tmp_path)
    assert source.read_bytes() == before


def test_load_returns_a_module_that_runs_the_onnx(tmp_path: Path) -> None:
    import torch

    source = files.save(files.resnet(), tmp_path / "net.onnx")
    x = torch.randn(1, 3, 32, 32)
    (found,) = deployfold.load(source)(x)
    assert torch.equal(found, torch.from_numpy(_run(source, {"data": x.numpy()})[0]))


def test_weights_behind_an_identity_are_constants(tmp_path: Path) -> None:
    g = files.GraphWriter(13)
    shared = g.node("Identity", g.weight(g.random.standard_normal((4, 3, 1, 1)).astype(np.float32)))
    g.rename(g.norm(g.node("Conv", "x", shared), 4), "y")
    shape = [1, 4, 8, 8]
    model = g.model({"x": (files.FLOAT, [1, 3, 8, 8])}, {"y": (files.FLOAT, shape)})
    report, _ = _built(files.save(model, tmp_path / "net.onnx"))
    assert report.fold is not None
    assert len(report.fold.folded) == 1


def test_a_graph_that_the_converter_changes_stays_as_it_is(tmp_path: Path) -> None:
    """onnx's converter gives a linear Resize of opset 10 the sample points of opset 11."""
    g = files.GraphWriter(10)
    scales = g.weight(np.float32([1, 1, 2, 2]))
    g.rename(g.node("Resize", g.block("x", 3, 4), scales, mode="linear"), "y")
    model = g.model({"x": (files.FLOAT, [1, 3, 4, 4])}, {"y": (files.FLOAT, [1, 4, 8, 8])})
    report, path = _built(files.save(model, tmp_path / "net.onnx"))
    assert any(note.startswith("net.onnx stays in opset 10; ") for note in report.notes)
    assert onnx.load(path).opset_import[0].version == 10
    assert report.fold is not None
    assert len(report.fold.folded) == 1


def test_a_damaged_onnx_file_gives_one_line_of_error_at_most(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = files.embedding().SerializeToString()
    random = np.random.default_rng(0)
    path, messages = tmp_path / "net.onnx", []
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(3):
            at = int(random.integers(2, len(content) - 9))
            content[at : at + int(random.integers(0, 9))] = random.bytes(int(random.integers(0, 9)))
        path.write_bytes(content)
        try:
            deployfold.load(path)
        except LoadError as error:
            messages.append(error.message)
    assert len(messages) > 30
    assert not [one for one in messages if "\n" in one]
    assert capfd.readouterr().out == ""
    producer = whole.replace(b"another", b"an\xfft\xfeer", 1)
    path.write_bytes(producer)
    deployfold.load(path)


def _branching(path: Path) -> Path:
    """All arithmetic lies in the branches of an ``If``, as in voice detectors of two rates."""
    text = """<ir_version: 9, opset_import: ["": 20]> net (float[1,4] x, int64 rate)
        => (float[1,4] y, float[1,4] h) <int64 limit = {8000}> {
        fast = Greater (rate, limit)
        y, h = If (fast) <
            then_branch = a () => (float[1,4] p, float[1,4] q) {
                p = Mul (x, x)
                q = If (fast) <then_branch = c () => (float[1,4] r) {r = Identity (p)},
                               else_branch = d () => (float[1,4] s) {s = Neg (p)}>
            },
            else_branch = b () => (float[1,4] u, float[1,4] v) {u = Add (x, x) v = Identity (x)}>
        }"""
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_scalars_come_from_the_data_and_what_stays_in_branches_is_not_lowered(
    tmp_path: Path,
) -> None:
    source = _branching(tmp_path / "vad.onnx")
    x = np.random.default_rng(3).standard_normal((1, 4)).astype(np.float32)
    feeds = {"x": x, "rate": np.array(16000)}
    np.savez(tmp_path / "call.npz", **feeds)
    report, path = _built(source, **{"fp16": True, "input-data": str(tmp_path / "call.npz")})
    assert [(one.name, tuple(one.shape)) for one in report.inputs] == [("x", (1, 4)), ("rate", ())]
    for value in (16000, 8000):
        feeds["rate"] = np.array(value)
        for before, after in zip(_run(source, feeds), _run(path, feeds), strict=True):
            np.testing.assert_array_equal(before, after)
    (row,) = [one for one in report.rows if one.name == "onnxruntime-fp16"]
    assert row.artifact is None
    assert "fp16 would change nothing" in str(row.not_measured)
    assert "Export the model without the branch or loop" in str(report.status.message)


def _squeezing(path: Path) -> Path:
    """Branches as exporters of TorchScript write them, behind one that an option input chooses.

    No engine takes the file: for 8 samples the branch for 8000 fails, and the branches of the
    inner ``If`` differ in rank.
    """
    text = """<ir_version: 9, opset_import: ["": 16]> net (float[batch,samples] x, int64 rate)
        => (float[n,2] y) {
        high = Constant <value_int: int = 16000> ()
        fast = Equal (rate, high)
        y = If (fast) <
            then_branch = a () => (float[n,2] p) {
                axis = Constant <value_ints = [0]> ()
                pairs = Constant <value_ints = [-1,2]> ()
                sizes = Shape <start = 0, end = 1> (x)
                one = Constant <value_ints = [1]> ()
                single = Equal (sizes, one)
                q = If (single) <then_branch = c () => (float[samples] r) {r = Squeeze (x, axis)},
                                 else_branch = d () => (float[batch,samples] s) {s = Identity (x)}>
                p = Reshape (q, pairs)
            },
            else_branch = b () => (float[n,2] v) {
                shape = Constant <value_ints = [1,3]> ()
                v = Reshape (x, shape)
            }>
        }"""
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_a_fixed_input_and_the_shapes_decide_branches(tmp_path: Path) -> None:
    source = _squeezing(tmp_path / "vad.onnx")
    report, path = _built(
        source, **{"no-engine": False, "target": ["sm_89"], "fp16": True, "input": ["x=1x8"],
                   "fix": ["rate=16000"]}
    )  # fmt: skip
    assert [(one.name, tuple(one.shape)) for one in report.inputs] == [("x", (1, 8))]
    assert "If" not in {node.op_type for node in onnx.load(path).graph.node}
    assert {row.name for row in report.rows if row.artifact} > {"tensorrt-fp16"}
    feeds = {"x": np.random.default_rng(3).standard_normal((1, 8)).astype(np.float32)}
    (before,) = _run(source, {**feeds, "rate": np.array(16000)})
    np.testing.assert_array_equal(before, _run(path, feeds)[0])
    notes = " ".join(report.notes)
    assert "rate is fixed at 16000" in notes
    assert "decide 2 of the branches (If) of vad.onnx" in notes


@pytest.mark.parametrize(
    ("fix", "message"),
    [("speed=1", "no input named 'speed'"), ("rate=1.5", "scalar int64, and 1.5 does not fit")],
)
def test_a_fixed_input_that_does_not_fit_is_refused(fix: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        _built(_squeezing(tmp_path / "vad.onnx"), **{"input": ["x=1x8"], "fix": [fix]})


def test_a_quantised_file_keeps_its_scales_and_builds_in_their_precision(tmp_path: Path) -> None:
    source = files.save(trained(), tmp_path / "net.onnx")
    report, path = _built(source, **{"no-engine": False, "target": ["sm_89"], "fp16": True})
    assert report.fold is not None
    assert (report.fold.batchnorm_before, len(report.fold.folded)) == (1, 1)
    rows = {row.name: row for row in report.rows}
    assert list(rows) == ["original", "onnxruntime", "onnxruntime-int8", "tensorrt-int8"]
    assert rows["onnxruntime"].parameters == 5 * 4 * 9 + 5
    for name in ("onnxruntime", "onnxruntime-int8"):
        assert "int8 from the file: its scales are kept" in rows[name].notes
    engine = rows["tensorrt-int8"].engine_layers
    assert engine is not None
    assert [(one.asked, one.got) for one in engine.layers] == [("int8", "int8")]
    sizes = [one.type.tensor_type.elem_type for one in onnx.load(path).graph.output]
    assert sizes == [onnx.TensorProto.FLOAT]


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ({}, {"fp8": True, "calib": "random"}, "holds int8 Q/DQ nodes already, and --fp8 would"),
        ({"zero": 3}, {}, "net.onnx cannot be taken: The tensor 'x' is quantised with the zero"),
    ],
)
def test_a_quantised_file_is_not_quantised_again(
    model: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source = files.save(trained(**model), tmp_path / "net.onnx")
    with pytest.raises(DeployfoldError, match=message):
        _built(source, **options)
