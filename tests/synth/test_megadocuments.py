"""Which draws go into one document."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from synboot.synth.megadocuments import groups_of_draws, joined


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.integers(1, 5))
def test_every_draw_is_in_one_document_of_its_seed(seeds: list[str], size: int) -> None:
    groups = groups_of_draws(seeds, size)
    assert sorted(place for group in groups for place in group) == list(range(len(seeds)))
    assert all(group == sorted(group) and len(group) <= size for group in groups)
    assert all(len({seeds[place] for place in group}) == 1 for group in groups)
    full = [group for group in groups if len(group) == size]
    assert groups[: len(full)] == full
    assert [group[-1] for group in full] == sorted(group[-1] for group in full)
    assert len(full) == sum(count // size for count in Counter(seeds).values())
    for name in "abcd":  # of a seed, in the order of its draws
        own = [place for group in groups for place in group if seeds[place] == name]
        assert own == sorted(own)


def test_by_hand() -> None:
    assert groups_of_draws(list("abaabca"), 2) == [[0, 2], [1, 4], [3, 6], [5]]
    assert joined("seed", ["one", "two"]) == "seed\n\none\n\ntwo"
