"""Fold one network with every folder, judge what deployfold left, and write the result as JSON.

python tests/zoo/one.py torchvision:resnet18 result.json
"""

from __future__ import annotations

import copy
import json
import sys
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from derivative_check import ABSORBED, residuals
from nets import create, example

from deployfold.folding import count_batchnorms, fold
from deployfold.folding.proof.compare import difference, double_inputs, run_model
from deployfold.folding.proof.conditioning import perturb

JUDGED = 4
"""BatchNorms judged of those that one network keeps."""


def main() -> None:
    name, path = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    net = create(name)
    inputs = example(name, net)
    result: dict[str, Any] = {"name": name, "batchnorms": count_batchnorms(net)}
    result["conditioning"] = _conditioning(net, inputs)
    result["deployfold"] = _deployfold(net, inputs)
    result["torch.fx fuse"] = _other(net, inputs, _fx)
    result["torch.jit.freeze"] = _other(net, inputs, _freeze)
    if _fasterai_file() is not None:
        result["fasterai"] = _other(net, inputs, _fasterai)
    result["cpu_seconds"] = time.process_time()
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1))
    temporary.replace(path)


def _deployfold(net: nn.Module, inputs: Any) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        result = fold(net, inputs)
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:300]}
    seconds = time.perf_counter() - start
    left = {item.name: item.reason for item in result.left}
    judged: dict[str, float] = {}
    if left and torch.is_tensor(inputs[0]):
        # Fewer samples at a time where they are large: every layer's tensors are kept.
        batch = 16 if inputs[0][0].numel() < 60_000 else 4
        judged = residuals(
            result.model, tuple(inputs[0].shape), _spread(list(left)), samples=48, batch=batch
        )
    return {
        "removed": result.batchnorms_before - result.batchnorms_after,
        "branches": sum(item.kind == "branch" for item in result.folded),
        "merged": sum(
            item.kind == "batchnorm" and item.rule == "into the parallel branch"
            for item in result.folded
        ),
        "left": left,
        "judged": len(judged),
        "missed": [name for name, residual in judged.items() if residual < ABSORBED],
        "relative": result.verification.float64_relative,
        "native": result.verification.native_relative,
        "seconds": seconds,
    }


def _conditioning(net: nn.Module, inputs: Any) -> float:
    """The change of the network's output in float64 after its weights' last bits change."""
    wide, wide_inputs = copy.deepcopy(net).double(), double_inputs(inputs)
    try:
        expected = run_model(wide, wide_inputs)
    except RuntimeError:  # RAFT makes float32 tensors in its forward; nothing is excused then
        return 0.0
    return max(
        difference(expected, run_model(perturb(copy.deepcopy(wide), seed), wide_inputs)).relative
        for seed in range(3)
    )


def _spread(names: list[str]) -> list[str]:
    """A few of them, from all depths."""
    step = max(1, len(names) // JUDGED)
    return names[::step][:JUDGED]


def _other(net: nn.Module, inputs: Any, folder: Callable[[nn.Module, Any], Any]) -> dict[str, Any]:
    wide = copy.deepcopy(net).double()
    wide_inputs = double_inputs(inputs)
    try:
        expected = run_model(wide, wide_inputs)
        folded, left = folder(wide, wide_inputs)
        relative = difference(expected, run_model(folded, wide_inputs)).relative
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:200]}
    return {"removed": count_batchnorms(net) - left, "relative": relative}


def _fx(net: nn.Module, inputs: Any) -> tuple[nn.Module, int]:
    from torch.fx.experimental.optimization import fuse

    folded = fuse(copy.deepcopy(net))
    return folded, count_batchnorms(folded)


def _freeze(net: nn.Module, inputs: Any) -> tuple[Any, int]:
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        traced = torch.jit.trace(net, inputs, strict=False, check_trace=False)
        frozen = torch.jit.freeze(traced)
    finally:
        torch.set_default_dtype(default)
    return frozen, sum(node.kind() == "aten::batch_norm" for node in frozen.inlined_graph.nodes())


def _fasterai(net: nn.Module, inputs: Any) -> tuple[nn.Module, int]:
    file = _fasterai_file()
    assert file is not None
    spec = spec_from_file_location("fasterai_bn_folding", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(
        module
    )  # the package itself imports fastai, which folding does not need
    folded = module.BN_Folder().fold(net)
    return folded, count_batchnorms(folded)


def _fasterai_file() -> Path | None:
    try:
        files = metadata.files("fasterai") or []
    except metadata.PackageNotFoundError:
        return None
    found = [file for file in files if str(file).endswith("misc/bn_folding.py")]
    return Path(str(found[0].locate())) if found else None


if __name__ == "__main__":
    main()
