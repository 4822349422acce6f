"""Reads safetensors: one file, or the index of a model in several files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from deployfold.errors import LoadError, one_line

from .format import Content, Format, Header, Permissions

_INDEX = ".index.json"


def recognise(header: Header) -> bool:
    """Whether the file starts with a little-endian 8-byte header length and a JSON object."""
    length = int.from_bytes(header.head[:8], "little")
    return header.head[8:9] == b"{" and 2 <= length <= header.size - 8


def read(path: Path, permissions: Permissions) -> Content:
    """The tensors by name.

    Raises:
        LoadError: the file is damaged or empty.
    """
    state = _tensors(path)
    if not state:
        raise LoadError(f"{path} contains no tensors.")
    return Content(tree=state)


FORMAT = Format("safetensors", (".safetensors",), recognise, read)


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file by name, with every name of a shared tensor.

    ``safetensors.torch.save_model`` stores one of several tensors that share memory, and names
    the others in the metadata.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(path)
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError, KeyError) as error:
        raise LoadError(
            f"{path} is damaged: {one_line(error)}.",
            hint="Compare its size with the original's, and download or copy it again.",
        ) from error
    shared = {name: state[kept] for name, kept in metadata.items() if kept in state}
    return {**shared, **state}


def recognise_index(header: Header) -> bool:
    """Whether the file is JSON and has the name that Hugging Face gives to an index of shards."""
    return header.path.name.endswith(_INDEX) and header.head.lstrip()[:1] == b"{"


def read_index(path: Path, permissions: Permissions) -> Content:
    """The tensors of all shards, which are in the folder of the index.

    Raises:
        LoadError: the index or a shard is damaged or missing.
    """
    shards = [path.parent / name for name in sorted(set(_weight_map(path).values()))]
    state: dict[str, Any] = {}
    for shard in shards:
        if not shard.is_file():
            raise LoadError(f"The shard {shard} is missing.", hint=f"{path.name} names it.")
        if shard.suffix == ".safetensors":
            state |= _tensors(shard)
        else:
            from .pickled import load_pickle

            state |= load_pickle(shard, strict=True)
    return Content(tree=state, files=(path, *shards))


def _weight_map(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = {str(key): str(value) for key, value in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LoadError(f"{path} is not an index of shards: {one_line(error)}.") from error
    if not names or any(Path(name).name != name for name in names.values()):
        raise LoadError(f"{path} names no shards, or shards outside its folder.")
    return names


INDEX = Format(
    "index of shards", (".safetensors.index.json", ".bin.index.json"), recognise_index, read_index
)
