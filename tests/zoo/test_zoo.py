"""Every network of the zoo, folded by deployfold and by others, in one run.

Slow, and resumable: results are kept in ``build/zoo``. ``make test-zoo`` runs it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RESULTS = Path("build/zoo")
SECONDS = 300

pytestmark = pytest.mark.slow


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        # Listing takes a minute, so it happens only when the zoo is asked for.
        wanted = metafunc.config.getoption("-m") == "slow and zoo"
        listed = _names() if wanted else []
        metafunc.parametrize("name", listed)


def _names() -> list[str]:
    RESULTS.mkdir(parents=True, exist_ok=True)
    listing = RESULTS / "names.json"
    if not listing.exists():
        sys.path.insert(0, str(HERE))
        from nets import names

        listing.write_text(json.dumps(names()))
    names_: list[str] = json.loads(listing.read_text())
    return names_


@pytest.mark.zoo
def test_network(name: str) -> None:
    path = RESULTS / f"{name.replace(':', '.')}.json"
    if not path.exists():
        subprocess.run(
            [sys.executable, str(HERE / "one.py"), name, str(path)], check=True, timeout=SECONDS
        )
    result = json.loads(path.read_text())["deployfold"]
    assert "failed" not in result, result["failed"]
    assert result["relative"] is None or result["relative"] <= 1e-9
    assert all(result["left"].values()), "a BatchNorm was left without a reason"
    assert not result["missed"], f"neighbours could have taken up {result['missed']}"


@pytest.mark.zoo
def test_table() -> None:
    """Print the comparison of all results that there are."""
    from table import render

    print(render(RESULTS))
