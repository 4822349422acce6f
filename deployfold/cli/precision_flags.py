"""The precisions that ``deployfold build`` can build in, as flags."""

from __future__ import annotations

from typing import Annotated

import typer

PANEL = "Target"

Fp16 = Annotated[bool, typer.Option("--fp16", help="Build in FP16.", rich_help_panel=PANEL)]
Bf16 = Annotated[
    bool,
    typer.Option(
        "--bf16",
        help="Build in BF16: the range of FP32, 8 bits of precision; Ampere and newer.",
        rich_help_panel=PANEL,
    ),
]
Int8 = Annotated[
    bool,
    typer.Option("--int8", help="Build in INT8, calibrated on --calib.", rich_help_panel=PANEL),
]
Fp8 = Annotated[
    bool,
    typer.Option(
        "--fp8",
        help="Build in FP8 (E4M3), calibrated on --calib; Ada and newer.",
        rich_help_panel=PANEL,
    ),
]
Int4 = Annotated[
    bool,
    typer.Option(
        "--int4",
        help="Keep the weights of matrix products in INT4, fitted to --calib where that is given; "
        "Ampere and newer.",
        rich_help_panel=PANEL,
    ),
]
