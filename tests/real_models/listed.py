"""Every case, by name."""

from __future__ import annotations

import signals
import vision

CASES = {one.name: one for one in (*vision.CASES, *signals.CASES)}
