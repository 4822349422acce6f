"""``deployfold run``: one inference of any artifact in its runtime, and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from deployfold.compile.runtime import CudaGraph, RunOptions
from deployfold.compile.sidecar import built_for, input_tensors, read_sidecar
from deployfold.errors import MeasureError, UsageError
from deployfold.load import load_model, make_inputs, resolve_inputs
from deployfold.measure.cuda import Cuda
from deployfold.measure.protocol import Array, Runner
from deployfold.measure.providers import resolve_provider
from deployfold.measure.runners import EagerRunner, OnnxRuntimeRunner
from deployfold.measure.tensorrt_runner import TensorRTRunner
from deployfold.measure.torch_tensorrt_runner import PROGRAM_SUFFIX, TorchTensorRTRunner
from deployfold.run_inputs import Given
from deployfold.run_outputs import Output, describe
from deployfold.spec import DTYPES, InputSpec, TensorSpec


@dataclass(frozen=True, eq=False)
class Result:
    """What an inference was run on, in what, and what came out.

    Attributes:
        runtime: ``ONNX Runtime (CPUExecutionProvider)``.
        inputs: as they were given to the model, in its order.
        data: for each input where its values are from: a file, or ``seeded random``.
        outputs: what there is to say of each.
        arrays: their values, by name.
        placement: what of an ONNX ran in another provider than the CPU's.
        graph: how an engine's work was launched.
    """

    artifact: str
    runtime: str
    inputs: InputSpec
    data: tuple[str, ...]
    outputs: tuple[Output, ...]
    arrays: dict[str, Array]
    placement: str | None = None
    graph: CudaGraph | None = None


@dataclass(frozen=True, eq=False)
class _Opened:
    runner: Runner
    runtime: str
    inputs: InputSpec


def run_artifact(
    path: Path,
    given: Sequence[Given] = (),
    *,
    provider: str | None = None,
    engines: RunOptions | None = None,
    allow_globals: tuple[str, ...] = (),
    trust: bool = False,
    seed: int = 0,
) -> Result:
    """Run an artifact once.

    Args:
        path: an ``.onnx``, an ``.engine`` with its sidecar, or what :func:`deployfold.load` reads:
            TorchScript, ``.pt2``, or a pickled module.
        given: inputs with values or shapes; seeded random ones of the artifact's own shapes for
            those that are not given.
        provider: the execution provider of an ONNX; see
            :func:`deployfold.measure.providers.resolve_provider`.
        engines: how an engine is run.
        allow_globals, trust: for torch's files, as for loading.

    Raises:
        UsageError: an input is not the artifact's, or its shape is not known.
        LoadError: the file cannot be read, or could run code.
        MeasureError: it cannot run here, or failed.
    """
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", hint="deployfold build makes artifacts.")
    if provider is not None and path.suffix != ".onnx":
        raise UsageError(f"--provider is for an ONNX, and {path.name} is none.")
    if path.suffix == ".onnx":
        opened = _open_onnx(path, given, resolve_provider(provider))
    elif path.suffix == ".engine":
        opened = _open_engine(path, given, engines)
    elif path.name.endswith(PROGRAM_SUFFIX):
        opened = _open_torch_tensorrt(path, given)
    else:
        opened = _open_torch(path, given, allow_globals, trust)
    values, data = _values(opened.inputs, given, seed)
    with closing(opened.runner) as runner:
        runner.load()
        try:
            arrays = runner.run(values)
        except MeasureError as error:
            # The libraries' own words for a wrong shape seldom name the input.
            hint = error.hint or f"It was given {opened.inputs}."
            raise MeasureError(error.message, hint=hint) from error
        names = getattr(runner, "output_names", None) or _numbered(len(arrays))
        graph = getattr(runner, "cuda_graph", None)
    named = dict(zip(names, arrays, strict=True))
    outputs = tuple(describe(name, array, alone=len(named) == 1) for name, array in named.items())
    return Result(
        str(path),
        opened.runtime,
        opened.inputs,
        data,
        outputs,
        named,
        placement=getattr(runner, "placement", None),
        graph=graph,
    )


def _open_onnx(path: Path, given: Sequence[Given], provider: str) -> _Opened:
    probe = OnnxRuntimeRunner(path)
    with closing(probe):
        probe.load()
        wanted = [
            TensorSpec(tuple(_size(size) for size in value.shape), value.name, _dtype(value.type))
            for value in probe.inputs
        ]
    spec = _filled(wanted, given, path.name)
    runner = OnnxRuntimeRunner(path, names=spec.names, provider=provider)
    return _Opened(runner, f"ONNX Runtime ({provider})", spec)


def _size(size: object) -> int:
    return size if isinstance(size, int) and size > 0 else 1  # a name, or None: any size will do


def _dtype(kind: str) -> str:
    words = {"float": "float32", "double": "float64"}
    inner = kind.removeprefix("tensor(").removesuffix(")")
    name = words.get(inner, inner)
    return name if name in DTYPES else "float32"  # the runner refuses what it cannot feed


def _open_engine(path: Path, given: Sequence[Given], options: RunOptions | None) -> _Opened:
    sidecar = read_sidecar(path)
    try:
        Cuda().close()
    except MeasureError as error:
        raise MeasureError(
            f"{path.name} was built for {built_for(sidecar)}, and there is no such GPU here.",
            hint="Run it where the GPU is, or run the ONNX that it was built from.",
        ) from error
    runner = TensorRTRunner(path, options)
    title = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}[sidecar["library"]]
    return _Opened(runner, title, _filled(input_tensors(sidecar, path), given, path.name))


def _open_torch(
    path: Path, given: Sequence[Given], allow_globals: tuple[str, ...], trust: bool
) -> _Opened:
    loaded = load_model(str(path), allow_globals=allow_globals, trust=trust)
    asked = InputSpec(tuple(one.spec for one in given)) if given else None
    spec = resolve_inputs(loaded, asked)
    title = {"torchscript": "TorchScript", "program": "torch.export program"}
    return _Opened(EagerRunner(loaded.module), title.get(loaded.kind, "PyTorch"), spec)


def _open_torch_tensorrt(path: Path, given: Sequence[Given]) -> _Opened:
    if not given:
        raise UsageError(
            f"{path.name} does not say what inputs it takes where its GPU is not.",
            hint="Give each with --input, for example --input x.npy.",
        )
    spec = InputSpec(tuple(one.spec for one in given))
    return _Opened(TorchTensorRTRunner(path), "torch-tensorrt", spec)


def _filled(wanted: Sequence[TensorSpec], given: Sequence[Given], artifact: str) -> InputSpec:
    """The inputs that the artifact takes, with the shapes and dtypes of those that are given."""
    names = [tensor.name or "" for tensor in wanted]
    if len(given) == 1 and len(wanted) == 1 and given[0].spec.name is None:
        spec = given[0].spec
        return InputSpec((TensorSpec(spec.shape, names[0], spec.dtype),))
    by_name = {one.spec.name: one.spec for one in given}
    for name in by_name:
        if name is None or name not in names:
            what = "an input without a name" if name is None else f"no input named {name!r}"
            verb = "cannot tell" if name is None else "has"
            raise UsageError(
                f"{artifact} {verb} {what}.", hint=f"Its inputs are: {', '.join(names)}."
            )
    return InputSpec(tuple(by_name.get(tensor.name, tensor) for tensor in wanted))


def _values(
    inputs: InputSpec, given: Sequence[Given], seed: int
) -> tuple[list[torch.Tensor], tuple[str, ...]]:
    """A value for every input, in the model's order, and where each is from."""
    random = make_inputs(inputs, seed=seed)
    by_name = {one.spec.name: one for one in given if one.spec.name is not None}
    if len(given) == len(inputs.tensors) == 1:
        by_name = {inputs.names[0]: given[0]}  # a name for the only input is a wish
    unnamed = iter(one for one in given if one not in by_name.values())
    values, data = [], []
    for name, tensor in zip(inputs.names, random, strict=True):
        one = by_name.get(name) or next(unnamed, None)
        if one is None or one.values is None:
            values.append(tensor)
            data.append(f"seeded random (seed {seed})")
            continue
        value = torch.from_numpy(np.array(one.values))
        if value.is_floating_point() and tensor.is_floating_point():
            value = value.to(tensor.dtype)  # what the artifact computes in
        values.append(value)
        data.append(one.origin)
    return values, tuple(data)


def _numbered(count: int) -> tuple[str, ...]:
    return ("output",) if count == 1 else tuple(f"output_{index}" for index in range(count))
