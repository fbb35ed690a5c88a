"""What a judge said of a sample: rates, and how many texts it said nothing of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from synboot.core.events import ReportProgress, ignore_progress
from synboot.core.judgement import Judge, Judgement
from synboot.eval.quality.figures import Figure, pooled, rate_of

_AT_ONCE = 16


def judge_sides(
    judge: Judge,
    sides: Sequence[tuple[Sequence[str], Sequence[str | None]]],
    progress: ReportProgress = ignore_progress,
) -> list[list[Judgement]]:
    """The judgements of each side's texts beside their seeds. Sides take turns, some texts at a
    time (of a judge that asks several at once, as many), so that a judge whose budget ends has
    said as much of each. `progress` may raise."""
    at_once = max(_AT_ONCE, getattr(judge, "at_once", 0))
    found: list[list[Judgement]] = [[] for _ in sides]
    total = sum(len(texts) for texts, _ in sides)

    def report() -> None:
        progress(sum(map(len, found)), total, "judging")

    slow: Any = judge
    if hasattr(slow, "while_waiting"):
        slow.while_waiting = report
    for start in range(0, max((len(texts) for texts, _ in sides), default=0), at_once):
        for own, (texts, seeds) in zip(found, sides, strict=True):
            report()
            part = slice(start, start + at_once)
            if texts[part]:
                own += judge.judge(texts[part], seeds[part])
    report()
    return found


def judged_figures(judgements: Sequence[Judgement]) -> Figure:
    """`non_factual` and `irrelevant`: rates among the texts that the judge decided; `asked`, and
    under `problems` how many texts have which problem of `Answer` (of others: none). A judge that
    also counts what its texts are made of has `shares` of that, pooled over all texts."""
    problems = Counter(problem for each in judgements for problem in getattr(each, "problems", ()))
    counted = [own for each in judgements if (own := getattr(each, "shares", None))]
    shares = {
        name: pooled(*np.array([each[name] for each in counted], dtype=np.int64).T)
        for name in (counted[0] if counted else ())
    }
    return {
        "asked": len(judgements),
        "non_factual": _rate([each.non_factual for each in judgements]),
        "irrelevant": _rate([each.irrelevant for each in judgements]),
        "problems": dict(sorted(problems.items())),
        **({"shares": shares} if shares else {}),
    }


def _rate(answers: Sequence[bool | None]) -> Figure:
    decided = [answer for answer in answers if answer is not None]
    return rate_of(sum(decided), len(decided))
