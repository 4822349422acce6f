"""Builds a program with TensorRT engines inside, by torch-tensorrt; runs in the worker.

Names and keywords come from the sources of torch-tensorrt 2.6 and 2.14. Where the two differ, the
signature of the function decides.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export.passes import move_to_device_pass
from torch.utils._pytree import tree_leaves

from deployfold.compiling.worker_process import Report
from deployfold.errors import CompileError, one_line
from deployfold.util.numerics import max_abs_diff, sqnr_db

SEED = 0
ENGINE_PREFIX, TORCH_PREFIX = "_run_on_acc", "_run_on_gpu"
"""torch-tensorrt's name prefixes of the parts that TensorRT runs and of those that PyTorch runs."""


def build_program(job: dict[str, Any], report: Report) -> dict[str, Any]:
    """Compile ``job["program"]`` to ``job["output"]``, and compare the two on the GPU.

    Args:
        job: the paths ``program`` and ``output``, the ``precision``, and ``inputs``: for each input
            a dict with ``name``, ``dtype`` and the shapes ``min``, ``opt`` and ``max``.

    Returns:
        ``absent`` with the reason if the package cannot be used; else ``absent: None``, the
        versions, and fields of :class:`~.compile.TorchTensorRTArtifact`.

    Raises:
        CompileError: the build failed, or TensorRT runs no part of the program.
    """
    report("Importing torch-tensorrt", None)
    try:
        tt: Any = importlib.import_module("torch_tensorrt")
    except Exception as error:  # ImportError, OSError of a library, RuntimeError of a driver
        return {"absent": f"No torch-tensorrt: it cannot be imported here ({one_line(error)})."}
    if not torch.cuda.is_available():
        return {"absent": "No torch-tensorrt: it builds on a GPU, and torch finds none here."}
    program = move_to_device_pass(torch.export.load(Path(job["program"])), "cuda")
    entries = job["inputs"]
    tensors = _example(entries)
    expected = _flat(program.module()(*tensors))

    report("Building the engines", None)
    keywords = settings(inspect.signature(tt.dynamo.compile).parameters, job["precision"])
    try:
        compiled = tt.dynamo.compile(program, arg_inputs=_inputs(tt, entries), **keywords)
    except Exception as error:
        raise CompileError(
            f"torch-tensorrt could not build the program: {one_line(error)}."
        ) from error
    engines, rest = count_parts(name for name, _ in compiled.named_children())
    if not engines:
        raise CompileError(
            "torch-tensorrt left the whole program to PyTorch; there is no engine.",
            hint="Build without --torch-tensorrt.",
        )

    report("Comparing its outputs", None)
    max_abs_diff, sqnr = _compare(expected, _flat(compiled(*tensors)))
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
        "engines": engines,
        "torch_parts": rest,
        "max_abs_diff": max_abs_diff,
        "sqnr_db": sqnr,
    }


def settings(parameters: Collection[str], precision: str) -> dict[str, Any]:
    """Keywords for ``torch_tensorrt.dynamo.compile``.

    1. ``pass_through_build_failures`` makes a part that TensorRT cannot build an error. By default,
       PyTorch would run the part without any message.
    2. ``min_block_size`` lets TensorRT try every part, even of one node.
    3. ``enable_autocast`` (for strongly typed networks), or ``enabled_precisions`` in 2.6 to 2.8,
       sets fp16. The default of both is fp32.

    Args:
        parameters: the names of the function's parameters.
        precision: ``fp32`` or ``fp16``.
    """
    keywords: dict[str, Any] = {"pass_through_build_failures": True, "min_block_size": 1}
    if precision == "fp16" and "enable_autocast" in parameters:
        keywords |= {"enable_autocast": True, "autocast_low_precision_type": torch.float16}
    elif precision == "fp16":
        keywords |= {"enabled_precisions": {torch.float16}}
    return keywords


def save_options(parameters: Collection[str], *, dynamic: bool) -> dict[str, Any]:
    """Keywords for ``torch_tensorrt.save``.

    Versions with the parameter ``dynamic_shapes`` keep symbolic sizes when they retrace. Retracing
    by version 2.6 would fix the sizes to those of the example.
    """
    return {"retrace": not dynamic or "dynamic_shapes" in parameters}


def count_parts(children: Any) -> tuple[int, int]:
    """The number of parts of a compiled module that TensorRT runs, and that PyTorch runs."""
    names = list(children)
    return (
        sum(name.startswith(ENGINE_PREFIX) for name in names),
        sum(name.startswith(TORCH_PREFIX) for name in names),
    )


def _inputs(tt: Any, entries: Sequence[dict[str, Any]]) -> list[Any]:
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


def _example(entries: Sequence[dict[str, Any]]) -> tuple[Any, ...]:
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


def _flat(outputs: Any) -> list[Any]:
    leaves = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]
    return [leaf.detach().float().cpu().numpy() for leaf in leaves]


def _compare(expected: list[Any], actual: list[Any]) -> tuple[float, float]:
    return max_abs_diff(expected, actual), sqnr_db(expected, actual)
