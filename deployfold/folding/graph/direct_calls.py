"""Calls of ``module.forward(x)`` instead of ``module(x)``, which no hook of the module sees."""

from __future__ import annotations

from types import FrameType

from torch import nn

from .graph import Call, forward_of


class DirectCalls:
    """Finds, for an operator that runs, the module whose forward runs it."""

    def __init__(self, paths: dict[int, str], model: nn.Module) -> None:
        self._paths = paths
        forwards = map(forward_of, model.modules())
        self._forwards = {getattr(forward, "__code__", None) for forward in forwards}
        self._last: Call | None = None

    def innermost(self, frame: FrameType | None, around: Call) -> Call:
        """The call that runs in ``frame``: ``around``, or one inside it that hooks have not seen.

        Args:
            around: the innermost call that hooks have seen.
        """
        while frame is not None and frame.f_code not in self._forwards:
            frame = frame.f_back
        if frame is None:
            return around
        module = frame.f_locals.get((*frame.f_code.co_varnames, "")[0])
        if not isinstance(module, nn.Module) or module is around.module:
            return around
        if id(module) not in self._paths:
            return around
        last = self._last
        if last is None or last.module is not module or last.parent is not around:
            last = self._last = Call(self._paths[id(module)], module, around)
        return last
