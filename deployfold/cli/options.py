"""Makes the flags of the commands from the options of ``build``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.models import OptionInfo

from deployfold.config.build_options import build_options
from deployfold.config.option_field import Option, Panel
from deployfold.reporting.metrics import METRICS

from .group import print_whole_help

Function = TypeVar("Function", bound=Callable[..., Any])


def option(help: str, *names: str, panel: str = Panel.OUTPUT, **other: Any) -> Any:
    """The typer option of a command itself, under the heading ``panel`` of ``--help``.

    Args:
        help: the sentence in ``--help``.
        names: the flags; made from the parameter's name by default.
    """
    return typer.Option(*names, help=help, rich_help_panel=panel, **other)


def flag(key: str, **other: Any) -> Any:
    """The typer option for the option of ``build`` with this key.

    Args:
        other: keywords of ``typer.Option`` with other values than the option's.
    """
    return _typer_option(_OPTIONS[key], **other)


def with_build_options(*keys: str, uncommon: Sequence[str] = ()) -> Callable[[Function], Function]:
    """Give a command options of ``build``, for its parameter ``**written``.

    The parameters are named by the options' keywords. They come after the function's own positional
    parameters and before its keyword-only ones.

    Args:
        keys: the options; all options by default.
        uncommon: the function's own parameters that only ``--help-all`` lists. For the options of
            ``build``, ``Option.common`` decides.
    """
    options = [_OPTIONS[key] for key in keys] if keys else list(_OPTIONS.values())

    def decorate(function: Function) -> Function:
        given = inspect.signature(function, eval_str=True).parameters.values()
        first = [one for one in given if one.kind is one.POSITIONAL_OR_KEYWORD]
        last = [one for one in given if one.kind is one.KEYWORD_ONLY]
        made = [
            inspect.Parameter(
                one.keyword,
                inspect.Parameter.KEYWORD_ONLY,
                default=None if one.many else one.default,
                annotation=Annotated[_annotation(one), _typer_option(one)],
            )
            for one in options
        ]
        also = [] if keys else [one.keyword for one in options if not one.common]
        function.uncommon = (*uncommon, *also)  # type: ignore[attr-defined]
        function.__signature__ = inspect.Signature([*first, *made, *last])  # type: ignore[attr-defined]
        return function

    return decorate


def _annotation(one: Option) -> Any:
    kind = list[one.kind] if one.many else one.kind  # type: ignore[name-defined]
    return kind | None if one.default is None or one.many else kind


def _typer_option(one: Option, **other: Any) -> OptionInfo:
    settings: dict[str, Any] = {
        "help": one.help,
        "rich_help_panel": one.panel,
        "min": _bound(one.least),
        "max": _bound(one.most),
        "metavar": one.metavar,
        "show_default": one.default is not None and not one.many,
    }
    made: OptionInfo = typer.Option(*one.spellings, **{**settings, **other})
    return made


def _bound(number: float | None) -> float | None:
    """The bound of a range for ``--help``: 1 instead of 1.0."""
    return int(number) if number is not None and number == int(number) else number


_OPTIONS = {one.key: one for one in build_options()}

MODEL = ("arch", "arch-arg", "weights", "input", "fix", "allow-global", "trust")
"""The options of a model to load."""
FOLDING = tuple(one.key for one in build_options() if one.group == "folding")

Source = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A checkpoint, an ONNX, torchvision:NAME or timm:NAME; or package.module:factory, or "
        "a directory of Hugging Face or timm. Checkpoints are pickled modules, state dicts, "
        ".safetensors, TorchScript archives and .pt2 files.",
        show_default=False,
    ),
]
Arch = Annotated[str | None, flag("arch")]
Inputs = Annotated[list[str] | None, flag("input")]
AllowGlobals = Annotated[list[str] | None, flag("allow-global")]
Trust = Annotated[bool, flag("trust")]
Device = Annotated[str, flag("device")]
NoTf32 = Annotated[bool, flag("no-tf32")]
Threads = Annotated[int | None, flag("threads")]
MaxSeconds = Annotated[float, flag("max-seconds")]
Batch = Annotated[str | None, flag("batch")]
NoCudaGraph = Annotated[bool, flag("no-cuda-graph")]
RuntimeCache = Annotated[
    Path | None,
    option(
        "A folder for the kernels that TensorRT-RTX compiles when an engine first runs.",
        panel=Panel.MEASUREMENT,
        metavar="DIR",
    ),
]
_PROVIDER = "The ONNX Runtime execution provider of an ONNX: cpu, cuda, tensorrt, tensorrt-rtx"
Provider = Annotated[
    str | None,
    option(
        f"{_PROVIDER}, or another installed provider.",
        panel=Panel.MEASUREMENT,
        metavar="NAME",
    ),
]
Providers = Annotated[
    list[str] | None,
    option(
        f"{_PROVIDER}; repeat it for several rows.",
        "--provider",
        panel=Panel.MEASUREMENT,
        metavar="NAME",
    ),
]
ColdStart = Annotated[bool, flag("cold-start")]
Sort = Annotated[
    str | None,
    option(f"Show the best of this metric first: {', '.join(METRICS)}.", metavar="COLUMN"),
]
Seed = Annotated[int, flag("seed", help="Seed of the random inputs.")]
Only = Annotated[
    list[str] | None,
    option("Show only this row and the original; repeat it for several.", metavar="ROW"),
]
Layers = Annotated[
    bool,
    option(
        "List the layers of quantised rows, the least exact first, and of engines.",
        "--layers",
        panel=Panel.QUANTIZATION,
    ),
]
HelpAll = Annotated[
    bool,
    option(
        "Show all options.",
        "--help-all",
        callback=print_whole_help,
        is_eager=True,
        expose_value=False,
    ),
]
