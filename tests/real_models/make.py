"""Write the file of one case, or export its net with torch alone, in a new process.

python tests/real_models/make.py yolov8n FOLDER
python tests/real_models/make.py yolov8n FOLDER --export
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from case import DATA, PICTURE, Case, trained
from listed import CASES

from deployfold.config.inputs import read_inputs
from deployfold.loading.inputs import make_inputs, resolve_inputs
from deployfold.loading.model import LoadedModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=list(CASES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--export", action="store_true", help="torch.onnx.export and no more")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    case: Case = CASES[options.case]
    if case.data is not None and not options.export:
        np.savez(options.folder / DATA, **case.data())
    if case.net is None:
        shutil.copy(_shipped(case.shipped), options.folder / case.file)
        return
    net = case.net().eval()
    inputs = _inputs(case, net)
    if not options.export:
        case.save(trained(net, inputs), options.folder / case.file)
        return
    start = time.process_time()
    torch.onnx.export(net, inputs, str(options.folder / "alone.onnx"), dynamo=True, verbose=False)
    print(f"torch.onnx.export: {time.process_time() - start:.2f} s of CPU time")


def _inputs(case: Case, net: Any) -> tuple[torch.Tensor, ...]:
    """The inputs of the command line, as tensors in the order of the forward."""
    if case.data is not None:
        return tuple(torch.from_numpy(one) for one in case.data().values())
    loaded = LoadedModel(net, "module", case.name, None, case.file)
    return make_inputs(resolve_inputs(loaded, read_inputs(case.inputs or PICTURE)))


def _shipped(path: str) -> Path:
    package, _, rest = path.partition("/")
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / rest


if __name__ == "__main__":
    main()
