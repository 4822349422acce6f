"""The kinds of files that a model comes in: one file a kind, and the tuple of all."""

from __future__ import annotations

from pathlib import Path

from deployfold.errors import LoadError

from . import directory, pickled, program, safetensors_file, torchscript
from .format import Content, Format, Permissions, read_header

FORMATS: tuple[Format, ...] = (
    program.FORMAT,
    torchscript.FORMAT,
    pickled.FORMAT,
    safetensors_file.FORMAT,
    safetensors_file.INDEX,
)
"""The order counts: the first format that recognises a file reads it."""

__all__ = ["FORMATS", "Content", "Format", "Permissions", "detect", "stem"]


def detect(path: Path) -> Format:
    """The format of the file or directory at ``path``.

    Raises:
        LoadError: the file cannot be read, is empty or truncated, or is of no known kind.
    """
    if path.is_dir():
        return directory.FORMAT
    header = read_header(path)
    found = next((one for one in FORMATS if one.recognise(header)), None)
    if found is not None:
        return found
    if header.entries is not None:
        raise LoadError(f"{path} is an archive, and not one that torch wrote.")
    raise LoadError(
        f"{path} is not a checkpoint that torch or safetensors wrote.",
        hint="deployfold reads what torch.save, torch.jit.save, torch.export.save and safetensors "
        "write.",
    )


def stem(path: Path) -> str:
    """The model's name by its path: the file's without its suffix, or its folder's.

    Hugging Face names every file of weights alike, and the folder after the model.
    """
    suffixes = sorted((s for one in FORMATS for s in one.suffixes), key=len, reverse=True)
    name = path.name
    name = next((name.removesuffix(s) for s in suffixes if name.endswith(s)), name)
    folder = path.absolute().parent.name
    shared = path.name.startswith(("model.safetensors", "pytorch_model."))
    return folder if shared and folder else name
