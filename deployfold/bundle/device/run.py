"""Run the model of this bundle on a picture, or on arrays.

    python run.py picture.jpg            the five classes with the greatest values, or the boxes
    python run.py inputs.npz -o out.npz  arrays by name (.npy for a single input)
    python run.py                        check this device against the stored outputs
    python run.py picture.jpg --bench    also measure the latency
    python run.py picture.jpg --draw boxes.png  the picture with the boxes of a detector

The script needs numpy, Pillow for pictures, and tensorrt, tensorrt_rtx or onnxruntime. The script
runs the engine for this GPU if there is one, else the ONNX.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
if (FOLDER / "lib" / "deployfold").is_dir():
    sys.path.insert(0, str(FOLDER / "lib"))

import numpy as np  # noqa: E402 - the bundle's own files first

from deployfold.bundle.device.artifacts import Artifact, Bundle, order, read_bundle  # noqa: E402
from deployfold.bundle.device.checking import bench, check, read_reference  # noqa: E402
from deployfold.bundle.device.runtimes import onnx_gpu, open_artifact, title  # noqa: E402
from deployfold.data.arrays import SUFFIXES, open_arrays  # noqa: E402
from deployfold.errors import DeployfoldError, MeasureError, UsageError  # noqa: E402
from deployfold.runtimes.tail import TailedRunner  # noqa: E402
from deployfold.runtimes.tail_name import head_reference  # noqa: E402
from deployfold.scoring.detections import FORMS  # noqa: E402
from deployfold.util.files import atomic_path  # noqa: E402
from deployfold.util.numerics import top_classes  # noqa: E402

TOP = 5


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code."""
    args = _arguments(words)
    try:
        bundle = read_bundle(FOLDER)
        if args.list:
            for artifact in order(bundle.artifacts, gpu=onnx_gpu(), chosen=bundle.chosen):
                print(artifact.file.name)
            return 0
        artifact, runner = _open(bundle, args.artifact, trust=args.trust)
        with closing(runner):
            return _run(bundle, artifact, runner, args)
    except DeployfoldError as error:
        print(f"Error: {error.message}", file=sys.stderr)
        if error.hint:
            print(error.hint, file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        return 130


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", nargs="?", type=Path, help="a picture, an .npy or an .npz")
    parser.add_argument("--artifact", metavar="FILE", help="run this artifact; --list shows all")
    parser.add_argument(
        "--bench", nargs="?", type=float, const=10.0, metavar="SECONDS", help="measure the latency"
    )
    parser.add_argument("--list", action="store_true", help="list the artifacts, the best first")
    parser.add_argument("--json", action="store_true", help="print only JSON")
    parser.add_argument(
        "--trust", action="store_true", help="let a version-compatible engine run its own code"
    )
    parser.add_argument("--draw", type=Path, metavar="FILE.png", help="draw a detector's boxes")
    parser.add_argument(
        "--min-score", type=float, default=0.3, metavar="S", help="boxes from this score on (0.3)"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.npz", help="save the outputs")
    return parser.parse_args(words)


def _open(bundle: Bundle, name: str | None, *, trust: bool) -> tuple[Artifact, Any]:
    """The first artifact that runs here, or the requested one."""
    candidates = order(bundle.artifacts, gpu=onnx_gpu(), chosen=bundle.chosen)
    if name is not None:
        candidates = [one for one in candidates if one.file.name == name]
        if not candidates:
            raise UsageError(f"There is no artifact {name}.", hint="See them with --list.")
    reasons: list[str] = []
    for artifact in candidates:
        try:
            return artifact, open_artifact(artifact.file, trust=trust)
        except MeasureError as error:
            if len(candidates) == 1:
                raise
            if error.message not in reasons:
                reasons.append(error.message)
                print(f"Note: {artifact.file.name} does not run: {error.message}", file=sys.stderr)
    raise MeasureError(
        "Nothing in this bundle runs here.",
        hint="pip install onnxruntime runs its ONNX on any machine.",
    )


def _run(bundle: Bundle, artifact: Artifact, runner: Any, args: argparse.Namespace) -> int:
    result: dict[str, Any] = {"artifact": artifact.file.name, "runtime": title(runner)}
    is_picture = args.input is not None and args.input.suffix not in SUFFIXES
    if args.draw is not None and not is_picture:
        raise UsageError("--draw draws on a picture.", hint="Give one: run.py picture.jpg --draw …")
    arrays, expected, picture = _inputs(bundle, runner, args.input)
    outputs = runner.run(arrays)
    passed = True
    if expected:
        seen = outputs
        if isinstance(runner, TailedRunner):  # what the tail makes of it may have another shape
            seen = runner.run_head(arrays)
            name = str(head_reference(artifact.file.name))
            expected = read_reference(artifact.file.with_name(name))[1]
        found = check(seen, expected, artifact.sqnr_db, artifact.precision)
        passed = found.passed
        result["check"] = asdict(found) | {"passed": passed}
    elif len(outputs) == 1 and outputs[0].ndim == 2 and outputs[0].shape[1] > 1:
        result["top"] = _top(outputs[0][0], bundle.labels)
    elif picture and (boxes := _boxes(bundle, picture, outputs, args.min_score)) is not None:
        result["boxes"] = boxes
    else:
        result["outputs"] = [f"{'x'.join(map(str, one.shape))} {one.dtype}" for one in outputs]
    if args.bench is not None:
        result["bench"] = asdict(bench(runner.prepare(arrays), args.bench))
    if args.draw is not None and picture:
        _draw(picture[0], args.draw, result)
    if args.output is not None:
        with atomic_path(args.output) as temporary, temporary.open("wb") as file:
            named = {f"output_{index}": one for index, one in enumerate(outputs)}
            np.savez(file, **named)  # no array is named allow_pickle
    print(json.dumps(_finite(result), indent=2) if args.json else _text(result))
    return 0 if passed else int(MeasureError.exit_code)


def _inputs(
    bundle: Bundle, runner: Any, path: Path | None
) -> tuple[list[Any], list[Any], tuple[Any, Any] | None]:
    """The inputs in the model's order, the original's outputs if they are known, and the picture.

    The picture comes upright, with the steps from the picture to the input.
    """
    if path is None:
        return *read_reference(bundle.reference), None
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    if path.suffix in SUFFIXES:
        return _arrays(bundle, path), [], None
    picture = _read(bundle, path)
    return [_preprocessed(*picture, runner)], [], picture


def _arrays(bundle: Bundle, path: Path) -> list[Any]:
    names = [name for name, _ in bundle.inputs]
    given = open_arrays(path)
    if "" in given:  # of an .npy
        given = {names[0]: given[""]}
    missing = [name for name in names if name not in given]
    if missing:
        raise UsageError(f"{path} has no array {missing[0]!r}.", hint=f"The inputs are {names}.")
    return [given[name] for name in names]


def _preprocessed(image: Any, steps: Any, runner: Any) -> Any:
    """The preprocessed picture, repeated for a fixed batch."""
    from deployfold.data.samples import Unreadable

    for note in steps.notes[1:]:
        print(f"Note: {note}", file=sys.stderr)
    try:
        values = steps.apply(image)
    except Unreadable as error:
        raise UsageError(str(error)) from error
    (stated,) = runner.stated
    return np.repeat(values[None], stated.smallest[0] if stated.smallest else 1, axis=0)


def _boxes(
    bundle: Bundle, picture: tuple[Any, Any], outputs: Sequence[Any], least: float
) -> list[Any] | None:
    from deployfold.bundle.device.drawing import boxes_on

    image, steps = picture
    return boxes_on(image, outputs, steps, bundle.labels, least=least)


def _draw(image: Any, path: Path, result: dict[str, Any]) -> None:
    from deployfold.bundle.device.drawing import draw_boxes

    if "boxes" not in result:
        raise UsageError("--draw: the outputs of this model hold no boxes.", hint=FORMS)
    draw_boxes(image, result["boxes"], path)
    result["drawn"] = str(path)


def _read(bundle: Bundle, path: Path) -> tuple[Any, Any]:
    """The picture, upright, and the steps from the picture to the input."""
    if bundle.preprocess is None:
        raise UsageError("This model does not take pictures.", hint="Give its inputs as an .npz.")
    try:
        from deployfold.data.images import read_image
        from deployfold.data.preprocess.steps import preprocess_from_json
        from deployfold.data.samples import Unreadable
    except ImportError as error:
        raise UsageError("Pictures need Pillow.", hint="Install it: pip install pillow") from error
    steps = preprocess_from_json(bundle.preprocess)
    try:
        return read_image(path, path.name, steps.mode), steps
    except Unreadable as error:
        raise UsageError(str(error)) from error


def _top(values: Any, labels: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"class": int(index), "value": float(values[index])}
        | ({"label": labels[index]} if index < len(labels) else {})
        for index in top_classes(values, TOP)
    ]


def _text(result: dict[str, Any]) -> str:
    lines = [f"{result['artifact']} in {result['runtime']}"]
    for one in result.get("top", ()):
        lines.append(f"{one['class']:6d}  {one['value']:10.4f}  {one.get('label', '')}".rstrip())
    lines += result.get("outputs", ())
    if "check" in result:
        found = result["check"]
        words = "as it was built" if found["passed"] else "NOT as it was built"
        lines.append(
            f"reference: {words}; max |Δ| {found['max_abs_diff']:.2g}, {found['sqnr_db']:.1f} dB "
            f"against the original (limit {found['limit_db']:.1f} dB)"
        )
    for one in result.get("boxes", ()):
        place = " ".join(f"{side:7.1f}" for side in one["box"])
        lines.append(
            f"{one['class']:6d}  {one['score']:6.3f}  {place}  {one.get('label', '')}".rstrip()
        )
    if "drawn" in result:
        lines.append(f"{len(result['boxes'])} boxes drawn on {result['drawn']}")
    if "bench" in result:
        found = result["bench"]
        lines.append(
            f"latency: median {found['median_ms']:.3g} ms [{found['low_ms']:.3g}, "
            f"{found['high_ms']:.3g}], p90 {found['p90_ms']:.3g}, p99 {found['p99_ms']:.3g}, "
            f"{found['calls']} calls"
        )
    return "\n".join(lines)


def _finite(value: Any) -> Any:
    """The value with infinity and NaN as strings, because JSON lacks them; as in report.json."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not np.isfinite(value):
        return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


if __name__ == "__main__":
    raise SystemExit(main())
