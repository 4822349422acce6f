"""Builds again with grouped convolutions in fp32 if a version lacks fp16 kernels for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from deployfold.compiling.records import EngineRequest
from deployfold.compiling.worker_process import Report
from deployfold.errors import CompileError

from .builder import BuiltEngine, NotBuilt
from .known_issues import sentence

Build = Callable[[Any, EngineRequest, Path, Path, Report], BuiltEngine]


def build_or_retry(
    build: Build, trt: Any, request: EngineRequest, onnx: Path, output: Path, report: Report
) -> BuiltEngine:
    """Build; if a known issue with grouped convolutions fails the build, retry them in fp32.

    The second ONNX is a temporary file in the folder of the first, where the external data is.

    Args:
        build: :func:`.builder.build`; the other arguments are passed to it.

    Raises:
        CompileError: the first build failed and no retry applies, or the second build failed too.
            The error is that of the first build.
    """
    try:
        return build(trt, request, onnx, output, report)
    except NotBuilt as error:
        issue = next((one for one in error.issues if one.retry_in_fp32), None)
        again = onnx.with_name(f".{onnx.name}.fp32-groups")
        if issue is None:
            raise
        try:
            kept = grouped_convolutions_in_fp32(onnx, again)
            if not kept:
                raise
            report("Trying again with grouped convolutions in fp32", None)
            built = build(trt, request, again, output, report)
        except CompileError:
            raise error from None  # the hint of the first error explains the failure
        finally:
            again.unlink(missing_ok=True)
        note = (
            f"{kept} grouped convolutions are built in fp32, because "
            f"{sentence(issue, built.library_version)}"
        )
        return replace(built, notes=(*built.notes, note))


def grouped_convolutions_in_fp32(onnx: Path, output: Path) -> int:
    """Write ``onnx`` to ``output`` with casts to fp32 and back around grouped fp16 convolutions.

    Returns:
        The number of such convolutions. If the number is 0, or the package ``onnx`` is missing, no
        file is written and the result is 0.
    """
    try:
        import onnx as library
        from onnx import TensorProto, helper
    except ImportError:
        return 0
    model = library.load(str(onnx), load_external_data=False)
    nodes, kept = [], 0
    halves = {one.name for one in model.graph.initializer if one.data_type == TensorProto.FLOAT16}
    for node in model.graph.node:
        groups = next((one.i for one in node.attribute if one.name == "group"), 1)
        # A convolution of another precision has weights of another type, or behind Q/DQ nodes.
        if node.op_type != "Conv" or groups == 1 or node.input[1] not in halves:
            nodes.append(node)
            continue
        kept += 1
        for index, name in enumerate(node.input):
            if name:
                wide = f"{node.output[0]}.fp32.{index}"
                nodes.append(helper.make_node("Cast", [name], [wide], to=TensorProto.FLOAT))
                node.input[index] = wide
        (result,) = node.output
        node.output[0] = f"{result}.fp32"
        nodes += [
            node,
            helper.make_node("Cast", [node.output[0]], [result], to=TensorProto.FLOAT16),
        ]
    if kept:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        output.write_bytes(model.SerializeToString())
    return kept
