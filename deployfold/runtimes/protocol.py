"""The methods of runners, through which the measurement knows every runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from numpy.typing import NDArray

from .times import DeviceTimes

if TYPE_CHECKING:
    from torch import Tensor

    from deployfold.config.inputs import InputSpec

    from .settings import RunSettings

Array: TypeAlias = NDArray[Any]
Inputs: TypeAlias = Sequence["NDArray[Any] | Tensor"]

Step = Callable[[], "DeviceTimes | None"]
"""One inference on inputs prepared before. ``None``: time it with the host's clock."""


class Runner(Protocol):
    """An artifact in its runtime.

    ``load``, then ``run`` or ``prepare`` any number of times, then ``close``. ``close`` may be
    called at any time and more than once. A runner may have ``notes``: sentences about its
    numbers, known when it is loaded.
    """

    def load(self) -> None:
        """Read the artifact and make it ready to run; a second call does nothing.

        Raises:
            MeasureError: the artifact is missing or broken, or cannot run on this machine.
        """

    def prepare(self, inputs: Inputs) -> Step:
        """Bring ``inputs`` into the form the runtime wants, outside of what is timed.

        The runner takes private copies, so a model that writes into its inputs disturbs no other.

        Raises:
            MeasureError: the runtime does not take these inputs.
        """

    def run(self, inputs: Inputs) -> tuple[Array, ...]:
        """One inference; every output tensor as a numpy array, in the order the model gives them.

        Outputs that numpy has no dtype for (bfloat16, float8) come as float32.

        Raises:
            MeasureError: the inference failed.
        """

    def close(self) -> None:
        """Give the memory back."""


class FileRunner(Runner, Protocol):
    """A file in its runtime, as :attr:`.runtime.Runtime.open` makes it.

    A runner may also have ``output_names``, in the order of :meth:`run`, ``placement``, which
    says what runs on which device, and ``cuda_graph``; all three are known after the first run.

    Attributes:
        settings: what it was opened with.
    """

    settings: RunSettings

    @property
    def key(self) -> str | None:
        """The key of its :class:`.runtime.Runtime`; ``None`` where it cannot be opened again."""

    @property
    def title(self) -> str:
        """What runs the file, such as ``ONNX Runtime (CPUExecutionProvider)``."""

    @property
    def variant(self) -> str:
        """The word that tells this row from another of the same file; mostly empty."""

    def inputs(self, asked: InputSpec | None = None) -> InputSpec:
        """The inputs of one inference, in the file's order; it need not be loaded.

        Args:
            asked: the shapes that the user gave, for all inputs or some of them.

        Raises:
            UsageError: the file takes no such input, or its shape is not known.
        """
