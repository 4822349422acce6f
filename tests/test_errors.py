from __future__ import annotations

from deployfold.errors import first_few


def test_what_is_not_named_is_counted():
    names = ["a", "b", "c", "d", "e"]
    assert first_few(names[:1]) == "a"
    assert first_few(names[:3]) == "a, b, c"
    assert first_few(names) == "a, b, c and 2 more"
    assert first_few(names, 4) == "a, b, c, d and 1 more"
