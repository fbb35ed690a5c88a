from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synboot.core.verdict import KEEP, Drop, Keep, Tally, Verdict, judge


def above(limit: int, reason: str) -> Any:
    def check(candidate: int) -> Verdict:
        return Drop(reason, float(candidate)) if candidate > limit else KEEP

    return check


def test_the_first_filter_that_drops_has_the_word() -> None:
    asked = []

    def note(candidate: int) -> Verdict:
        asked.append(candidate)
        return KEEP

    filters = [above(10, "big"), above(5, "middling"), note]
    assert judge(11, filters) == Drop("big", 11.0)
    assert judge(6, filters) == Drop("middling", 6.0)
    assert asked == []
    assert judge(5, filters) == KEEP
    assert asked == [5]
    assert judge(99, []) == Keep()


def test_verdicts_are_values() -> None:
    assert Keep() == KEEP
    assert len({Drop("a", 1.0), Drop("a", 1.0), Drop("a", 2.0), Drop("b", 1.0), KEEP}) == 4
    with pytest.raises(FrozenInstanceError):
        Drop("a", 1.0).score = 2.0  # type: ignore[misc]


def test_counts_are_exact_and_in_order() -> None:
    tally = Tally()
    assert tally.counts() == {"kept": 0}
    for verdict in (Drop("z", 1.0), KEEP, Drop("a", 2.0), Drop("z", 3.0), KEEP):
        tally.add(verdict, dict)
    assert list(tally.counts().items()) == [("kept", 2), ("dropped_a", 1), ("dropped_z", 2)]


def test_only_samples_are_described() -> None:
    described = []

    def describe(number: int) -> dict[str, Any]:
        described.append(number)
        return {"text": f"candidate {number}"}

    tally = Tally(sample_size=2)
    tally.add(KEEP, lambda: describe(-1))
    for number in range(5):
        reason = "a" if number < 4 else "b"
        tally.add(Drop(reason, number / 2), lambda number=number: describe(number))  # type: ignore[misc]
    assert described == [0, 1, 4]
    assert tally.samples == {
        "a": [
            {"reason": "a", "score": 0.0, "text": "candidate 0"},
            {"reason": "a", "score": 0.5, "text": "candidate 1"},
        ],
        "b": [{"reason": "b", "score": 2.0, "text": "candidate 4"}],
    }
    assert tally.counts() == {"kept": 1, "dropped_a": 4, "dropped_b": 1}


@settings(deadline=None)
@given(st.lists(st.one_of(st.just(KEEP), st.builds(Drop, st.sampled_from("abc"), st.floats()))))
def test_everything_is_counted_once(verdicts: list[Verdict]) -> None:
    tally = Tally(sample_size=3)
    for verdict in verdicts:
        tally.add(verdict, dict)
    assert sum(tally.counts().values()) == len(verdicts)
    for reason, samples in tally.samples.items():
        assert len(samples) == min(3, tally.dropped[reason])
