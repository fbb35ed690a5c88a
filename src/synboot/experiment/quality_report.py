"""What the report shows of the quality of synthetic text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from synboot.eval.quality.table import PAPER, PAPER_SCALES, further_rows, written


def quality_section(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values of quality.html.jinja; None where a run has no synthetic text."""
    quality = result.get("quality")
    if not quality:
        return None
    documents = quality["documents"]
    return {
        "looked_at": f"{documents['synthetic_looked_at']:,} of {documents['synthetic']:,} "
        f"synthetic documents were looked at, beside {documents['real_looked_at']:,} of "
        f"{documents['real']:,} real ones and {documents['pairs_looked_at']:,} real pairs.",
        "paper": PAPER,
        "scales": PAPER_SCALES,
        "table": [
            {
                "label": row["label"],
                "synthetic": written(row["synthetic"]),
                "real": written(row["real"]),
                "paper": list(row["paper"].items()),
            }
            for row in quality["table"]
        ],
        "further": [
            {"label": label, "synthetic": written(synthetic), "real": written(real)}
            for label, synthetic, real in further_rows(quality)
        ],
        "judge": list(_flat(quality["judge"] or {})),
        "caveats": quality["caveats"],
    }


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}, ")
        elif value is not None:
            yield f"{before}{name}", value
