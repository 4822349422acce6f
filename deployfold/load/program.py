"""``torch.export`` archives, inspected before torch opens them.

``torch.export.load`` is not safe on its own (read in torch 2.14): it unpickles sample inputs and
some tensors in full, has sympy evaluate symbolic sizes, looks operators up by any dotted name, runs
compiled libraries that the archive carries, and ``module()`` compiles guards. Each of those is
looked at here first; an archive that torch.export itself wrote from a plain model passes.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deployfold.errors import LoadError

from .kinds import read_json
from .safe_globals import allowed_for

_OPERATOR = re.compile(
    r"(torch\.ops\.(aten|prims|prim|torchvision|quantized|quantized_decomposed|higher_order)\.[\w.]+"
    r"|_operator\.\w+|math\.(ceil|floor|sqrt|trunc)|torch\.sym_\w+)\Z"
)
_NAME = re.compile(r"[A-Za-z_][\w.]*\Z")
_EXPRESSION_TOKEN = re.compile(r"\s*(?:\d+(?:\.\d+)?|'[A-Za-z]+\d+'|(\w+)|[-+*/%(),<>=!&|~])")
_EXPRESSION_WORDS = frozenset(
    """Symbol Integer Float Rational Add Mul Pow Mod Max Min Abs Eq Ne Lt Le Gt Ge And Or Not
    FloorDiv ModularIndexing CleanDiv PythonMod CeilDiv CeilToInt FloorToInt TruncToInt TruncToFloat
    IntTrueDiv FloatTrueDiv ToFloat Where LShift RShift PowByNatural FloatPow RoundToInt
    RoundDecimal Identity Piecewise floor ceiling positive negative integer nonnegative nonzero
    True False oo int_oo evaluate""".split()
)


def load_program(path: Path, *, trust: bool) -> tuple[nn.Module, tuple[tuple[int, ...], ...]]:
    """The graph module of a ``.pt2`` file, and the shapes of its sample inputs.

    Raises:
        LoadError: it is damaged, or could run code and ``trust`` was not given.
    """
    if not trust:
        inspect(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
            # Guards would be compiled from source text in the archive.
            module = program.module(check_guards=False) if _has_guards() else program.module()
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise LoadError(
            f"{path} cannot be loaded as a torch.export program: {first}",
            hint="It may come from another version of torch; export it again with this one.",
        ) from error
    arguments = program.example_inputs[0] if program.example_inputs else ()
    return module, tuple(tuple(item.shape) for item in arguments if torch.is_tensor(item))


def inspect(path: Path) -> None:
    """Refuse an archive that could make torch run code.

    Raises:
        LoadError: it could, or it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            inner = entry.partition("/")[2]
            if "aotinductor" in inner or inner.endswith((".so", ".dll", ".pyd")):
                raise _unsafe(f"the compiled library {entry}")
            if inner.startswith("data/constants/") and "opaque" in inner:
                raise _unsafe(f"the pickled object {entry}")
            if entry.endswith(".json"):
                _inspect_json(entry, read_json(archive, entry))
            elif _is_torch_file(entry):
                allowed_for(io.BytesIO(archive.read(entry)), ())


def _is_torch_file(entry: str) -> bool:
    # Raw tensors are named weight_N and tensor_N; anything else that torch opens is an archive.
    return entry.endswith((".pt", ".pth"))


def _inspect_json(entry: str, value: object) -> None:
    for key, item in _leaves(value):
        if key == "use_pickle" and item:
            raise _unsafe(f"pickled tensors ({entry})")
        if not isinstance(item, str):
            continue
        if key == "expr_str" and not _is_plain_expression(item):
            raise _unsafe(f"the expression {item[:60]!r}")
        if key == "target" and not _OPERATOR.match(item):
            raise _unsafe(f"the operator {item[:60]!r}")
        if key in {"name", "as_name", "forward_arg_names"} and item and not _NAME.match(item):
            raise _unsafe(f"the name {item[:60]!r}")


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


def _leaves(value: object, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every scalar with the key it stands under; the items of a list stand under the list's."""
    stack: list[tuple[str, object]] = [(key, value)]
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
        f"The .pt2 archive holds {what}, with which loading could run code.",
        hint="If you trust its author, --trust loads it all the same.",
    )
