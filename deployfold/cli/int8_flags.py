"""The options of INT8, FP8 and INT4, as ``deployfold build`` takes them."""

from __future__ import annotations

from typing import Annotated

import typer

PANEL = "INT8, FP8, INT4"

Calib = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE",
        help="Calibration data: a folder of images, .npy, .npz, .pt, package.module:function, "
        "or random.",
        rich_help_panel=PANEL,
    ),
]
CalibSamples = Annotated[
    int,
    typer.Option(
        min=2, help="Samples taken of it, the held-back ones included.", rich_help_panel=PANEL
    ),
]
HeldBack = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="Least share of the samples to measure on; 64 of the others calibrate.",
        rich_help_panel=PANEL,
    ),
]
MinSqnr = Annotated[
    float,
    typer.Option(
        metavar="DB",
        help="SQNR of every output that must be kept; layers go back to --int8-rest for it.",
        rich_help_panel=PANEL,
    ),
]
MinAgreement = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        min=0,
        max=1,
        help="Share of samples whose top-1 class must stay.",
        rich_help_panel=PANEL,
    ),
]
MinInt8Share = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        min=0,
        max=1,
        help="Share of the multiply-accumulates that must remain quantised.",
        rich_help_panel=PANEL,
    ),
]
NoGuard = Annotated[
    bool,
    typer.Option("--no-guard", help="Quantise every layer, however bad.", rich_help_panel=PANEL),
]
Int8Rest = Annotated[
    str,
    typer.Option(metavar="fp16|fp32", help="Precision of what these leave.", rich_help_panel=PANEL),
]
ResidualQdq = Annotated[
    bool,
    typer.Option(
        "--residual-qdq",
        help="INT8 and FP8 for the skips of residual sums too: less memory traffic, more error.",
        rich_help_panel=PANEL,
    ),
]
Layers = Annotated[
    bool,
    typer.Option("--layers", help="List the layers, the least exact first.", rich_help_panel=PANEL),
]
