"""The file formats of models: one module per format, and the tuple of all formats."""

from __future__ import annotations

import re
from pathlib import Path

from deployfold.errors import LoadError

from . import directory, onnx_file, pickled, program, safetensors_file, torchscript
from .format import Content, Format, Permissions, read_header

FORMATS: tuple[Format, ...] = (
    program.FORMAT,
    torchscript.FORMAT,
    safetensors_file.FORMAT,
    pickled.FORMAT,
    safetensors_file.INDEX,
    onnx_file.FORMAT,
)
"""The order counts: the first format that recognises a file reads it. The length of a safetensors
header, its first bytes, can look like the beginning of a pickle."""

_SHARD = re.compile(r".+-\d{5}-of-(?P<count>\d{5})\.(safetensors|bin)")
_WEB_PAGE = ("a web page, not a model", "Download the file again; the link may need a login.")
_OTHER_FILES = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "Run git lfs pull."),
    (b"<!doctype html", *_WEB_PAGE),
    (b"<html", *_WEB_PAGE),
    (b"\x1f\x8b", "compressed with gzip", "Unpack it with gunzip first."),
    (b"\x89hdf", "an HDF5 file, as Keras writes", "Export the model from Keras to ONNX first."),
    (b"\x93numpy", "a numpy array", "Save a dictionary of named arrays with torch.save."),
    (b"gguf", "a GGUF file", "Give the checkpoint that it was converted from."),
    (b"ftrt", "a TensorRT engine", "Give the model that it was built from."),
)
"""Files that people take for checkpoints: first bytes in lower case, what it is, what to do."""

__all__ = ["FORMATS", "Content", "Format", "Permissions", "detect", "stem"]


def detect(path: Path) -> Format:
    """The format of the file or directory at ``path``.

    Raises:
        LoadError: the file cannot be read, is empty or truncated, or has an unknown format.
    """
    if path.is_dir():
        return directory.FORMAT
    shard = _SHARD.fullmatch(path.name)
    if shard is not None and int(shard["count"]) > 1:
        raise LoadError(
            f"{path} is one of {int(shard['count'])} files of one model.",
            hint=f"Give their folder, {path.parent}, or the index of the files.",
        )
    header = read_header(path)
    found = next((one for one in FORMATS if one.recognise(header)), None)
    if found is not None:
        return found
    if header.entries is not None:
        raise LoadError(
            f"{path} is an archive that torch did not write.",
            hint="If the checkpoint is a file inside it, unpack it first.",
        )
    if header.head[257:262] == b"ustar":
        raise LoadError(
            f"{path} is a tar archive.", hint="Unpack it, and give the checkpoint inside it."
        )
    for start, what, advice in _OTHER_FILES:
        if header.head.lstrip().lower().startswith(start):
            raise LoadError(f"{path} is {what}.", hint=advice)
    raise LoadError(
        f"{path} is not a checkpoint that torch or safetensors wrote, nor an ONNX.",
        hint="deployfold reads what torch.save, torch.jit.save, torch.export.save, safetensors and "
        "ONNX exporters write.",
    )


def stem(path: Path) -> str:
    """The model's name: the file name without its suffix, or the name of its folder.

    The folder's name counts for Hugging Face's files: they all have the same file name.
    """
    suffixes = sorted((s for one in FORMATS for s in one.suffixes), key=len, reverse=True)
    name = path.name
    name = next((name.removesuffix(s) for s in suffixes if name.endswith(s)), name)
    folder = path.absolute().parent.name
    shared = re.match(r"(\w+_)?pytorch_model\.|model\.safetensors", path.name) is not None
    return folder if shared and folder else name
