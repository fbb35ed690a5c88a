"""Scores of made-up documents, for the tests of this folder."""

from __future__ import annotations

from typing import Any

import numpy as np

from synboot.experiment.statistics.scores import Scores


def scores(
    nats: Any, num_tokens: Any = None, num_bytes: Any = None, groups: list[str | None] | None = None
) -> Scores:
    """Documents of 10 tokens and 40 bytes each, where nothing else is said."""
    nats = np.asarray(nats, np.float64)
    ones = np.ones(len(nats), np.int64)
    return Scores(
        [f"document-{i}" for i in range(len(nats))],
        10 * ones if num_tokens is None else np.asarray(num_tokens),
        40 * ones if num_bytes is None else np.asarray(num_bytes),
        nats,
        groups,
    )
