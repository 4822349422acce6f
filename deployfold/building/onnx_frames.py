"""Gives an ONNX file the input of raw frames: ``--image-input``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from deployfold.config.inputs import InputSpec
from deployfold.errors import ExportError, FoldError
from deployfold.exporting.given import repair
from deployfold.exporting.outputs import check_outputs
from deployfold.exporting.storage import SCRATCH_THRESHOLD, write_model
from deployfold.folding.frames import Frames
from deployfold.folding.onnx import insert
from deployfold.folding.proof.compare import run_model
from deployfold.loading import make_inputs
from deployfold.loading.onnx_module import OnnxModule
from deployfold.lowering.graph import load


class FramedOnnx(OnnxModule):
    """A copy of an ONNX file that normalises raw frames itself.

    Attributes:
        frames: the normalisation, in front of the given file.
    """

    def __init__(self, frames: Frames, given: OnnxModule) -> None:
        self._directory = TemporaryDirectory(prefix="deployfold-")
        super().__init__(Path(self._directory.name) / given.path.name)
        graph = load(given.path)
        repair(graph)
        insert(graph, frames)
        write_model(graph, self.path, threshold=SCRATCH_THRESHOLD)
        self.frames = frames


def framed(frames: Frames, inputs: InputSpec) -> FramedOnnx:
    """Write the copy, and compare it with the file itself on normalised floats.

    Args:
        frames: the normalisation, with the file as its model.
        inputs: the frames.

    Raises:
        UsageError, LoadError: the file cannot be changed, or the changed file cannot be run.
        FoldError: the copy computes another function.
    """
    given = frames.model
    assert isinstance(given, OnnxModule)
    module = FramedOnnx(frames, given)
    example = make_inputs(inputs)
    expected, found = (run_model(one, example, random=False) for one in (frames, module))
    try:
        check_outputs(expected, [one.numpy() for one in found], what="The copy")
    except ExportError as error:
        raise FoldError(
            f"{given.path.name} with the normalisation inside computes another function than on "
            f"normalised floats: {error.message}",
            hint="Leave --image-input out, and normalise before the model.",
        ) from error
    return module
