"""Many sentences of one kind become one with a count and three names."""

from __future__ import annotations

from deployfold.util.grouping import grouped


def test_sentences_that_differ_in_a_name_are_joined() -> None:
    many = [f"model.layer{index}.bn is left: it is in training mode." for index in range(100)]
    assert grouped(["first", *many, "last"]) == [
        "first",
        "model.layer0.bn is left: it is in training mode (and 99 more like it: model.layer1.bn,"
        " model.layer2.bn, model.layer3.bn, …).",
        "last",
    ]


def test_names_and_numbers_may_differ_together() -> None:
    many = [f"head_{index} would overflow at {index / 3:.2f} times its range" for index in range(4)]
    (one,) = grouped(many)
    assert one.startswith("head_0 would overflow at 0.00 times its range (and 3 more like it: head")


def test_few_sentences_and_other_words_are_kept() -> None:
    few = ["21 of 21 layers in fp16", "21 of 21 layers in int8", "20 of 21 layers in int8"]
    assert grouped(few) == few
    assert grouped(["a is left"] * 9) == ["a is left"]
    other = [f"{word} is left: no producer" for word in ("stem", "neck", "head", "tail", "body")]
    assert grouped(other) == other
