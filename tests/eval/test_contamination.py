from __future__ import annotations

import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from synboot.data.ngrams import WINDOW_WORDS
from synboot.eval.contamination import MIN_WORDS, find_windows, item_windows

letters = st.lists(st.sampled_from("ab"), max_size=30).map(" ".join)


def runs(text: str, size: int) -> set[tuple[str, ...]]:
    found = [word.casefold() for word in re.findall(r"\w+", text)]
    return {tuple(found[i : i + size]) for i in range(len(found) - size + 1)}


def by_sets(item: str, texts: list[str]) -> bool | None:
    """Whether an item is contaminated, slow and obvious; None where it cannot be judged."""
    length = len(re.findall(r"\w+", item))
    if length < MIN_WORDS:
        return None
    size = min(length, WINDOW_WORDS)
    return any(runs(item, size) & runs(text, size) for text in texts)


@settings(deadline=None)
@given(items=st.lists(letters, max_size=12), texts=st.lists(letters, max_size=6))
def test_equals_python_sets(items: list[str], texts: list[str]) -> None:
    windows = item_windows(items)
    found = windows.per_item(find_windows(windows, texts)) > 0
    expected = [by_sets(item, texts) for item in items]
    assert windows.judged.tolist() == [own is not None for own in expected]
    assert found.tolist() == [bool(own) for own in expected]


def test_case_and_punctuation_aside_and_across_lines() -> None:
    words = [f"w{n}" for n in range(20)]
    text = "before. " + ", ".join(words).upper() + "\nafter"
    items = [
        " ".join(words[3:16]),  # 13 words
        " ".join(words[3:11]),  # 8 words, all of them
        " ".join(words[3:10]),  # 7 words: too short
        " ".join([*words[:12], "x"]),  # 12 of its 13 words only
        " ".join(["x", *words[:13], "y"]),  # one window of three
        " ".join([*words[:4], *words[5:9]]),  # 8 words, not one after the other
    ]
    windows = item_windows(items)
    found = windows.per_item(find_windows(windows, [text]))
    assert found.tolist() == [1, 1, 0, 0, 1, 0]
    assert windows.judged.tolist() == [True, True, False, True, True, True]
    assert windows.per_item(np.ones(len(windows.items), bool)).tolist() == [1, 1, 0, 1, 3, 1]


def test_a_short_training_text_is_no_window_of_a_longer_item() -> None:
    item = " ".join(f"w{n}" for n in range(13))
    windows = item_windows([item])
    assert not find_windows(windows, [" ".join(f"w{n}" for n in range(9))]).any()
    assert find_windows(windows, iter([item])).all()


def test_nothing_to_look_for() -> None:
    for items in ([], ["too short"]):
        windows = item_windows(items)
        assert not find_windows(windows, ["some text"]).any()
        assert windows.judged.tolist() == [False] * len(items)
