from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from synboot.core.verdict import KEEP, Drop, Keep
from synboot.pairs.filters import (
    DegreeLimit,
    PairCandidate,
    PairFilterConfig,
    not_near_duplicate,
    not_same_group,
    similar_enough,
)


def numbered_words(start: int, count: int) -> str:
    return " ".join(f"w{i}" for i in range(start, start + count))


def pair(similarity: float = 0.5, first: int = 0, second: int = 1) -> PairCandidate:
    return PairCandidate(first, second, similarity)


def test_similarity_thresholds_at_their_edges() -> None:
    check = similar_enough(PairFilterConfig(min_similarity=0.25, max_similarity=0.75))
    assert check(pair(0.25)) == KEEP
    assert check(pair(0.75)) == KEEP
    below = math.nextafter(0.25, 0)
    assert check(pair(below)) == Drop("below_min_similarity", below)
    assert check(pair(0.7501)) == Drop("above_max_similarity", 0.7501)


def test_rounding_above_one_is_no_reason_to_drop() -> None:
    assert similar_enough(PairFilterConfig())(pair(1.0000002)) == KEEP


def test_same_group_and_documents_without_one() -> None:
    check = not_same_group(["a", "a", "b", None, None, ""])
    assert check(pair(first=0, second=1)) == Drop("same_group", 1.0)
    assert check(pair(first=0, second=2)) == KEEP
    assert check(pair(first=3, second=4)) == KEEP
    assert check(pair(first=0, second=3)) == KEEP


def windows(text: str) -> set[tuple[str, ...]]:
    """Python sets (law 10): every run of 13 words, or all of them if there are fewer."""
    found = re.findall(r"\w+", text.casefold())
    if not found:
        return set()
    return {tuple(found[i : i + 13]) for i in range(max(1, len(found) - 12))}


texts_of_few_words = st.lists(st.sampled_from("abcd"), max_size=30).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(
    first=texts_of_few_words,
    second=texts_of_few_words,
    common=st.lists(st.sampled_from("ab"), max_size=30).map(" ".join),
    threshold=st.sampled_from([0.0, 0.25, 0.5, 0.99, 1.0]),
)
def test_near_duplicate_against_python_sets(
    first: str, second: str, common: str, threshold: float
) -> None:
    texts = [f"{first} {common}", f"{common.upper()}, {second}!"]
    check = not_near_duplicate(texts, PairFilterConfig(max_window_overlap=threshold))
    a, b = windows(texts[0]), windows(texts[1])
    share = len(a & b) / min(len(a), len(b)) if a and b else 0.0
    assert check(pair()) == (Drop("near_duplicate", share) if share > threshold else KEEP)


def test_near_duplicate_at_its_edge_and_below_13_words() -> None:
    def verdict(a: str, b: str, threshold: float = 0.5) -> Keep | Drop:
        return not_near_duplicate([a, b], PairFilterConfig(max_window_overlap=threshold))(pair())

    # 16 words have four windows; the last 14 hold two of them.
    four = numbered_words(0, 16)
    assert verdict(four, numbered_words(2, 20)) == KEEP
    assert verdict(four, numbered_words(1, 20)) == Drop("near_duplicate", 0.75)
    # A short text has one window, itself: the same words are a duplicate, a quotation is none.
    short = numbered_words(0, 12)
    assert verdict(short, short.upper() + "!") == Drop("near_duplicate", 1.0)
    assert verdict(short, four) == KEEP
    # From 13 words on a quotation counts, of the document with fewer windows.
    assert verdict(numbered_words(0, 13), four) == Drop("near_duplicate", 1.0)
    assert verdict(four, four, threshold=1.0) == KEEP
    assert verdict("", "") == KEEP
    assert verdict("!?", "...") == KEEP


def test_degree_limit_counts_kept_pairs_of_both_documents() -> None:
    limit = DegreeLimit(2)
    assert limit(pair(first=0, second=1)) == KEEP
    assert limit(pair(first=0, second=2)) == KEEP
    assert limit(pair(first=0, second=3)) == Drop("degree_limit", 2.0)
    assert limit(pair(first=3, second=4)) == KEEP  # the dropped pair did not count for 3
    assert limit(pair(first=1, second=3)) == KEEP
    assert limit(pair(first=1, second=5)) == Drop("degree_limit", 2.0)


@pytest.mark.parametrize(
    "values",
    [
        {"min_similarity": 1.1},
        {"max_similarity": -2},
        {"max_window_overlap": -0.1},
        {"max_pairs_per_document": 0},
        {"min_similarty": 0.5},
        {"min_similarity": math.nan},
    ],
)
def test_thresholds_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        PairFilterConfig.model_validate(values)
