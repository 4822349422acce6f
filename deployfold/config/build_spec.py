"""The specification of one build: every option of ``deployfold build``, defined once.

To add an option, add a field with :func:`~deployfold.config.option_field.option` here or in a
dataclass that is grouped here. Stages read it as ``spec.NAME``. The flag ``--NAME`` and its help,
the key of build profiles, the keyword of :func:`deployfold.build` and the JSON schema follow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from deployfold.errors import UsageError

from .accuracy import GuardSpec, KeepSpec, QdqSpec
from .engine import EngineOptions
from .flag_values import read_arguments, read_batches, read_device
from .folding import FoldOptions
from .inputs import InputSpec, read_inputs
from .optimization_profiles import (
    Dynamic,
    DynamicBatch,
    OptimizationProfile,
    read_dynamic_batch,
    read_shapes,
)
from .option_field import Panel, check_ranges, group, option, torch_option
from .precision import Precision
from .real_data import CalibrationSpec, PreprocessSpec, check_calibration, read_input_data
from .task_metrics import MetricSpec
from .thresholds import Thresholds


@dataclass(frozen=True)
class BuildSpec:
    """The specification of one build: validated, immutable, and free of torch.

    Attributes:
        source: a file or directory, ``torchvision:NAME`` / ``timm:NAME``, or
            ``package.module:factory``.
        written: the options as users write them, by key.
        precisions: the lowered precisions; an fp32 ONNX is always exported.
        threads: CPU threads; ``None`` takes the number of physical cores.
        input_data: the source of real inputs to run on; ``None`` takes seeded random inputs.
        preprocess: how images become inputs, for ``calibration`` and ``input_data`` alike.
        calibration: the data for precisions that need calibration, or that may use it.

    Raises:
        UsageError: a number is out of range, or two options exclude each other.
    """

    source: str
    written: tuple[tuple[str, Any], ...] = field(default=(), compare=False, kw_only=True)
    precisions: tuple[Precision, ...] = ()
    targets: tuple[str, ...] = option(
        ("auto",),
        "A GPU such as rtx4090, l4 or sm_89; deployfold targets lists them. Repeat it for several. "
        "l4,rtx5090: one engine for both. portable: one for GeForce RTX 30 to 50 and their "
        "siblings. auto: the GPU in this machine, else portable.",
        Panel.TARGET,
        key="target",
        metavar="GPU",
        common=True,
    )
    engine: bool = option(True, "Stop before TensorRT.", Panel.TARGET, common=True)
    float_io: bool = option(
        "fp32",
        "Precision of the inputs and outputs of lowered models.",
        Panel.TARGET,
        key="io",
        choices=("fp32", "fp16"),
        read=lambda text: text == "fp32",
    )
    arch: str | None = torch_option(
        None,
        "Architecture of a state dict; torchvision:NAME, timm:NAME or package.module:factory.",
        Panel.MODEL,
        metavar="NAME",
        common=True,
        code=True,
    )
    arch_options: tuple[tuple[str, Any], ...] = torch_option(
        (),
        "An argument of the architecture's builder, such as num_classes=4; repeat it for several.",
        Panel.MODEL,
        key="arch-arg",
        metavar="NAME=VALUE",
        read=read_arguments,
    )
    weights: str | None = torch_option(
        None,
        "Weights to load from a checkpoint with several sets: a key or prefix, such as ema.",
        Panel.MODEL,
        metavar="KEY",
    )
    inputs: InputSpec | None = option(
        (),
        "Shape of an input, such as 1x3x224x224; in full [NAME=]SHAPE[:DTYPE], such as "
        "ids=1x16:int64. Repeat it for several.",
        Panel.MODEL,
        key="input",
        metavar="SHAPE",
        common=True,
        read=read_inputs,
    )
    fixed: tuple[tuple[str, Any], ...] = option(
        (),
        "Fix an input at one value, such as sr=16000; the files no longer have that input. "
        "Repeat it for several.",
        Panel.MODEL,
        key="fix",
        metavar="NAME=VALUE",
        read=partial(read_arguments, example="--fix sr=16000"),
    )
    input_data: CalibrationSpec | None = option(
        None,
        "Real inputs instead of random ones; a folder of images, .npy, .npz, .pt or "
        "package.module:function.",
        Panel.MODEL,
        aliases=("--inputs",),
        metavar="SOURCE",
        common=True,
        path=True,
        code=True,
        data=True,
        read=read_input_data,
    )
    labels: Path | None = option(
        None,
        "Labels for --calib, or else for --input-data; classes, COCO's JSON, a folder of masks.",
        Panel.MODEL,
        metavar="FILE|DIR",
        data=True,
    )
    dynamic_batch: tuple[DynamicBatch, ...] = option(
        None,
        "Batch sizes to serve, such as 1:8:32; 1:1:1,2:8:32 makes two optimization profiles.",
        Panel.MODEL,
        metavar="MIN:OPT:MAX",
        common=True,
        read=read_dynamic_batch,
    )
    shapes: tuple[OptimizationProfile, ...] = option(
        (),
        "Shapes to serve, such as 1x3x224x224:4x3x224x224:8x3x320x320, with a comma before the "
        "next input; repeat it for several optimization profiles.",
        Panel.MODEL,
        metavar="[NAME=]MIN:OPT:MAX",
        read=read_shapes,
    )
    allow_globals: tuple[str, ...] = torch_option(
        (),
        "Let a pickled checkpoint use this class, or package.* for all modules of a package; "
        "repeat it for several.",
        Panel.MODEL,
        key="allow-global",
        metavar="PACKAGE.CLASS",
        in_profiles=False,
    )
    trust: bool = torch_option(
        False,
        "Unpickle the checkpoint in full, which lets it run any code.",
        Panel.MODEL,
        in_profiles=False,
    )
    folding: FoldOptions = group(FoldOptions)
    script: bool = torch_option(False, "Script the TorchScript instead of tracing it.", Panel.MODEL)
    preprocess: PreprocessSpec = group(PreprocessSpec)
    image_input: str | None = option(
        None,
        "Take raw uint8 pictures in this layout, with the normalisation folded into the model.",
        Panel.IMAGES,
        choices=("nhwc", "nchw"),
    )
    calibration: CalibrationSpec | None = group(CalibrationSpec, always=False)
    guard: GuardSpec = group(GuardSpec)
    keep: KeepSpec = group(KeepSpec)
    rest_precision: Precision = option(
        "fp16",
        "Precision of the layers that a quantised model leaves unquantised.",
        Panel.QUANTIZATION,
        older_keys=("int8-rest",),
        choices=("fp16", "fp32"),
        read=Precision,
    )
    qdq: QdqSpec = group(QdqSpec)
    tail: str = option(
        "auto",
        "Where operators run that TensorRT-RTX lacks, such as NonMaxSuppression; cut: in ONNX "
        "Runtime, with all nodes behind them, keep: in the engine.",
        Panel.ENGINE,
        choices=("auto", "keep", "cut"),
    )
    workspace_mib: int | None = option(
        None,
        "TensorRT's workspace limit in MiB.",
        Panel.ENGINE,
        key="workspace",
        metavar="MIB",
        least=1,
    )
    timeout: float = option(
        1800.0, "Time that one engine may take to build.", Panel.ENGINE, metavar="SECONDS", least=1
    )
    aot_inductor: bool = torch_option(
        False,
        "Also compile the model ahead of time with AOTInductor, for this machine's CPU.",
        Panel.ENGINE,
    )
    torch_tensorrt: bool = torch_option(
        False,
        "Also compile the .pt2 with torch-tensorrt, for the GPU in this machine.",
        Panel.ENGINE,
    )
    options: EngineOptions = group(EngineOptions)
    device: str = option(
        "auto",
        "Device for every row; auto (a GPU that PyTorch can use, else the CPU), cpu, cuda, cuda:1.",
        Panel.MEASUREMENT,
        metavar="DEVICE",
        read=read_device,
        common=True,
    )
    torch_fp16: bool = torch_option(
        False, "Also run the folded model in fp16 with PyTorch; on a GPU always.", Panel.MEASUREMENT
    )
    torch_compile: bool = torch_option(False, "Add a row for torch.compile.", Panel.MEASUREMENT)
    threads: int | None = option(
        None,
        "CPU threads for every row; the physical cores by default.",
        Panel.MEASUREMENT,
        metavar="N",
        least=1,
    )
    max_seconds: float = option(
        30.0,
        "Time that the measurement may take.",
        Panel.MEASUREMENT,
        metavar="SECONDS",
        common=True,
        least=0.1,
    )
    batches: tuple[int, ...] = option(
        None,
        "Also measure the throughput at these batch sizes, such as 1,8,32.",
        Panel.MEASUREMENT,
        key="batch",
        metavar="N,N…",
        read=read_batches,
    )
    cold_start: bool = option(
        False,
        "Also measure the time from load to first output and the peak memory, in fresh processes.",
        Panel.MEASUREMENT,
    )
    measure: bool = option(True, "Measure nothing.", Panel.MEASUREMENT, common=True)
    cuda_graph: bool = option(
        True,
        "Launch an engine's kernels one by one instead of as one CUDA graph.",
        Panel.MEASUREMENT,
    )
    seed: int = option(0, "Seed of all random choices.", Panel.MEASUREMENT, metavar="N", least=0)
    metric: MetricSpec = group(MetricSpec)
    thresholds: Thresholds = group(Thresholds)
    choose: str | None = option(
        None,
        "Name the artifact that is best by this metric and keeps the accuracy and every limit.",
        Panel.LIMITS,
        choices=("latency", "throughput", "size"),
    )
    output: Path | None = option(
        None,
        "Folder for the artifacts; build/<model> by default.",
        Panel.OUTPUT,
        aliases=("-o",),
        metavar="DIR",
        common=True,
        in_profiles=False,
    )

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.dynamic_batch and self.shapes:
            raise UsageError(
                "--dynamic-batch and --shapes exclude each other.",
                hint="Give the batch sizes with the rest of the shape, in --shapes.",
            )
        check_calibration(self.precisions, self.calibration)

    @property
    def is_onnx(self) -> bool:
        """Whether the source is an ONNX by its name, and not a model of PyTorch."""
        return self.source.endswith(".onnx")

    @property
    def dynamic(self) -> Dynamic:
        """The requested optimization profiles: batch sizes, or shapes of every input."""
        return self.dynamic_batch or self.shapes
