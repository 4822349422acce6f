"""Checks the source that calls TensorRT against the Python API of TensorRT 10, 11 and TensorRT-RTX.

What the source uses is read from its syntax tree: attributes of variables whose names always stand
for one class (``RECEIVERS``), members of the library itself (``trt.BuilderFlag.REFIT``), classes
derived from it, and tables of member names (``TABLES``). What the libraries have is read from
``tensorrt_api.json``, which this module makes from listings of their real bindings:

    python tests/support/tensorrt_contract.py LISTING… > tests/support/tensorrt_api.json

A listing has a first line ``# tensorrt 10.16.1.11: …``; lines ``enum NAME: A=0, B=1``; and lines
``class NAME``, each followed by its members, indented: ``member(self: Class, x: int = 0) -> int``,
``.attribute  (property)`` or a bare name; overloads are numbered. The JSON keeps the names that the
source uses, and nothing else of it.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import deployfold

PACKAGE = Path(deployfold.__file__).parent
TABLE = Path(__file__).with_name("tensorrt_api.json")
SOURCES = (
    "compiling/tensorrt/builder.py",
    "compiling/tensorrt/builder_config.py",
    "compiling/tensorrt/network.py",
    "compiling/tensorrt/progress.py",
    "runtimes/tensorrt_engine.py",
    "runtimes/tensorrt_file.py",
    "runtimes/tensorrt_library.py",
    "runtimes/tensorrt_profile.py",
    "runtimes/tensorrt_refit.py",
)
"""The modules that call TensorRT; a test finds those that are missing here."""
PASSING_ON = (
    "compiling/tensorrt/retry_in_fp32.py",
    "compiling/worker.py",
    "runtimes/tensorrt_load.py",
)
"""Modules that hand the library on and use nothing of it."""
RECEIVERS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "_runtime": "Runtime",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "context": "IExecutionContext",
    "runtime_config": "IRuntimeConfig",
    "runtime_cache": "IRuntimeCache",
    "_context": "IExecutionContext",
    "tensor": "ITensor",
    "operand": "ITensor",
    "inspector": "EngineInspector",
    "refitter": "Refitter",
    "serialization": "ISerializationConfig",
    "onnx_refitter": "OnnxParserRefitter",
    "layer": "ILayer",
    "source": "ILayer",
}
"""Variables and attributes of ``self``, by name. ``error`` is one only in :data:`PARSER_ERRORS`."""
PARTIAL = {"IRuntimeCache"}
"""Classes of :data:`RECEIVERS` that not every library has: such a variable is of one that does."""
PARSER_ERRORS = "_parser_error"
TABLES = {
    "deployfold.compiling.tensorrt.builder_config:BUILDER_FLAGS": "BuilderFlag",
    "deployfold.compiling.tensorrt.network:DTYPES": "DataType",
    "deployfold.compiling.tensorrt.network:ROLES": "LayerType",
}
"""Constants that name members of an enum, as their values if those are in capitals, else keys."""

Api = dict[str, list[list[str]]]
"""By ``Class.member``, ``Enum.MEMBER`` or ``Class``: parameters of each overload, without self; a
parameter with a default ends in ``=``. Empty for what is not called."""


@dataclass(frozen=True)
class Use:
    """One place where the source uses a name of the library.

    Attributes:
        owner: the class or enum, ``""`` for the library itself.
        arguments: of a call, positional ones; ``None`` where it is not called.
        guards: names that the function around asks for with ``hasattr``.
    """

    owner: str
    member: str
    where: str
    arguments: int | None = None
    keywords: tuple[str, ...] = ()
    guards: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return f"{self.owner}.{self.member}" if self.owner else self.member


def uses(source: str, where: str) -> list[Use]:
    """The parts of TensorRT's API that a module uses."""
    tree = ast.parse(source)
    found = []
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        reader = _Reader(function, where)
        found += reader.read()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            found += _derived(node, where)
    return list(dict.fromkeys(found))


def all_uses() -> list[Use]:
    """The parts of TensorRT's API that deployfold uses."""
    found = []
    for name in SOURCES:
        path = PACKAGE / name
        found += uses(path.read_text(encoding="utf-8"), name)
    for place, enum in TABLES.items():
        module, _, constant = place.partition(":")
        table = getattr(importlib.import_module(module), constant)
        names = [str(value) for value in table.values()]
        names = names if all(name.isupper() for name in names) else list(table)
        found += [Use(enum, name, place) for name in names]
    return found


class _Reader:
    """Reads one function, without the functions inside it."""

    def __init__(self, function: ast.FunctionDef, where: str) -> None:
        self.function, self.where = function, where
        self.nodes = list(_own_nodes(function))
        self.aliases = {
            node.targets[0].id: owner
            for node in self.nodes
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            if (owner := self.library_path(node.value))
        }
        self.guards = frozenset(
            f"{owner}.{node.args[1].value}" if owner else str(node.args[1].value)
            for node in self.nodes
            if _is_call(node, "hasattr") and isinstance(node.args[1], ast.Constant)
            if (owner := self.owner_of(node.args[0])) is not None
        )

    def read(self) -> list[Use]:
        calls = {id(node.func): node for node in self.nodes if isinstance(node, ast.Call)}
        found = []
        for node in self.nodes:
            if not isinstance(node, ast.Attribute):
                continue
            owner = self.owner_of(node.value)
            if owner is None or node.attr.startswith("__"):
                continue
            call = calls.get(id(node))
            found.append(
                Use(
                    owner,
                    node.attr,
                    f"{self.where}:{self.function.name}",
                    None if call is None else len(call.args),
                    () if call is None else tuple(key.arg or "" for key in call.keywords),
                    self.guards,
                )
            )
        return found

    def owner_of(self, node: ast.expr) -> str | None:
        """The class that an expression is of, ``""`` for the library, ``None`` if unknown."""
        if isinstance(node, ast.Name):
            if node.id == "trt":
                return ""
            if node.id == "error" and self.function.name == PARSER_ERRORS:
                return "ParserError"
            return self.aliases.get(node.id) or RECEIVERS.get(node.id)
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                return RECEIVERS.get(node.attr) if node.attr.startswith("_") else None
            return self.library_path(node)
        return None

    def library_path(self, node: ast.expr) -> str | None:
        """``LayerType`` for the expression ``trt.LayerType``."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.insert(0, node.attr)
            node = node.value
        known = parts and parts[0][0].isupper() and not any(part.startswith("_") for part in parts)
        if isinstance(node, ast.Name) and node.id == "trt" and known:
            return ".".join(parts)
        return None


def _own_nodes(function: ast.FunctionDef) -> Iterator[ast.AST]:
    stack: list[ast.AST] = list(ast.iter_child_nodes(function))
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, ast.FunctionDef):
            stack += ast.iter_child_nodes(node)


def _is_call(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def _derived(node: ast.ClassDef, where: str) -> list[Use]:
    """The methods that a class overrides in one of the library's."""
    bases = [base.attr for base in node.bases if isinstance(base, ast.Attribute)]
    return [
        Use(base, method.name, f"{where}:{node.name}", len(method.args.args) - 1)
        for base in bases
        for method in node.body
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_")
    ]


def problems(found: Sequence[Use], api: Api, title: str) -> list[str]:
    """The parts of ``found`` that the library ``api`` lacks or has in another form."""
    wrong = []
    for use in found:
        if use.owner in PARTIAL and use.owner not in api:
            continue
        if any(guard not in api for guard in use.guards):
            continue  # that function asked, and did not go on
        if use.name not in api:
            wrong.append(f"{use.where}: {title} has no {use.name}")
            continue
        overloads = api[use.name]
        if use.arguments is not None and overloads and not any(_takes(o, use) for o in overloads):
            wrong.append(f"{use.where}: {title} takes {use.name}({overloads})")
    return wrong


def _takes(overload: list[str], use: Use) -> bool:
    names = [parameter.rstrip("=") for parameter in overload]
    required = [name for name, raw in zip(names, overload, strict=True) if not raw.endswith("=")]
    assert use.arguments is not None
    given = {*names[: use.arguments], *use.keywords}
    return use.arguments <= len(names) and set(required) <= given and given <= set(names)


def read_listing(text: str) -> tuple[str, Api]:
    """A library's title, and all names of its listing."""
    title = re.match(r"# (\S+ [\d.]+)", text)
    assert title is not None, "the first line must name the library"
    api: Api = {}
    owner = ""
    for line in text.splitlines()[1:]:
        if match := re.match(r"enum (\w+): (.*)", line):
            api[match[1]] = []
            api.update({f"{match[1]}.{name}": [] for name in re.findall(r"(\w+)=", match[2])})
        elif match := re.match(r"class (\w+)", line):
            owner = match[1]
            api[owner] = []
        elif match := re.match(r"\s+(?:\d+\. )?(\w+)\((.*)\)", line):
            name = owner if match[1] == "__init__" else f"{owner}.{match[1]}"
            api.setdefault(name, []).append(_parameters(match[2]))
        elif match := re.match(r"\s+\.?(\w+)", line):
            api[f"{owner}.{match[1]}"] = []
    # The listing has the members of the nested enum as the class itself exports them.
    severities = [name for name in api if re.fullmatch(r"ILogger\.[A-Z_]+", name)]
    api.update({name.replace(".", ".Severity."): [] for name in severities})
    return title[1], api


def _parameters(text: str) -> list[str]:
    text = re.sub(r"<[^>]*>", "", text)  # the value of a default: <Severity.WARNING: 2>
    found = re.findall(r"(\w+): (?:[^,\[\]=<]|\[[^\]]*\])*(=?)", text)
    return [name + default for name, default in found if name != "self"]


def main(listings: Sequence[str]) -> None:
    """Print the table for the libraries of those listings."""
    found = all_uses()
    wanted = {use.name for use in found} | {guard for use in found for guard in use.guards}
    wanted |= PARTIAL
    table = {}
    for listing in listings:
        title, api = read_listing(Path(listing).read_text(encoding="utf-8"))
        table[title] = {name: api[name] for name in sorted(wanted) if name in api}
    lines = []
    for title, names in table.items():
        inner = ",\n".join(
            f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in names.items()
        )
        lines.append(f"  {json.dumps(title)}: {{\n{inner}\n  }}")
    print("{\n" + ",\n".join(lines) + "\n}")


if __name__ == "__main__":
    main(sys.argv[1:])
