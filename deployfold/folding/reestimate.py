"""Replacing the running statistics of BatchNorms by those of real data, before folding.

The new statistics satisfy one condition: in evaluation mode, the running mean and variance of every
BatchNorm are the mean and variance of the layer's own inputs on the data. Training's moving average
does not satisfy it: the average weights the last batches most, and the layers before used the
statistics of single batches (Wu and Johnson, «Rethinking "Batch" in BatchNorm», 2021, section 3).

1. All samples run as one batch. Right before a BatchNorm runs, its statistics become those of the
   whole batch, so every layer behind sees inputs that are final already.
2. The samples run again as they were given. The statistics must now equal those of the inputs.
   Where they do not, they are replaced and step 2 repeats. This happens where the model refuses a
   larger batch or calls one BatchNorm at several places. Each repetition settles at least one more
   layer of a model that calls each BatchNorm once.

A model in half precision runs in float32, and its new statistics are rounded to its dtype. Sums are
taken over all samples in float64. The variance is divided by ``count - 1``, as for the
running variance of ``torch.nn.BatchNorm2d``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from deployfold.errors import FoldError, first_few
from deployfold.util.tensors import is_finite

from .half import half_on_cpu, in_float32
from .modules import copy_modules
from .moments import LEAST_SAMPLES, Norm, measure, norms_of
from .proof.compare import difference, forward_failed, run_model

_SETTLED = 1e-3
"""The largest distance left between statistics and inputs, in standard deviations.

The mean of 1,000 independent values varies thirty times as much from sample to sample.
"""

_SPARE = 20
"""Repetitions of step 2 beyond one for each layer, for a BatchNorm that reads its own output."""


@dataclass(frozen=True, eq=False)
class Reestimated:
    """A model whose BatchNorms have the statistics of real data.

    Attributes:
        model: a copy with new running statistics; it shares the original's parameters.
        names: the BatchNorms that have new statistics.
        unreached: the BatchNorms that no sample reached; they keep their statistics.
        constant: the number of channels that do not vary on the data.
        moved: the largest difference of the outputs on the data, relative to the largest output.
    """

    model: nn.Module
    names: tuple[str, ...]
    unreached: tuple[str, ...]
    constant: int
    samples: int
    moved: float

    @property
    def note(self) -> str:
        """The change to the model, in sentences for the report."""
        rest, many = "", len(self.names)
        if self.unreached:
            rest += f" The data does not reach {first_few(self.unreached)}."
        if self.constant:
            rest += f" {self.constant} channels do not vary on this data."
        return (
            f"This is NOT the function of the checkpoint: the running statistics of {many} "
            f"BatchNorm{'s' * (many > 1)} were replaced by those of {self.samples} samples, which "
            f"moves the outputs on these samples by up to {self.moved:.2g} (relative). Every "
            f"comparison is with the model after this change.{rest}"
        )


def reestimated(model: nn.Module, inputs: Sequence[tuple[Any, ...]]) -> Reestimated:
    """Replace the running statistics of every BatchNorm by those of ``inputs``.

    Raises:
        FoldError: the model is TorchScript or has no BatchNorm that the samples reach, the samples
            are too few, the forward fails, or the statistics do not settle or exceed what half
            precision holds.
    """
    samples = sum(len(item[0]) if torch.is_tensor(item[0]) else 1 for item in inputs)
    if samples < LEAST_SAMPLES:
        raise FoldError(
            f"BatchNorm statistics cannot be estimated from {samples} samples: at least "
            f"{LEAST_SAMPLES} are needed, and some hundreds are better.",
            hint="Give more real samples to --reestimate-bn (reestimate_bn).",
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise _nothing("is TorchScript, whose statistics are part of a fixed graph")
    single, inputs = _in_float32(model, inputs)
    copied = copy_modules(single)
    norms = norms_of(copied)
    if not norms:
        raise _nothing("has no BatchNorm with running statistics in evaluation mode")
    whole = _one_batch(inputs)
    if whole is not None:
        # A model that takes no batch of this size is left to step 2.
        with suppress(Exception), torch.no_grad():
            measure(copied, norms, [whole], adopt=True)
    reached = _settle(copied, norms, inputs)
    result = copy_modules(model)  # a forward may write to other buffers as well
    for name, norm in reached.items():
        new = Norm(result.get_submodule(name))
        new.running_mean.copy_(norm.running_mean)
        new.running_var.copy_(norm.running_var)
        if not (is_finite(new.running_mean) and is_finite(new.running_var)):
            raise FoldError(
                f"The statistics of {name} on this data exceed what {new.running_var.dtype} holds.",
                hint="Convert the model to float32 first (model.float()).",
            )
    before = [run_model(single, item) for item in inputs]
    changed = result if single is model else copy_modules(result, share_parameters=False).float()
    after = [run_model(changed, item) for item in inputs]
    return Reestimated(
        model=result,
        names=tuple(reached),
        unreached=tuple(name for name in norms if name not in reached),
        constant=sum(int((norm.moments.variance == 0).sum()) for norm in reached.values()),
        samples=samples,
        moved=max(difference(*pair).relative for pair in zip(before, after, strict=True)),
    )


def _in_float32(
    model: nn.Module, inputs: Sequence[tuple[Any, ...]]
) -> tuple[nn.Module, Sequence[tuple[Any, ...]]]:
    """A float32 copy of a model in half precision on the CPU, and its inputs in float32.

    A model that is in another precision, or whose code computes in half precision, stays.
    """
    if half_on_cpu(model) is None:
        return model, inputs
    single = copy_modules(model, share_parameters=False).float()
    wide = [in_float32(item) for item in inputs]
    try:
        run_model(single, wide[0])
    except Exception:  # the same forward runs in half precision next, and reports its own error
        return model, inputs
    return single, wide


def _settle(
    model: nn.Module, norms: dict[str, Norm], inputs: Sequence[tuple[Any, ...]]
) -> dict[str, Norm]:
    """Repeat step 2 until the statistics are those of the inputs; return the norms reached.

    Raises:
        FoldError: the forward fails, the statistics do not settle or are not finite, or a layer
            sees one value of each channel.
    """
    for _ in range(len(norms) + _SPARE):
        try:
            measure(model, norms, inputs)
        except Exception as error:
            raise forward_failed(inputs[0], error) from error
        reached = {name: norm for name, norm in norms.items() if norm.moments.count}
        if not reached:
            raise _nothing("calls no BatchNorm on this data")
        for name, norm in reached.items():
            if norm.moments.count == 1 or not bool(norm.moments.variance.isfinite().all()):
                raise FoldError(
                    f"The statistics of {name} cannot be estimated: its inputs on this data are "
                    "one value a channel, NaN or infinite.",
                    hint="Check the samples and their preprocessing.",
                )
        far = [name for name, norm in reached.items() if not _is_settled(norm)]
        if not far:
            return reached
        for norm in reached.values():
            norm.adopt()
    raise FoldError(
        f"The statistics of {first_few(far)} do not settle: each change of them changes the inputs "
        "that they describe.",
        hint="Leave --reestimate-bn (reestimate_bn) out.",
    )


def _is_settled(norm: Norm) -> bool:
    shift, ratio = norm.distance()
    return float(shift.max()) <= _SETTLED and float((ratio - 1).abs().max()) <= _SETTLED


def _nothing(why: str) -> FoldError:
    return FoldError(
        f"There is nothing to re-estimate: the model {why}.",
        hint="Leave --reestimate-bn (reestimate_bn) out, or give the eager model in evaluation "
        "mode.",
    )


def _one_batch(inputs: Sequence[tuple[Any, ...]]) -> tuple[Any, ...] | None:
    """All samples in one argument tuple, or ``None`` where they do not fit into one."""
    try:
        return tuple(torch.cat(tensors) for tensors in zip(*inputs, strict=True))
    except (TypeError, ValueError, RuntimeError):
        return None
