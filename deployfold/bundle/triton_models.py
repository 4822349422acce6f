"""Chooses the artifacts of a build that Triton can serve, and how it serves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deployfold.compiling.sidecar import read_sidecar
from deployfold.events import Emit, Note
from deployfold.finish.reference import REFERENCE_NPZ, read_reference
from deployfold.runtimes import ONNX_RUNTIME, TENSORRT, TritonModel
from deployfold.runtimes.onnxruntime import ONNX_IN_TRITON
from deployfold.runtimes.tail_name import tail_name
from deployfold.targets.compute_capability import sm_of_dotted

from .batching import why_not_joined
from .collect import Build
from .labels import LABELS_TXT
from .manifest import Artifact
from .triton_config import (
    Interface,
    config,
    engine_interface,
    onnx_interface,
    tensor_entry,
    torchscript_interface,
)
from .triton_ensemble import ensemble_config, tail_model

_HEAD = "_head"
"""Ends the name of a model that ends before a tail."""

DEFAULT_BATCH = 8
"""The greatest batch of ONNX and TorchScript if neither the build nor an engine has one."""


@dataclass(frozen=True)
class _Group:
    """One model: a file, or engines of one precision for several GPUs."""

    name: str
    backend: TritonModel
    artifacts: tuple[Artifact, ...]


@dataclass(frozen=True)
class Served:
    """One model of the repository.

    Attributes:
        config: the text of ``config.pbtxt``.
        files: the files of a version, by their names in the repository.
    """

    name: str
    config: str
    files: dict[str, Path]


def models_of(
    build: Build, max_batch: int | None, instances: int, labels: bool, emit: Emit
) -> list[Served]:
    """The models of a repository for a build; artifacts that Triton cannot serve become notes.

    Args:
        max_batch: the greatest batch of ONNX and TorchScript; that of the build if ``None``.
        labels: whether the repository holds the names of the classes.

    Raises:
        BundleError: an input or output of the model is not a tensor that Triton has.
    """
    onnx = next(one for one in build.artifacts if one.runtime is ONNX_RUNTIME)
    interface = onnx_interface(build.directory / onnx.file)
    for tensor in (*interface.inputs, *interface.outputs):
        tensor_entry(tensor, batched=False)  # refuses a tensor by its name in the model
    groups = _groups(build, emit)
    engines = {
        one.file: engine_interface(build.directory / one.file)
        for group in groups
        for one in group.artifacts
        if one.runtime is TENSORRT
    }
    batch = _batch_to_serve(build, onnx, interface, engines, max_batch, emit)
    models = [
        _model(group, build, interface, engines, batch, instances, labels) for group in groups
    ]
    return [*models, *_ensembles(groups, build, interface, instances)]


def _ensembles(
    groups: Sequence[_Group], build: Build, whole: Interface, instances: int
) -> list[Served]:
    """One ensemble for each head, and the tail that all of them share."""
    heads = [one for one in groups if one.name.endswith(_HEAD)]
    if not heads:
        return []
    tail = str(tail_name(heads[0].artifacts[0].file))
    path = build.directory / tail
    behind, name = onnx_interface(path), tail_model(build.name)
    files = {
        ONNX_IN_TRITON.file if part == tail else part: build.directory / part
        for part in heads[0].artifacts[0].files
        if part.startswith(tail)
    }
    found = [Served(name, config(name, ONNX_IN_TRITON, behind, instances=instances), files)]
    for head in heads:
        file = build.directory / head.artifacts[0].file
        engine = head.artifacts[0].runtime is TENSORRT
        before = engine_interface(file) if engine else onnx_interface(file)
        chained = head.name.removesuffix(_HEAD) + "_cut"
        steps = ((head.name, before), (name, behind))
        found.append(Served(chained, ensemble_config(chained, whole, steps), {}))
    return found


def _groups(build: Build, emit: Emit) -> list[_Group]:
    groups: dict[str, _Group] = {}
    for artifact in build.artifacts:
        backend = artifact.runtime.triton if artifact.runtime else None
        name = f"{build.name}_{backend.backend if backend else ''}_{artifact.precision}"
        if tail_name(artifact.file) is not None:
            name += _HEAD
        before = groups[name].artifacts if name in groups else ()
        taken = {sm for one in before for sm in one.compute_capabilities}
        why = _unfit(build, artifact)
        if why is None and taken & set(artifact.compute_capabilities):
            why = "Triton chooses engines by compute capability, and another engine has the same"
        if why is not None or backend is None:
            emit(Note(f"{artifact.file} is left out: {why}.", "warning"))
        else:
            groups[name] = _Group(name, backend, (*before, artifact))
    return list(groups.values())


def _unfit(build: Build, artifact: Artifact) -> str | None:
    """Why Triton cannot serve an artifact; ``None`` if it can."""
    if artifact.runtime is None or artifact.runtime.triton is None:
        return "Triton has no backend for it"
    if artifact.runtime is not TENSORRT:
        return None
    if artifact.library != "tensorrt":
        return (
            "Triton loads engines of TensorRT, but not of TensorRT-RTX; deployfold finish builds "
            "one on the GPU"
        )
    stripped = read_sidecar(build.directory / artifact.file).weight_stripped
    return "it is weight-stripped, but Triton cannot refit" if stripped else None


def _batch_to_serve(
    build: Build,
    onnx: Artifact,
    interface: Interface,
    engines: dict[str, Interface],
    asked: int | None,
    emit: Emit,
) -> int:
    """The greatest batch of ONNX and TorchScript; 0 if Triton must not join requests.

    1. The batch that the user gave.
    2. Else the greatest batch that ``--dynamic-batch`` or ``--shapes`` of the build named.
    3. Else the greatest batch of the engines.
    """
    if not any(one.shape[:1] == (-1,) for one in interface.inputs):
        return 0
    ranges = [axis for one in build.report.inputs for axis in one.dynamic if axis.axis == 0]
    smallest = max((axis.min for axis in ranges), default=1)
    reference = build.files[REFERENCE_NPZ]
    why = why_not_joined(build.directory / onnx.file, reference, max(1, smallest))
    if why is not None:
        emit(Note(f"Triton will not join requests into batches: {why}.", "warning"))
        return 0
    for file, engine in engines.items():
        if engine.first_axis_is_dynamic and not engine.max_batch:
            why = "no optimization profile takes a batch of 1"
            emit(Note(f"Triton will not join requests for {file}: {why}.", "warning"))
    built = min((axis.max for axis in ranges), default=0)
    of_engines = max((one.max_batch for one in engines.values()), default=0)
    return asked or built or of_engines or DEFAULT_BATCH


def _model(
    group: _Group,
    build: Build,
    onnx: Interface,
    engines: dict[str, Interface],
    max_batch: int,
    instances: int,
    labels: bool,
) -> Served:
    files: dict[str, Path] = {}
    by_capability: dict[str, str] = {}
    for artifact in group.artifacts:
        file = group.backend.file
        # Of engines for several GPUs, Triton loads the one for its GPU.
        if len(group.artifacts) > 1:
            capability = artifact.compute_capabilities[0]
            stem, _, suffix = file.partition(".")
            file = f"{stem}.{sm_of_dotted(capability)}.{suffix}"
            by_capability |= dict.fromkeys(artifact.compute_capabilities, file)
        files[file] = build.directory / artifact.file
        # An ONNX refers to the file of its weights by name, so that file keeps its name.
        if artifact.runtime is not TENSORRT:
            # The tail, and the reference of the head, are beside it.
            own = [part for part in artifact.files[1:] if part.startswith(artifact.file)]
            parts = own if tail_name(artifact.file) else artifact.files[1:]
            files |= {part: build.directory / part for part in parts}
    interface = _interface(group.artifacts[0], build, onnx, engines, max_batch)
    text = config(
        group.name,
        group.backend,
        interface,
        instances=instances,
        labels=LABELS_TXT if labels else None,
        by_capability=by_capability,
    )
    return Served(group.name, text, files)


def _interface(
    artifact: Artifact, build: Build, onnx: Interface, engines: dict[str, Interface], max_batch: int
) -> Interface:
    if tail_name(artifact.file) is not None:  # the tail has the batch of the build
        path = build.directory / artifact.file
        found = engines.get(artifact.file) or onnx_interface(path)
        return replace(found, max_batch=0, preferred=())
    if artifact.runtime is TENSORRT:
        engine = engines[artifact.file]
        return engine if max_batch else replace(engine, max_batch=0, preferred=())
    if artifact.runtime is ONNX_RUNTIME:
        found = onnx_interface(build.directory / artifact.file)
    else:
        row = next(row for row in build.report.rows if row.name == artifact.row)
        fixed = _reference_shapes(build) if row.fixed_batch else None
        found = torchscript_interface(onnx, fixed=fixed)
    return replace(found, max_batch=max_batch if found.first_axis_is_dynamic else 0)


def _reference_shapes(build: Build) -> list[tuple[int, ...]]:
    """The shapes of the inputs and then of the outputs of the reference inference."""
    inputs, outputs = read_reference(build.files[REFERENCE_NPZ])
    return [array.shape for array in (*inputs, *outputs)]
