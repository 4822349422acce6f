"""The runs of an affine layer, where a run on its own output continues the run before."""

from __future__ import annotations

from dataclasses import dataclass

from deployfold.folding.algebra import Affine
from deployfold.folding.graph.affine_layer import AffineLayer
from deployfold.folding.graph.graph import Op

from .context import Context
from .request import CannotFold


@dataclass(frozen=True, eq=False)
class Run:
    """One or several runs of an affine layer in a row, which compute ``affine`` together."""

    first: Op
    last: Op
    affine: Affine


def runs_of(affine_layer: AffineLayer, context: Context) -> list[Run]:
    """The runs of ``affine_layer``, in order.

    Raises:
        CannotFold: something else reads a tensor between two runs in a row.
    """
    found: dict[Op, Run] = {}
    for site in affine_layer.sites:
        source = site.inputs[0]
        before = None if source.producer is None else found.pop(source.producer, None)
        if before is None and source.producer in affine_layer.sites:
            raise CannotFold("it runs on its own output, which others read")
        if before is None:
            found[site] = Run(site, site, affine_layer.affine)
            continue
        if source.output or source.consumers != [site]:
            raise CannotFold("it runs on its own output, which others read")
        context.check_unobserved(source)
        found[site] = Run(before.first, site, affine_layer.affine.after(before.affine))
    return list(found.values())
