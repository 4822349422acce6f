"""One quantiser of another project, run by ``int8_accuracy.py`` in an environment of its own.

    python int8_peers.py PEER SOURCE.onnx SAMPLES.npy RESULT.onnx

PEER is one of PEERS below. SAMPLES has the calibration samples along its first axis, each with its
batch axis of 1. The result is int8 with zero points of 0, as TensorRT reads it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper


def modelopt(
    method: str, source: Path, samples: np.ndarray, path: Path, mode: str = "int8"
) -> None:
    """nvidia-modelopt's post-training quantisation of an ONNX."""
    from modelopt.onnx.quantization import quantize

    name = onnx.load(source).graph.input[0].name
    quantize(
        str(source),
        quantize_mode=mode,
        # Of one big batch its entropy calibration sees a single histogram, and equals max.
        calibration_data={name: samples.reshape(-1, *samples.shape[2:])},
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        enable_gemv_detection_for_trt=False,  # which would leave the last layer in fp32
        output_path=str(path),
    )


def nncf(
    fast: bool, source: Path, samples: np.ndarray, path: Path, transformer: bool = False
) -> None:
    """NNCF, whose uint8 activations are then made int8 over the same range.

    Args:
        transformer: quantise as NNCF does transformers, with SmoothQuant.
    """
    import nncf as library

    model = onnx.load(source)
    name = model.graph.input[0].name
    quantised = library.quantize(
        model,
        library.Dataset([{name: sample} for sample in samples]),
        subset_size=len(samples),
        preset=library.QuantizationPreset.PERFORMANCE,  # symmetric
        fast_bias_correction=fast,
        model_type=library.ModelType.TRANSFORMER if transformer else None,
    )
    onnx.save(_signed(quantised), path)


def nncf_int4(source: Path, samples: np.ndarray, path: Path) -> None:
    """NNCF's INT4 weights, 128 to a scale, with AWQ and its estimation of scales."""
    import nncf as library
    import onnxruntime

    options = onnxruntime.SessionOptions()  # NNCF wants shapes without Shape nodes
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(source, options)
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    name = model.graph.input[0].name
    compressed = library.compress_weights(
        model,
        mode=library.CompressWeightsMode.INT4_SYM,
        group_size=128,
        all_layers=True,  # else the last matrix product is in INT8
        ignored_scope=library.IgnoredScope(types=["Gather"]),
        dataset=library.Dataset([{name: sample} for sample in samples]),
        awq=True,
        scale_estimation=True,
    )
    onnx.save(compressed, path)


def _signed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every uint8 zero point of 0 becomes an int8 one, with 255/127 of the scale."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    done: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        zero = numpy_helper.to_array(tensors[node.input[2]])
        if zero.dtype != np.uint8:
            assert not zero.any(), f"{node.name} has the zero point {zero}"
            continue
        assert not zero.any(), f"{node.name} has the zero point {zero}"
        scale, point = node.input[1] + ".signed", node.input[2] + ".signed"
        if scale not in done:
            wide = numpy_helper.to_array(tensors[node.input[1]]) * np.float32(255 / 127)
            model.graph.initializer.append(numpy_helper.from_array(wide, scale))
            model.graph.initializer.append(numpy_helper.from_array(zero.astype(np.int8), point))
            done.add(scale)
        node.input[1], node.input[2] = scale, point
    del model.graph.value_info[:]  # which says uint8
    return model


PEERS = {
    "modelopt-entropy": lambda *files: modelopt("entropy", *files),
    "modelopt-max": lambda *files: modelopt("max", *files),
    "nncf-fast": lambda *files: nncf(True, *files),
    "modelopt-int4-rtn": lambda *files: modelopt("rtn_dq", *files, mode="int4"),
    "modelopt-int4-awq": lambda *files: modelopt("awq_clip", *files, mode="int4"),
    "nncf-full": lambda *files: nncf(False, *files),
    "nncf-transformer": lambda *files: nncf(True, *files, transformer=True),
    "nncf-int4": nncf_int4,
}


if __name__ == "__main__":
    peer, source, samples, result = sys.argv[1:]
    PEERS[peer](Path(source), np.load(samples), Path(result))
