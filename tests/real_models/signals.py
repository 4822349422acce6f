"""Text, speech, video, and the models that come with a training framework."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from case import Case, directory, lightning, pickled, state_dict


def _bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(
        BertConfig(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
            vocab_size=200,
        )
    )  # fmt: skip


def _conformer() -> Any:
    from torchaudio.models import Conformer

    return Conformer(
        input_dim=16, num_heads=2, ffn_dim=32, num_layers=2, depthwise_conv_kernel_size=7
    )


def _x3d() -> Any:
    from pytorchvideo.models.hub import x3d_xs

    return x3d_xs(pretrained=False)


def _ecapa() -> Any:
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    return ECAPA_TDNN(
        80, channels=[64, 64, 64, 64, 192], attention_channels=32, se_channels=32, lin_neurons=48
    )


def _lightning() -> Any:
    sys.path.insert(0, str(Path(__file__).parent))
    from lightning_net import Classifier

    return Classifier()


def _sentence() -> dict[str, Any]:
    return {
        "input": np.random.default_rng(0).standard_normal((1, 20, 16), np.float32),
        "lengths": np.array([20]),
    }


def _noise(samples: int) -> Any:
    return np.random.default_rng(0).standard_normal((1, samples), np.float32)


def _chunk() -> dict[str, Any]:
    """32 ms of noise at 16 kHz."""
    return {"x": _noise(512), "sr": np.array(16000)}


def _step() -> dict[str, Any]:
    """The same behind the last 4 ms before it, as the library's own caller gives it."""
    return {"input": _noise(576), "state": np.zeros((2, 1, 128), np.float32)}


_RATE = ("--fix", "sr=16000")


_LIGHTNING = ("--arch", "lightning_net:Classifier")

CASES = (
    Case("hf_bert", "transformers", "BertModel", _bert, "hf_bert", directory,
         ("input_ids=1x16:int64", "attention_mask=1x16:int64")),
    Case("conformer", "torchaudio", "Conformer", _conformer, "conformer.pt", pickled,
         (), ("--trust",), _sentence),
    Case("x3d", "pytorchvideo", "x3d_xs", _x3d, "x3d.pth", state_dict, ("1x3x4x160x160",),
         ("--arch", "pytorchvideo.models.hub:x3d_xs")),
    Case("ecapa", "speechbrain", "ECAPA_TDNN", _ecapa, "embedding_model.ckpt", state_dict,
         ("1x60x80",), ("--arch", "speechbrain.lobes.models.ECAPA_TDNN:ECAPA_TDNN",
         "--arch-arg", "input_size=80", "--arch-arg", "channels=[64, 64, 64, 64, 192]",
         "--arch-arg", "attention_channels=32", "--arch-arg", "se_channels=32",
         "--arch-arg", "lin_neurons=48")),
    Case("silero_jit", "silero_vad", "silero_vad.jit", None, "silero_vad.jit", pickled, (),
         data=_chunk, shipped="silero_vad/data/silero_vad.jit", exit_code=5,
         message="keeps state from one call to the next"),
    Case("silero_onnx", "silero_vad", "silero_vad.onnx", None, "silero_vad.onnx", pickled, (),
         _RATE, _step, shipped="silero_vad/data/silero_vad.onnx",
         message="sr is fixed at 16000"),
    Case("silero_ifless", "silero_vad", "silero_vad_op18_ifless.onnx", None, "vad.onnx", pickled,
         (), _RATE, _step, shipped="silero_vad/data/silero_vad_op18_ifless.onnx",
         message="decide 1 of the branches (If)"),
    Case("lightning", "pytorch_lightning", "LightningModule over resnet18", _lightning,
         "epoch=1.ckpt", lightning, words=_LIGHTNING),
    Case("lightning_whole", "pytorch_lightning", "LightningModule over resnet18", _lightning,
         "classifier.pt", pickled, words=("--trust",)),
)  # fmt: skip
