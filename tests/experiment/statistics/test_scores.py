"""Scores of documents: what they come to, what is refused, how seeds are averaged."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))

from tables import scores

from synboot.experiment.statistics.scores import Scores, mean_scores, units_of


def test_metrics_are_ratios_of_sums() -> None:
    table = scores([20.0, 10.0], num_tokens=[5, 10], num_bytes=[12, 18])
    assert table.nats_per_token() == pytest.approx(2.0)
    assert table.perplexity() == pytest.approx(math.exp(2))
    assert table.bits_per_byte() == pytest.approx(30 / math.log(2) / 30)
    assert scores([1e9, 1e9]).perplexity() == math.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": []}, "no documents"),
        ({"ids": ["a", "a"]}, "twice"),
        ({"nats": np.array([1.0])}, "shape"),
        ({"nats": np.array([1.0, math.nan])}, "finite"),
        ({"num_tokens": np.array([0, 1])}, "no tokens"),
        ({"num_bytes": np.array([1, 0])}, "no bytes"),
    ],
)
def test_broken_tables_are_refused(change: dict[str, Any], message: str) -> None:
    whole = {
        "ids": ["a", "b"],
        "num_tokens": np.array([1, 2]),
        "num_bytes": np.array([3, 4]),
        "nats": np.array([1.0, 2.0]),
    }
    Scores(**whole)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        Scores(**(whole | change))


def test_seeds_are_averaged_document_by_document() -> None:
    mean = mean_scores([scores([10.0, 30.0]), scores([20.0, 50.0])])
    assert mean.nats.tolist() == [15.0, 40.0]
    assert mean.nats_per_token() == pytest.approx((2.0 + 3.5) / 2)


def test_unusable_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="no scores"):
        mean_scores([])
    with pytest.raises(ValueError, match="unknown metric"):
        units_of(scores([1.0]), "perplexity")  # type: ignore[arg-type]
    for other in (scores([1.0] * 9), scores([1.0] * 10, num_bytes=[41] * 10)):
        with pytest.raises(ValueError, match="differ"):
            mean_scores([scores([1.0] * 10), other])
