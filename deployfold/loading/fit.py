"""Fits the weights of a checkpoint to an architecture: prefixes, wrappers' names, ties."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deployfold.errors import first_few

from .weights import Weights, is_average, size_of

_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d)")
_WRAPPERS = frozenset(
    {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
)
"""Segments that ``torch.compile``, FSDP, activation checkpointing and Lightning add to names."""
_COUNTERS = frozenset({"total_ops", "total_params", "n_averaged"})
"""Tensors that profilers (thop) and torch's AveragedModel add to the weights."""
_FLAT_AVERAGE = "ema_"
_PREFIXES_TRIED = 8


@dataclass(frozen=True)
class Names:
    """The names in an architecture's state dict.

    Attributes:
        shapes: the shape of every tensor, by name, without BatchNorm's batch counters.
        ties: for each name of a shared parameter, all names of that parameter.
        children: the names of the top-level submodules.
        non_persistent: the names of buffers that the architecture computes and does not save.
    """

    shapes: Mapping[str, torch.Size]
    ties: Mapping[str, tuple[str, ...]]
    children: frozenset[str]
    non_persistent: frozenset[str]

    @classmethod
    def of(cls, module: nn.Module) -> Names:
        """The names of ``module``, whose tensors may be on the meta device."""
        groups: defaultdict[int, list[str]] = defaultdict(list)
        for name, parameter in module.named_parameters(remove_duplicate=False):
            groups[id(parameter)].append(name)
        ties = {name: tuple(group) for group in groups.values() for name in group if group[1:]}
        state = module.state_dict()
        return cls(
            {key: value.shape for key, value in state.items() if not _is_counter(key)},
            ties,
            frozenset(name for name, _ in module.named_children()),
            frozenset({name for name, _ in module.named_buffers()} - state.keys()),
        )


@dataclass(frozen=True, eq=False)
class Fit:
    """A set of weights under the names of an architecture.

    Attributes:
        weights: the source of the tensors.
        prefix: the prefix that was removed from their names.
        state: the tensors under the architecture's names.
        missing: names that the architecture has and the weights lack.
        unexpected: names that the weights have and the architecture lacks.
        shapes: sentences on tensors of another shape.
        left_out: names of tensors that do not belong to the model.
        notes: sentences on what was adapted.
    """

    weights: Weights
    prefix: str
    state: Mapping[str, Tensor]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[str, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """The differences, as parts of a sentence; ``()`` if everything fits."""
        return (
            *(f"{key} is missing" for key in self.missing),
            *(f"{key} is unexpected" for key in self.unexpected),
            *self.shapes,
        )

    @property
    def label(self) -> str:
        """The keys and the prefix of the tensors in the file, joined by dots."""
        return ".".join(part for part in (self.weights.label, self.prefix.strip(".")) if part)


def fits(names: Names, weights: Weights, arch: str) -> list[Fit]:
    """Every way in which weights fit an architecture; the nearest attempt if none fits."""
    tried: list[Fit] = []
    tensors = _without_pruning(names, weights.tensors)
    for rename in (str, _unwrapped, _without_data_parallel, _renamed_for(names)):
        given = _renamed(tensors, rename)
        if given is None:
            continue
        found = [_fit(names, weights, given, prefix, arch) for prefix in _prefixes(names, given)]
        found += _flat_averages(names, weights, given, arch)
        whole = [fit for fit in found if not fit.problems]
        if whole:
            return whole
        added = _with_prefix_added(names, given)
        if added is not None:
            return [_fit(names, weights, added, "", arch)]
        tried += found
    return [min(tried, key=lambda fit: len(fit.problems))] if tried else []


def _fit(
    names: Names, weights: Weights, given: Mapping[str, Tensor], prefix: str, arch: str
) -> Fit:
    own = names.shapes
    inside = {key[len(prefix) :]: given[key] for key in given if key.startswith(prefix)}
    outside = [key for key in given if not key.startswith(prefix)]
    state = {key: value for key, value in inside.items() if key in own or _is_counter(key)}
    notes = [f"The prefix {prefix!r} was removed from every key."] if prefix else []
    tied = []
    for key in own.keys() - state.keys():
        same = next((name for name in names.ties.get(key, ()) if name in state), None)
        if same is not None:
            state[key] = state[same]
            tied.append(key)
    if tied:
        notes.append(f"{first_few(sorted(tied))}: tied to another tensor, which the file has.")
    missing = sorted(own.keys() - state.keys())
    extra = sorted(key for key in inside if key not in own and not _is_counter(key))
    foreign = [key for key in extra if _is_foreign(names, key)]
    unexpected = [key for key in extra if missing or key not in foreign]
    shapes = [
        f"{key} is {_shape(size_of(state[key]))} in the checkpoint and {_shape(own[key])} in {arch}"
        for key in sorted(own.keys() & state.keys())
        if own[key] != size_of(state[key])
    ]
    shapes += _untied(names, state, arch)
    left_out = [*outside, *(key for key in foreign if key not in unexpected)]
    shown = [key for key in left_out if key.rpartition(".")[2] not in _COUNTERS]
    if shown:
        plural = "tensor was" if len(shown) == 1 else "tensors were"
        notes.append(
            f"{len(shown)} {plural} left out, because the model has no such tensor: "
            f"{first_few(shown)}."
        )
    return Fit(
        weights, prefix, state, tuple(missing), tuple(unexpected), tuple(shapes),
        tuple(left_out), tuple(notes),
    )  # fmt: skip


def _untied(names: Names, state: Mapping[str, Tensor], arch: str) -> list[str]:
    """Sentences on names of one shared parameter for which the file has different values."""
    return [
        f"{group[0]} and {key} are one tensor in {arch} and differ in the checkpoint"
        for group in sorted(set(names.ties.values()))
        for key in group[1:]
        if group[0] in state
        and state[group[0]] is not state[key]
        and size_of(state[group[0]]) == size_of(state[key]) is not None
        and not torch.equal(state[group[0]], state[key])
    ]


def _is_foreign(names: Names, key: str) -> bool:
    """Whether a tensor that the architecture lacks does not belong to the model. Foreign are:

    1. A counter of a profiler, or a buffer that the architecture computes itself.
    2. An average at the top level, such as ``ema_backbone_conv1_weight`` of mmengine.
    3. A tensor of a top-level submodule that the architecture lacks, such as a loss. A number
       as its name means one more layer instead: the architecture is too short.
    4. A tensor at the top level, such as the weights of a loss, if the architecture has none there.
    """
    if key.rpartition(".")[2] in _COUNTERS or key in names.non_persistent:
        return True
    top, _, rest = key.partition(".")
    if top in names.children:
        return False
    if not rest and any("." not in own for own in names.shapes):
        return is_average(top)
    return not top.isdigit()


def _prefixes(names: Names, given: Mapping[str, Tensor]) -> list[str]:
    """Prefixes of the architecture's tensors in the checkpoint, the most frequent first."""
    votes: Counter[str] = Counter()
    for key in given:
        if key in names.shapes:
            votes[""] += 1
        for match in re.finditer(r"\.", key):
            if key[match.end() :] in names.shapes:
                votes[key[: match.end()]] += 1
    ordered = sorted(votes, key=lambda prefix: (-votes[prefix], len(prefix)))
    return ordered[:_PREFIXES_TRIED] or [""]


def _flat_averages(
    names: Names, weights: Weights, given: Mapping[str, Tensor], arch: str
) -> list[Fit]:
    """The average of mmengine, whose names have the prefix ``ema_`` and underscores for dots."""
    state = {own: given.get(_FLAT_AVERAGE + own.replace(".", "_")) for own in names.shapes}
    if not state or any(value is None for value in state.values()):
        return []
    tensors = {f"{_FLAT_AVERAGE}.{own}": value for own, value in state.items() if value is not None}
    return [_fit(names, weights, tensors, f"{_FLAT_AVERAGE}.", arch)]


def _with_prefix_added(names: Names, given: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors with a prefix added that the architecture's names share, if they then fit."""
    first = next(iter(names.shapes), "")
    for match in re.finditer(r"\.", first):
        prefix = first[: match.end()]
        renamed = {f"{prefix}{key}": value for key, value in given.items()}
        if all(
            key in renamed and size_of(renamed[key]) == own for key, own in names.shapes.items()
        ):
            return renamed
    return None


def _renamed(
    tensors: Mapping[str, Tensor], rename: Callable[[str], str]
) -> Mapping[str, Tensor] | None:
    """The tensors under new names; ``None`` if no name changes, or two names become equal."""
    if rename is str:
        return tensors
    found = {rename(key): value for key, value in tensors.items()}
    return None if len(found) < len(tensors) or found.keys() == tensors.keys() else found


def _unwrapped(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in _WRAPPERS)


def _without_data_parallel(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in _WRAPPERS and part != "module")


def _renamed_for(names: Names) -> Callable[[str], str]:
    """A function that translates between old and new names of the same tensors:

    1. Weight normalisation by a hook, and by ``torch.nn.utils.parametrizations``.
    2. Normalisation layers of files that were converted from TensorFlow.
    3. DenseNet's layers before torchvision 0.3.
    """
    endings = [
        ("weight_g", "parametrizations.weight.original0"),
        ("weight_v", "parametrizations.weight.original1"),
        ("gamma", "weight"),
        ("beta", "bias"),
    ]
    pairs = [*endings, *((new, old) for old, new in endings[:2])]
    tails = {key.rpartition(".")[2] for key in names.shapes}

    def rename(key: str) -> str:
        key = _DENSENET.sub(r"\1\2", _unwrapped(key))
        for old, new in pairs:
            if key.endswith(f".{old}") and old not in tails:
                return key.removesuffix(old) + new
        return key

    return rename


def _without_pruning(names: Names, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Apply the masks of ``torch.nn.utils.prune``, unless the architecture has masks too."""
    masks = [key for key in tensors if key.endswith("_mask") and f"{key[:-5]}_orig" in tensors]
    masks = [key for key in masks if not any(own.endswith(key) for own in names.shapes)]
    if not masks:
        return tensors
    found = {k: v for k, v in tensors.items() if k not in masks}
    for key in masks:
        found[key[:-5]] = found.pop(f"{key[:-5]}_orig") * tensors[key]
    return found


def summary(fit: Fit) -> str:
    """The first of each kind of problem, and how many more there are."""
    missing = [f"{key} is missing" for key in fit.missing]
    unexpected = [f"{key} is unexpected" for key in fit.unexpected]
    kinds = (missing, unexpected, fit.shapes)
    return "; ".join(first_few(kind) for kind in kinds if kind)


def _is_counter(key: str) -> bool:
    """Whether ``key`` is a BatchNorm's batch counter, which has no effect in evaluation mode."""
    return key.endswith("num_batches_tracked")


def _shape(shape: Sequence[int] | None) -> str:
    return "nested" if shape is None else "x".join(map(str, shape)) or "a scalar"
