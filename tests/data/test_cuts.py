"""Long texts: every piece fits, ends at the best break, and nothing but blanks is lost."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synboot.data.cuts import cut_text

TEXTS = st.lists(st.sampled_from(["a", "word", "ü", "𝄞", " ", "\n", "\n\n", "\r\n", "\u3000"])).map(
    "".join
)


def pieces(text: str, max_bytes: int) -> list[str]:
    return [text[start:stop] for start, stop in cut_text(text, max_bytes)]


def best_end(text: str, max_bytes: int) -> int:
    """Slow and obvious: the best place to end the first piece of `text`."""
    ends = [end for end in range(1, len(text) + 1) if len(text[:end].encode()) <= max_bytes]
    if ends[-1] == len(text):
        return len(text)
    for pattern in (r"\n\r?\n", r"[\n\r]", r"\s"):
        good = [e for e in ends if re.search(rf"{pattern}\Z", text[:e]) and not text[:e].isspace()]
        if good:
            return good[-1]
    return ends[-1]


@given(TEXTS, st.integers(16, 40))
def test_pieces_are_what_the_slow_way_says(text: str, max_bytes: int) -> None:
    expected, rest = [], text
    while rest:
        end = best_end(rest, max_bytes)
        expected += [] if rest[:end].isspace() else [rest[:end]]
        rest = rest[end:]
    found = pieces(text, max_bytes)
    assert found == expected
    assert all(len(piece.encode()) <= max_bytes for piece in found)
    assert "".join("".join(found).split()) == "".join(text.split())


def test_breaks_in_their_order() -> None:
    assert pieces("one two\n\nthree\nfour five", 20) == ["one two\n\n", "three\nfour five"]
    assert pieces("one two three\nfour five six", 20) == ["one two three\n", "four five six"]
    assert pieces("one two three four five six", 20) == ["one two three four ", "five six"]
    assert pieces("x" * 45, 20) == ["x" * 20, "x" * 20, "x" * 5]
    assert pieces("𝄞" * 9, 19) == ["𝄞" * 4, "𝄞" * 4, "𝄞"]
    assert pieces("\n" * 50 + "word", 20) == ["\n" * 10 + "word"]
    assert pieces("", 20) == []


def test_a_piece_has_room_for_a_character() -> None:
    with pytest.raises(ValueError, match="at least 16 bytes, got 15"):
        cut_text("text", 15)
