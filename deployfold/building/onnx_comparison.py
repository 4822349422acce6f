"""Compares every step of folding an ONNX with the given file in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from deployfold.errors import FoldError
from deployfold.exporting.dynamic import checking_inputs
from deployfold.exporting.outputs import check_outputs
from deployfold.exporting.session import open_session, run_session
from deployfold.exporting.storage import scratch_file
from deployfold.folding.proof.compare import Difference, difference, forward_failed, run_model
from deployfold.loading.onnx_module import OnnxModule
from deployfold.lowering.qdq.given import without_pairs

from .load import Loaded


@dataclass(frozen=True, eq=False)
class Checks:
    """The outputs of the given file, with which every step is compared.

    Attributes:
        names: of its inputs.
        inputs, outputs: of each inference.
        unrounded: whether the outputs are those without the rounding of activations, so that two
            equal graphs do not differ by a step of a quantiser.
    """

    names: tuple[str, ...]
    inputs: Sequence[tuple[Tensor, ...]]
    outputs: Sequence[list[Tensor]]
    unrounded: bool = False

    def without_rounding(self, graph: ir.Model) -> Checks:
        """The same inputs, with the outputs of ``graph`` without the rounding of activations."""
        with scratch_file(without_pairs(graph)) as file:
            return replace(self, outputs=list(self._run(file)), unrounded=True)

    def compare(self, graph: ir.Model) -> Difference:
        """Run ``graph`` in ONNX Runtime.

        Raises:
            ExportError: it does not run, or is another function.
        """
        found = []
        with scratch_file(without_pairs(graph) if self.unrounded else graph) as file:
            for expected, results in zip(self.outputs, self._run(file), strict=True):
                check_outputs(expected, results, what="The graph")
                found.append(difference(expected, results))
        return Difference(max(one.absolute for one in found), max(one.relative for one in found))

    def _run(self, file: Path) -> Iterator[list[Tensor]]:
        session = open_session(file)
        for item in self.inputs:
            feed = dict(zip(self.names, [value.numpy() for value in item], strict=True))
            yield [torch.from_numpy(np.array(one)) for one in run_session(session, feed)]


def checks_of(module: OnnxModule, loaded: Loaded) -> Checks:
    """The outputs of the given file on the samples of the fold, and at other sizes.

    Raises:
        FoldError: the file does not run on them.
    """
    inputs = [*loaded.fold_samples, *checking_inputs(loaded.example, loaded.inputs)[1:]]
    outputs = []
    for item in inputs:
        try:
            outputs.append(run_model(module, item, random=False))
        except FoldError:
            raise
        except Exception as error:  # ONNX Runtime's are of many kinds
            raise forward_failed(item, error) from error
    return Checks(loaded.inputs.names, inputs, outputs)
