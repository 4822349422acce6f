"""A page in Chromium: whether its text overlaps or is cut, at a width, in light or in dark."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")

# Every line of every text node is a box. Two boxes of different nodes must not overlap, and none
# may leave the window, unless it lies in an element that scrolls. A second pass opens all
# <details>.
_CHECK = r"""
<script>
function visible(element) {
  if (!element.checkVisibility()) return false;  // in a closed <details>
  for (let one = element; one; one = one.parentElement) {
    if (getComputedStyle(one).clipPath !== "none") return false;  // for screen readers alone
  }
  return true;
}
function scrolls(element) {
  for (let one = element; one; one = one.parentElement) {
    if (/auto|scroll/.test(getComputedStyle(one).overflowX)) return true;
  }
  return false;
}
function boxes() {
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim() || parent.closest("script") || !visible(parent)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      if (box.width < 1 || box.height < 1) continue;
      // The box of a line has room above and below its letters.
      const room = box.height * 0.2;
      found.push({node, text: node.data.trim().slice(0, 60), inside: scrolls(parent),
        left: box.left, right: box.right, top: box.top + room, bottom: box.bottom - room});
    }
  }
  return found.sort((one, other) => one.top - other.top);
}
function problems(state) {
  const wide = document.documentElement.clientWidth, found = [];
  if (document.documentElement.scrollWidth > wide)
    found.push(`${state}: the page scrolls sideways`);
  const all = boxes();
  all.forEach((one, index) => {
    if (!one.inside && (one.left < 0 || one.right > wide + 0.5))
      found.push(`${state}: cut: ${one.text}`);
    for (let next = index + 1; next < all.length && all[next].top < one.bottom; next++) {
      const other = all[next];
      const across = Math.min(one.right, other.right) - Math.max(one.left, other.left);
      const down = Math.min(one.bottom, other.bottom) - other.top;
      if (other.node !== one.node && across > 1 && down > 1)
        found.push(`${state}: overlap: ${one.text} | ${other.text}`);
    }
  });
  return found;
}
addEventListener("load", () => {
  const found = problems("closed");
  document.querySelectorAll("details").forEach(one => one.open = true);
  found.push(...problems("open"));
  parent.postMessage({width: innerWidth, problems: found}, "*");
});
</script></body>"""

# A window of Chromium has a least width; a frame has none.
_FRAMES = """<!doctype html><body><script>
const found = [];
addEventListener("message", event => {
  found.push(event.data);
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script><pre id="found"></pre>"""


def run_chromium(page: Path, width: int, scheme: str, *words: str) -> str:
    """Draw a page without a window; returns what Chromium prints."""
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={page.parent / 'profile'}", "--hide-scrollbars",
            f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
            f"--window-size={width},900", *words, page.as_uri(),
        ],
        check=True, capture_output=True, timeout=120, text=True,
    )  # fmt: skip
    return done.stdout


def text_problems(source: str, folder: Path, *widths: int) -> dict[int, list[str]]:
    """By width, the text that overlaps or is cut: with all ``<details>`` closed, and all open."""
    page, frames = folder / "checked.html", folder / "frames.html"
    # The policy of the page forbids scripts, this one too.
    source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", source)
    page.write_text(source.replace("</body>", _CHECK), encoding="utf-8")
    shown = "".join(
        f'<iframe src="checked.html" style="border:0;width:{width}px;height:900px"></iframe>'
        for width in widths
    )
    frames.write_text(_FRAMES + shown, encoding="utf-8")
    printed = run_chromium(
        frames, max(widths), "light", "--virtual-time-budget=10000", "--dump-dom"
    )
    text = printed.partition('<pre id="found">')[2].partition("</pre>")[0]
    found = {one["width"]: one["problems"] for one in json.loads(html.unescape(text))}
    assert set(found) == set(widths)
    return found
