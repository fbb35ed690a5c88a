from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synboot.data.packing import first_fit

capacity = 20
lengths = st.lists(st.integers(1, capacity), max_size=300)


@given(lengths)
def test_every_place_is_in_one_row_and_no_row_is_overfull(lengths: list[int]) -> None:
    rows = first_fit(lengths, capacity)
    assert sorted(place for row in rows for place in row) == list(range(len(lengths)))
    assert all(sum(lengths[place] for place in row) <= capacity for row in rows)
    assert all(row == sorted(row) for row in rows)
    firsts = [row[0] for row in rows]
    assert firsts == sorted(firsts)


@given(lengths)
def test_it_is_first_fit_among_the_last_64_rows(lengths: list[int]) -> None:
    expected: list[list[int]] = []
    for place, length in enumerate(lengths):
        for row in expected[-64:]:
            if sum(lengths[i] for i in row) + length <= capacity:
                row.append(place)
                break
        else:
            expected.append([place])
    assert first_fit(lengths, capacity) == expected


def test_what_fits_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="21 positions do not fit into 20"):
        first_fit([3, 21], capacity)
