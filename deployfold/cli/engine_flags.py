"""The options of the engine builder, as ``deployfold build`` takes them."""

from __future__ import annotations

from typing import Annotated

import typer

PANEL = "Engine"

Workspace = Annotated[
    int | None,
    typer.Option(
        metavar="MIB", min=1, help="TensorRT's workspace limit in MiB.", rich_help_panel=PANEL
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        metavar="SECONDS", min=1, help="Time that an engine build may take.", rich_help_panel=PANEL
    ),
]
OptimizationLevel = Annotated[
    int | None,
    typer.Option(
        metavar="0-5",
        min=0,
        max=5,
        help="Time spent on finding fast kernels: 0 (fast build) to 5 (fast engine).",
        rich_help_panel=PANEL,
    ),
]
TimingCache = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Keep what TensorRT measured of its kernels here, for the next build.",
        rich_help_panel=PANEL,
    ),
]
HardwareCompatibility = Annotated[
    str,
    typer.Option(
        "--hardware-compatibility",
        metavar="LEVEL",
        help="Which other GPUs shall run the engine: none, ampere_plus or same_compute_capability.",
        rich_help_panel=PANEL,
    ),
]
VersionCompatible = Annotated[
    bool,
    typer.Option(
        "--version-compatible",
        help="The engine shall load in newer TensorRT versions.",
        rich_help_panel=PANEL,
    ),
]
ExcludeLeanRuntime = Annotated[
    bool,
    typer.Option(
        "--exclude-lean-runtime",
        help="Leave the runtime out of a version-compatible engine.",
        rich_help_panel=PANEL,
    ),
]
WeightStreaming = Annotated[
    bool,
    typer.Option(
        "--weight-streaming",
        help="Weights may stay in host memory.",
        rich_help_panel=PANEL,
    ),
]
StripPlan = Annotated[
    bool,
    typer.Option(
        "--strip-plan",
        help="Leave the weights out; refitting brings them back.",
        rich_help_panel=PANEL,
    ),
]
Refit = Annotated[
    bool,
    typer.Option(
        "--refit",
        help="Weights can be replaced later.",
        rich_help_panel=PANEL,
    ),
]
DlaCore = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        help="Run on this DLA core of a Jetson.",
        rich_help_panel=PANEL,
    ),
]
NoGpuFallback = Annotated[
    bool,
    typer.Option(
        "--no-gpu-fallback",
        help="Fail where the DLA cannot run a layer.",
        rich_help_panel=PANEL,
    ),
]
TorchTensorRT = Annotated[
    bool,
    typer.Option(
        "--torch-tensorrt",
        help="Also compile the .pt2 with torch-tensorrt, for the GPU in this machine.",
        rich_help_panel=PANEL,
    ),
]
