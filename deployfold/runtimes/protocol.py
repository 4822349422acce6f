"""The protocol of runners, through which the rest of the package uses every runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

from deployfold.util.arrays import Array

from .times import DeviceTimes

if TYPE_CHECKING:
    from torch import Tensor

    from deployfold.config.inputs import InputSpec

    from .settings import RunSettings

Inputs: TypeAlias = Sequence["Array | Tensor"]

Step = Callable[[], "DeviceTimes | None"]
"""Runs one inference on prepared inputs. The result ``None`` means: use the host's clock."""


class Runner(Protocol):
    """Runs an artifact in its runtime.

    Call ``load``, then ``run`` or ``prepare`` any number of times, then ``close``. ``close`` may be
    called at any time and more than once. A runner may have ``notes``: sentences about its
    numbers, known once it is loaded.
    """

    def load(self) -> None:
        """Read the artifact and make it ready to run; a second call has no effect.

        Raises:
            MeasureError: the artifact is missing or broken, or cannot run on this machine.
        """

    def prepare(self, inputs: Inputs) -> Step:
        """Convert ``inputs`` to the form that the runtime needs, outside the timed step.

        The runner makes private copies, so a model that writes into its inputs affects no other
        runner.

        Raises:
            MeasureError: the runtime does not accept these inputs.
        """

    def run(self, inputs: Inputs) -> tuple[Array, ...]:
        """Run one inference; every output tensor as a numpy array, in the model's order.

        Outputs with a dtype that numpy lacks (bfloat16, float8) are converted to float32.

        Raises:
            MeasureError: the inference failed.
        """

    def close(self) -> None:
        """Free the memory."""


class FileRunner(Runner, Protocol):
    """Runs a file in its runtime; the result of :attr:`.runtime.Runtime.open`.

    A runner may also have ``output_names`` in the order of :meth:`run`, ``placement``, a sentence
    on the devices that run the nodes, and ``cuda_graph``. All three are known after the first run.
    """

    settings: RunSettings

    @property
    def key(self) -> str | None:
        """The key of the runner's :class:`.runtime.Runtime`; ``None`` if a new process cannot
        open the file again."""

    @property
    def title(self) -> str:
        """The name of the runtime, such as ``ONNX Runtime (CPUExecutionProvider)``."""

    @property
    def variant(self) -> str:
        """A word that distinguishes rows of the same file; usually empty."""

    def inputs(self, asked: InputSpec | None = None) -> InputSpec:
        """The inputs of one inference, in the file's order; the file need not be loaded.

        Args:
            asked: the shapes that the user requested, for all inputs or some of them.

        Raises:
            UsageError: the file has no such input, or a shape is not known.
        """
