"""Reads TorchScript archives.

TorchScript is a language without access to Python, but with access to files and to the operators of
loaded libraries. An archive whose code uses either is refused unless the user trusts it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from deployfold.errors import LoadError, first_line
from deployfold.loading.archive import read_entries
from deployfold.util.quiet import TORCHSCRIPT_IS_FINE, without_warnings

from .format import Content, Format, Header, Permissions

_REACHES_OUT = re.compile(
    r"\b(?:save|from_file|_from_file)\b"  # both as a function and as a method: x.save("…")
    r"|\bops\s*\.\s*(?!(?:prim|prims|aten|torchvision|quantized)\b)\w+\s*\.\s*\w+"
)


# By operator: the kind of layer, and the input that is the weight.
_LAYERS = {
    "aten::_convolution": ("convolution", 1),
    "aten::conv1d": ("convolution", 1),
    "aten::conv2d": ("convolution", 1),
    "aten::conv3d": ("convolution", 1),
    "aten::linear": ("linear", 1),
    "aten::embedding": ("embedding", 0),
}


def recognise(header: Header) -> bool:
    """A zip archive with code and constants."""
    entries = header.entries or frozenset()
    return "constants.pkl" in entries and any(name.startswith("code/") for name in entries)


def read(path: Path, permissions: Permissions) -> Content:
    """The compiled module; see :func:`load_torchscript`."""
    module = load_torchscript(path, trust=permissions.trust)
    return Content(module=module, kind="torchscript")


FORMAT = Format("TorchScript", (".ts.pt", ".ts", ".jit"), recognise, read)


def load_torchscript(path: Path, *, trust: bool) -> torch.jit.ScriptModule:
    """Load an archive on the CPU, in evaluation mode.

    Raises:
        LoadError: the archive is damaged, or its code reaches files and ``trust`` is false.
    """
    if not trust:
        _inspect(path)
    try:
        with TORCHSCRIPT_IS_FINE.made(), without_warnings():
            module: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:
        raise LoadError(
            f"{path} cannot be loaded as TorchScript: {first_line(error)}",
            hint="The file may be damaged, or use operators of a library that is not loaded.",
        ) from error
    return module.eval()


def _inspect(path: Path) -> None:
    # Inspect before loading, because loading runs the __setstate__ of the archive's classes.
    for code in read_entries(path, lambda name: name.endswith(".py")).values():
        found = _REACHES_OUT.search(code.decode("utf-8", "replace"))
        if found:
            raise LoadError(
                f"The TorchScript code uses {found.group()!r}, which reaches files or libraries.",
                hint="If you trust its author, add --trust.",
            )


def first_weight(module: torch.jit.ScriptModule) -> tuple[str, tuple[int, ...]] | None:
    """The kind of the graph's first convolution, linear or embedding layer, and its weight's shape.

    Returns:
        ``"convolution"``, ``"linear"`` or ``"embedding"``, and the shape; ``None`` if the graph has
        no such layer, or computes the weight.
    """
    for node in _nodes(module.inlined_graph):
        layer = _LAYERS.get(node.kind())
        if layer is not None:
            operator, place = layer
            weight = _value(list(node.inputs())[place].node(), module)
            return (operator, tuple(weight.shape)) if torch.is_tensor(weight) else None
    return None


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _value(node: Any, module: torch.jit.ScriptModule) -> Any:
    """The value of a constant, or of a chain of attributes that starts at the module."""
    if node.kind() == "prim::Constant":
        return node.output().toIValue()
    if node.kind() == "prim::GetAttr":
        return getattr(_value(next(node.inputs()).node(), module), node.s("name"), None)
    return module if node.kind() == "prim::Param" else None
