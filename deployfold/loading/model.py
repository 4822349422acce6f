"""The record of a loaded model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from .onnx_module import OnnxModule

Kind = Literal["module", "state_dict", "torchscript", "program", "onnx", "zoo", "factory"]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in evaluation mode on the CPU, and its source.

    Attributes:
        module: a ``ScriptModule`` for TorchScript, a ``GraphModule`` for a ``.pt2`` file, an
            ``OnnxModule`` for an ONNX.
        kind: the kind of the source.
        name: a short stem for file names, such as ``resnet50``.
        arch: ``torchvision:NAME``, ``timm:NAME`` or ``package.module:factory``; ``None`` if
            unknown.
        source: the source as the user wrote it.
        sha256, bytes: hash and size of the file, or of all files with weights; ``None`` without a
            file.
        weight_bytes: size of the model's tensors. A training checkpoint is larger, because it also
            has the optimizer's state.
        shapes: input shapes that the source states; ``()`` without any.
        notes: sentences for the user, such as a guessed architecture.
    """

    module: nn.Module
    kind: Kind
    name: str
    arch: str | None
    source: str
    sha256: str | None = None
    bytes: int | None = None
    weight_bytes: int | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def compiled(self) -> bool:
        """Whether the file holds a compiled graph, whose dtypes and arguments are part of it."""
        return self.kind in ("torchscript", "program")

    @property
    def in_onnx(self) -> bool:
        """Whether the stages work on the ONNX file of the module, and not on a PyTorch module."""
        return isinstance(self.module, OnnxModule)
