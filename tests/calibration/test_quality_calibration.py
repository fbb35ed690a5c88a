"""The calibration of quality, small: what was planted is measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))

from calibration.quality import measure, summary


@pytest.mark.slow
def test_planted_faults_are_measured() -> None:
    """To the document, where there is a bound."""
    outcome = measure(500, most_seconds=1e9, workers=1)
    rows = {row["figure"]: row for row in outcome["rows"]}
    relevance, seconds = "below 95% of random pairs", "seconds"
    for name in rows.keys() - {relevance, seconds}:
        assert rows[name]["held"], rows[name]
        assert rows[name]["planted"] == pytest.approx(rows[name]["measured"])
    assert rows["duplicate among draws"]["planted"] > rows["pair_copying"]["planted"] > 0
    assert "pair_copying" in summary(outcome)
