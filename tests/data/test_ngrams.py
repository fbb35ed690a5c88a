"""Hashed windows agree with Python sets (law 10).

The only way for the parity tests to fail without a bug is a collision of 64-bit hashes: below
1e-14 for the few hundred windows of an example, below 1e-10 for the 30,000 of the long text.
"""

import hashlib
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synboot.data.ngrams import overlap, reference_windows, share_found, window_hashes, words

MASK = (1 << 64) - 1
GOLDEN = [6621512494266603761, 6744246067153677296]

# Few words and many repeats, so that windows often coincide within and between texts.
TEXTS = st.lists(st.sampled_from(["a", "B", "b", "ß", "SS", "c_1", "-", "\n"]), max_size=60).map(
    " ".join
)
SIZES = st.integers(1, 14)


def reference_hash(window: tuple[str, ...]) -> int:
    """The formula of `window_hashes` in Python's own integers."""
    base = 0x9E3779B97F4A7C1B
    value = len(window) * 0xD1B54A32D192ED03
    for word in window:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        value = value * base + int.from_bytes(digest, "little") & MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
    return value ^ value >> 31


def test_words_are_case_folded_runs_of_word_characters() -> None:
    assert words("Die STRASSE, die Straße!\tnaïve_2; 北京") == [
        "die", "strasse", "die", "strasse", "naïve_2", "北京"
    ]  # fmt: skip
    assert words(" ... !?") == []


def test_reference_windows_by_hand() -> None:
    assert reference_windows("one two three two", 2) == {
        ("one", "two"),
        ("two", "three"),
        ("three", "two"),
    }
    assert reference_windows("One two", 13) == {("one", "two")}
    assert reference_windows("!", 13) == set()


@given(TEXTS, SIZES)
def test_hashes_are_those_of_the_reference_windows(text: str, n: int) -> None:
    hashes = window_hashes(text, n)
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == sorted(reference_hash(w) for w in reference_windows(text, n))


@given(st.text(max_size=200), SIZES)
def test_any_text_has_as_many_hashes_as_windows(text: str, n: int) -> None:
    hashes = window_hashes(text, n)
    assert len(hashes) == len(reference_windows(text, n))
    assert np.all(hashes[1:] > hashes[:-1])


@given(TEXTS, TEXTS, SIZES)
def test_overlap_and_share_are_those_of_sets(one: str, other: str, n: int) -> None:
    a, b = reference_windows(one, n), reference_windows(other, n)
    hashed_a, hashed_b = window_hashes(one, n), window_hashes(other, n)
    expected = len(a & b) / min(len(a), len(b)) if a and b else 0.0
    assert overlap(hashed_a, hashed_b) == expected
    assert overlap(hashed_b, hashed_a) == expected
    assert share_found(hashed_a, hashed_b) == (len(a & b) / len(a) if a else 0.0)


def test_a_long_text_agrees_with_sets() -> None:
    draws = np.random.default_rng(0).integers(0, 50_000, 60_000)
    first = " ".join(f"w{i}" for i in draws[:30_000])
    second = " ".join(f"w{i}" for i in draws[20_000:])
    a, b = reference_windows(first), reference_windows(second)
    assert len(a & b) > 9_000
    assert len(window_hashes(first)) == len(a)
    assert overlap(window_hashes(first), window_hashes(second)) == len(a & b) / len(a)


def test_no_two_orders_of_words_share_a_hash() -> None:
    plain = [f"w{i}" for i in range(13)]
    seen = set(window_hashes(" ".join(plain)).tolist())
    for i, j in itertools.combinations(range(13), 2):
        swapped = list(plain)
        swapped[i], swapped[j] = swapped[j], swapped[i]
        seen |= set(window_hashes(" ".join(swapped)).tolist())
    assert len(seen) == 1 + 13 * 12 // 2


def test_windows_of_different_lengths_differ() -> None:
    texts = [" ".join(["same"] * length) for length in range(1, 14)]
    assert len({int(window_hashes(text)[0]) for text in texts}) == 13
    # A short text's window is the full window of its own length.
    assert window_hashes("a b c", 13).tolist() == window_hashes("a b c", 3).tolist()


def test_hashes_are_the_same_in_every_process() -> None:
    text = "The quick brown fox jumps over the lazy dog and then rests a while, Straße 7."
    code = (
        "import sys; from synboot.data.ngrams import window_hashes;"
        "print(window_hashes(sys.argv[1]).tolist())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, text],
        env=os.environ | {"PYTHONHASHSEED": "12345"},
        capture_output=True,
        check=True,
        text=True,
    )
    assert other.stdout.strip() == str(window_hashes(text).tolist())


def test_hashes_are_the_same_in_every_version() -> None:
    """A changed hash would leave stored windows silently unmatched."""
    assert window_hashes("synthetic bootstrapped pretraining", 2).tolist() == GOLDEN


def test_empty_sides_have_no_overlap() -> None:
    none, some = window_hashes(""), window_hashes("a b c")
    assert overlap(none, some) == overlap(some, none) == overlap(none, none) == 0.0
    assert share_found(none, some) == share_found(some, none) == 0.0


@pytest.mark.parametrize("windows", [window_hashes, reference_windows])
def test_a_window_without_words_is_refused(windows) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="at least one word"):
        windows("a b", 0)
