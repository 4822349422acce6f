"""Prepares a model for export: evaluation mode, and a check that two runs give equal outputs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deployfold.errors import ExportError, FoldError, first_few
from deployfold.folding.modules import copy_modules
from deployfold.folding.proof.compare import difference, rounding_limit
from deployfold.util.seeded import Seeded

from .outputs import call_module, flatten_outputs, is_torchscript

_HINT = "deployfold fold takes the model as it is."


def in_evaluation_mode(module: torch.nn.Module) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """A copy of a module in evaluation mode with its own buffers, and notes for the user.

    Exporting runs the module, which may write to its buffers. The copy shares the parameters. A
    module in evaluation mode that cannot be copied is returned itself.

    Raises:
        ExportError: a module in training mode cannot be copied.
    """
    training = any(getattr(item, "training", False) for item in module.modules())
    try:
        copied = copy_modules(module)
    except FoldError as error:
        if not training:
            return module, ()
        raise ExportError(
            f"The model is in training mode. {error.message}",
            hint="Call model.eval() before exporting it.",
        ) from error
    if not training:
        return copied, ()
    return copied.eval(), ("The model was in training mode; its evaluation mode was exported.",)


def check_repeatable(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> object:
    """Refuse a model whose outputs depend on more than its inputs.

    A copy runs on ``inputs`` twice, with different random numbers. If the outputs differ, a new
    copy runs with the random numbers of the second run: it shows whether random numbers or the
    state after the first run cause the difference. Differences within
    :func:`~deployfold.folding.proof.compare.rounding_limit` of the largest output do not count. A
    module that cannot be copied is not checked, because a run would change it.

    Returns:
        The outputs of the first run with their nesting, for :class:`~.exporter.ExportJob`; ``None``
        without a run.

    Raises:
        ExportError: the model keeps state, in the buffers that the message names, or is random.
    """
    try:
        copied = copy_modules(module, share_parameters=False)
    except FoldError:
        return None
    outputs = _outputs(copied, inputs, seed=0)
    second = _tensors(_outputs(copied, inputs, seed=1))
    if not _differ(_tensors(outputs), second):
        return outputs
    again = _outputs(copy_modules(module, share_parameters=False), inputs, seed=1)
    if not _differ(second, _tensors(again)):
        raise ExportError(
            "The model draws random numbers, so no exported file can give the same outputs.",
            hint="Remove them, such as a dropout that is active in evaluation mode, or make them "
            f"an input of forward. {_HINT}",
        )
    before = dict(module.named_buffers())
    written = [
        name
        for name, buffer in copied.named_buffers()
        if name not in before or not torch.equal(before[name], buffer)
    ]
    where = f" in {first_few(written)}" if written else ""
    shipped = (
        "If its author also ships a file that takes the state as an input, often an ONNX, build "
        "that one. "
    )
    raise ExportError(
        f"The model keeps state{where} from one call to the next, so its outputs depend on "
        "earlier calls. An exported file has no state.",
        hint="Make the state an input and an output of forward. "
        f"{shipped if is_torchscript(module) else ''}{_HINT}",
    )


def _outputs(module: torch.nn.Module, inputs: tuple[Tensor, ...], *, seed: int) -> object:
    with Seeded(seed):
        outputs = call_module(module, inputs)
    # The outputs may be buffers of the module.
    return pytree.tree_map_only(Tensor, torch.clone, outputs)


def _tensors(outputs: object) -> list[Tensor]:
    return list(flatten_outputs(outputs)[0])


def _differ(first: list[Tensor], second: list[Tensor]) -> bool:
    return not difference(first, second).relative <= rounding_limit(first)
