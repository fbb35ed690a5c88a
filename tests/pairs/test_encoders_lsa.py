from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from synboot.core.errors import BadInput
from synboot.core.rng import rng
from synboot.core.storage import describe_files
from synboot.pairs.encoders.encoder import load_encoder
from synboot.pairs.encoders.lsa import LsaEncoder
from synboot.pairs.neighbours.exact import ExactIndex

NUM_TOPICS = 8
PER_TOPIC = 6


def topic_texts() -> list[str]:
    """Documents of topics: two words in three are of the topic's own 30, the rest are shared.

    Document i has topic i modulo `NUM_TOPICS`.
    """
    shared = [f"common{i}" for i in range(60)]
    texts = []
    for index in range(NUM_TOPICS * PER_TOPIC):
        own = [f"topic{index % NUM_TOPICS}word{i}" for i in range(30)]
        random = rng(7, "topic text", index)
        pick = [own if random.random() < 2 / 3 else shared for _ in range(50)]
        texts.append(" ".join(words[random.integers(len(words))] for words in pick))
    return texts


TEXTS = topic_texts()


@pytest.fixture(scope="module")
def encoder() -> LsaEncoder:
    return LsaEncoder.fit(TEXTS, dimensions=16, seed=0)


def test_related_texts_are_nearer_than_unrelated(encoder: LsaEncoder) -> None:
    vectors = encoder.encode(TEXTS)
    similarities = vectors @ vectors.T
    topics = np.arange(len(TEXTS)) % NUM_TOPICS
    same = topics[:, None] == topics[None]
    np.fill_diagonal(same, False)
    other = topics[:, None] != topics[None]
    lowest_same = np.where(same, similarities, np.inf).min(axis=1)
    highest_other = np.where(other, similarities, -np.inf).max(axis=1)
    assert (lowest_same > highest_other).all()


def test_cosines_are_those_of_a_plain_computation() -> None:
    """TF-IDF by the written formulas and numpy's full SVD, law 10."""
    texts = TEXTS[:20]
    counts = [Counter(text.split()) for text in texts]
    words = sorted({word for count in counts for word in count})
    frequency = Counter(word for count in counts for word in count)
    idf = {word: np.log((1 + len(texts)) / (1 + frequency[word])) + 1 for word in words}
    matrix = np.array(
        [[(1 + np.log(c[w])) * idf[w] if c[w] else 0.0 for w in words] for c in counts]
    )
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    _, values, directions = np.linalg.svd(matrix, full_matrices=False)
    dimensions = 12
    assert values[dimensions - 1] > 1.001 * values[dimensions]  # else the subspace is not defined
    expected = matrix @ directions[:dimensions].T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = LsaEncoder.fit(texts, dimensions=dimensions, seed=3).encode(texts)
    assert found.shape == expected.shape
    # The randomised SVD takes a range of 22 of the 20 directions: exact up to float32.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=2e-5)


def test_saved_and_loaded_encodes_alike(encoder: LsaEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "encoder")
    assert set(describe_files(tmp_path / "encoder")) == {
        "vocabulary.json",
        "idf.npy",
        "components.npy",
    }
    texts = [*TEXTS, "topic1word3 common2 unheard", "", "Ὀδυσσεύς"]
    loaded = load_encoder("lsa", tmp_path / "encoder")
    np.testing.assert_array_equal(loaded.encode(texts), encoder.encode(texts))


def test_parts_equal_the_whole(encoder: LsaEncoder) -> None:
    whole = encoder.encode(TEXTS)
    for size in (1, 7, 47):
        parts = [encoder.encode(TEXTS[i : i + size]) for i in range(0, len(TEXTS), size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_deterministic_in_fresh_processes() -> None:
    """Neither the hash seed of strings nor global random state matters."""
    code = (
        "import hashlib, sys, numpy as np; from synboot.pairs.encoders.lsa import LsaEncoder\n"
        "np.random.seed(int(sys.argv[1])); texts = sys.stdin.read().split('|')\n"
        "vectors = LsaEncoder.fit(texts, dimensions=8, seed=5).encode(texts)\n"
        "print(hashlib.sha256(vectors.tobytes()).hexdigest())\n"
    )
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, seed],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | one_thread | {"PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    digests = [process.communicate("|".join(TEXTS), timeout=120)[0] for process in running]
    assert digests[0] == digests[1]
    assert len(digests[0].strip()) == len(hashlib.sha256().hexdigest())


def test_the_seed_is_used_and_nothing_else_random() -> None:
    first, again, other = (
        LsaEncoder.fit(TEXTS, dimensions=8, seed=seed).encode(TEXTS) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_allclose(first @ first.T, other @ other.T, atol=0.05)  # the same geometry


@pytest.mark.parametrize(
    "texts",
    [[], [""], ["", "   ", "\n"], ["a b c", "d e"], ["one"], ["one two three"], ["one", "one"]],
)
def test_too_few_documents_or_words(texts: list[str]) -> None:
    with pytest.raises(BadInput, match=r"field pairs\.encoder: lsa"):
        LsaEncoder.fit(texts, dimensions=4, seed=0)


def test_no_more_dimensions_than_the_texts_have() -> None:
    texts = ["red fish", "blue fish", "red bird", "blue bird"]
    vectors = LsaEncoder.fit(texts, dimensions=4096, seed=0).encode(texts)
    assert vectors.shape == (4, 3)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


def test_any_language_and_empty_texts() -> None:
    texts = [
        "Быстрая коричневая лиса прыгает через ленивую собаку",
        "Ленивую собаку обходит коричневая лиса",
        "敏捷的棕色狐狸跳过了懒狗。狐狸很快。",
        "懒狗睡觉。狐狸很快。",
        "الثعلب البني السريع يقفز فوق الكلب الكسول",
        "الكلب الكسول نائم",
        "🦊🦊🦊 🐶",
        "",
        " \t\n",
        "a 1 !",
        "x" * 100_000,
        "null\x00byte and \ufeff mark",
    ]
    encoder = LsaEncoder.fit(texts, dimensions=64, seed=0)
    vectors = encoder.encode(texts)
    assert np.isfinite(vectors).all()
    norms = np.linalg.norm(vectors, axis=1)
    wordless = [6, 7, 8, 9]
    np.testing.assert_array_equal(norms[wordless], 0)
    np.testing.assert_allclose(np.delete(norms, wordless), 1, rtol=1e-5)
    similarities = vectors @ vectors.T
    assert similarities[0, 1] > 0.2  # three words in common
    assert similarities[2, 3] > 0.2  # a clause in common
    assert similarities[4, 5] > 0.2
    assert abs(similarities[0, 4]) < 1e-3  # none


@pytest.mark.data
@pytest.mark.slow
def test_neighbours_of_wikipedia_sections_share_the_article() -> None:
    """Must show 7 of the first milestone: sections of one article are known to be related."""
    if "SYNBOOT_DATA" not in os.environ:
        pytest.skip("SYNBOOT_DATA is not set")
    path = Path(os.environ["SYNBOOT_DATA"]) / "enwiki_sec" / "test.parquet"
    table = pq.read_table(path, columns=["label", "text"])
    labels, texts = table["label"].to_pylist(), table["text"].to_pylist()
    assert len(texts) == 1453
    vectors = LsaEncoder.fit(texts, dimensions=512, seed=0).encode(texts)
    nearest = ExactIndex(vectors).search(0, len(texts), 1).documents[:, 0].tolist()
    sizes = Counter(labels)
    hits = [
        labels[n] == label for n, label in zip(nearest, labels, strict=True) if sizes[label] > 1
    ]
    assert len(hits) > 1000
    assert np.mean(hits) >= 0.88
