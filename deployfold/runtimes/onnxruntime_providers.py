"""ONNX Runtime's execution providers: their names, their packages, and the nodes that they run.

If a provider is missing or does not start, ONNX Runtime only warns and computes on the CPU. If a
provider leaves nodes to the CPU, ONNX Runtime does not report it. This module raises an error for
the first case and makes a note for the second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployfold.errors import MeasureError, UsageError, one_line

from .failures import as_measure_error

if TYPE_CHECKING:
    import onnxruntime as ort

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
_RTX = "NvTensorRTRTXExecutionProvider"
_SUFFIX = "ExecutionProvider"
_MISSING = {
    CUDA: ("CUDA", "onnxruntime-gpu in place of onnxruntime"),
    "TensorrtExecutionProvider": (
        "TensorRT",
        "onnxruntime-gpu in place of onnxruntime, and tensorrt",
    ),
    _RTX: ("TensorRT-RTX", "onnxruntime-ep-nv-tensorrt-rtx"),
}
"""The title of a provider, and the packages to install for it."""
_PLUGINS = {_RTX: "onnxruntime_ep_nv_tensorrt_rtx"}
"""The modules of providers in separate packages; each has ``get_library_path``."""


@dataclass(frozen=True)
class Placement:
    """The number of nodes in a graph, and the nodes that a provider leaves to the CPU.

    Attributes:
        nodes: the number of nodes after ONNX Runtime's first optimisations.
        left: the number of nodes that the CPU computes, by operator.
    """

    nodes: int
    left: dict[str, int]

    def __str__(self) -> str:
        count = sum(self.left.values())
        if not count:
            return f"all {self.nodes} nodes"
        kinds = sorted(self.left, key=lambda kind: (-self.left[kind], kind))
        more = f" and {len(kinds) - 4} kinds more" if len(kinds) > 4 else ""
        return f"all but {count} of {self.nodes} nodes (on the CPU: {', '.join(kinds[:4])}{more})"


def resolve_provider(text: str | None) -> str:
    """ONNX Runtime's name for ``cpu``, ``CUDA``, ``tensorrt-rtx`` or ``CUDAExecutionProvider``.

    A provider in a separate package is loaded.

    Raises:
        UsageError: the provider is not installed, or does not exist.
        MeasureError: the provider is installed but cannot be loaded here.
    """
    if text is None or text.lower() == "cpu":
        return CPU
    wanted = text.lower().replace("-", "").removesuffix(_SUFFIX.lower())
    wanted = "nvtensorrtrtx" if wanted == "tensorrtrtx" else wanted
    for name in _PLUGINS:
        if wanted == short_name(name).lower():
            _load_plugin(name)
    have = _available()
    for name in (*have, *_MISSING):
        if wanted == short_name(name).lower():
            if name in have:
                return name
            title, package = _MISSING[name]
            raise UsageError(
                f"ONNX Runtime's {title} provider is not installed here.",
                hint=f"Install {package}, with pip.",
            )
    raise UsageError(
        f"The installed ONNX Runtime has no provider {text!r}.",
        hint=f"It has {', '.join(map(short_name, have))}.",
    )


def open_session(
    path: Path,
    options: ort.SessionOptions,
    provider: str,
    settings: Mapping[str, str] | None = None,
) -> tuple[Any, str | None]:
    """A session of ``path`` in ``provider``, and a note on the nodes that run there.

    Returns:
        The session and the note. The note is ``None`` for the CPU, and if ONNX Runtime cannot
        report the assignment of nodes.

    Raises:
        MeasureError: the file cannot be loaded, the provider does not start, or it takes no node.
    """
    import onnxruntime as ort

    name = path.name
    if provider == CPU:
        with as_measure_error(f"{name} cannot be loaded"):
            return ort.InferenceSession(str(path), options, providers=[CPU]), None
    title = _MISSING[provider][0] if provider in _MISSING else short_name(provider)
    recorded = hasattr(ort.InferenceSession, "get_provider_graph_assignment_info")
    if recorded:  # since ONNX Runtime 1.24
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    with as_measure_error(f"{name} cannot be loaded in ONNX Runtime's {title} provider"):
        if provider in ort.get_available_providers():
            # The fallback would print to stdout and continue on the CPU.
            session = ort.InferenceSession(
                str(path),
                options,
                providers=[(provider, dict(settings or {})), CPU],
                enable_fallback=0,
            )
        else:
            devices = [one for one in ort.get_ep_devices() if one.ep_name == provider]
            options.add_provider_for_devices(devices, {})
            session = ort.InferenceSession(str(path), options, enable_fallback=0)
    if provider not in session.get_providers():
        raise MeasureError(
            f"ONNX Runtime's {title} provider does not start here.",
            hint="Its libraries or a GPU are missing; try --provider cpu.",
        )
    if not recorded:
        return session, None
    placement = placed(session, provider)
    if placement.nodes and sum(placement.left.values()) == placement.nodes:
        raise MeasureError(
            f"ONNX Runtime's {title} provider takes none of the {placement.nodes} nodes of {name}:"
            " all would run on the CPU.",
            hint="Try --provider cpu, or another.",
        )
    return session, f"{title} runs {placement}"


def placed(session: Any, provider: str) -> Placement:
    """Count the nodes by provider, in a session that recorded the assignment."""
    left: Counter[str] = Counter()
    nodes = 0
    for part in session.get_provider_graph_assignment_info():
        kinds = [node.op_type for node in part.get_nodes()]
        nodes += len(kinds)
        if part.ep_name != provider:
            left.update(kinds)
    return Placement(nodes, dict(left))


def _available() -> list[str]:
    import onnxruntime as ort

    devices = ort.get_ep_devices() if hasattr(ort, "get_ep_devices") else ()
    return list(dict.fromkeys([*ort.get_available_providers(), *(one.ep_name for one in devices)]))


def _load_plugin(name: str) -> None:
    """Let ONNX Runtime load the library of a provider's package, if the package is installed."""
    import onnxruntime as ort

    title, package = _MISSING[name]
    if name in _available():
        return
    try:
        module = import_module(_PLUGINS[name])
    except ImportError:
        return
    if not hasattr(ort, "register_execution_provider_library"):
        raise UsageError(
            f"ONNX Runtime {ort.__version__} cannot load {package}.",
            hint="Install onnxruntime 1.24 or newer, with pip.",
        )
    try:
        ort.register_execution_provider_library(name, module.get_library_path())
    except Exception as error:
        reason = one_line(error, 2000).rpartition("error: ")[2]
        raise MeasureError(
            f"ONNX Runtime's {title} provider cannot be loaded here: {reason}.",
            hint="The provider needs an NVIDIA GPU with its driver.",
        ) from error
    if name not in _available():
        raise MeasureError(f"ONNX Runtime's {title} provider finds no supported GPU here.")


def short_name(name: str) -> str:
    """The provider's name without its suffix: ``CUDA`` for ``CUDAExecutionProvider``."""
    return name.removesuffix(_SUFFIX)
