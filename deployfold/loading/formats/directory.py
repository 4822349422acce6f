"""Reads a directory that Hugging Face's ``save_pretrained`` or timm's hub layout wrote."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from deployfold.errors import LoadError, first_few, one_line
from deployfold.loading import transformers_zoo

from . import pickled, safetensors_file
from .format import Content, Format, Header, Permissions, read_header

_WEIGHTS = (
    "model.safetensors.index.json", "model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin.index.json", "pytorch_model.bin", "open_clip_pytorch_model.bin",
)  # fmt: skip
"""The file names that Hugging Face's libraries give to weights, in order of preference."""


def recognise(header: Header) -> bool:
    """Always ``False``: :func:`deployfold.loading.formats.detect` handles directories first."""
    return False


def read(path: Path, permissions: Permissions) -> Content:
    """The weights in the directory, with the architecture that ``config.json`` names.

    Raises:
        LoadError: the directory has no weights, or the configuration cannot be read.
    """
    weights = next((path / name for name in _WEIGHTS if (path / name).is_file()), None)
    if weights is None:
        raise LoadError(f"{path} is a directory.", hint=_hint(path))
    header = read_header(weights)
    formats = (safetensors_file.INDEX, safetensors_file.FORMAT, pickled.FORMAT)
    found = next((one for one in formats if one.recognise(header)), None)
    if found is None:
        raise LoadError(f"{weights} is not a file of weights.")
    content = found.read(weights, permissions)
    arch, options = _architecture(path)
    note = f"The weights are those of {weights.name} in {path}."
    package, _, name = (arch or "").partition(":")
    safe = found is not pickled.FORMAT
    if package == transformers_zoo.PACKAGE and safe:
        loader = partial(transformers_zoo.pretrained, name, path)
        content = replace(content, own_loader=loader)
    files = content.files or (weights,)
    return replace(content, files=files, arch=arch, options=options, notes=(note,))


FORMAT = Format("directory", (), recognise, read)


def _architecture(folder: Path) -> tuple[str | None, dict[str, Any]]:
    """The architecture that ``config.json`` names, and the arguments of its builder.

    timm writes ``architecture``; transformers writes ``architectures``, a list of classes.
    """
    path = folder / "config.json"
    if not path.is_file():
        return None, {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{path} cannot be read: {one_line(error)}.") from error
    if not isinstance(config, dict):
        return None, {}
    name, classes = config.get("architecture"), config.get("num_classes")
    if isinstance(name, str):
        options = _plain(config.get("model_args"))
        if isinstance(classes, int):
            options["num_classes"] = classes
        return f"timm:{name}", options
    names = config.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return f"transformers:{names[0]}", {"config": str(folder)}
    return None, {}


def _plain(arguments: Any) -> dict[str, Any]:
    """The arguments that are numbers or lists of numbers, and the kind of pooling.

    timm also takes paths and URLs of weights as arguments. A directory must not name those.
    """
    given = arguments.items() if isinstance(arguments, dict) else ()
    return {
        key: value
        for key, value in given
        if key == "global_pool"
        or all(
            isinstance(one, (int, float)) for one in (value if isinstance(value, list) else [value])
        )
    }


def _hint(folder: Path) -> str:
    suffixes = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".onnx")
    if (folder / ".metadata").is_file():
        return (
            "torch.distributed.checkpoint wrote it. Convert it first: python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {folder} model.pt"
        )
    if (folder / "zero_to_fp32.py").is_file():
        return (
            "DeepSpeed wrote it. Gather its weights first: "
            f"cd {folder} && python zero_to_fp32.py . pytorch_model.bin"
        )
    if (folder / "adapter_config.json").is_file():
        return "It holds an adapter alone. Merge it first (merge_and_unload), and save the model."
    for depth in range(1, 4):  # trainers write folders such as weights/best.pt
        found = (one for one in folder.glob("/".join("*" * depth)) if one.suffix in suffixes)
        files = sorted(one.relative_to(folder).as_posix() for one in islice(found, 50))
        if files:
            return f"Give a file in it: {first_few(files, 5)}."
    return "It has no checkpoint, and its folders have none."
