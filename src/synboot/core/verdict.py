"""Reasons, not booleans (law 8): what a filter says of a candidate, and the tally of it.

A filter is a pure function from a candidate to `Keep` or `Drop(reason, score)`. Pair filters and
text filters share these types, so that every drop can be counted and read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

Candidate = TypeVar("Candidate")


@dataclass(frozen=True)
class Keep:
    """The candidate passes."""


@dataclass(frozen=True)
class Drop:
    """The candidate is dropped for `reason`; `score` is the measured value behind the reason."""

    reason: str
    score: float


Verdict = Keep | Drop
KEEP = Keep()


def judge(candidate: Candidate, filters: Sequence[Callable[[Candidate], Verdict]]) -> Verdict:
    """The verdict of the first filter that drops `candidate`, else `KEEP`."""
    for check in filters:
        verdict = check(candidate)
        if isinstance(verdict, Drop):
            return verdict
    return KEEP


@dataclass
class Tally:
    """Counts of verdicts by reason, and the first `sample_size` dropped candidates of each."""

    sample_size: int = 20
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, verdict: Verdict, describe: Callable[[], dict[str, Any]]) -> None:
        """Count one verdict; `describe` is called only when a sample of the drop is kept."""
        if isinstance(verdict, Keep):
            self.kept += 1
            return
        self.dropped[verdict.reason] += 1
        samples = self.samples.setdefault(verdict.reason, [])
        if len(samples) < self.sample_size:
            samples.append({"reason": verdict.reason, "score": verdict.score, **describe()})

    def counts(self) -> dict[str, int]:
        """`{"kept": n, "dropped_<reason>": n, ...}`, reasons in alphabetical order."""
        return {"kept": self.kept} | {f"dropped_{r}": n for r, n in sorted(self.dropped.items())}
