"""Reads ONNX files, which are inspected before ONNX Runtime opens them.

An ONNX is a graph of standard operators and cannot run code of its own. Two things reach outside
the graph: the names of files with external weights, and operators of other libraries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from deployfold.errors import LoadError, first_few, first_line
from deployfold.loading.onnx_module import OnnxModule

from .format import Content, Format, Header, Permissions

if TYPE_CHECKING:
    import onnx

_STANDARD = frozenset({"", "ai.onnx", "ai.onnx.ml"})
_CONTRIBUTED = frozenset({"com.microsoft", "com.microsoft.nchwc", "com.microsoft.experimental"})
"""Domains whose operators ONNX Runtime itself has."""

_STRING, _EXTERNAL = 8, 1
"""``TensorProto.STRING`` and ``TensorProto.EXTERNAL`` of onnx.proto."""

_VERSION = b"\x08"
"""The first byte of an ONNX: the tag of ``ir_version``, a number that follows in one byte."""
_NEXT_TAGS = frozenset(b"\x12\x1a\x22\x28\x32\x3a\x42\x72\xa2\xca")
"""The tags that may follow it: names of the producer, domain, version, text, graph, opsets."""


def recognise(header: Header) -> bool:
    """A protobuf that begins as ``onnx.ModelProto`` does."""
    head = header.head
    return head[:1] == _VERSION and len(head) > 2 and 0 < head[1] < 32 and head[2] in _NEXT_TAGS


def read(path: Path, permissions: Permissions) -> Content:
    """The file as a module that ONNX Runtime runs.

    Raises:
        LoadError: the file is damaged, weights are missing or lie elsewhere, an operator belongs
            to a library that is not here, or an input or output is not a tensor.
    """
    import onnx  # not for other formats

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise LoadError(
            f"{path} cannot be read as ONNX: {first_line(error)}",
            hint="Was the download or the copy interrupted? Compare its size with the original's.",
        ) from error
    if not model.graph.node:
        raise LoadError(f"{path} holds no graph.", hint="Export the model again.")
    _check_tensors(path, model.graph)
    external = _external_files(path, model)
    _check_operators(path, model)
    module = OnnxModule(path)
    module.open()
    names = (model.producer_name, model.producer_version)
    producer = " ".join(_text(name) for name in names if name)
    opset = max((one.version for one in model.opset_import if one.domain in _STANDARD), default=0)
    by = f" by {producer}" if producer else ""
    note = f"{path.name} was written{by} in opset {opset}."
    return Content(module=module, kind="onnx", notes=(note,), files=(path, *external))


FORMAT = Format("ONNX", (".onnx",), recognise, read)


def _text(value: str | bytes) -> str:
    """A string of the file; protobuf gives bytes where it is not UTF-8."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _check_tensors(path: Path, graph: onnx.GraphProto) -> None:
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise LoadError(
            f"The weight {name!r} of {path.name} is stored as a sparse tensor, which is not read.",
            hint="Export the model with dense weights.",
        )
    weights = {weight.name for weight in graph.initializer}
    for word, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            kind = value.type.WhichOneof("value")
            if kind != "tensor_type":
                what = {"sequence_type": "a sequence", "map_type": "a map"}.get(
                    kind or "", "not a tensor"
                )
                raise LoadError(
                    f"The {word} {value.name!r} of {path.name} is {what}; engines take and give "
                    "tensors alone.",
                    hint="Export the model so that it takes and returns tensors; sklearn-onnx does "
                    "with the option zipmap=False.",
                )
            if value.type.tensor_type.elem_type == _STRING:
                raise LoadError(
                    f"The {word} {value.name!r} of {path.name} is made of strings, which no engine "
                    "takes.",
                    hint="Cut the model where its numbers begin or end.",
                )
            shaped = value.type.tensor_type.HasField("shape") or value.name in weights
            if word == "input" and not shaped:
                raise LoadError(
                    f"{path.name} does not say how many axes its input {value.name!r} has.",
                    hint="Export it again with the shape of its inputs; sizes may be free.",
                )


def _check_operators(path: Path, model: onnx.ModelProto) -> None:
    """Refuse operators that neither the file defines nor ONNX Runtime has."""
    own = {(one.domain, one.name) for one in model.functions}
    foreign = Counter(
        (node.domain, node.op_type)
        for node in _nodes(model)
        if node.domain not in _STANDARD | _CONTRIBUTED and (node.domain, node.op_type) not in own
    )
    if foreign:
        names = [f"{domain}::{operator}" for domain, operator in foreign]
        raise LoadError(
            f"{path.name} uses the operator{'s' * (len(names) > 1)} {first_few(names)}, which "
            "standard ONNX and ONNX Runtime do not have.",
            hint="Export the model without it: as standard operators, or cut before it. An "
            "operator for one engine alone cannot be compared with the original.",
        )


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of control flow and of functions included."""
    pending = [list(model.graph.node), *(list(one.node) for one in model.functions)]
    while pending:
        for node in pending.pop():
            yield node
            for attribute in node.attribute:
                pending += [list(one.node) for one in attribute.graphs]
                if attribute.HasField("g"):
                    pending.append(list(attribute.g.node))


def _external_files(path: Path, model: onnx.ModelProto) -> tuple[Path, ...]:
    """The files with external weights.

    Raises:
        LoadError: a file is missing, or lies outside of the folder of the ONNX.
    """
    names = set()
    for tensor in _tensors(model):
        if tensor.data_location != _EXTERNAL:
            continue
        entries = {_text(one.key): _text(one.value) for one in tensor.external_data}
        names.add(entries.get("location", ""))
    home, files = path.resolve().parent, []
    for name in sorted(names):
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or "\\" in name or not name:
            raise LoadError(
                f"{path.name} names {name!r} for its weights, a file outside of its folder.",
                hint="Get the model again from its author: an exporter writes the data beside it.",
            )
        file = home / name
        if not file.is_file():
            raise LoadError(
                f"The weights of {path.name} are in {name}, and there is no such file beside it.",
                hint="Copy both files into one folder.",
            )
        if not file.resolve().is_relative_to(home):
            raise LoadError(
                f"The weights {name} of {path.name} are a link to a file outside of its folder.",
                hint="Put the file itself there.",
            )
        files.append(file)
    return tuple(files)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from graph.initializer
