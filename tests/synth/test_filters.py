from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from synboot.core.verdict import KEEP, Drop, Verdict, judge
from synboot.synth.filters import (
    CorpusWindows,
    Draft,
    EarlierDraws,
    TextFilterConfig,
    bare,
    repetition,
    text_filters,
)


def numbered_words(start: int, count: int, name: str = "w") -> str:
    return " ".join(f"{name}{i}" for i in range(start, start + count))


SEED = numbered_words(0, 40, "seed") + "."
CORPUS = [SEED, numbered_words(0, 40, "other") + "!", "A short one.", "Ångström, naïve: 你好。"]
FRESH = numbered_words(0, 40, "fresh")
FILTERS = ("unfinished", "invalid_utf8", "too_short", "repetition", "seed_copy", "corpus_duplicate")


def draft(
    text: str | None = FRESH,
    *,
    tokens: int | list[int] = 50,
    finish_reason: str = "end",
    seed_text: str = SEED,
) -> Draft:
    ids = list(range(tokens)) if isinstance(tokens, int) else tokens
    return Draft(np.array(ids, dtype=np.int64), text, finish_reason, seed_text)


def verdict(candidate: Draft, corpus: list[str] | None = None, **thresholds: object) -> Verdict:
    config = TextFilterConfig.model_validate(thresholds)
    return judge(
        candidate, text_filters(config, CorpusWindows(CORPUS if corpus is None else corpus))
    )


def test_a_new_text_is_kept() -> None:
    assert verdict(draft()) == KEEP
    assert verdict(draft("你好世界。再见!"), min_tokens=1) == KEEP


def test_unfinished() -> None:
    cut = draft(finish_reason="length")
    assert verdict(cut) == Drop("unfinished", 50.0)
    assert verdict(cut, keep_unfinished=True) == KEEP


def test_invalid_utf8() -> None:
    assert verdict(draft(None)) == Drop("invalid_utf8", 1.0)
    # An unfinished text that broke off within a character is no text either.
    assert verdict(draft(None, finish_reason="length"), keep_unfinished=True) == Drop(
        "invalid_utf8", 1.0
    )


def test_too_short_at_its_edge_and_without_ink() -> None:
    assert verdict(draft(tokens=8)) == KEEP
    assert verdict(draft(tokens=7)) == Drop("too_short", 7.0)
    assert verdict(draft(tokens=0, text="")) == Drop("too_short", 0.0)
    assert verdict(draft(tokens=3), min_tokens=3) == KEEP
    for blank in ("", " \t\n ", "\u3000\u00a0"):
        assert verdict(draft(blank), min_tokens=1) == Drop("too_short", 50.0)


def test_repetition_values() -> None:
    assert repetition([]) == repetition([1, 1, 1]) == 0.0
    assert repetition([1, 1, 1, 1]) == 0.0  # one window
    assert repetition([1] * 5) == 0.5
    assert repetition([1] * 103) == pytest.approx(0.99)
    assert repetition(range(100)) == 0.0
    assert repetition([*range(10), *range(10)]) == 7 / 17
    assert repetition(np.array([7, 7, 7, 7, 7], dtype=np.uint16)) == 0.5


@given(st.lists(st.integers(0, 2), max_size=40))
def test_repetition_is_the_share_of_windows_seen_before(tokens: list[int]) -> None:
    seen: list[list[int]] = []
    repeats = 0
    for i in range(len(tokens) - 3):
        repeats += tokens[i : i + 4] in seen
        seen.append(tokens[i : i + 4])
    assert repetition(tokens) == pytest.approx(repeats / len(seen) if seen else 0.0)


def test_repetitive_at_its_edge() -> None:
    fifth = [1] * 5 + [2, 3, 4]  # five windows, one of them twice
    assert verdict(draft(tokens=[1] * 5), min_tokens=1) == KEEP  # at most one half
    assert verdict(draft(tokens=[1] * 6), min_tokens=1) == Drop("repetition", 2 / 3)
    assert verdict(draft(tokens=[1] * 6), min_tokens=1, max_repetition=2 / 3) == KEEP
    assert verdict(draft(tokens=fifth), max_repetition=0.2) == KEEP
    assert verdict(draft(tokens=fifth), max_repetition=0.19) == Drop("repetition", 0.2)
    assert verdict(draft(tokens=[1] * 500), max_repetition=1.0) == KEEP


def test_seed_copy_up_to_case_space_and_punctuation() -> None:
    copies = [
        SEED,
        SEED.upper(),
        SEED.replace(" ", "\n\n"),
        "«" + SEED.replace(" ", ", ") + "»",
        SEED.replace(" ", "_"),
        SEED.replace(" ", ""),
    ]
    for copy in copies:
        assert verdict(draft(copy), corpus=[]) == Drop("seed_copy", 1.0)
    german = draft("STRASSE nach Köln", seed_text="Straße, nach KÖLN!")
    assert verdict(german, corpus=[]) == Drop("seed_copy", 1.0)
    chinese = draft("你好世界", seed_text="你好,世界。")
    assert verdict(chinese, corpus=[]) == Drop("seed_copy", 1.0)


def test_seed_overlap_at_its_edge() -> None:
    # A draft of 24 words has 12 windows; n words of the seed at its front have n - 12 of them.
    def quoting(words: int) -> Draft:
        return draft(numbered_words(0, words, "seed") + " " + numbered_words(0, 24 - words))

    assert verdict(quoting(18)) == KEEP  # 6 of 12 windows
    assert verdict(quoting(19)) == Drop("seed_copy", 7 / 12)
    assert verdict(quoting(19), max_seed_overlap=7 / 12) == KEEP
    assert verdict(quoting(13), max_seed_overlap=0.0) == Drop("seed_copy", 1 / 12)
    assert verdict(quoting(12), max_seed_overlap=0.0, max_corpus_overlap=0.0) == KEEP


def test_corpus_duplicate_and_overlap_at_its_edge() -> None:
    other = CORPUS[1]
    assert verdict(draft(other.title() + "?")) == Drop("corpus_duplicate", 1.0)
    assert verdict(draft("a SHORT one"), min_tokens=1) == Drop("corpus_duplicate", 1.0)
    assert verdict(draft("ÅNGSTRÖM naïve 你好"), min_tokens=1) == Drop("corpus_duplicate", 1.0)
    # An exact copy is dropped at any threshold.
    assert verdict(draft(other), max_corpus_overlap=1.0) == Drop("corpus_duplicate", 1.0)

    # 22 words have 10 windows: 20 of another document's give 8 of them, 21 give 9.
    def quoting(words: int) -> Draft:
        return draft(numbered_words(0, words, "other") + " " + numbered_words(0, 22 - words))

    assert verdict(quoting(20)) == KEEP
    assert verdict(quoting(21)) == Drop("corpus_duplicate", 0.9)
    # Pieces of several documents count together.
    mixed = f"{numbered_words(0, 19, 'seed')} {numbered_words(0, 40, 'other')}"
    found = verdict(draft(mixed, seed_text="nothing of it"), max_corpus_overlap=0.7)
    assert found == Drop("corpus_duplicate", (7 + 28) / 47)


def test_below_13_words() -> None:
    """A text of fewer than 13 words has one window, all of it; a piece of the seed is seen all the
    same, a piece of another document is not."""
    piece = numbered_words(0, 12, "seed")
    assert verdict(draft(piece)) == Drop("seed_copy", 1.0)
    assert verdict(draft(piece.title() + "!"), max_seed_overlap=1.0) == Drop("seed_copy", 1.0)
    assert verdict(draft(numbered_words(0, 12, "other"))) == KEEP
    # A long text that quotes a short seed whole is more than a copy of it.
    assert verdict(draft(piece + " and then: " + FRESH, seed_text=piece), corpus=[]) == KEEP
    assert verdict(draft(piece.upper(), seed_text=piece), corpus=[]) == Drop("seed_copy", 1.0)


def test_an_empty_corpus_and_an_empty_seed() -> None:
    assert verdict(draft(seed_text=""), corpus=[]) == KEEP
    assert verdict(draft(), corpus=[""]) == KEEP
    assert verdict(draft("?!", seed_text="..."), corpus=[]) == Drop("too_short", 50.0)


def test_the_cheapest_reason_comes_first() -> None:
    """A draft with every fault is dropped for them in the order of FILTERS."""
    faults: dict[str, Callable[[], Draft]] = {
        "unfinished": lambda: draft(None, tokens=[1] * 6, finish_reason="length"),
        "invalid_utf8": lambda: draft(None, tokens=[1] * 6),
        "too_short": lambda: draft(SEED, tokens=[1] * 6),
        "repetition": lambda: draft(SEED, tokens=[1] * 60),
        "seed_copy": lambda: draft(SEED),
        "corpus_duplicate": lambda: draft(CORPUS[1]),
    }
    assert tuple(faults) == FILTERS
    for reason, make in faults.items():
        found = verdict(make())
        assert isinstance(found, Drop)
        assert found.reason == reason


def test_filters_are_pure() -> None:
    checks = text_filters(TextFilterConfig(), CorpusWindows(CORPUS))
    drafts = [draft(), draft(SEED), draft(CORPUS[1]), draft(None), draft(tokens=[1] * 60)]
    first = [judge(one, checks) for one in drafts]
    assert [judge(one, checks) for one in reversed(drafts)][::-1] == first


def test_earlier_draws() -> None:
    earlier = EarlierDraws(0.8)
    assert earlier(FRESH) == KEEP
    assert earlier(FRESH.upper() + "...") == Drop("draw_duplicate", 1.0)
    assert earlier(numbered_words(0, 40, "another")) == KEEP
    # 22 words, 10 windows, from two earlier draws.
    assert earlier(numbered_words(0, 20, "fresh") + " x y") == KEEP
    assert earlier(numbered_words(5, 21, "another") + " z") == Drop("draw_duplicate", 0.9)
    # What was dropped is no earlier draw: its last window is still unknown.
    assert earlier(numbered_words(14, 12, "another") + " z") == KEEP


def test_earlier_draws_of_short_and_wordless_texts() -> None:
    earlier = EarlierDraws(0.0)
    assert earlier("hello there") == KEEP
    assert earlier("Hello, there!") == Drop("draw_duplicate", 1.0)
    assert earlier("hello there world") == KEEP
    assert earlier("?!") == KEEP
    assert earlier("...") == Drop("draw_duplicate", 1.0)
    assert EarlierDraws(1.0)("a") == KEEP


def test_bare() -> None:
    assert bare("  A_b—C\t1! ") == "abc1"
    assert bare("Straße") == bare("STRASSE") == "strasse"
    assert bare("\ud800x") == "x"  # a lone surrogate is no word character
    assert re.search(r"[\W_]", bare("Ça, et là: 你好。")) is None


@pytest.mark.parametrize(
    "values",
    [
        {"min_tokens": 0},
        {"max_repetition": 1.5},
        {"max_seed_overlap": -0.1},
        {"max_draw_overlap": math.inf},
        {"max_corpus_overlaps": 0.5},
    ],
)
def test_thresholds_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        TextFilterConfig.model_validate(values)
