"""The built-in task metrics on outputs with known results, and metric functions of the user."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployfold.config import task_metrics
from deployfold.config.task_metrics import MetricLimit, parse_metric_limits
from deployfold.data.boxes import Boxes
from deployfold.errors import UsageError
from deployfold.scoring import READY, Scoring, find_metrics, labelled
from deployfold.scoring.detections import read_detections


def score(name: str, *parts: tuple[Sequence[Any], Sequence[Any]], reference: Any = ()) -> Any:
    tally = find_metrics((name,))[0].begin()
    for outputs, labels in parts:
        tally.add(outputs, labels, reference)
    return tally.result()


def boxes(*rows: Sequence[float], ignored: Sequence[bool] = ()) -> Boxes:
    table = np.array(rows, np.float64).reshape(-1, 5)
    classes = table[:, 4].astype(np.int64)
    return Boxes(table[:, :4], classes, classes + 1, np.array(ignored or [False] * len(table)))


def test_top_counts_the_labels_among_the_first() -> None:
    scores = np.array([[3.0, 1, 2, 0, 0, 0], [0, 0, 0, 0, 0, 1]])
    assert score("top1", ([scores], [0, 1])) == {"top1": 0.5}
    assert score("top5", ([scores], [2, 4])) == {"top5": 0.5}, "ties go to the lower class"
    assert score("top1", ([scores], [0, 5]), ([scores], [1, 1])) == {"top1": 0.5}
    with pytest.raises(UsageError, match=r"top1 needs a first output of shape"):
        score("top1", ([scores[0]], [0]))


def test_mean_iou_is_over_all_pixels_and_the_classes_that_occur() -> None:
    logits = np.zeros((1, 4, 2, 2))
    logits[0, 1, 0] = 1  # the upper row is class 1, the lower class 0; 2 and 3 never occur
    truth = np.array([[1, 0], [0, 0]], np.uint8)
    found = score("mean_iou", ([logits], [truth]))["mean_iou"]
    assert found == pytest.approx((1 / 2 + 2 / 3) / 2)
    truth[0, 1] = 255
    assert score("mean_iou", ([logits], [truth]))["mean_iou"] == 1.0
    one = np.array([[[[2.0, -1], [-1, -1]]]])  # a single logit
    assert score("mean_iou", ([one], [np.array([[1, 0], [0, 0]])]))["mean_iou"] == 1.0
    with pytest.raises(UsageError, match="mean_iou needs"):
        score("mean_iou", ([logits], [np.zeros((4, 4), int)]))


def test_cosine_is_to_the_originals_embeddings() -> None:
    own, first = np.array([[1.0, 0], [0, 2]]), np.array([[1.0, 0], [1, 1]])
    found = score("cosine", ([own], ()), reference=[first])
    assert found["cosine"] == pytest.approx((1 + 0.5**0.5) / 2)
    assert found["cosine_min"] == pytest.approx(0.5**0.5)


ROWS = np.array([[[0, 0, 10, 10, 0.9, 1], [20, 20, 30, 30, 0.8, 0], [0, 0, 0, 0, 0, 0]]], float)


@pytest.mark.parametrize(
    "outputs",
    [
        [ROWS],
        [ROWS[0]],
        [ROWS[0, :, :4], ROWS[0, :, 4], ROWS[0, :, 5].astype(int)],
        [ROWS[0, :, :4], ROWS[0, :, 5].astype(int), ROWS[0, :, 4], np.zeros((3, 1, 5, 5))],
        [ROWS[..., :4], ROWS[..., 4], ROWS[..., 5].astype(np.int32)],
        [np.array([[2]]), ROWS[..., :4], ROWS[..., 4] + 0.1, ROWS[..., 5].astype(np.int32)],
    ],
)
def test_four_forms_of_detections_are_read(outputs: list[Any]) -> None:
    found = read_detections(outputs)
    assert found is not None
    (one,) = found
    assert one.boxes.tolist() == [[0, 0, 10, 10], [20, 20, 30, 30]]
    assert one.classes.tolist() == [1, 0]


def test_a_raw_head_is_not_read() -> None:
    assert read_detections([np.zeros((1, 84, 100))]) is None
    pytest.importorskip("faster_coco_eval")
    with pytest.raises(UsageError, match="finds no boxes for 1 samples in the outputs float64"):
        score("box_ap", ([np.zeros((1, 84, 100))], [boxes()]))


def test_box_ap_is_that_of_coco() -> None:
    pytest.importorskip("faster_coco_eval")
    truth = boxes([0, 0, 10, 10, 1], [20, 20, 30, 30, 0])
    assert score("box_ap", ([ROWS], [truth])) == pytest.approx({"box_ap": 1, "box_ap50": 1})
    # An IoU of 0.8 passes seven of the ten thresholds 0.5, 0.55 … 0.95.
    narrow = ROWS.copy()
    narrow[0, :2, 2] -= 2
    found = score("box_ap", ([narrow], [truth]))
    assert found == pytest.approx({"box_ap": 0.7, "box_ap50": 1.0}, abs=1e-3)
    # Categories are judged apart: a box of the wrong one is a wrong box and a missing one.
    other = boxes([0, 0, 10, 10, 0], [20, 20, 30, 30, 0])
    assert score("box_ap", ([ROWS], [other]))["box_ap50"] == pytest.approx(0.505, abs=1e-2)
    ignored = boxes([0, 0, 10, 10, 1], [20, 20, 30, 30, 0], ignored=[False, True])
    assert score("box_ap", ([ROWS], [ignored]))["box_ap"] == pytest.approx(1)
    ids = ROWS.copy()
    ids[..., 5] += 1
    assert score("box_ap_ids", ([ids], [truth]))["box_ap_ids"] == pytest.approx(1)
    assert score("box_ap", ([ROWS[:, 2:]], [truth])) == {"box_ap": 0.0, "box_ap50": 0.0}


def test_a_function_gets_what_the_docs_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_of_tasks.py").write_text(
        "import numpy as np\n"
        "def both(outputs, labels, reference):\n"
        "    assert isinstance(outputs[0], tuple) and labels == [[1, 2], [3]]\n"
        "    return {'mean': np.float32(outputs[1][0].mean()), 'same': outputs == reference}\n"
        "def plain(outputs, labels): return len(labels)\n"
        "def text(outputs, labels): return 'good'\n"
        "def fails(outputs, labels): return 1 / 0\n"
    )
    monkeypatch.chdir(tmp_path)
    parts = (([np.ones(2)], [1, 2]), ([np.full(1, 3.0)], [3]))
    found = score("mine_of_tasks:both", *parts)
    assert found == {"mean": 3.0, "same": 0.0}
    assert score("mine_of_tasks:plain", *parts) == {"plain": 2.0}
    with pytest.raises(UsageError, match=r"returned \{'text': 'good'\}, not a number"):
        score("mine_of_tasks:text", *parts)
    with pytest.raises(UsageError, match="fails raised ZeroDivisionError: division by zero"):
        score("mine_of_tasks:fails", *parts)
    with pytest.raises(UsageError, match="There is no metric 'map'"):
        find_metrics(("map",))


def test_limits() -> None:
    texts = ("box_ap=0.4", "box_ap=-1%", "box_ap=-1pt", "error=-3")
    limits = parse_metric_limits(texts)
    assert [one.least(0.5) for one in limits] == pytest.approx([0.4, 0.495, 0.49, -3])
    assert [str(one) for one in limits] == list(texts)
    assert MetricLimit("error", 1, "%").least(-2.0) == pytest.approx(-2.02)
    for wrong in ("box_ap", "box_ap=1%", "box_ap=", "=0.4", "box_ap=-1dB"):
        with pytest.raises(UsageError, match="expected NAME=VALUE"):
            parse_metric_limits((wrong,))
    scoring = Scoring(find_metrics(("top1",)), parse_metric_limits(("top1=-10%", "top1=0.5")))
    assert not scoring.missed({"top1": 0.9}, {"top1": 1.0})
    assert len(scoring.missed({"top1": 0.49}, {"top1": 1.0})) == 2
    assert len(scoring.missed({"top1": float("nan")}, {"top1": 1.0})) == 2
    assert len(scoring.missed({}, {"top1": 1.0})) == 2
    with pytest.raises(UsageError, match="takes labels of classes, but there are no labels"):
        scoring.check(None)
    with pytest.raises(UsageError, match="takes labels of classes, but the labels are boxes"):
        scoring.check([boxes()])
    with pytest.raises(UsageError, match="no metric of this build has that name"):
        Scoring(find_metrics(("top1",)), parse_metric_limits(("top5=1",))).check([1])


def test_labels_are_divided_among_feeds() -> None:
    assert list(labelled(["a", "b"], [1, 2, 3, 4])) == [("a", [1, 2]), ("b", [3, 4])]
    assert list(labelled(["a", "b"], None)) == [("a", []), ("b", [])]


def test_the_command_line_lists_every_ready_metric() -> None:
    assert tuple(one.name for one in READY) == task_metrics.READY
