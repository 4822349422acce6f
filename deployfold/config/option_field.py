"""Dataclass fields that are options of ``deployfold build``.

One field defines the flag and its help, the key of a build profile, the keyword of the Python API
and the entry of the JSON schema. The fields are in :class:`deployfold.config.build_spec.BuildSpec`
and in the dataclasses that it groups. This module imports only the standard library, so ``--help``
stays fast.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Hashable
from dataclasses import MISSING, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from deployfold.errors import UsageError

_METADATA = "option"
_GROUP = "group"


class Panel:
    """The headings under which ``--help`` lists the flags."""

    TARGET = "Target"
    MODEL = "Model"
    IMAGES = "Images"
    QUANTIZATION = "Quantisation"
    ENGINE = "Engine"
    MEASUREMENT = "Measurement"
    LIMITS = "Limits"
    OUTPUT = "Output"


@dataclass(frozen=True)
class Option:
    """The form in which users write one field.

    Attributes:
        key: the key in a build profile, and the flag without its dashes.
        kind: the type that users write: ``bool``, ``int``, ``float``, ``str`` or a ``Literal``.
        default: the value when it is not written, in the form in which users write it.
        help: for ``--help-all`` and for editors. ``--help`` prints the first clause alone, up to a
            semicolon or a full stop.
        panel: the heading under which ``--help`` lists the flag.
        group: the field of ``BuildSpec`` whose dataclass has this field; empty for the fields of
            ``BuildSpec`` itself.
        many: whether the flag may be repeated, so that the key holds a list.
        aliases: other spellings of the flag, with their dashes.
        older_keys: keys of older versions. Flags, profiles and the Python API still take them.
        metavar: the placeholder of the value in ``--help``.
        common: whether ``build --help`` lists the flag; ``--help-all`` lists every flag.
        in_profiles: whether a build profile may set it.
        path: whether the value may be a path, which in a profile is relative to its folder.
        code: whether the value may be the user's code, ``package.module:function``.
        data: whether the value is data beside the model: real inputs, or their labels.
        pytorch: whether only a PyTorch model gives it an effect, and an ONNX none.
        least, most: the range of a number, bounds included.
        above, below: the range of a number, bounds excluded.
        read: converts the written value into the field's value, where they differ.
    """

    name: str
    key: str
    kind: Any
    default: Any
    help: str
    panel: str
    group: str = ""
    many: bool = False
    aliases: tuple[str, ...] = ()
    older_keys: tuple[str, ...] = ()
    metavar: str | None = None
    common: bool = False
    in_profiles: bool = True
    path: bool = False
    code: bool = False
    data: bool = False
    pytorch: bool = False
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    read: Callable[[Any], Any] | None = None

    @property
    def flag(self) -> str:
        """The flag with its dashes, such as ``--no-engine``."""
        return f"--{self.key}"

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every flag that sets the option; :attr:`flag` is the first."""
        return (self.flag, *self.aliases, *(f"--{key}" for key in self.older_keys))

    @property
    def keyword(self) -> str:
        """The key as a Python identifier, such as ``no_engine``."""
        return self.key.replace("-", "_")

    def value(self, written: Any) -> Any:
        """The field's value for a written value.

        Raises:
            UsageError: the text cannot be understood.
        """
        return written if self.read is None else self.read(written)

    def refusal(self, value: Any) -> str | None:
        """Why a number is out of range; ``None`` if it is in range."""
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return None
        least, most = self.least, self.most
        fits = (
            (least is None or value >= least)
            and (most is None or value <= most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )
        if fits:
            return None
        words = {
            "at least": least,
            "at most": most,
            "more than": self.above,
            "less than": self.below,
        }
        wanted = [f"{word} {bound:g}" for word, bound in words.items() if bound is not None]
        return f"{self.flag} must be {' and '.join(wanted)}, not {value:g}."


def option(
    default: Any,
    help: str,
    panel: str,
    *,
    key: str | None = None,
    read: Callable[[Any], Any] | None = None,
    choices: tuple[str, ...] = (),
    **more: Any,
) -> Any:
    """A dataclass field that users can write.

    Args:
        default: the value when it is not written. ``MISSING`` makes the field required.
        help, panel: see :class:`Option`.
        key: by default the field's name with dashes, prefixed with ``no-`` for a bool that is
            ``True`` by default.
        read: converts the written value into the field's value. ``default`` is then a written
            value: a text, a tuple of texts, or ``None``.
        choices: the texts that users can write, for a field with ``read``.
        more: further fields of :class:`Option`.
    """
    written = dict(more, help=help, panel=panel, key=key, read=read, choices=choices)
    written["default"] = None if default is MISSING else default
    value = default if read is None or default is MISSING else read(default)
    return field(default=value, metadata={_METADATA: written})


torch_option = partial(option, pytorch=True)
"""A field that users can write, and that has an effect on PyTorch models alone."""


def group(cls: Any, *, always: bool = True) -> Any:
    """A field that holds a dataclass of further options.

    Args:
        always: ``False`` leaves ``None`` in the field unless the required option is written.
    """
    metadata = {_GROUP: cls}
    if always:
        return field(default_factory=cls, metadata=metadata)
    return field(default=None, metadata=metadata)


def groups_of(cls: Any) -> dict[str, Any]:
    """The dataclasses of further options, by the field that holds each."""
    return {
        one.name: one.metadata[_GROUP] for one in dataclasses.fields(cls) if _GROUP in one.metadata
    }


@lru_cache(maxsize=16)
def options_of(cls: Hashable, group: str = "") -> tuple[Option, ...]:
    """The options among the fields of a dataclass, without those of its groups."""
    hints = typing.get_type_hints(cls)
    return tuple(
        _option(one.name, group, hints[one.name], **one.metadata[_METADATA])
        for one in dataclasses.fields(cls)  # type: ignore[arg-type]
        if _METADATA in one.metadata
    )


def _option(
    name: str,
    group: str,
    hint: Any,
    *,
    key: str | None,
    default: Any,
    read: Callable[[Any], Any] | None,
    choices: tuple[str, ...],
    **more: Any,
) -> Option:
    key = key or name.replace("_", "-")
    many = isinstance(default, tuple)
    kind = next((one for one in _alternatives(hint) if one is not type(None)), str)
    if choices:
        kind = Literal[choices]
    elif read is not None or many or kind is Path:
        more["path"] = kind is Path or more.get("path", False)
        read = read or (tuple if many else Path)
        kind = str
    elif kind is bool and default is True:
        key, default, read = f"no-{key}", False, lambda written: not written
    return Option(name, key, kind, default, group=group, many=many, read=read, **more)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return typing.get_args(hint) if union else (hint,)


def check_ranges(values: Any) -> None:
    """Refuse a dataclass with a number outside its option's range.

    Raises:
        UsageError: names the flag, its range and the number.
    """
    for one in options_of(values.__class__):
        refusal = one.refusal(getattr(values, one.name))
        if refusal is not None:
            raise UsageError(refusal)
