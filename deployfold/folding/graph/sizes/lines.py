"""The lines of a model's code that read, look up or split sizes, collected while it runs."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

import torch
from torch import nn

from .branches import tests_of
from .readers import Reader, Use

TORCH = str(Path(torch.__file__).parent)
_OWN = str(Path(__file__).parents[1])
_CALLERS = 4
"""How many calling functions are followed, beside the one that reads a size."""


class SizeLines:
    """The functions outside torch that read sizes, over all passes so far."""

    def __init__(self, model: nn.Module) -> None:
        self._readers: dict[CodeType, Reader] = {}
        self._model = model
        self._splits: Counter[tuple[CodeType, int]] = Counter()
        self._lengths: dict[tuple[CodeType, int, int], int] = {}
        self._known = 0
        self._unfollowed: dict[tuple[str, bool], None] = {}

    def begin(self) -> None:
        """Begin another pass."""
        self._splits.clear()

    def unfollowed(self) -> list[tuple[str, bool]]:
        """The places that depend on plain numbers computed from sizes; see :mod:`.branches`."""
        known = sum(reader.known for reader in self._readers.values())
        if known != self._known:
            self._known = known
            self._unfollowed.update(dict.fromkeys(tests_of(self._readers, self._model)))
        return list(self._unfollowed)

    def note(self, use: Use) -> None:
        """Record the line of code outside torch that reads a size, or looks one up."""
        reader, line = self._reader_of(sys._getframe(2))
        reader.lines[use].add(line)

    def note_split(self, length: int) -> None:
        """Record the line of code that splits an axis of this length into a number of tensors."""
        reader, line = self._reader_of(sys._getframe(2))
        key = (reader.code, line)
        if self._lengths.setdefault((*key, self._splits[key]), length) != length:
            reader.lines["split"].add(line)
        self._splits[key] += 1

    def note_caught(self, places: list[str]) -> None:
        """Record the places where torch raised an error that a forward caught."""
        self._unfollowed.update(dict.fromkeys((place, True) for place in places))

    def caller(self) -> list[str]:
        """The file and line of the code that called a function of torch, if it is outside torch."""
        frame = _outside_torch(sys._getframe(2))
        file = frame.f_code.co_filename
        return [] if file.startswith(_OWN) else [f"{Path(file).name}:{frame.f_lineno}"]

    def _reader_of(self, frame: FrameType) -> tuple[Reader, int]:
        """The function outside torch that ``frame`` runs, or is called by, and its line.

        The functions that call it may get the size as its result.
        """
        frame = _outside_torch(frame)
        found, line = self._reader(frame), frame.f_lineno
        callers = 0
        while callers < _CALLERS and frame.f_back is not None:
            frame = frame.f_back
            file = frame.f_code.co_filename
            if file.startswith(_OWN):  # it runs the model
                break
            if not file.startswith(TORCH):
                self._reader(frame)
                callers += 1
        return found, line

    def _reader(self, frame: FrameType) -> Reader:
        if frame.f_code not in self._readers:
            self._readers[frame.f_code] = Reader.of(frame)
        return self._readers[frame.f_code]


def _outside_torch(frame: FrameType) -> FrameType:
    """The innermost frame of code outside torch that called the code of ``frame``."""
    while frame.f_back is not None and frame.f_code.co_filename.startswith(TORCH):
        frame = frame.f_back
    return frame
