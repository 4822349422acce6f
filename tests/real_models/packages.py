"""The packages of the libraries, pinned, and their installation into a folder of their own.

``--no-deps``: none of them may replace torch or numpy. So each library names what it imports.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

_DOWNLOADS = ("requests==2.34.2", "charset-normalizer==3.5.3", "certifi==2026.10.19.post1")
_OPENCV = "opencv-python-headless==5.0.0.93"
_SCIPY = "scipy==1.17.1"
_TORCHAUDIO = "torchaudio==2.11.0"

PACKAGES: dict[str, tuple[str, ...]] = {
    "torchvision": (),
    "timm": (),
    "segmentation_models_pytorch": ("segmentation-models-pytorch==0.6.0",),
    "efficientnet_pytorch": ("efficientnet-pytorch==0.7.1",),
    "transformers": (
        "transformers==5.24.0", "tokenizers==0.23.3", "regex==2026.11.19", *_DOWNLOADS,
    ),
    "open_clip": (
        "open-clip-torch==3.3.0", "ftfy==6.3.1", "wcwidth==0.9.4", "regex==2026.11.19",
    ),
    "monai": ("monai==1.6.1",),
    "facenet_pytorch": ("facenet-pytorch==2.6.0", *_DOWNLOADS),
    "doctr": (
        "python-doctr==1.1.0", "anyascii==0.3.3", "h5py==3.16.0", "langdetect==1.0.9",
        "pyclipper==1.4.0", "pypdfium2==5.15.2", "rapidfuzz==3.14.6", "shapely==2.2.0",
        "validators==0.36.0", _OPENCV, _SCIPY, *_DOWNLOADS,
    ),
    "kornia": ("kornia==0.9.0", "kornia-rs==0.2.0"),
    "torchaudio": (_TORCHAUDIO,),
    "lpips": ("lpips==0.1.4", _SCIPY),
    "torchxrayvision": (
        "torchxrayvision==1.5.7", "scikit-image==0.26.0", "imageio==2.38.1", "pandas==3.1.1",
        "pytz==2026.6", "tifffile==2026.3.3", "lazy-loader==0.6", _SCIPY, *_DOWNLOADS,
    ),
    "pytorchvideo": (
        "pytorchvideo==0.1.5", "fvcore==0.1.5.post20221221", "iopath==0.1.10",
        "portalocker==4.4.2", "yacs==0.1.8", "tabulate==0.10.0", "termcolor==3.3.0",
        "parameterized==0.9.0", "av==18.1.0",
    ),
    "ultralytics": (
        "ultralytics==8.4.190", "ultralytics-thop==2.2.3", "polars==2.1.0", "py-cpuinfo==9.0.0",
        _OPENCV, _SCIPY, *_DOWNLOADS,
    ),
    "pytorch_lightning": (
        "pytorch-lightning==2.6.6", "lightning-utilities==0.15.3", "torchmetrics==1.9.0",
    ),
    "speechbrain": (
        "speechbrain==1.1.2", "hyperpyyaml==1.2.3", "ruamel.yaml==0.19.1", "joblib==1.6.0",
        "sentencepiece==0.2.3", _SCIPY, _TORCHAUDIO, *_DOWNLOADS,
    ),
    "silero_vad": ("silero-vad==6.2.3", _TORCHAUDIO),
}  # fmt: skip
"""The requirements of every library, besides deployfold's own with the extra ``zoo``."""


def install(library: str, target: Path) -> str | None:
    """Install what ``library`` lacks into ``target``.

    Returns:
        ``None``, or the last line of pip if a package cannot be installed.
    """
    missing = [one for one in PACKAGES[library] if not _installed(one, target)]
    if not missing:
        return None
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(target)]
    done = subprocess.run([*command, *missing], capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return None if done.returncode == 0 else (errors or ["pip failed"])[-1]


def _installed(requirement: str, target: Path) -> bool:
    name, _, version = requirement.partition("==")
    found = metadata.distributions(name=name, path=[str(target)])
    return any(one.version == version for one in found)
