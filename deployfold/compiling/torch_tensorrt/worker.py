"""The worker's side of torch-tensorrt; see :mod:`deployfold.compiling.torch_tensorrt.build`.

Names and keywords are those of torch-tensorrt 2.6 and 2.14, read from their sources. Where the two
differ, the function's own signature is asked.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from deployfold.errors import CompileError, one_line

SEED = 0
ENGINE_PREFIX, TORCH_PREFIX = "_run_on_acc", "_run_on_gpu"
"""What torch-tensorrt's partitioner calls the parts that TensorRT runs, and those PyTorch does."""


def build_program(
    job: dict[str, Any], report: Callable[[str, float | None], None]
) -> dict[str, Any]:
    """Compile ``job["program"]`` to ``job["output"]``, and compare the two on the GPU.

    Returns:
        ``absent`` with the reason where the package cannot be used; else ``absent: None``, the
        versions, and the fields of :class:`~.build.TorchTensorRTArtifact`.

    Raises:
        CompileError: the build failed, or nothing of the program runs in TensorRT.
    """
    report("Importing torch-tensorrt", None)
    try:
        import torch

        tt: Any = importlib.import_module("torch_tensorrt")
    except Exception as error:  # ImportError, OSError of a library, RuntimeError of a driver
        return {"absent": f"No torch-tensorrt: it cannot be imported here ({one_line(error)})."}
    if not torch.cuda.is_available():
        return {"absent": "No torch-tensorrt: it builds on a GPU, and torch sees none here."}
    program = torch.export.load(Path(job["program"]))
    program = _on_gpu(program)
    entries = job["inputs"]
    tensors = _example(torch, entries)
    expected = _flat(torch, program.module()(*tensors))

    report("Building the engines", None)
    keywords = settings(
        inspect.signature(tt.dynamo.compile).parameters, job["precision"], torch.float16
    )
    try:
        compiled = tt.dynamo.compile(program, arg_inputs=_inputs(tt, torch, entries), **keywords)
    except Exception as error:
        raise CompileError(
            f"torch-tensorrt could not build the program: {one_line(error)}."
        ) from error
    engines, rest = count_parts(name for name, _ in compiled.named_children())
    if not engines:
        raise CompileError("torch-tensorrt left the whole program to PyTorch; there is no engine.")

    report("Comparing its outputs", None)
    max_abs_diff, sqnr = _compare(expected, _flat(torch, compiled(*tensors)))
    report("Writing the program", None)
    dynamic = any(entry["min"] != entry["max"] for entry in entries)
    options = save_options(inspect.signature(tt.save).parameters, dynamic=dynamic)
    tt.save(
        compiled,
        job["output"],
        output_format="exported_program",
        arg_inputs=list(tensors),
        **options,
    )
    return {
        "absent": None,
        "library_version": str(tt.__version__),
        "tensorrt_version": str(importlib.import_module("tensorrt").__version__),
        "engines": engines,
        "torch_parts": rest,
        "max_abs_diff": max_abs_diff,
        "sqnr_db": sqnr,
    }


def settings(parameters: Collection[str], precision: str, half: Any) -> dict[str, Any]:
    """Keywords for ``torch_tensorrt.dynamo.compile``.

    1. A part that TensorRT fails to build is an error, and not left to PyTorch in silence.
    2. Every part is tried, however small.
    3. fp16 by ``enable_autocast`` where there is such a thing (strongly typed networks), else by
       ``enabled_precisions`` (2.6 to 2.8); fp32 is the default of both.

    Args:
        parameters: that the function has.
        precision: ``fp32`` or ``fp16``.
        half: ``torch.float16``.
    """
    keywords: dict[str, Any] = {
        "pass_through_build_failures": True,
        "min_block_size": 1,
    }
    if precision == "fp16" and "enable_autocast" in parameters:
        keywords |= {"enable_autocast": True, "autocast_low_precision_type": half}
    elif precision == "fp16":
        keywords |= {"enabled_precisions": {half}}
    return keywords


def save_options(parameters: Collection[str], *, dynamic: bool) -> dict[str, Any]:
    """Keywords for ``torch_tensorrt.save``.

    Where it takes ``dynamic_shapes`` it keeps the symbolic sizes when it retraces; before that
    (2.6) retracing would fix them to the example's.
    """
    return {"retrace": not dynamic or "dynamic_shapes" in parameters}


def count_parts(children: Any) -> tuple[int, int]:
    """How many parts of a compiled module TensorRT runs, and how many PyTorch, by their names."""
    names = list(children)
    return (
        sum(name.startswith(ENGINE_PREFIX) for name in names),
        sum(name.startswith(TORCH_PREFIX) for name in names),
    )


def _on_gpu(program: Any) -> Any:
    from torch.export import passes

    return passes.move_to_device_pass(program, "cuda")


def _inputs(tt: Any, torch: Any, entries: Sequence[dict[str, Any]]) -> list[Any]:
    return [
        tt.Input(shape=entry["opt"], dtype=getattr(torch, entry["dtype"]))
        if entry["min"] == entry["max"]
        else tt.Input(
            min_shape=entry["min"],
            opt_shape=entry["opt"],
            max_shape=entry["max"],
            dtype=getattr(torch, entry["dtype"]),
            name=entry["name"],
        )
        for entry in entries
    ]


def _example(torch: Any, entries: Sequence[dict[str, Any]]) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(SEED)
    tensors = []
    for entry in entries:
        dtype = getattr(torch, entry["dtype"])
        if dtype.is_floating_point:
            value = torch.randn(entry["opt"], generator=generator).to(dtype)
        else:
            value = torch.randint(0, 2, entry["opt"], generator=generator).to(dtype)
        tensors.append(value.cuda())
    return tuple(tensors)


def _flat(torch: Any, outputs: Any) -> list[Any]:
    from torch.utils._pytree import tree_leaves

    leaves = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]
    return [leaf.detach().float().cpu().numpy() for leaf in leaves]


def _compare(expected: list[Any], actual: list[Any]) -> tuple[float, float]:
    from deployfold.util.numerics import max_abs_diff, sqnr_db

    return max_abs_diff(expected, actual), sqnr_db(expected, actual)
