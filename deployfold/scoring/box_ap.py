"""The metrics ``box_ap`` and ``box_ap_ids``: average precision of boxes by COCO's definition.

The library faster-coco-eval computes it: over IoU 0.5 to 0.95, all areas, 100 boxes a picture. The
areas are those in the model's input, since both boxes and labels are in its pixels.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from deployfold.data.boxes import Boxes
from deployfold.errors import UsageError
from deployfold.util.arrays import Array

from .detections import FORMS, Detections, read_detections
from .metric import TaskMetric


class _BoxAp:
    def __init__(self, name: str, *, ids: bool) -> None:
        if importlib.util.find_spec("faster_coco_eval") is None:
            raise UsageError(
                f"--metric {name} needs faster-coco-eval, which is not installed here.",
                hint="Install it: pip install faster-coco-eval",
            )
        self._name, self._ids = name, ids
        self._pairs: list[tuple[Detections, Boxes]] = []

    def add(
        self, outputs: Sequence[Array], labels: Sequence[Any], reference: Sequence[Array]
    ) -> None:
        found = read_detections(outputs)
        if found is None or len(found) != len(labels):
            shapes = ", ".join(f"{one.dtype} {tuple(one.shape)}" for one in outputs)
            raise UsageError(
                f"--metric {self._name} finds no boxes for {len(labels)} samples in the outputs "
                f"{shapes}.",
                hint=FORMS,
            )
        self._pairs += zip(found, labels, strict=True)

    def result(self) -> dict[str, float]:
        from faster_coco_eval import COCO, COCOeval_faster

        truth = [
            self._entry(picture, box, category) | {"iscrowd": int(crowd)}
            for picture, (_, true) in enumerate(self._pairs, 1)
            for box, category, crowd in zip(
                true.boxes, true.ids if self._ids else true.classes, true.ignored, strict=True
            )
        ]
        found = [
            self._entry(picture, box, category) | {"score": float(score)}
            for picture, (one, _) in enumerate(self._pairs, 1)
            for box, category, score in zip(one.boxes, one.classes, one.scores, strict=True)
            if np.isfinite(box).all()
        ]
        names = [self._name, f"{self._name}50"]
        if not found:
            return dict.fromkeys(names, 0.0)
        categories = sorted({one["category_id"] for one in (*truth, *found)})
        annotated = COCO(
            {
                "images": [{"id": index} for index in range(1, len(self._pairs) + 1)],
                "annotations": [one | {"id": index} for index, one in enumerate(truth, 1)],
                "categories": [{"id": one, "name": str(one)} for one in categories],
            }
        )
        judge = COCOeval_faster(annotated, annotated.loadRes(found), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
        return dict(zip(names, map(float, judge.stats[:2]), strict=True))

    @staticmethod
    def _entry(picture: int, box: Array, category: int) -> dict[str, Any]:
        x1, y1, x2, y2 = map(float, box)
        size = (max(x2 - x1, 0.0), max(y2 - y1, 0.0))
        return {
            "image_id": picture,
            "category_id": int(category),
            "bbox": [x1, y1, *size],
            "area": size[0] * size[1],
        }


BOX_AP = TaskMetric("box_ap", lambda: _BoxAp("box_ap", ids=False), "boxes", ("box_ap", "box_ap50"))
BOX_AP_IDS = TaskMetric(
    "box_ap_ids", lambda: _BoxAp("box_ap_ids", ids=True), "boxes", ("box_ap_ids", "box_ap_ids50")
)
