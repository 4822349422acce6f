"""One way to run a file, with everything that deployfold has to know of it, in one record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .protocol import FileRunner

from .settings import RunSettings

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class TritonModel:
    """How NVIDIA Triton serves a file; see ``model_config.proto``.

    Attributes:
        backend, platform: the fields of these names in ``config.pbtxt``.
        file: the name that the backend looks for in a version's directory.
        gpu_only: the model runs on GPUs alone.
    """

    backend: str
    platform: str
    file: str
    gpu_only: bool = False


def _no_files(path: Path) -> tuple[str, ...]:
    return ()


def _nothing() -> str | None:
    return None


def _no_facts(path: Path) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Shipping:
    """What a bundle needs of a file beside the file itself.

    Attributes:
        kind: the word for such artifacts in a bundle's manifest.
        parts: names of files beside it that belong to it and count in its size: external weights.
        sidecars: names of files beside it that describe it.
        facts: what the manifest says of it: ``compute_capabilities``, ``library`` and
            ``library_version``. Raises a ``DeployfoldError`` where the file is not the one that its
            sidecar describes.
    """

    kind: str
    parts: Callable[[Path], tuple[str, ...]] = _no_files
    sidecars: Callable[[Path], tuple[str, ...]] = _no_files
    facts: Callable[[Path], dict[str, Any]] = _no_facts


@dataclass(frozen=True)
class Runtime:
    """A runtime.

    Third parties add one by the entry point group ``deployfold.runtimes``, whose objects are
    records of this class. The module of a record must not import its library at the top: listing
    the runtimes is to cost nothing.

    Attributes:
        key: its name in the code: ``onnxruntime``.
        title: its name for people: ``ONNX Runtime``.
        suffixes: how the names of its files end, the usual one first. The longest suffix that fits
            a file's name decides which runtime opens it.
        module: the Python module that runs the files.
        install: the command that installs the module.
        missing: what else is missing here to make its files, in one sentence; ``None`` if nothing.
        open: makes a runner for a file, which is not read yet, but for pickled modules.
        optional: deployfold is useful without it.
        devices: where its files run.
        needs_torch: the files' inputs are torch tensors.
        states_inputs: its files say which shapes their inputs have.
        takes_provider: ``--provider`` chooses among its execution providers.
        triton: how Triton serves its files; ``None`` if it does not.
        shipping: what a bundle needs for its files; ``None`` if bundles leave them out.
    """

    key: str
    title: str
    suffixes: tuple[str, ...]
    module: str
    install: str
    open: Callable[[Path, RunSettings], FileRunner]
    missing: Callable[[], str | None] = _nothing
    optional: bool = False
    devices: tuple[Device, ...] = ("cpu",)
    needs_torch: bool = True
    states_inputs: bool = False
    takes_provider: bool = False
    triton: TritonModel | None = None
    shipping: Shipping | None = None

    @property
    def suffix(self) -> str:
        """How the names of files end that deployfold writes for it."""
        return self.suffixes[0]

    def opens(self, name: str) -> int:
        """How many characters of the end of ``name`` are a suffix of this runtime; 0 if none."""
        return max((len(one) for one in self.suffixes if name.endswith(one)), default=0)
