"""An ONNX file as a torch module, so that the stages before the export can run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deployfold.errors import LoadError, first_line
from deployfold.util.onnx_files import cpu_session, float_name


class OnnxModule(nn.Module):
    """An ONNX file that runs in ONNX Runtime on the CPU; the module has no parameters.

    Attributes:
        path: the file; its external data lies beside it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._session: Any = None

    def open(self) -> Any:
        """ONNX Runtime's session of the file, which is made once.

        Raises:
            LoadError: ONNX Runtime cannot load the file.
        """
        if self._session is None:
            try:
                self._session = cpu_session(self.path)
            except Exception as error:
                raise LoadError(
                    f"ONNX Runtime cannot load {self.path.name}: {first_line(error)}",
                    hint="Run the file in ONNX Runtime by itself first, or export it again.",
                ) from error
        return self._session

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """One inference.

        Args:
            inputs: in the order of the graph; floats are cast to the dtype that it declares.
        """
        session = self.open()
        feeds = {}
        for value, tensor in zip(session.get_inputs(), inputs, strict=True):
            wanted = float_name(value.type)
            given = tensor if wanted is None else tensor.to(getattr(torch, wanted))
            feeds[value.name] = given.detach().cpu().contiguous().numpy()
        return tuple(torch.from_numpy(array.copy()) for array in session.run(None, feeds))
