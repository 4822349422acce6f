"""Detectors and a segmenter that are trained for seconds on drawn shapes, and the shapes.

Every picture has one to four shapes on a noisy ground: red squares, green discs, blue triangles.
The nets live in :data:`NETS`, the text of a module, since a build imports their classes by name.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

SIDE = 96
MEAN, STD = (0.4, 0.4, 0.4), (0.25, 0.25, 0.25)
COLOURS = ((200, 60, 60), (60, 190, 70), (70, 80, 210))

NETS = '''
import torch
from torch import nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.ops import nms

SIDE = 96


def block(inside, outside, stride=1):
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.SiLU()
    )


class Suppress(nn.Module):
    """The best 50 boxes, then NonMaxSuppression inside each class."""

    def forward(self, boxes, scores):
        best, classes = scores.max(1)
        best, order = best.topk(50)
        boxes, classes = boxes[order], classes[order]
        kept = nms(boxes + 1000 * classes[:, None].to(boxes.dtype), best, 0.5)
        return boxes[kept], best[kept], classes[kept]


class Yolo(nn.Module):
    """A single head of stride 8: distances to the four sides, and a score for each class."""

    def __init__(self, classes=3):
        super().__init__()
        self.body = nn.Sequential(
            block(3, 16, 2), block(16, 32, 2), block(32, 48, 2), block(48, 64), block(64, 64)
        )
        self.box = nn.Sequential(block(64, 48), nn.Conv2d(48, 4, 1))
        self.score = nn.Sequential(block(64, 48), nn.Conv2d(48, classes, 1))
        self.choose = Suppress()
        y, x = torch.meshgrid(*[8.0 * torch.arange(SIDE // 8) + 4] * 2, indexing="ij")
        self.register_buffer("middle", torch.stack([x, y, x, y])[None])
        self.register_buffer("sign", torch.tensor([-1.0, -1, 1, 1])[None, :, None, None])

    def raw(self, x):
        """Boxes in pixels and logits: (n, 4, cells) and (n, classes, cells)."""
        x = self.body(x)
        sides = nn.functional.softplus(self.box(x)) * 8
        return (self.middle + self.sign * sides).flatten(2), self.score(x).flatten(2)

    def forward(self, x):
        boxes, logits = self.raw(x)
        return self.choose(boxes[0].T, logits[0].T.sigmoid())


class Levels(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(block(3, 16, 2), block(16, 32, 2), block(32, 48, 2))
        self.second = nn.Sequential(block(48, 64), block(64, 64, 2))
        self.out_channels = [48, 64]

    def forward(self, x):
        from collections import OrderedDict

        low = self.first(x)
        return OrderedDict([("0", low), ("1", self.second(low))])


class Ssd(nn.Module):
    """torchvision's SSD on a small backbone, for one picture as a tensor."""

    def __init__(self):
        super().__init__()
        anchors = DefaultBoxGenerator(
            [[], []], scales=[0.22, 0.36, 0.5], steps=[8, 16]
        )
        self.net = SSD(
            Levels(), anchors, (SIDE, SIDE), 4, image_mean=[0.0] * 3, image_std=[1.0] * 3,
            score_thresh=0.05, topk_candidates=30, detections_per_img=30,
        )

    def forward(self, x):
        found = self.net([x[0]])[0]
        return found["boxes"], found["scores"], found["labels"]


class UNet(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.one, self.two, self.three = block(3, 16), block(16, 32), block(32, 48)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.four, self.five = block(48 + 32, 32), block(32 + 16, 16)
        self.last = nn.Conv2d(16, classes, 1)

    def forward(self, x):
        one = self.one(x)
        two = self.two(self.pool(one))
        three = self.three(self.pool(two))
        four = self.four(torch.cat([self.up(three), two], 1))
        return self.last(self.five(torch.cat([self.up(four), one], 1)))
'''


def draw(random: np.random.Generator) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """A picture, its mask (0 is the ground), and rows of x1, y1, x2, y2, class."""
    ground = random.integers(40, 160, 3)
    pixels = np.clip(ground + random.normal(0, 18, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    image, mask = Image.fromarray(pixels), Image.new("L", (SIDE, SIDE))
    pens = ImageDraw.Draw(image), ImageDraw.Draw(mask)
    rows: list[list[int]] = []
    for _ in range(random.integers(1, 5)):
        size = int(random.integers(16, 44))
        x, y = (int(one) for one in random.integers(0, SIDE - size, 2))
        box = (x, y, x + size - 1, y + size - 1)
        apart = all(box[0] > r[2] or box[2] < r[0] or box[1] > r[3] or box[3] < r[1] for r in rows)
        if not apart:
            continue
        kind = int(random.integers(3))
        colour = tuple(int(c) for c in np.array(COLOURS[kind]) + random.integers(-30, 31, 3))
        for pen, fill in zip(pens, (colour, kind + 1), strict=True):
            if kind == 0:
                pen.rectangle(box, fill=fill)
            elif kind == 1:
                pen.ellipse(box, fill=fill)
            else:
                pen.polygon(
                    [(x, y + size - 1), (x + size - 1, y + size - 1), (x + size // 2, y)], fill
                )
        rows.append([x, y, x + size, y + size, kind])
    return image, np.asarray(mask), np.array(rows)


def write_pictures(folder: Path, count: int, seed: int) -> None:
    """``pictures/`` of JPEGs, ``masks/``, and ``boxes.json`` in COCO's format; ids from 1."""
    random = np.random.default_rng(seed)
    (folder / "pictures").mkdir()
    (folder / "masks").mkdir()
    images: list[Any] = []
    annotations: list[Any] = []
    for index in range(count):
        image, mask, rows = draw(random)
        name = f"{index:04d}.jpg"
        image.save(folder / "pictures" / name, quality=92)
        Image.fromarray(mask).save(folder / "masks" / f"{index:04d}.png")
        images.append({"id": index, "file_name": name, "width": SIDE, "height": SIDE})
        for x1, y1, x2, y2, kind in rows.tolist():
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": kind + 1}
            annotations.append({"id": len(annotations) + 1, "image_id": index, "iscrowd": 0, **box})
    names = ("square", "disc", "triangle")
    categories = [{"id": index, "name": name} for index, name in enumerate(names, 1)]
    whole = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(whole))


def batches(count: int, size: int, seed: int) -> Iterator[tuple[torch.Tensor, list[Any], Any]]:
    """Normalised pictures (n, 3, SIDE, SIDE), their rows of boxes, and their masks."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        drawn = [draw(random) for _ in range(size)]
        pixels = np.stack([np.asarray(one[0]) for one in drawn]).astype(np.float32) / 255
        x = torch.from_numpy((pixels - np.float32(MEAN)) / np.float32(STD)).permute(0, 3, 1, 2)
        masks = torch.from_numpy(np.stack([one[1] for one in drawn]).astype(np.int64))
        yield x.contiguous(), [torch.from_numpy(one[2]) for one in drawn], masks


def trained(module: Any, kind: str, *, steps: int, size: int = 12) -> torch.nn.Module:
    """A net of :data:`NETS`, trained from seed 0.

    Args:
        module: the imported module of :data:`NETS`.
        kind: ``Yolo``, ``Ssd`` or ``UNet``.
        steps: the number of batches, of ``size`` pictures.
    """
    torch.manual_seed(0)
    net: torch.nn.Module = getattr(module, kind)()
    loss_of = {"Yolo": _yolo_loss, "Ssd": _ssd_loss, "UNet": _unet_loss}[kind]
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    net.train()
    for x, rows, masks in batches(steps, size, seed=1):
        optimizer.zero_grad()
        loss_of(net, x, rows, masks).backward()
        optimizer.step()
        plan.step()
    return net.eval()


def _yolo_loss(net: Any, x: torch.Tensor, rows: list[Any], masks: Any) -> torch.Tensor:
    """Focal loss of every cell's classes, and the IoU of cells in the middle of a shape."""
    boxes, logits = net.raw(x)
    middle = net.middle[0, :2].flatten(1).T  # (cells, 2)
    classes, wanted = torch.zeros_like(logits), torch.zeros_like(boxes)
    chosen = torch.zeros(boxes.shape[0], boxes.shape[2], dtype=torch.bool)
    for index, table in enumerate(rows):
        for x1, y1, x2, y2, kind in table.tolist():
            centre = torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2])
            near = ((middle - centre).abs() < max((x2 - x1) / 4, 6.0)).all(1)
            chosen[index] |= near
            classes[index, kind, near] = 1.0
            wanted[index, :, near] = torch.tensor([x1, y1, x2, y2]).float()[:, None]
    probability = logits.sigmoid()
    cross = torch.nn.functional.binary_cross_entropy_with_logits(logits, classes, reduction="none")
    focal = ((probability - classes).abs() ** 2 * cross).sum() / chosen.sum().clamp(min=1)
    own, true = (one.transpose(1, 2)[chosen] for one in (boxes, wanted))
    low, high = torch.maximum(own[:, :2], true[:, :2]), torch.minimum(own[:, 2:], true[:, 2:])
    both = (high - low).clamp(min=0).prod(1)
    either = (own[:, 2:] - own[:, :2]).prod(1) + (true[:, 2:] - true[:, :2]).prod(1) - both
    return focal + 2 * (1 - both / either).mean() + 0.02 * (own - true).abs().mean()


def _ssd_loss(net: Any, x: torch.Tensor, rows: list[Any], masks: Any) -> torch.Tensor:
    targets = [{"boxes": table[:, :4].float(), "labels": table[:, 4] + 1} for table in rows]
    return sum(net.net(list(x), targets).values())


def _unet_loss(net: Any, x: torch.Tensor, rows: list[Any], masks: Any) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(net(x), masks)


def write_nets(folder: Path) -> Any:
    """Write :data:`NETS` as ``shape_nets.py``, and import it."""
    path = folder / "shape_nets.py"
    path.write_text(NETS)
    spec = importlib.util.spec_from_file_location("shape_nets", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
