"""Near duplicates found by signatures are those of Python sets.

Signatures are keyed and the texts fixed, so no test can fail by chance from run to run. Over
random seeds, a pair at the threshold of 0.8 would be missed with odds of 5e-8, which for the 200
pairs here is 1e-5 in all.
"""

from __future__ import annotations

import numpy as np
import pytest

from synboot.core.rng import rng
from synboot.data.minhash import (
    BANDS,
    ROWS,
    candidate_pairs,
    duplicate_rate,
    near_duplicates,
    signatures,
)
from synboot.data.ngrams import Windows, reference_windows, windows_of

N = 3


def texts_with_copies() -> list[str]:
    """Texts of 80 words; every third is an earlier one with up to 12 words replaced."""
    texts: list[list[str]] = []
    for i in range(240):
        random = rng("minhash texts", i)
        words = [f"w{j}" for j in random.integers(0, 5000, 80).tolist()]
        if i % 3 == 2:
            words = list(texts[int(random.integers(i))])
            for place in random.integers(0, 80, i // 3 % 13).tolist():
                words[place] = f"new{i}"
        texts.append(words)
    return [" ".join(words) for words in texts] + ["", "...", "short one", "Short, one!"]


TEXTS = texts_with_copies()


def jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    return len(a & b) / len(a | b) if a and b else 0.0


def all_similarities() -> dict[tuple[int, int], float]:
    sets = [reference_windows(text, N) for text in TEXTS]
    return {
        (i, j): jaccard(sets[i], sets[j])
        for i in range(len(TEXTS))
        for j in range(i + 1, len(TEXTS))
    }


SIMILARITIES = all_similarities()


@pytest.mark.parametrize("min_similarity", [0.8, 0.9, 1.0])
def test_pairs_are_those_of_sets(min_similarity: float) -> None:
    first, second = near_duplicates(windows_of(TEXTS, N), min_similarity=min_similarity, seed=0)
    expected = {pair for pair, s in SIMILARITIES.items() if s >= min_similarity}
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == expected
    assert len(expected) > 4


def test_the_rate_counts_documents() -> None:
    expected = {i for pair, s in SIMILARITIES.items() if s >= 0.8 for i in pair}
    found = duplicate_rate(TEXTS, n=N, seed=1)
    assert (found.documents, found.duplicates) == (len(TEXTS), len(expected))
    assert found.rate == len(expected) / len(TEXTS)
    assert len(TEXTS) - 1 in expected  # the two short ones
    assert duplicate_rate([]).rate == duplicate_rate(["", "!"]).rate == 0.0


def test_agreement_of_signatures_estimates_jaccard() -> None:
    """Mean error over pairs; each has a standard error of at most 0.045, so that the mean of 80 is
    off by 0.025 with odds below 1e-6 were signatures drawn anew."""
    signature = signatures(windows_of(TEXTS, N), seed=0)
    assert signature.shape == (len(TEXTS), BANDS * ROWS)
    related = [(pair, s) for pair, s in SIMILARITIES.items() if 0.2 < s < 1]
    assert len(related) >= 40
    errors = [np.mean(signature[i] == signature[j]) - s for (i, j), s in related]
    assert abs(np.mean(errors)) < 0.025
    assert np.std(errors) < 0.06


def test_a_crowd_makes_few_candidates_and_all_are_duplicates() -> None:
    texts = ["one and the same text of several words"] * 500
    windows = windows_of(texts, N)
    first, _ = candidate_pairs(signatures(windows, seed=0), windows.sizes > 0)
    assert len(first) < 33 * len(texts)
    assert duplicate_rate(texts, n=N).rate == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_copies_do_not_hide_a_duplicate(seed: int) -> None:
    """Texts of a boilerplate and one word: thirty different ones, two that share it, and in between
    a hundred copies of one. Nearly all agree in nearly every band."""
    boilerplate = " ".join(f"w{i}" for i in range(500))
    texts = [f"{boilerplate} own{i}" for i in range(30)]
    texts += [f"{boilerplate} same", *[f"{boilerplate} copied"] * 100, f"{boilerplate} same more"]
    found = duplicate_rate(texts, min_similarity=499 / 500, n=N, seed=seed)
    assert found.duplicates == 102
    assert duplicate_rate(texts, min_similarity=499.5 / 500, n=N, seed=seed).duplicates == 100


def test_a_similarity_of_just_the_threshold_counts() -> None:
    """7 of 10 is a similarity of 0.7, and 0.55 x 100 is more than 55 in floats."""
    for share, size in ((0.7, 10), (0.8, 35), (0.55, 100), (0.57, 100), (0.83, 100)):
        shared = round(share * size)
        hashes = rng("threshold").integers(0, 2**64, size, np.uint64)
        sets = [np.sort(hashes), np.sort(hashes[:shared])]
        windows = Windows(np.concatenate(sets), np.array([0, size, size + shared]))
        first, _ = near_duplicates(windows, min_similarity=share, seed=1)
        assert len(first) == 1, (share, size)
