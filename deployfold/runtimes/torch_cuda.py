"""Runs a torch callable on a GPU, timed by CUDA events."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from deployfold.errors import first_line

from .protocol import Step
from .tensorrt_library import CudaGraph
from .times import DeviceTimes

WARM_UP_CALLS = 3
"""Calls before a capture, in which libraries allocate memory and choose their kernels."""


def cuda_step(
    call: Callable[..., Any],
    inputs: Sequence[torch.Tensor],
    device: str,
    *,
    cuda_graph: bool | None = True,
) -> Step:
    """A step that copies the inputs in, calls, and copies the outputs out, timed separately.

    If possible, the call is captured once as a CUDA graph and replayed. ``DeviceTimes.graph`` shows
    whether it was.

    Args:
        call: the callable, with its weights on ``device``.
        inputs: tensors on the CPU, which are copied to pinned memory.
        device: the GPU, such as ``cuda:0``.
        cuda_graph: whether to capture a CUDA graph; ``None`` for a call that launches its own
            graphs, which the times then do not describe.
    """
    hosts = [value.pin_memory() for value in inputs]
    values = [torch.empty_like(host, device=device) for host in hosts]
    with torch.cuda.device(device), torch.inference_mode():
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        begin, copied, computed, end = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(4)
        )
        _copy(hosts, values)
        replay, launch = _captured(call, values, stream, cuda_graph)
        sample = _tensors(replay())
        results = [torch.empty_like(one, device="cpu").pin_memory() for one in sample]
        torch.cuda.synchronize()

    def step() -> DeviceTimes:
        with torch.cuda.device(device), torch.inference_mode(), torch.cuda.stream(stream):
            begin.record()
            _copy(hosts, values)
            copied.record()
            start = time.perf_counter()
            outputs = _tensors(replay())
            launched = time.perf_counter()
            computed.record()
            _copy(outputs, results)
            end.record()
        end.synchronize()
        return DeviceTimes(
            compute_ms=copied.elapsed_time(computed),
            h2d_ms=begin.elapsed_time(copied),
            d2h_ms=computed.elapsed_time(end),
            enqueue_ms=1e3 * (launched - start),
            graph=launch,
        )

    return step


def _captured(
    call: Callable[..., Any],
    values: Sequence[torch.Tensor],
    stream: torch.cuda.Stream,
    asked: bool | None,
) -> tuple[Callable[[], Any], CudaGraph | None]:
    """The call as a CUDA graph or as single kernels, and which of the two it is."""

    def eager() -> Any:
        return call(*values)

    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_CALLS):
            eager()
    torch.cuda.current_stream().wait_stream(stream)
    if not asked:
        return eager, None if asked is None else CudaGraph(False, "--no-cuda-graph")
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            outputs = eager()
    except Exception as error:
        torch.cuda.synchronize()
        reason = first_line(error).rstrip(".")
        return eager, CudaGraph(False, f"the model cannot be captured ({reason})")

    def replay() -> Any:
        graph.replay()
        return outputs

    return replay, CudaGraph(True)


def _tensors(outputs: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


def _copy(origins: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> None:
    for origin, target in zip(origins, targets, strict=True):
        target.copy_(origin, non_blocking=True)
