"""The record of one case: a model of a library, the file its users have of it, and the command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deployfold.folding.graph.affine_layer import is_batchnorm_module

_BATCH = 8
DATA = "data.npz"
PICTURE = ("1x3x64x64",)
Save = Callable[[nn.Module, Path], None]


def pickled(net: nn.Module, path: Path) -> None:
    """the whole module"""
    torch.save(net, path)


def state_dict(net: nn.Module, path: Path) -> None:
    """a state dict"""
    torch.save(net.state_dict(), path)


def training(net: nn.Module, path: Path) -> None:
    """a training checkpoint"""
    optimizer = torch.optim.Adam(net.parameters())
    torch.save({"epoch": 3, "model_state": net.state_dict(), "opt": optimizer.state_dict()}, path)


def directory(net: Any, path: Path) -> None:
    """save_pretrained's directory"""
    net.save_pretrained(path)


def with_processor(net: Any, path: Path) -> None:
    """save_pretrained's directory and its image processor"""
    from transformers import ConvNextImageProcessor

    net.save_pretrained(path)
    ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875).save_pretrained(path)


def ultralytics(net: nn.Module, path: Path) -> None:
    """half-precision module, as best.pt"""
    torch.save({"epoch": -1, "model": net.half(), "ema": None, "train_args": {}}, path)


def lightning(net: Any, path: Path) -> None:
    """a Lightning checkpoint"""
    torch.save(
        {
            "state_dict": net.state_dict(),
            "hyper_parameters": dict(net.hparams),
            "pytorch-lightning_version": "2.6.6",
            "epoch": 1,
            "callbacks": {},
        },
        path,
    )


@dataclass(frozen=True)
class Case:
    """One model of a library as its users have it.

    Attributes:
        name: a short name, also of the file.
        library: a key of :data:`packages.PACKAGES`.
        model: the model's name for the table.
        net: builds the model with random weights; the caller seeds torch. ``None`` if the library
            ships the file itself.
        file: the file's name; a name without a suffix is a directory.
        save: writes the file; its docstring is the table's «how given».
        inputs: the words of ``--input``; they also give the inputs of torch's exporter. Empty if
            the file names its picture, which is a ``PICTURE`` then.
        words: further words of the command line.
        data: makes the arrays of ``--input-data``, by input name, where random inputs do not do.
        shipped: the file inside the installed library, if the library ships it.
        exit_code: the expected exit code.
        message: words that the output must contain, for a refusal or a note.
    """

    name: str
    library: str
    model: str
    net: Callable[[], Any] | None
    file: str
    save: Save = pickled
    inputs: tuple[str, ...] = PICTURE
    words: tuple[str, ...] = ()
    data: Callable[[], dict[str, Any]] | None = None
    shipped: str = ""
    exit_code: int = 0
    message: str = ""

    @property
    def command(self) -> tuple[str, ...]:
        """The words after ``deployfold build``, run in the folder of the file."""
        shapes = (word for one in self.inputs for word in ("--input", one))
        data = ("--input-data", DATA) if self.data is not None else ()
        return (self.file, *shapes, *data, *self.words)

    @property
    def given(self) -> str:
        """The form in which the user has the model."""
        return "shipped by the library" if self.shipped else str(self.save.__doc__)


def trained(net: nn.Module, inputs: tuple[torch.Tensor, ...]) -> nn.Module:
    """Give every BatchNorm affine parameters of both signs, and the statistics of its own inputs.

    Seeded noise takes the place of training data: without it, BatchNorms would be the identity.
    The statistics are of ``_BATCH`` times the inputs, because those of few numbers can be tiny and
    would make a net that no precision can compute.
    """
    norms = [one for one in net.modules() if is_batchnorm_module(one)]
    with torch.no_grad():
        for norm in norms:
            if norm.weight is not None:
                norm.weight.uniform_(0.5, 1.5)
            if norm.bias is not None:
                norm.bias.normal_(0, 0.2)
            if norm.running_mean is not None:
                norm.train()
                norm.momentum = None  # the average over all passes
        if norms:
            net(*map(_repeated, inputs))
    for norm in norms:
        norm.momentum = 0.1
    return net.eval()


def _repeated(value: torch.Tensor) -> torch.Tensor:
    if not value.is_floating_point():
        return torch.cat([value] * _BATCH)
    return torch.cat([value, *(torch.randn_like(value) for _ in range(1, _BATCH))])
