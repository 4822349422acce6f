"""The options that several commands share, each defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MODEL = "Model"
PREPROCESS = "Images"
OUTPUT = "Output"
MEASURE = "Measurement"

Source = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A checkpoint (pickled module, state dict, .safetensors, TorchScript, .pt2), or "
        "torchvision:NAME or timm:NAME.",
        show_default=False,
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        help="Architecture of a state dict: torchvision:NAME, timm:NAME or package.module:factory.",
        rich_help_panel=MODEL,
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="[NAME=]SHAPE[:DTYPE]",
        help="An input, such as 1x3x224x224 or ids=1x16:int64; repeat it for several.",
        rich_help_panel=MODEL,
    ),
]
InputData = Annotated[
    str | None,
    typer.Option(
        "--input-data",
        "--inputs",
        metavar="SOURCE",
        help="Real inputs in place of random ones: a folder of images, .npy, .npz, .pt or "
        "package.module:function.",
        rich_help_panel=MODEL,
    ),
]
Preprocess = Annotated[
    str,
    typer.Option(
        metavar="auto|FILE",
        help="How images become inputs: the architecture's own way, or a TOML file.",
        rich_help_panel=PREPROCESS,
    ),
]
Resize = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS", min=1, help="Length of the shorter side.", rich_help_panel=PREPROCESS
    ),
]
Crop = Annotated[
    str | None,
    typer.Option(metavar="H[xW]", help="Central crop in pixels.", rich_help_panel=PREPROCESS),
]
Mean = Annotated[
    str | None,
    typer.Option(metavar="R,G,B", help="Mean of values from 0 to 1.", rich_help_panel=PREPROCESS),
]
Std = Annotated[
    str | None,
    typer.Option(metavar="R,G,B", help="Their deviation.", rich_help_panel=PREPROCESS),
]
Layout = Annotated[
    str | None,
    typer.Option(metavar="nchw|nhwc", help="Axes of the input.", rich_help_panel=PREPROCESS),
]
ColourChannels = Annotated[
    str | None,
    typer.Option(
        "--channels", metavar="rgb|bgr", help="Order of the colours.", rich_help_panel=PREPROCESS
    ),
]
DynamicBatch = Annotated[
    str | None,
    typer.Option(
        metavar="MIN:OPT:MAX",
        help="Batch sizes to serve, such as 1:8:32; 1:1:1,2:8:32 makes two optimization profiles.",
        rich_help_panel=MODEL,
    ),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]MIN:OPT:MAX",
        help="Shapes to serve, such as 1x3x224x224:4x3x224x224:8x3x320x320, with a comma before "
        "the next input; repeat it for several optimization profiles.",
        rich_help_panel=MODEL,
    ),
]
AllowGlobals = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-global",
        metavar="PACKAGE.CLASS",
        help="Let a pickled checkpoint use this class; repeat it for several.",
        rich_help_panel=MODEL,
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Unpickle the checkpoint in full. It can then run any code it likes.",
        rich_help_panel=MODEL,
    ),
]
NoReparam = Annotated[
    bool,
    typer.Option(
        "--no-reparam",
        help="Do not merge parallel branches (RepVGG) or fold constant scales (LayerScale).",
        rich_help_panel=MODEL,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="CPU threads for every row; the physical cores by default.",
        rich_help_panel=MEASURE,
    ),
]
MaxSeconds = Annotated[
    float,
    typer.Option(
        min=0.1, help="Time the measurement may take, in seconds.", rich_help_panel=MEASURE
    ),
]
OutputDirectory = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help="Where the artifacts go; build/<model> by default.",
        rich_help_panel=OUTPUT,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print the report as JSON on stdout, and all else on stderr.",
        rich_help_panel=OUTPUT,
    ),
]
NoColor = Annotated[
    bool,
    typer.Option("--no-color", help="No colours; NO_COLOR does the same.", rich_help_panel=OUTPUT),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Say more about every stage.", rich_help_panel=OUTPUT),
]
Debug = Annotated[
    bool,
    typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=OUTPUT),
]
Batch = Annotated[
    str | None,
    typer.Option(
        metavar="N,N…",
        help="Also measure the throughput at these batch sizes, such as 1,8,32.",
        rich_help_panel=MEASURE,
    ),
]
NoCudaGraph = Annotated[
    bool,
    typer.Option(
        "--no-cuda-graph",
        help="Launch an engine's kernels one by one, and not as one CUDA graph.",
        rich_help_panel=MEASURE,
    ),
]
RuntimeCache = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Keep the kernels here that TensorRT-RTX compiles when an engine first runs.",
        rich_help_panel=MEASURE,
    ),
]
Provider = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The ONNX Runtime execution provider of an ONNX: cpu, cuda, tensorrt, "
        "tensorrt-rtx, or another that is installed.",
        rich_help_panel=MEASURE,
    ),
]
Providers = Annotated[
    list[str] | None,
    typer.Option(
        "--provider",
        metavar="NAME",
        help="The ONNX Runtime execution provider of an ONNX: cpu, cuda, tensorrt, "
        "tensorrt-rtx; repeat it for a row each.",
        rich_help_panel=MEASURE,
    ),
]
ColdStart = Annotated[
    bool,
    typer.Option(
        "--cold-start",
        help="Also measure load to first output and peak memory, in fresh processes.",
        rich_help_panel=MEASURE,
    ),
]
Sort = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Show the best of this column first: parameters, bn, size, median, p95, throughput, "
        "speedup, diff, sqnr, accuracy or cold.",
        rich_help_panel=OUTPUT,
    ),
]
