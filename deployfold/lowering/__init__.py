"""Rewrites an fp32 ONNX file in a lower precision, ready for a strongly typed TensorRT build.

Each family of precisions has one folder with a ``lower.py``. :func:`lower` reads the family from
the record of the precision.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import onnxruntime

from deployfold.config.precision import Precision
from deployfold.util.onnx_files import onnx_sha256

from .cache import LoweringCache, cache_key
from .graph import load
from .progress import Progress, silent
from .qdq.given import quantised_as
from .request import LoweringData, LoweringOptions
from .result import LoweredModel


def lower(
    source: Path,
    path: Path,
    precision: Precision,
    data: LoweringData,
    options: LoweringOptions | None = None,
    *,
    cache: LoweringCache | None = None,
    progress: Progress = silent,
) -> LoweredModel:
    """Write the fp32 ONNX ``source`` in another precision, and measure the file as written.

    An ONNX that holds Q/DQ nodes keeps them; only the rest changes its precision.

    Args:
        source: an ONNX file from :func:`deployfold.exporting.export_onnx`.
        path: the file to write, atomically; large weights go to external data beside the file.
        precision: any precision except FP32.
        options: the user's choices; ``None`` takes the defaults.
        cache: results of earlier runs; only quantised precisions use the cache.

    Raises:
        AccuracyError: the accuracy cannot be kept; nothing is written.
        ExportError: the model cannot be lowered.
        UsageError: the precision needs calibration data and there is none, a node to keep in fp32
            does not exist, or the model is quantised already and the precision is another.
    """
    options = options or LoweringOptions()
    model = load(source, weights=False)
    given = quantised_as(model)
    if given is not None:
        from .qdq.lower_given import check_given, lower_given

        check_given(given, precision)
        return lower_given(model, source, path, given, data, options, progress)
    # The other families would cost every build a tenth of a second.
    write: Callable[..., LoweredModel]
    write = import_module(f".{precision.record.family}.lower", __name__).lower
    # A task metric can be any code, and its numbers belong to the result.
    keyed = data.digest is not None and data.scored is None
    if cache is None or not keyed or precision.record.family != "qdq":
        return write(model, source, path, precision, data, options, progress)
    key = cache_key(
        {
            "onnx": onnx_sha256(source),
            "data": str(data.digest),
            "precision": precision.value,
            "options": repr(options),
            "versions": f"onnxruntime {onnxruntime.__version__} torch {version('torch')}",
        }
    )
    facts = cache.get(key, path)
    if facts is not None:
        return LoweredModel.from_facts(path, facts)
    lowered = write(model, source, path, precision, data, options, progress)
    cache.put(key, path, lowered.to_facts())
    return lowered
