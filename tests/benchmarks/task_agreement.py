"""What a task would notice of quantisation: the share of its results that stay as in fp32.

Every function gets the outputs of the fp32 network and of the quantised one, a list of arrays for
each sample, and returns a share from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torchvision.ops import batched_nms, box_convert, box_iou

Outputs = Sequence[Sequence[np.ndarray]]

_SCORE, _OVERLAP, _SAME = 0.2, 0.45, 0.5
"""NudeNet's least score and overlap of suppressed boxes, and the overlap of boxes that agree."""


def top_class(expected: Outputs, found: Outputs) -> float:
    """Samples with the same highest class."""
    before, after = (np.concatenate([one[0] for one in part]) for part in (expected, found))
    return float((before.argmax(1) == after.argmax(1)).mean())


def retrieval(expected: Outputs, found: Outputs) -> float:
    """Passages with the same nearest neighbour among the others, by the cosine of token means."""
    before, after = (_nearest(part) for part in (expected, found))
    return float((before == after).mean())


def _nearest(outputs: Outputs) -> np.ndarray:
    means = np.stack([one[0][0].mean(0) for one in outputs])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    likeness = means @ means.T
    np.fill_diagonal(likeness, -1.0)
    return likeness.argmax(1)


def detections(expected: Outputs, found: Outputs) -> float:
    """Boxes that both networks find in a YOLO's output, of the boxes that either finds (F1)."""
    same = count = 0
    for before, after in zip(expected, found, strict=True):
        (boxes, classes), (others, kinds) = _boxes(before[0][0]), _boxes(after[0][0])
        count += len(boxes) + len(others)
        near = box_iou(boxes, others).where(classes[:, None] == kinds, 0.0)
        while near.numel() and near.max() >= _SAME:
            row, column = divmod(int(near.argmax()), near.shape[1])
            near[row], near[:, column] = 0.0, 0.0
            same += 2
    return same / count


def _boxes(output: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The boxes (corners) and the classes of one image, without those that overlap."""
    rows = torch.from_numpy(output.T)
    scores, classes = rows[:, 4:].max(1)
    boxes = box_convert(rows[:, :4], "cxcywh", "xyxy")
    sure = scores > _SCORE
    boxes, scores, classes = boxes[sure], scores[sure], classes[sure]
    kept = batched_nms(boxes, scores, classes, _OVERLAP)
    return boxes[kept], classes[kept]
