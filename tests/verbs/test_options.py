"""Values of options as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synboot.core.errors import BadInput
from synboot.verbs.options import parse_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("8m", 480), ("1.5h", 5400), ("1h30m", 5400), (" 2M ", 120)],
)
def test_times(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@given(st.integers(0, 99), st.integers(0, 59), st.integers(1, 59))
def test_hours_minutes_and_seconds_add_up(hours: int, minutes: int, seconds: int) -> None:
    assert parse_seconds(f"{hours}h{minutes}m{seconds}s") == 3600 * hours + 60 * minutes + seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "8x", "m", "-3", "1m1h", "8 m", "1e3", "nan"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(BadInput, match="expected a time such as"):
        parse_seconds(text)
