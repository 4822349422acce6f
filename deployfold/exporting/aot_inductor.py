"""Exports with AOTInductor: a ``torch.export`` program compiled to native code, with its weights.

The compilation runs in its own process, because it can crash, hang or change torch's settings.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.export.passes import move_to_device_pass

from deployfold.compiling.worker_process import Report, run_worker
from deployfold.errors import CompileError, ExportError
from deployfold.events import StageProgress
from deployfold.runtimes.aot_inductor import AOT_INDUCTOR as RUNTIME
from deployfold.runtimes.aot_inductor import METADATA_KEY, inputs_to_json, missing_compiler
from deployfold.util.files import atomic_path

from .dynamic import checking_inputs
from .exporter import ExportedFile, Exporter, ExportJob
from .outputs import check_outputs, flatten_outputs

_WHAT = "The AOTInductor package"
_SETTINGS = {
    # The package uses torch's number of threads at run time, not that of the compilation.
    "cpp.dynamic_threads": True
}


def export_aot_inductor(job: ExportJob, path: Path) -> ExportedFile:
    """Compile a model ahead of time for this machine's CPU, or for the GPU of the job.

    A child process compiles and runs the package, and its outputs are compared with the eager
    module's. The log goes to ``<path>.log`` and stays only after a failure.

    Args:
        path: the file, written atomically; must end with ``.pt2``.

    Raises:
        ExportError: there is no C++ compiler, ``torch.export`` refuses the model, the compilation
            fails, crashes or takes longer than the job's ``timeout``, or the package's outputs
            differ from the model's.
    """
    missing = missing_compiler()
    if missing is not None:
        raise ExportError(missing)
    program = job.program
    checks = checking_inputs(job.inputs, job.spec)
    references = [job.reference.flat(check) for check in checks]
    log = path.with_name(f"{path.name}.log")
    with tempfile.TemporaryDirectory(prefix="deployfold-") as folder:
        given, made = Path(folder) / "inputs.pt", Path(folder) / "outputs.pt"
        torch.export.save(program, Path(folder) / "program.pt2")
        torch.save([list(check) for check in checks], given)
        # torch writes the file's name into the entries of the archive.
        with atomic_path(path, name=f"model{Path(RUNTIME.suffix).suffix}") as temporary:
            request = {
                "builder": f"{__name__}:compile_package",
                "program": str(Path(folder) / "program.pt2"),
                "inputs": str(given),
                "outputs": str(made),
                "package": str(temporary),
                "device": job.device,
                "metadata": {METADATA_KEY: inputs_to_json(job.spec)},
            }
            done = _run(request, log, job)
            outputs = torch.load(made, weights_only=True)
            difference = max(
                check_outputs(reference, output, what=_WHAT)
                for reference, output in zip(references, outputs, strict=True)
            )
            size = temporary.stat().st_size
    log.unlink(missing_ok=True)
    return ExportedFile(
        path=path,
        bytes=size,
        max_abs_diff=difference,
        notes=(f"compiled for {done['needs']}",),
        peak_bytes=done["peak_bytes"],
    )


def _run(request: dict[str, Any], log: Path, job: ExportJob) -> dict[str, Any]:
    def report(phase: str, fraction: float | None) -> None:
        job.emit(StageProgress("export", f"AOTInductor: {phase}", fraction))

    try:
        return run_worker(
            request, log=log, timeout=job.timeout, report=report, what="AOTInductor's compilation"
        )
    except CompileError as error:
        raise ExportError(
            f"AOTInductor cannot compile this model: {error.message}", hint=error.hint
        ) from error


def compile_package(job: dict[str, Any], report: Report) -> dict[str, Any]:
    """Compile and run a package; called in the worker, whose directory is temporary."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path.cwd() / "cache")  # a temporary directory
    report("compiling C++", None)
    device = job["device"]
    program = torch.export.load(job["program"])
    if device != "cpu":
        program = move_to_device_pass(program, device)
    torch._inductor.aoti_compile_and_package(
        program,
        package_path=job["package"],
        inductor_configs={**_SETTINGS, "aot_inductor.metadata": job["metadata"]},
    )
    report("running", None)
    package = torch._inductor.aoti_load_package(job["package"])
    outputs = []
    for values in torch.load(job["inputs"], weights_only=True):
        with torch.inference_mode():
            tensors, _ = flatten_outputs(package(*(value.to(device) for value in values)))
        outputs.append([tensor.cpu().clone() for tensor in tensors])
    torch.save(outputs, job["outputs"])
    metadata: dict[str, str] = package.get_metadata()
    if device != "cpu":
        return {"needs": torch.cuda.get_device_name(device)}
    return {"needs": f"CPUs with {metadata.get('AOTI_CPU_ISA') or 'the instructions of this one'}"}


AOT_INDUCTOR = Exporter(
    key="aot_inductor",
    row="aot-inductor",
    title="AOTInductor",
    label="AOTInductor",
    runtime=RUNTIME,
    export=export_aot_inductor,
    option="aot_inductor",
)
