"""The flags of the commands, made from the options of ``build`` where they are the same option."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.models import OptionInfo

from deployfold.config.build_options import build_options
from deployfold.config.option_field import Option, Panel
from deployfold.reporting.metrics import METRICS

from .group import print_whole_help

Function = TypeVar("Function", bound=Callable[..., Any])


def flag(key: str, **other: Any) -> Any:
    """The typer option of the option of ``build`` with this key.

    Args:
        other: keywords of ``typer.Option`` that differ from it.
    """
    return _typer_option(_OPTIONS[key], **other)


def with_build_options(*uncommon: str) -> Callable[[Function], Function]:
    """Give a command every option of ``build``, for its parameter ``**written``.

    The parameters are named by the options' keywords. Those of the function itself come last.

    Args:
        uncommon: parameters of the function itself that ``--help`` leaves to ``--help-all``. The
            options of ``build`` carry that themselves.
    """
    return lambda function: _with_build_options(function, uncommon)


def _with_build_options(function: Function, uncommon: tuple[str, ...]) -> Function:
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
        for one in _OPTIONS.values()
    ]
    also = [one.keyword for one in _OPTIONS.values() if not one.common]
    function.uncommon = (*uncommon, *also)  # type: ignore[attr-defined]
    function.__signature__ = inspect.Signature([*first, *made, *last])  # type: ignore[attr-defined]
    return function


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
    """The bound of a range as ``--help`` prints it: 1 and not 1.0."""
    return int(number) if number is not None and number == int(number) else number


_OPTIONS = {one.key: one for one in build_options()}

Source = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A checkpoint, torchvision:NAME or timm:NAME; or package.module:factory, or a "
        "directory of Hugging Face or timm. Checkpoints are pickled modules, state dicts, "
        ".safetensors, TorchScript archives and .pt2 files.",
        show_default=False,
    ),
]
Arch = Annotated[str | None, flag("arch")]
ArchArgs = Annotated[list[str] | None, flag("arch-arg")]
Weights = Annotated[str | None, flag("weights")]
Inputs = Annotated[list[str] | None, flag("input")]
InputData = Annotated[str | None, flag("input-data")]
DynamicBatch = Annotated[str | None, flag("dynamic-batch")]
Shapes = Annotated[list[str] | None, flag("shapes")]
AllowGlobals = Annotated[list[str] | None, flag("allow-global")]
Trust = Annotated[bool, flag("trust")]
NoReparam = Annotated[bool, flag("no-reparam")]
Device = Annotated[str, flag("device")]
NoTf32 = Annotated[bool, flag("no-tf32")]
Threads = Annotated[int | None, flag("threads")]
MaxSeconds = Annotated[float, flag("max-seconds")]
OutputDirectory = Annotated[Path | None, flag("output")]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print JSON on stdout; progress and notes go to stderr.",
        rich_help_panel=Panel.OUTPUT,
    ),
]
NoColor = Annotated[
    bool,
    typer.Option(
        "--no-color",
        help="No colours; the environment variable NO_COLOR does the same.",
        rich_help_panel=Panel.OUTPUT,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Print more about every stage.", rich_help_panel=Panel.OUTPUT
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Print errors only; with --json, the JSON too.",
        rich_help_panel=Panel.OUTPUT,
    ),
]
Debug = Annotated[
    bool,
    typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=Panel.OUTPUT),
]
Batch = Annotated[str | None, flag("batch")]
NoCudaGraph = Annotated[bool, flag("no-cuda-graph")]
RuntimeCache = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Keep the kernels here that TensorRT-RTX compiles when an engine first runs.",
        rich_help_panel=Panel.MEASUREMENT,
    ),
]
Provider = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The ONNX Runtime execution provider of an ONNX: cpu, cuda, tensorrt, "
        "tensorrt-rtx, or another that is installed.",
        rich_help_panel=Panel.MEASUREMENT,
    ),
]
Providers = Annotated[
    list[str] | None,
    typer.Option(
        "--provider",
        metavar="NAME",
        help="The ONNX Runtime execution provider of an ONNX: cpu, cuda, tensorrt, "
        "tensorrt-rtx; repeat it for a row each.",
        rich_help_panel=Panel.MEASUREMENT,
    ),
]
ColdStart = Annotated[bool, flag("cold-start")]
Sort = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help=f"Show the best of this metric first: {', '.join(METRICS)}.",
        rich_help_panel=Panel.OUTPUT,
    ),
]
Seed = Annotated[int, flag("seed", help="Seed of the random inputs.")]
Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ROW",
        help="Show only this row beside the original; repeat it for several.",
        rich_help_panel=Panel.OUTPUT,
    ),
]
Layers = Annotated[
    bool,
    typer.Option(
        "--layers",
        help="List the layers of INT8, FP8 and INT4, the least exact first.",
        rich_help_panel=Panel.QUANTIZATION,
    ),
]
HelpAll = Annotated[
    bool,
    typer.Option(
        "--help-all",
        help="Show all options.",
        callback=print_whole_help,
        is_eager=True,
        expose_value=False,
        rich_help_panel=Panel.OUTPUT,
    ),
]
