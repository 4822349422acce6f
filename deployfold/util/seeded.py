"""Fixed random numbers for one forward pass, without changing the random state of the process."""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Seeded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A block in which the random operators of this thread draw from generators of the block.

    Every device has its own generator, and all of them start from ``seed``. Operators that draw are
    given the generator; composite operators, such as dropout, run as the operators that they
    consist of. Fused CUDA kernels that take no generator (attention with dropout, recurrent layers
    in training) are the exception: while one is launched, torch's own state is set and restored.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True makes torch import its compiler, which takes over a second

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if is_random(func, bind_schema(func, args, kwargs)):
            return self.draw(func, args, kwargs)
        return func(*args, **kwargs)

    def draw(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a random operator with the block's own random numbers."""
        generator = self._generator(_device_of(args, kwargs))
        if torch._C._dispatch_has_kernel_for_dispatch_key(
            function.name(), "CompositeImplicitAutograd"
        ):
            with self:
                return function.decompose(*args, **kwargs)
        if function is torch.ops.aten.native_dropout.default:
            return _dropped(*args, generator=generator)
        taking = _taking_generator(function)
        if taking is not None:
            return taking(*args, **{**kwargs, "generator": kwargs.get("generator") or generator})
        with _FUSED, torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(2**31, (), generator=self._generator(_CPU))))
            return function(*args, **kwargs)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


class SeededConstruction(Seeded):
    """A block for code that builds a model and may set torch's own seed.

    From then on, torch's own generator draws, so that the model is what its code makes. The seed
    that the process had is set again at the end.
    """

    def __enter__(self) -> Any:
        self._state, self._initial = torch.get_rng_state(), torch.initial_seed()
        untouched = torch.Generator().manual_seed(self._initial).get_state()
        if torch.equal(untouched, self._state):  # setting the same seed would not show
            self._seed = self._initial
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        if torch.initial_seed() != self._initial:
            torch.set_rng_state(self._state)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        draws = torch.Tag.nondeterministic_seeded in func.tags
        if not draws or _device_of(args, kwargs).type == "meta" or self._set_by_the_code():
            return func(*args, **kwargs)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _set_by_the_code(self) -> bool:
        return not torch.equal(torch.get_rng_state(), self._state)


_CPU = torch.device("cpu")
_FUSED = threading.Lock()


def _device_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device:
    """The device on which an operator draws."""
    tensors = (item for item in (*args, *kwargs.values()) if isinstance(item, torch.Tensor))
    given = kwargs.get("device")
    first = next(tensors, None)
    device = first.device if first is not None and given is None else given
    return torch.empty(0, device=device).device


def _taking_generator(function: Any) -> Any:
    """The form of an operator that takes a generator, or ``None``."""
    names = [argument.name for argument in function._schema.arguments]
    if "generator" in names:
        return function
    packet = function.overloadpacket
    for overload in packet.overloads():
        other = getattr(packet, overload)
        own = [argument.name for argument in other._schema.arguments]
        if "generator" in own and [name for name in own if name != "generator"] == names:
            return other
    return None


def _dropped(
    x: torch.Tensor, p: float, train: bool | None, *, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """``native_dropout``, which CUDA runs for a dropout: the result and the mask of what stays."""
    if train is False:
        return x, torch.ones_like(x, dtype=torch.bool)
    kept = torch.empty_like(x).bernoulli_(1 - p, generator=generator)
    return x * kept / max(1 - p, torch.finfo(torch.float32).tiny), kept.bool()


def bind_schema(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by their names in the operator's schema, with defaults filled in."""
    names, defaults = _names_of(func)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return {name: given.get(name, defaults.get(name)) for name in names}


@cache
def _names_of(func: Any) -> tuple[list[str], dict[str, Any]]:
    """The argument names of an operator's schema, and the default values among them."""
    arguments = func._schema.arguments
    defaults = {one.name: one.default_value for one in arguments if one.has_default_value()}
    return [one.name for one in arguments], defaults


def is_random(function: Any, arguments: dict[str, Any]) -> bool:
    """Whether an operator with these arguments draws random numbers from torch's generator."""
    if torch.Tag.nondeterministic_seeded not in function.tags:
        return False
    training = arguments.get("train", arguments.get("training", True))
    return bool(training) and arguments.get("dropout_p", 1.0) != 0.0
