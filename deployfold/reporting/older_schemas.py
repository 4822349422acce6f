"""Upgrades reports of earlier versions of deployfold to the current schema."""

from __future__ import annotations

from typing import Any

OLDER_VERSIONS = ("1",)


def upgrade(data: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a report of one of :data:`OLDER_VERSIONS` in the current schema.

    Version 1 called the summary of every quantised row ``int8``, whatever its precision.
    """
    upgraded = {**data, "schema_version": "2"}
    if isinstance(data.get("rows"), list):
        upgraded["rows"] = [_with_quantization(row) for row in data["rows"]]
    return upgraded


def _with_quantization(row: Any) -> Any:
    summary = row.get("int8") if isinstance(row, dict) else None
    if not isinstance(summary, dict):
        return row
    share = {"quantized_macs_share": summary.get("int8_macs_share")}
    return {**row, "quantization": {**summary, **share}}
