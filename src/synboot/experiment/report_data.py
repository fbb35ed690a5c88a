"""What the page of a run is made of, apart from the page, whose drawings are slow to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ReportData:
    """What the page is made of.

    `result` is `result.json`. `curves`: `arm`, `seed`, `points` of `step`, `tokens`, `train_loss`,
    `validation_loss`. `pairs`: `counts`, `similarity_edges`, `similarity_kept`, `similarity_all`,
    `degree`, `kept_samples`, `dropped_samples`. `synthetic`: `counts`, `samples`,
    `dropped_samples`. Missing and None fields show as a dash. `beside`: the `result.json` of other
    runs, of other sizes or of variants on validation text. `searches`: values of `search.json`.
    `said`: what the user has to say.
    """

    result: dict[str, Any]
    curves: list[dict[str, Any]]
    pairs: dict[str, Any]
    synthetic: dict[str, Any]
    beside: Sequence[Mapping[str, Any]] = ()
    searches: Sequence[Mapping[str, Any]] = ()
    said: Sequence[str] = ()
