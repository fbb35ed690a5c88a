"""Law 8: reasons, not booleans. One type serves pair filters and text filters; drops are counted
by reason, and a sample of them can be read."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synboot.core.verdict import KEEP, Drop, Keep, Tally, Verdict, judge
from synboot.pairs.filters import (
    PairCandidate,
    PairFilterConfig,
    not_near_duplicate,
    not_same_group,
    similar_enough,
)
from synboot.synth.filters import CorpusWindows, Draft, TextFilterConfig, text_filters

WORDS = [f"word{i}" for i in range(40)]
TEXTS = [" ".join(WORDS[:20]), " ".join(WORDS[:19]), " ".join(WORDS[20:])]
GROUPS = ["a", "a", None]
PAIR_FILTERS = [
    similar_enough(PairFilterConfig(min_similarity=0.3, max_similarity=0.9)),
    not_same_group(GROUPS),
    not_near_duplicate(TEXTS, PairFilterConfig(max_window_overlap=0.5)),
]
TEXT_FILTERS = text_filters(TextFilterConfig(), CorpusWindows(TEXTS))

PAIRS = st.builds(
    PairCandidate,
    first=st.just(0),
    second=st.sampled_from([1, 2]),
    similarity=st.floats(-1, 1, allow_nan=False),
)


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    """Texts of a few of the words, with as many tokens."""
    numbers = draw(st.lists(st.integers(0, 39), max_size=30))
    text = " ".join(WORDS[number] for number in numbers)
    return Draft(
        np.array(numbers, dtype=np.int64),
        draw(st.sampled_from([text, None])),
        draw(st.sampled_from(["end", "length"])),
        TEXTS[0],
    )


def check_verdict(verdict: Verdict) -> None:
    assert isinstance(verdict, (Keep, Drop))
    if isinstance(verdict, Drop):
        assert verdict.reason
        assert verdict.reason == verdict.reason.lower().replace(" ", "_")
        assert np.isfinite(verdict.score)


class TestFilters:
    @pytest.mark.parametrize("check", PAIR_FILTERS)
    @settings(deadline=None)
    @given(candidate=PAIRS)
    def test_of_pairs_are_pure_and_give_reasons(
        self, check: Callable[[PairCandidate], Verdict], candidate: PairCandidate
    ) -> None:
        before = copy.deepcopy(candidate)
        verdict = check(candidate)
        check_verdict(verdict)
        assert check(candidate) == verdict
        assert candidate == before

    @pytest.mark.parametrize("check", TEXT_FILTERS)
    @settings(deadline=None)
    @given(candidate=drafts())
    def test_of_texts_are_pure_and_give_reasons(
        self, check: Callable[[Draft], Verdict], candidate: Draft
    ) -> None:
        before = copy.deepcopy(vars(candidate))
        verdict = check(candidate)
        check_verdict(verdict)
        assert check(candidate) == verdict
        assert {key: repr(vars(candidate)[key]) for key in before} == {
            key: repr(value) for key, value in before.items()
        }

    def test_say_the_measured_value_behind_the_reason(self) -> None:
        assert judge(PairCandidate(0, 2, 0.25), PAIR_FILTERS) == Drop("below_min_similarity", 0.25)
        assert judge(PairCandidate(0, 1, 0.5), PAIR_FILTERS) == Drop("same_group", 1.0)
        assert judge(PairCandidate(0, 1, 0.5), PAIR_FILTERS[2:]) == Drop("near_duplicate", 1.0)
        assert judge(PairCandidate(0, 2, 0.5), PAIR_FILTERS) == KEEP
        short = Draft(np.arange(5), "some words", "end", TEXTS[0])
        assert judge(short, TEXT_FILTERS) == Drop("too_short", 5.0)

    def test_look_at_every_candidate_in_the_order_they_are_given(self) -> None:
        cut = Draft(np.zeros(20, dtype=np.int64), None, "length", TEXTS[0])
        verdicts = [check(cut) for check in TEXT_FILTERS]
        reasons = [verdict.reason for verdict in verdicts if isinstance(verdict, Drop)]
        assert len(reasons) > 2
        assert judge(cut, TEXT_FILTERS) == verdicts[0]
        assert judge(cut, TEXT_FILTERS[::-1]).reason == reasons[-1]  # type: ignore[union-attr]


class TestTally:
    @settings(deadline=None)
    @given(st.lists(PAIRS, max_size=40))
    def test_of_real_filters_adds_up_and_can_be_read(self, pairs: list[PairCandidate]) -> None:
        tally, by_hand = Tally(sample_size=2), Counter[str]()

        def describe(pair: PairCandidate) -> dict[str, Any]:
            return {"d1": pair.first, "d2": pair.second, "similarity": pair.similarity}

        for pair in pairs:
            verdict = judge(pair, PAIR_FILTERS)
            by_hand["kept" if verdict == KEEP else f"dropped_{verdict.reason}"] += 1  # type: ignore[union-attr]
            tally.add(verdict, lambda pair=pair: describe(pair))  # type: ignore[misc]

        counts = tally.counts()
        assert counts == {"kept": 0} | dict(by_hand)
        assert list(counts)[1:] == sorted(list(counts)[1:])
        for reason, samples in tally.samples.items():
            assert len(samples) == min(2, counts[f"dropped_{reason}"])
            for sample in samples:
                assert sample["reason"] == reason
                again = PairCandidate(sample["d1"], sample["d2"], sample["similarity"])
                assert judge(again, PAIR_FILTERS) == Drop(reason, sample["score"])
