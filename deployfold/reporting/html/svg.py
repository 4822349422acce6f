"""Elements of an SVG that is as wide as the page allows, with text that keeps its size.

Horizontal positions are per cent of the drawing's width, and vertical ones pixels. Such a drawing
needs no ``viewBox``: on a phone its marks move together, and its letters stay readable.
"""

from __future__ import annotations

import math
from xml.etree import ElementTree

from markupsafe import Markup

from deployfold.reporting.text import clean

Element = ElementTree.Element


def drawing(label: str, height: float) -> Element:
    """An ``<svg>`` of ``height`` pixels; ``label`` tells its content to those who do not see it."""
    return ElementTree.Element(
        "svg", {"role": "img", "aria-label": clean(label), "width": "100%", "height": f"{height:g}"}
    )


def add(parent: Element, tag: str, text: str = "", **attributes: str | float) -> Element:
    """Append an element; ``stroke_width=2`` becomes ``stroke-width="2"``, and ``class_`` works."""
    named = {key.rstrip("_").replace("_", "-"): _value(one) for key, one in attributes.items()}
    made = ElementTree.SubElement(parent, tag, named)
    made.text = clean(text) or None
    return made


def percent(share: float) -> str:
    """A position: 0 is the left edge of the drawing, and 1 the right one."""
    return f"{100 * share:.2f}%"


def markup(element: Element) -> Markup:
    """The element as text, in which every name is escaped."""
    return Markup(ElementTree.tostring(element, encoding="unicode"))


def ticks(most: float, count: int = 5) -> list[float]:
    """Round numbers from 0 to ``most``: at most ``count`` steps of 1, 2 or 5 times a power of 10.

    ``most`` is positive.
    """
    rough = most / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    return [index * step for index in range(math.floor(most / step + 1e-9) + 1)]


def axis(parent: Element, top: float, bottom: float, most: float, unit: str) -> None:
    """Vertical grid lines from ``top`` to ``bottom`` with their values below them."""
    marks = ticks(most)
    for value in marks:
        where = percent(value / most)
        add(parent, "line", x1=where, x2=where, y1=top, y2=bottom, class_="grid")
        anchor = "start" if value == 0 else "end" if value > 0.97 * most else "middle"
        written = f"{value:g} {unit}" if value == marks[-1] else f"{value:g}"
        add(parent, "text", written, x=where, y=bottom + 16, text_anchor=anchor, class_="tick")


def _value(one: str | float) -> str:
    return one if isinstance(one, str) else f"{one:.6g}"
