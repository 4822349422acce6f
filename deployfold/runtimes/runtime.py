"""One way to run a file, with everything that deployfold has to know of it, in one record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .protocol import FileRunner

from .tensorrt_library import RunOptions

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class RunSettings:
    """How the user wants files to be run; every runtime takes what concerns it.

    Attributes:
        threads: CPU threads; ``None`` leaves the runtime's own number.
        device: ``cpu`` or ``cuda:0``, as :func:`.device.resolve_device` returns it; ``None`` is
            where the runtime runs files by itself.
        tf32: fp32 may be rounded to TF32 on a GPU, in every runtime alike.
        provider: an execution provider of ONNX Runtime, as ``--provider`` takes it.
        engine: how TensorRT engines are run.
        trust: the file may run code of its own: its author is trusted.
        allow_globals: classes that a pickled module may use beside those of known packages.
    """

    threads: int | None = None
    device: str | None = None
    tf32: bool = True
    provider: str | None = None
    engine: RunOptions = field(default_factory=RunOptions)
    trust: bool = False
    allow_globals: tuple[str, ...] = ()

    @property
    def engine_options(self) -> RunOptions:
        """How engines are run; a trusted one may run code that it carries."""
        return replace(self.engine, allow_host_code=self.engine.allow_host_code or self.trust)

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values; :meth:`from_json` reads them back."""
        cache = self.engine.runtime_cache
        return {
            "threads": self.threads,
            "device": self.device,
            "tf32": self.tf32,
            "provider": self.provider,
            "engine": {**vars(self.engine), "runtime_cache": None if cache is None else str(cache)},
            "trust": self.trust,
            "allow_globals": list(self.allow_globals),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunSettings:
        """Read what :meth:`to_json` wrote."""
        engine = dict(data["engine"])
        if engine["runtime_cache"] is not None:
            engine["runtime_cache"] = Path(engine["runtime_cache"])
        return cls(
            **{
                **data,
                "engine": RunOptions(**engine),
                "allow_globals": tuple(data["allow_globals"]),
            }
        )


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
