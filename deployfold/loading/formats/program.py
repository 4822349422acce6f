"""Reads ``torch.export`` archives after inspecting them.

``torch.export.load`` is not safe by itself (according to the source of torch 2.14). It unpickles
sample inputs and some tensors in full, lets sympy evaluate symbolic sizes, looks up operators by
any dotted name, runs compiled libraries from the archive, and imports modules that the structure of
the inputs names. ``module()`` compiles guards and writes names into source code. This module checks
each of these before torch opens the archive. Archives that torch.export wrote from plain models
pass.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deployfold.errors import LoadError, first_line
from deployfold.loading.archive import read_entries
from deployfold.loading.harmless_names import is_harmless_name
from deployfold.loading.safe_globals import allowed_for
from deployfold.util.quiet import without_warnings
from deployfold.util.shared import ONE_AT_A_TIME

from .format import Content, Format, Header, Permissions

_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|prim|torchvision|quantized|quantized_decomposed)"
    r"\.(?:(?!__|_?from_file|save)\w+|__i?(?:and|or|xor|lshift|rshift)__)(?:\.[A-Za-z]\w*)?"
    # Operators such as .wrap are excluded: they call any operator among their arguments.
    r"|torch\.ops\.higher_order\.(cond|while_loop|scan|wrap_with_set_grad_enabled"
    r"|wrap_with_autocast)"
    r"|_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|abs|and_|or_|not_"
    r"|eq|ne|lt|le|gt|ge|lshift|rshift)"
    r"|math\.(ceil|floor|sqrt|trunc)|torch\.sym_\w+"
    r"|torch\._C\._set_grad_enabled|torch\.amp\.autocast_mode\._(enter|exit)_autocast"
)
_NAME = re.compile(r"[A-Za-z_][\w.]*\Z")
# The specification is JSON inside JSON, where an escape could spell either word.
_IMPORTING_SPEC = re.compile(r"__enum__|default_factory|\\u")
_EXPRESSION_TOKEN = re.compile(r"\s*(?:\d+(?:\.\d+)?|'[A-Za-z]+\d+'|(\w+)|[-+*/%(),<>=!&|~])")
_EXPRESSION_WORDS = frozenset(
    """Symbol Integer Float Rational Add Mul Pow Mod Max Min Abs Eq Ne Lt Le Gt Ge And Or Not
    FloorDiv ModularIndexing CleanDiv PythonMod CeilDiv CeilToInt FloorToInt TruncToInt TruncToFloat
    IntTrueDiv FloatTrueDiv ToFloat Where LShift RShift PowByNatural FloatPow RoundToInt
    RoundDecimal Identity Piecewise floor ceiling positive negative integer nonnegative nonzero
    True False oo int_oo evaluate""".split()
)


def recognise(header: Header) -> bool:
    """A zip archive with a serialised graph."""
    entries = header.entries or frozenset()
    return "serialized_exported_program.json" in entries or any(
        name.startswith("models/") and name.endswith(".json") for name in entries
    )


def read(path: Path, permissions: Permissions) -> Content:
    """The graph module and its input shapes; see :func:`load_program`."""
    module, shapes = load_program(path, trust=permissions.trust)
    return Content(module=module, kind="program", shapes=shapes)


FORMAT = Format("torch.export program", (".pt2",), recognise, read)


def load_program(path: Path, *, trust: bool) -> tuple[nn.Module, tuple[tuple[int, ...], ...]]:
    """The graph module of a ``.pt2`` file, and the shapes of its sample inputs.

    Raises:
        LoadError: the file is damaged, or could run code and ``trust`` is false.
    """
    if not trust:
        inspect(path)
    try:
        with ONE_AT_A_TIME, without_warnings():
            program = torch.export.load(path)
            # Guards would be compiled from source text of the archive.
            module = program.module(check_guards=False) if _has_guards() else program.module()
    except Exception as error:
        raise LoadError(
            f"{path} cannot be loaded as a torch.export program: {first_line(error)}",
            hint="The file may come from another version of torch; export it again with this one.",
        ) from error
    arguments = program.example_inputs[0] if program.example_inputs else ()
    return module, tuple(tuple(item.shape) for item in arguments if torch.is_tensor(item))


def inspect(path: Path) -> None:
    """Refuse an archive that could make torch run code.

    Raises:
        LoadError: the archive could make torch run code, or is damaged.
    """
    for entry, content in read_entries(path, _is_inspected).items():
        if "aotinductor" in entry or entry.endswith((".so", ".dll", ".pyd")):
            raise _unsafe(f"the compiled library {entry}")
        if "opaque" in entry:
            raise _unsafe(f"the pickled object {entry}")
        if entry.endswith(".json"):
            _inspect_json(entry, _parse(entry, content))
        else:
            allowed_for(io.BytesIO(content), ())


def _is_inspected(entry: str) -> bool:
    # Raw tensors, named weight_N and tensor_N, are not inspected: they hold numbers only.
    return (
        entry.endswith((".json", ".pt", ".pth", ".so", ".dll", ".pyd"))
        or "aotinductor" in entry
        or "opaque" in entry
    )


def _parse(entry: str, content: bytes) -> object:
    try:
        value: object = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"The archive's entry {entry} is damaged.") from error
    return value


def _inspect_json(entry: str, value: object) -> None:
    for key, item in _leaves(value):
        if key == "use_pickle" and item:
            raise _unsafe(f"pickled tensors ({entry})")
        if not isinstance(item, str):
            continue
        if key == "expr_str" and not _is_plain_expression(item):
            raise _unsafe(f"the expression {item[:60]!r}")
        if key in {"target", "as_operator"} and not _OPERATOR.fullmatch(item):
            raise _unsafe(f"the operator {item[:60]!r}")
        if key in {"name", "as_name", "forward_arg_names"} and item and not _NAME.match(item):
            raise _unsafe(f"the name {item[:60]!r}")
        if key.endswith(("_name", "fqn")) and not is_harmless_name(item):
            raise _unsafe(f"the name {item[:60]!r}")
        if key.endswith("_spec") and _IMPORTING_SPEC.search(item):
            raise _unsafe("an input structure that imports modules")


def _is_plain_expression(text: str) -> bool:
    position = 0
    while position < len(text.rstrip()):
        token = _EXPRESSION_TOKEN.match(text, position)
        if token is None:
            return False
        word = token.group(1)
        if word and word not in _EXPRESSION_WORDS and not re.fullmatch(r"[a-z]{1,3}\d+", word):
            return False
        position = token.end()
    return len(text) < 2000


def _leaves(value: object) -> Iterator[tuple[str, Any]]:
    """Every scalar with its key; the items of a list have the list's key."""
    stack: list[tuple[str, object]] = [("", value)]
    while stack:
        key, item = stack.pop()
        if isinstance(item, dict):
            stack.extend((str(name), child) for name, child in item.items())
        elif isinstance(item, list):
            stack.extend((key, child) for child in item)
        else:
            yield key, item


def _has_guards() -> bool:
    from inspect import signature

    return "check_guards" in signature(torch.export.ExportedProgram.module).parameters


def _unsafe(what: str) -> LoadError:
    return LoadError(
        f"The .pt2 archive contains {what}, so loading it could run code.",
        hint="If you trust its author, add --trust.",
    )
