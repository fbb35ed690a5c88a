"""The calibration of the facts world's judge, at a size for tests."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2]))

from calibration import judge
from synboot.core.storage import canonical_json


def test_the_outcome_says_whether_its_bounds_hold() -> None:
    """Two of four intervals a rate: fewer with odds of 5e-4 each (binomial, 95%)."""
    found = judge.outcome(4, 400, least=2)
    assert found["held"] is True
    assert found["errors_of_the_judge"] == 0
    canonical_json(found)
    text = judge.summary(found)
    assert text.endswith("held")
    assert "of 4 intervals hold 15%" in text
    assert "reaches in 100% of such series" in text
    figures = found["instrument"]["figures"]
    assert figures["sound"]["auc"]["auc"] > figures["corrupted"]["auc"]["auc"] + 0.05
    assert judge.outcome(1, 100, least=2)["held"] is False


def test_area_under_the_curve() -> None:
    foreign = np.array([True, True, False, False, False])
    assert judge._area(np.array([0.0, 1, 2, 3, 4]), foreign) == 1
    assert judge._area(np.array([4.0, 3, 2, 1, 0]), foreign) == 0
    assert judge._area(np.ones(5), foreign) == 0.5
    assert judge._area(np.array([0.0, 3, 2, 3, 4]), foreign) == pytest.approx(4.5 / 6)


def test_exact_coverage() -> None:
    assert judge._exact_coverage(1000, 0.15) == pytest.approx(0.9539, abs=1e-3)
    assert judge._exact_coverage(1, 0.5) == 1
