"""Proof that the folded model is the same function as the original.

The proof runs the original and the folded model in float64 on the same inputs. The folded model has
its new weights as they were before rounding, so folding rounds to about 1e-16. A relative
difference above 1e-9 means that the plan is wrong, or that the model magnifies rounding even in
float64; :mod:`~.conditioning` decides which. The float64 proof does not depend on the model's own
dtype, in which an ill-conditioned model may differ from itself. The delivered weights are compared
with the original in the model's own dtype.

Beside the original and the folded model, memory holds one weight in float64 at a time
(:mod:`~.at_use`). Where a model does not run so, it holds a copy of the original, whose float64
takes twice the memory of float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from deployfold.errors import FoldError, first_line
from deployfold.folding.modules import copy_modules
from deployfold.folding.plan import Plan
from deployfold.folding.rewrite.rewrite import apply
from deployfold.folding.rewrite.weights import Exact

from .at_use import ParametersInFloat64, widen_buffers
from .compare import (
    InFloat64,
    difference,
    double_inputs,
    forward_failed,
    insensitive,
    native_limit,
    run_model,
)
from .conditioning import first_departure

TOLERANCE = 1e-9
"""The largest relative difference allowed in float64; folding a deep model leaves about 1e-14."""


_EVERY_LAYER = "every output of the model is empty, so every layer was compared"
_ILL_CONDITIONED = (
    "the model is ill-conditioned: it departs from itself in float64 when its weights change in "
    "the last bits, and folding departs by {:.1e}; so every layer was compared"
)
_INSENSITIVE = (
    "the outputs of the model hardly depend on its input (is it trained?), so their comparison "
    "shows little"
)


class NotTheSame(FoldError):
    """The folded model is not the same function as the original on some of ``inputs``."""

    inputs: tuple[tuple[Any, ...], ...] = ()


class FoldedFails(FoldError):
    """The folded model's forward fails on ``inputs``, on which the original runs."""

    inputs: tuple[tuple[Any, ...], ...] = ()


@dataclass(frozen=True)
class Verification:
    """The result of the proof: the differences between original and folded model.

    Attributes:
        inputs: the number of inputs compared.
        float64_relative: the largest difference divided by the largest output, in float64; ``None``
            if the model cannot run in float64, which ``note`` explains.
        native_relative: the same ratio for the delivered model against the original, both in the
            model's own dtype.
        native_max_abs: the largest absolute difference in the model's own dtype.
        note: a remark on the proof for the report; empty without one.
        outputs: the original's outputs on the first inputs, in its own dtype; empty where it did
            not run in that dtype.
    """

    inputs: int
    float64_relative: float | None
    native_relative: float
    native_max_abs: float
    note: str = ""
    outputs: tuple[Tensor, ...] = field(default=(), repr=False, compare=False)


def verify(
    original: nn.Module,
    folded: nn.Module,
    plan: Plan,
    inputs: Sequence[tuple[Any, ...]],
    *,
    exact: Exact,
    reads_only: bool = False,
    generated: Sequence[Sequence[tuple[Any, ...]]] = (),
    random: bool = True,
) -> Verification:
    """Compare ``folded``, to which ``plan`` was applied, with ``original`` on every input.

    Args:
        folded: a copy of ``original`` after :func:`deployfold.folding.rewrite.rewrite.apply`, which
            stays unchanged.
        exact: the new numbers of ``folded``, as :func:`apply` left them.
        reads_only: the forward is known not to write to its parameters on any of the inputs.
        generated: groups of further argument tuples, which the original may refuse; in each group
            the first tuple that the original accepts is compared.

    Raises:
        FoldedFails: the folded model's forward fails.
        NotTheSame: the functions differ; the message names the first layer that departs.
        FoldError: the original's forward fails or gives no finite number.
    """
    # A forward may write to its parameters or cache its inputs, so the copies must be unused.
    copied = copy_modules(original, share_parameters=reads_only)
    outputs = []
    for item in inputs:
        try:
            outputs.append(run_model(copied, item, random=random))
        except FoldError:
            raise
        except Exception as error:  # tracing computes no numbers and may not hit this error
            raise forward_failed(item, error) from error
    inputs = list(inputs)
    for group in generated:
        for item in group:
            try:
                outputs.append(run_model(copied, item, random=random))
            except Exception:  # not every model accepts random numbers
                continue
            inputs.append(item)
            break
    try:
        return _Comparison(
            original, copied, folded, copy_modules(folded), plan, exact, reads_only, random,
            inputs, outputs,
        ).verification()  # fmt: skip
    except (NotTheSame, FoldedFails) as error:
        error.inputs = tuple(inputs)
        raise


@dataclass(frozen=True, eq=False)
class _Comparison:
    """Two models, each with a copy that runs and changes, and the original's outputs."""

    original: nn.Module
    copied: nn.Module
    folded: nn.Module
    folded_copy: nn.Module
    plan: Plan
    exact: Exact
    reads_only: bool
    random: bool
    inputs: Sequence[tuple[Any, ...]]
    outputs: Sequence[list[Tensor]]

    def verification(self) -> Verification:
        """Compare in the model's own dtype and in float64; see :func:`verify`."""
        inputs, outputs = self.inputs, self.outputs
        _check_comparable(outputs, self.plan)
        native = [
            difference(expected, _run_folded(self.folded_copy, item, self.random))
            for item, expected in zip(inputs, outputs, strict=True)
        ]
        exact, before, note = self._in_float64()
        empty = not any(tensor.numel() for item in outputs for tensor in item)
        if not empty and not note and insensitive(outputs):
            note = _INSENSITIVE
        if empty or (exact is not None and not exact <= TOLERANCE):
            self._check_every_layer(exact or 0)
            note = _EVERY_LAYER if empty else _ILL_CONDITIONED.format(exact)
        relative = max(item.relative for item in native)
        limit = native_limit(self.original, max(before or 0.0, exact or 0.0))
        if not relative <= limit:
            raise NotTheSame(
                f"In its own dtype the folded model differs from the original by {relative:.1e} "
                f"(relative), more than {limit:.1e}.",
                hint="Convert the model to float32 first (model.float()); if it is float32 "
                "already, the model may not compute the same twice (random numbers in forward?).",
            )
        return Verification(
            inputs=len(inputs),
            float64_relative=exact,
            native_relative=relative,
            native_max_abs=max(item.absolute for item in native),
            note=note,
            outputs=tuple(outputs[0]),
        )

    def _check_every_layer(self, exact: float) -> None:
        allowed = 0.0
        for number, item in enumerate(self.inputs, 1):
            departure, limit = first_departure(self.original, self.plan, item, TOLERANCE)
            allowed = max(allowed, limit)
            if departure is None and number == len(self.inputs) and exact > allowed:
                departure = "the output"  # seen only where no hook watches the modules
            if departure is not None:
                raise NotTheSame(
                    f"The folded model differs from the original by {exact:.1e} (relative, in "
                    f"float64), first at {departure}.",
                    hint="This is a bug in deployfold, or the model does not compute the same "
                    "twice. Nothing was written.",
                )

    def _in_float64(self) -> tuple[float | None, float | None, str]:
        """Compare in float64.

        The results are the largest relative difference of the folded model, the largest of the
        original's own outputs, and a note.
        """
        wide = [double_inputs(item) for item in self.inputs]
        if self.reads_only:
            try:
                widen_buffers(self.copied, self.original, self.exact)
                widen_buffers(self.folded_copy, self.folded, self.exact)
                with ParametersInFloat64(self.exact):
                    expected = self._run(self.copied, wide)
                    found = self._distances(self.folded_copy, wide, expected)
                if found[0] <= TOLERANCE:
                    return *found, ""
            except Exception:  # the weights of TorchScript, for example, are seen by no Python code
                pass
        try:
            reference = copy_modules(self.original, share_parameters=False).double()
            with InFloat64():
                expected = self._run(reference, wide)
        except Exception as error:  # model code may fail on a dtype that it was not written for
            return None, None, f"the model does not run in float64 ({first_line(error)})"
        folded = apply(self.plan, reference)
        with InFloat64():
            return *self._distances(folded, wide, expected), ""

    def _run(self, model: nn.Module, inputs: Sequence[tuple[Any, ...]]) -> list[list[Tensor]]:
        return [run_model(model, item, random=self.random) for item in inputs]

    def _distances(
        self, folded: nn.Module, wide: Sequence[tuple[Any, ...]], expected: list[list[Tensor]]
    ) -> tuple[float, float]:
        """How far the folded model and the original's own outputs are from those ``expected``."""
        exact = max(
            difference(right, _run_folded(folded, item, self.random)).relative
            for item, right in zip(wide, expected, strict=True)
        )
        before = max(
            difference(right, own).relative
            for right, own in zip(expected, self.outputs, strict=True)
        )
        return exact, before


def _run_folded(folded: nn.Module, inputs: tuple[Any, ...], random: bool) -> list[Tensor]:
    try:
        return run_model(folded, inputs, random=random)
    except Exception as error:
        raise FoldedFails(
            f"The folded model's forward fails: {type(error).__name__}: {error}",
            hint="Its code seems to look inside a BatchNorm that is gone. Please report it.",
        ) from error


def _check_comparable(outputs: Sequence[list[Tensor]], plan: Plan) -> None:
    """Check that some output is finite, because NaN equals NaN whatever was folded.

    Raises:
        FoldError: every number in the outputs is NaN or infinite.
    """
    filled = [tensor for item in outputs for tensor in item if tensor.numel()]
    if not filled or any(bool(tensor.isfinite().any()) for tensor in filled):
        return
    causes = [f"{left.name}: {left.reason}." for left in plan.left if "NaN" in left.reason]
    raise FoldError(
        "Every output of the model is NaN or infinite on the example input, so nothing can be "
        "proved there.",
        hint=" ".join(causes) or "Give real inputs with --input-data, or check the checkpoint.",
    )
