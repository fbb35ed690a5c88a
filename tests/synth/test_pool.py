"""How several writers share a text, and in which order their documents stand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from synboot.synth.pool import interleaved, shares

TEXTS = st.lists(st.lists(st.integers(1, 30), min_size=40, max_size=40), min_size=1, max_size=5)
"""Lengths of documents that writers could go on writing; at least 40 tokens each."""


def cut(lengths: list[int], need: int) -> list[int]:
    """The shortest prefix that meets a need, its last document cut to the token."""
    kept: list[int] = []
    for length in lengths:
        if sum(kept) == need:
            break
        kept.append(min(length, need - sum(kept)))
    return kept


@given(st.integers(1, 10**12), st.integers(1, 50))
def test_shares_are_equal_to_the_token(tokens: int, writers: int) -> None:
    found = shares(tokens, writers)
    assert sum(found) == tokens
    assert len(found) == writers
    assert max(found) - min(found) <= 1
    assert found == sorted(found, reverse=True)


@given(TEXTS, st.integers(5, 40))
def test_every_prefix_holds_about_equal_tokens_of_each(texts: list[list[int]], need: int) -> None:
    lengths = [
        cut(text, share) for text, share in zip(texts, shares(need, len(texts)), strict=True)
    ]
    order = interleaved(lengths)
    assert sorted(order) == [(w, i) for w, own in enumerate(lengths) for i in range(len(own))]
    for writer in range(len(lengths)):
        own = [document for one, document in order if one == writer]
        assert own == sorted(own)
    held = [0] * len(lengths)
    for writer, document in order:
        assert held[writer] == min(held)
        held[writer] += lengths[writer][document]
    assert held == shares(need, len(lengths))


@given(TEXTS, st.lists(st.integers(5, 40), min_size=2, max_size=2, unique=True))
def test_a_larger_need_has_the_same_order(texts: list[list[int]], needs: list[int]) -> None:
    few, many = (
        interleaved(
            [cut(text, share) for text, share in zip(texts, shares(need, len(texts)), strict=True)]
        )
        for need in sorted(needs)
    )
    assert many[: len(few)] == few


def test_by_hand() -> None:
    assert interleaved([[4, 1, 5], [3, 3]]) == [(0, 0), (1, 0), (1, 1), (0, 1), (0, 2)]
    assert interleaved([[], [2]]) == [(1, 0)]
