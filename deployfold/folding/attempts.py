"""Folding a model: plan, rewrite and prove, with further attempts where the proof fails.

1. The model is traced on the given inputs, and on other shapes where it runs other operators.
2. The plan is applied to a copy, and the copy is compared with the original.
3. If the comparison or the copy's forward fails, one of these is tried, in this order: keep the
   BatchNorms that the model's own code reads; trace the inputs that were only compared; leave
   parallel branches unmerged; search for the BatchNorms that make the difference.
4. A failure of the rewriter is a bug in deployfold. The BatchNorms concerned stay, a note reports
   the failure, and every other fold is still made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from deployfold.errors import FoldError, first_few

from .graph.find_affine_layers import count_batchnorms
from .graph.graph import Graph
from .graph.outline import reads_data
from .graph.trace import trace
from .modules import copy_modules
from .plan import Plan
from .proof.attribute_reads import attributes_read
from .proof.compare import random_like, shapes_of
from .proof.search import keep_needed, most_folds
from .proof.variations import apart, further, smaller, variations
from .proof.verify import FoldedFails, NotTheSame, verify
from .result import FoldResult, count_parameters
from .rewrite.rewrite import RewriteFault, apply
from .rewrite.weights import Exact
from .rules.match import UNSEEN_USE, match

Inputs = tuple[Any, ...]

_TRACED_ALL = (
    "The model does something else at another batch size or input size, or on other data, so it "
    "was traced there as well."
)
_GIVEN_ONLY = "Random inputs make the model fail, so it was compared on the given ones only."
_FAULTS = 8
"""The most failures of the rewriter before folding ends with an error."""


@dataclass(frozen=True)
class Attempt:
    """The settings of one attempt to fold a model.

    Attributes:
        traced: the inputs on which the model is traced and compared.
        compared: further inputs on which the model is only compared.
        keep: the names of affine layers and branches that must stay, each with its reason.
    """

    traced: tuple[Inputs, ...]
    compared: tuple[Inputs, ...] = ()
    reparam: bool = True
    norm_affine: bool = True
    keep: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def keeping(self, names: dict[str, str], *notes: str) -> Attempt:
        """Return the same settings with more names and notes, where ``names`` must stay."""
        return replace(self, keep={**self.keep, **names}, notes=(*self.notes, *notes))


def fold_and_prove(model: nn.Module, attempt: Attempt) -> FoldResult:
    """Fold ``model`` and prove the result; see :func:`deployfold.folding.fold`."""
    folder = _Folder(model, attempt.traced[0])
    faults = 0
    while True:
        try:
            return folder.fold(attempt)
        except RewriteFault as fault:
            faults += 1
            if faults > _FAULTS:
                raise FoldError(str(fault), hint="Please report it.") from fault
            attempt = folder.without_faulty(attempt, fault)
        except (NotTheSame, FoldedFails) as error:
            following = folder.next_attempt(attempt, error)
            if following is None:
                return folder.search(attempt, error)
            attempt = following


class _Folder:
    """The attempts to fold one model."""

    def __init__(self, model: nn.Module, example: Inputs) -> None:
        self._model = model
        small = smaller(example)
        wider, *shorter = variations(example)
        self._first = [*([small] if small else []), wider]
        self._others = [*self._first, *shorter]
        self._random = random_like(example)
        self._example = example
        self._plan = Plan((), (), (), (), ())  # the plan of the last attempt

    def fold(self, attempt: Attempt) -> FoldResult:
        """Fold with the settings ``attempt`` and prove the result.

        Raises:
            NotTheSame, FoldedFails: the folded model computes another function, or fails.
            RewriteFault: deployfold failed to apply its plan.
            FoldError: the model's own forward fails.
        """
        model = self._model
        graph = trace(
            model,
            *attempt.traced,
            others=self._others,
            further=further(self._example),
            apart=apart(self._example),
        )
        self._plan = plan = match(
            graph,
            model,
            reparam=attempt.reparam,
            norm_affine=attempt.norm_affine,
            keep=attempt.keep,
        )
        exact = Exact(model)
        result = apply(plan, copy_modules(model, share_parameters=False), exact)
        inputs = [*attempt.traced, *attempt.compared, *graph.differing]
        generated = self._generated(graph)
        verification = verify(
            model,
            result,
            plan,
            inputs,
            exact=exact,
            reads_only=_reads_only(graph, model, [attempt.compared, *generated]),
            generated=generated,
            random=graph.random,
        )
        notes = (
            *attempt.notes,
            *_shape_notes(graph),
            *_data_notes(graph),
            *(f"{fault[:1].upper()}{fault[1:]}." for fault in plan.faults),
        )
        if verification.inputs == len(attempt.traced) + len(attempt.compared):
            notes = (*notes, _GIVEN_ONLY)
        return FoldResult(
            model=result,
            folded=plan.folded,
            left=plan.left,
            parameters_before=count_parameters(model),
            parameters_after=count_parameters(result),
            batchnorms_before=count_batchnorms(model),
            batchnorms_after=count_batchnorms(result),
            verification=verification,
            notes=notes,
        )

    def _generated(self, graph: Graph) -> list[list[Inputs]]:
        """Random inputs for the comparison, from the first group that the model accepts."""
        traced = {id(item) for item in graph.differing}
        for group in self._first:
            own = {id(item) for item in group}
            taken = [item for item in graph.taken if id(item) in own and id(item) not in traced]
            if taken:
                return [[item] for item in taken]
        if graph.differing:
            return []
        return [[*self._first[-1], self._random]]

    def without_faulty(self, attempt: Attempt, fault: RewriteFault) -> Attempt:
        """Keep the BatchNorms on which the rewriter failed, which is a bug in deployfold."""
        folded = [item for item in self._plan.folded if item.name not in attempt.keep]
        names = [item.name for item in folded if fault.path in (item.name, *item.into)]
        reason = f"{fault}; this is a bug in deployfold, please report it"
        return attempt.keeping(
            dict.fromkeys(names or [item.name for item in folded], reason),
            f"{reason[:1].upper()}{reason[1:]}.",
        )

    def next_attempt(self, attempt: Attempt, error: NotTheSame | FoldedFails) -> Attempt | None:
        """The next attempt after a failed comparison; ``None`` if only the search is left."""
        kept, notes = self._read_by_code(attempt, error.inputs)
        if kept:
            return attempt.keeping(kept, *notes)
        known = {id(item) for item in attempt.traced}
        untraced = [item for item in error.inputs if id(item) not in known]
        if untraced:
            return replace(
                attempt,
                traced=(*attempt.traced, *untraced),
                compared=(),
                notes=(*attempt.notes, _TRACED_ALL),
            )
        if attempt.reparam and any(item.kind == "branch" for item in self._plan.folded):
            note = f"Parallel branches were not merged: without that, {_lower(str(error))}"
            return replace(attempt, reparam=False, notes=(*attempt.notes, note))
        return None

    def _read_by_code(
        self, attempt: Attempt, inputs: Sequence[Inputs]
    ) -> tuple[dict[str, str], tuple[str, ...]]:
        """The names that the model's code reads and that must stay, each with its reason.

        A note follows if parallel branches are among them.
        """
        branches = {item.name for item in self._plan.folded if item.kind == "branch"}
        folded = apply(self._plan, copy_modules(self._model, share_parameters=False))
        names = [item.name for item in self._plan.folded if item.name not in attempt.keep]
        found = attributes_read(self._model, folded, names, inputs)
        kept = {name: f"the model's code reads its {read}" for name, read in found.items()}
        read = ", ".join(f"{name}.{found[name]}" for name in found if name in branches)
        note = f"Parallel branches were not merged where the model's code reads {read}."
        return kept, (note,) if read else ()

    def search(self, attempt: Attempt, error: FoldError) -> FoldResult:
        """Fold all BatchNorms except those that make the difference, which a search finds.

        Raises:
            FoldError: ``error``, if not even keeping all BatchNorms helps.
        """

        def fold_all_but(keep: frozenset[str]) -> FoldResult | None:
            try:
                return self.fold(attempt.keeping(dict.fromkeys(keep, UNSEEN_USE)))
            except (NotTheSame, FoldedFails, RewriteFault):
                return None

        # The forward is not known to do something else there: its code may read a BatchNorm.
        attempt = replace(attempt, notes=tuple(n for n in attempt.notes if n != _TRACED_ALL))
        names = [item.name for item in self._plan.folded if item.kind != "branch"]
        found = keep_needed(names, fold_all_but)
        if found is None:
            raise error
        reason = (
            "the model's code seems to read this BatchNorm or another one; the search ended "
            f"after {most_folds(len(names))} folds"
        )
        left = (
            replace(item, reason=reason) if item.name in found.untried else item
            for item in found.result.left
        )
        return replace(found.result, left=tuple(left))


def _reads_only(graph: Graph, model: nn.Module, compared: Sequence[Sequence[Inputs]]) -> bool:
    """Whether the trace saw all groups of compared inputs, and no write to a parameter."""
    written = any(name in graph.mutated for name, _ in model.named_parameters())
    taken = {id(item) for item in graph.taken}
    return not written and all(id(item) in taken for group in compared for item in group)


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _shape_notes(graph: Graph) -> list[str]:
    """Notes for a forward that does something else at other sizes, or that may do so."""
    notes = []
    if graph.differing:
        shapes = ", ".join(dict.fromkeys(map(shapes_of, graph.differing)))
        notes.append(
            "The model runs other operators at another batch size or input size, so it was traced "
            f"at {shapes} as well."
        )
    if graph.one_sided:
        notes.append(
            "The forward compares a size with a number or another size "
            f"({first_few(graph.one_sided)}), with one answer at all sizes tried: what it does "
            "where the answer is another is not proved. Give inputs of such sizes with more_inputs."
        )
    if graph.unfollowed:
        notes.append(
            "The forward branches on a number computed from sizes "
            f"({first_few(graph.unfollowed)}): what it does at other sizes than those compared is "
            "not proved if it takes another branch there. Give inputs of such sizes with "
            "more_inputs."
        )
    return notes


def _data_notes(graph: Graph) -> tuple[str, ...]:
    """A note for a forward that reads numbers from its data: other numbers are not proved."""
    reads = [op for op in graph.ops if reads_data(op)]
    if not reads:
        return ()
    names = {"_local_scalar_dense": "item"}
    places = dict.fromkeys(
        f"{names.get(op.name, op.name)} in {op.call.path or 'the forward'}" for op in reads
    )
    return (
        f"The forward reads numbers from its data ({first_few(list(places))}): what it does for "
        "other numbers than those of the compared inputs is not proved. Give inputs that lead "
        "there with more_inputs.",
    )
