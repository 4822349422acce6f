"""Folding an affine layer that runs at several places, before some of them and behind others."""

from __future__ import annotations

from deployfold.folding.graph.affine_layer import AffineLayer

from .context import Context
from .into_consumers import IntoConsumers, requests_behind
from .into_producer import IntoProducers, requests_before
from .request import CannotFold, Request
from .rule import RuleForOne
from .runs import runs_of


class AtEachPlace(RuleForOne):
    """``affine(layer(x))`` at one place and ``layer(affine(x))`` at another become layers alone.

    The rule applies to a layer that runs at several places where, at each of them, either
    :class:`.IntoProducers` or :class:`.IntoConsumers` would apply.
    """

    name = "into the producer or the consumer of each place"
    covers = (IntoProducers.name, IntoConsumers.name)

    def concerns(self, affine_layer: AffineLayer) -> bool:
        """Only layers that run at several places."""
        return len(affine_layer.sites) > 1 and not affine_layer.of_norm

    def propose(self, affine_layer: AffineLayer, context: Context) -> list[Request]:
        """Return the requests to the neighbours; see :class:`.RuleForOne`."""
        requests: list[Request] = []
        runs = runs_of(affine_layer, context)
        for number, run in enumerate(runs, 1):
            try:
                requests += requests_before(affine_layer, run, context)
            except CannotFold as before:
                try:
                    context.writers(affine_layer)
                    requests += requests_behind(affine_layer, run, context, set())
                except CannotFold as behind:
                    many = len(runs)
                    which = f"of its {many} places, number {number}" if many > 1 else "its place"
                    raise CannotFold(
                        f"{which} takes it neither before ({before}) nor behind ({behind})"
                    ) from behind
        return context.agree(requests)
