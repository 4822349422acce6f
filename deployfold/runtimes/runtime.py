"""The record of a runtime: everything that the rest of the package needs to know about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .protocol import FileRunner

from .settings import RunSettings


@dataclass(frozen=True)
class TritonModel:
    """How NVIDIA Triton serves a file; see ``model_config.proto``.

    Attributes:
        backend, platform: the fields of the same names in ``config.pbtxt``.
        file: the file name that the backend expects in a version's directory.
        gpu_only: whether the model runs only on GPUs.
    """

    backend: str
    platform: str
    file: str
    gpu_only: bool = False


@dataclass(frozen=True)
class Shipping:
    """The files and facts that a bundle needs for a file, besides the file itself.

    Attributes:
        kind: the word for such artifacts in a bundle's manifest.
        parts: names of files in the same folder that count in its size: external weights.
        sidecars: names of files in the same folder that describe it.
        facts: the manifest's facts about the file: ``compute_capabilities``, ``library`` and
            ``library_version``. Raises a ``DeployfoldError`` if the sidecar describes another file.
    """

    kind: str
    parts: Callable[[Path], tuple[str, ...]] = lambda path: ()
    sidecars: Callable[[Path], tuple[str, ...]] = lambda path: ()
    facts: Callable[[Path], dict[str, Any]] = lambda path: {}


@dataclass(frozen=True)
class Runtime:
    """A runtime.

    Third parties add runtimes by the entry point group ``deployfold.runtimes``, whose objects are
    records of this class. The module of a record must not import its library at the top level, so
    that listing the runtimes stays cheap.

    Attributes:
        key: the name in code, such as ``onnxruntime``.
        title: the name for users, such as ``ONNX Runtime``.
        suffixes: the suffixes of its files, the usual one first. The longest suffix that matches a
            file's name decides which runtime opens the file.
        module: the Python module that runs the files.
        install: the command that installs the module.
        install_needs: what the module needs besides, such as «an NVIDIA driver»; may be empty.
        missing: what else is missing here to make its files, in one sentence; ``None`` if nothing.
        open: makes a runner for a file. Only the runner of pickled modules reads the file at once.
        optional: whether deployfold is useful without the runtime.
        needs_torch: whether the files' inputs are torch tensors.
        states_inputs: whether its files declare the shapes of their inputs.
        takes_provider: whether ``--provider`` chooses among its execution providers.
        triton: how Triton serves its files; ``None`` if Triton cannot.
        shipping: what a bundle needs for its files; ``None`` if bundles leave them out.
    """

    key: str
    title: str
    suffixes: tuple[str, ...]
    module: str
    install: str
    open: Callable[[Path, RunSettings], FileRunner]
    install_needs: str = ""
    missing: Callable[[], str | None] = lambda: None
    optional: bool = False
    needs_torch: bool = True
    states_inputs: bool = False
    takes_provider: bool = False
    triton: TritonModel | None = None
    shipping: Shipping | None = None

    @property
    def how_to_install(self) -> str:
        """The command that installs the module, and what else the module needs."""
        needs = f" (needs {self.install_needs})" if self.install_needs else ""
        return self.install + needs

    @property
    def suffix(self) -> str:
        """The suffix of the files that deployfold writes for the runtime."""
        return self.suffixes[0]

    def beside(self, path: Path) -> tuple[str, ...]:
        """Names of the files in the folder of ``path`` that must be copied with it."""
        if self.shipping is None:
            return ()
        return (*self.shipping.parts(path), *self.shipping.sidecars(path))

    def opens(self, name: str) -> int:
        """The length of the longest suffix of this runtime that ``name`` ends with; 0 if none."""
        return max((len(one) for one in self.suffixes if name.endswith(one)), default=0)
