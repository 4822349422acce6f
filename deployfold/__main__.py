"""``python -m deployfold`` is the same as ``deployfold``."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
