"""A build that a known issue of the library makes fail, tried again without what fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from deployfold.compiling.request import EngineRequest
from deployfold.errors import CompileError

from .builder import BuiltEngine, NotBuilt, Report
from .known_issues import sentence

Build = Callable[[Any, EngineRequest, Path, Path, Report], BuiltEngine]


def build_or_retry(
    build: Build, trt: Any, request: EngineRequest, onnx: Path, output: Path, report: Report
) -> BuiltEngine:
    """Build; where a known issue with grouped convolutions fails it, build with those in fp32.

    The second ONNX lies beside the first, where its external data is, until it is built.

    Raises:
        CompileError: the first build failed and there is nothing to do about it, or the second
            one failed, too.
    """
    try:
        return build(trt, request, onnx, output, report)
    except NotBuilt as error:
        issue = next((one for one in error.issues if one.retry_in_fp32), None)
        again = onnx.with_name(f".{onnx.name}.fp32-groups")
        if issue is None:
            raise
        try:
            kept = keep_groups(onnx, again)
            if not kept:
                raise
            report("Trying again with grouped convolutions in fp32", None)
            built = build(trt, request, again, output, report)
        except CompileError:
            raise error from None  # the first failure is what its hint explains
        finally:
            again.unlink(missing_ok=True)
        note = (
            f"{kept} grouped convolutions are built in fp32, since "
            f"{sentence(issue, built.library_version)}"
        )
        return replace(built, notes=(*built.notes, note))


def keep_groups(onnx: Path, output: Path) -> int:
    """Write ``onnx`` with its grouped float16 convolutions between casts from and to float16.

    Returns:
        How many there are; without one, or without the package ``onnx``, nothing is written.
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
        # What is not float16 has weights in another type, or behind Q/DQ nodes.
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
