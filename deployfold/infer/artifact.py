"""``deployfold run``: one inference of any artifact in its runtime, and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from deployfold.config.spec import DTYPES, InputSpec, TensorSpec
from deployfold.errors import MeasureError, UsageError
from deployfold.infer.engine import run_engine
from deployfold.infer.inputs import Given, filled, values_for
from deployfold.infer.outputs import Result, describe
from deployfold.loading import load_model, make_inputs, resolve_inputs
from deployfold.runtimes.onnxruntime_providers import resolve_provider
from deployfold.runtimes.protocol import Runner
from deployfold.runtimes.tensorrt_library import RunOptions
from deployfold.runtimes.torch_and_onnxruntime import EagerRunner, OnnxRuntimeRunner
from deployfold.runtimes.torch_tensorrt import PROGRAM_SUFFIX, TorchTensorRTRunner


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
            :func:`deployfold.runtimes.onnxruntime_providers.resolve_provider`.
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
    if path.suffix == ".engine":
        return run_engine(path, given, options=engines, seed=seed)
    if path.suffix == ".onnx":
        opened = _open_onnx(path, given, resolve_provider(provider))
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
    )


def _open_onnx(path: Path, given: Sequence[Given], provider: str) -> _Opened:
    probe = OnnxRuntimeRunner(path)
    with closing(probe):
        probe.load()
        wanted = [
            TensorSpec(tuple(_size(size) for size in value.shape), value.name, _dtype(value.type))
            for value in probe.inputs
        ]
        fixed = {value.name: value.shape for value in probe.inputs}
    spec = filled(wanted, given, path.name)
    for name, tensor in zip(spec.names, spec.tensors, strict=True):
        _check_shape(name, tensor.shape, fixed[name], path)
    runner = OnnxRuntimeRunner(path, names=spec.names, provider=provider)
    return _Opened(runner, f"ONNX Runtime ({provider})", spec)


def _check_shape(name: str, shape: Sequence[int], wanted: Sequence[object], path: Path) -> None:
    """Refuse what ONNX Runtime would, in words that name the shapes."""
    free = ["?" if not isinstance(size, int) or size < 1 else str(size) for size in wanted]
    fits = len(free) == len(shape) and all(
        size in ("?", str(given)) for size, given in zip(free, shape, strict=True)
    )
    if not fits:
        raise UsageError(
            f"{path.name} takes {name!r} of shape {'x'.join(free) or 'scalar'}, and "
            f"{'x'.join(map(str, shape)) or 'a scalar'} was given.",
            hint="? is any size." if "?" in free else None,
        )


def _size(size: object) -> int:
    return size if isinstance(size, int) and size > 0 else 1  # a name, or None: any size will do


def _dtype(kind: str) -> str:
    words = {"float": "float32", "double": "float64"}
    inner = kind.removeprefix("tensor(").removesuffix(")")
    name = words.get(inner, inner)
    return name if name in DTYPES else "float32"  # the runner refuses what it cannot feed


def _open_torch(
    path: Path, given: Sequence[Given], allow_globals: tuple[str, ...], trust: bool
) -> _Opened:
    loaded = load_model(str(path), allow_globals=allow_globals, trust=trust)
    asked = InputSpec(tuple(one.spec for one in given)) if given else None
    spec = resolve_inputs(loaded, asked)
    title = {"torchscript": "TorchScript", "program": "torch.export program"}
    return _Opened(
        EagerRunner(loaded.module, title=path.name), title.get(loaded.kind, "PyTorch"), spec
    )


def _open_torch_tensorrt(path: Path, given: Sequence[Given]) -> _Opened:
    if not given:
        raise UsageError(
            f"{path.name} does not say what inputs it takes where its GPU is not.",
            hint="Give each with --input, for example --input x.npy.",
        )
    spec = InputSpec(tuple(one.spec for one in given))
    return _Opened(TorchTensorRTRunner(path), "torch-tensorrt", spec)


def _values(
    inputs: InputSpec, given: Sequence[Given], seed: int
) -> tuple[list[torch.Tensor], tuple[str, ...]]:
    """A value for every input, in the model's order, and where each is from."""
    random = make_inputs(inputs, seed=seed)
    values, data = [], []
    for one, tensor in zip(values_for(inputs, given), random, strict=True):
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
