"""Invented texts for the benchmarks: no text of anyone, the same for everyone."""

from __future__ import annotations

import numpy as np

_TOPIC_WORDS = 40
_SYLLABLES = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u", "an", "er", "is")]


def _lexicon(source: np.random.Generator, size: int) -> np.ndarray:
    """Different words of one to four syllables."""
    words: dict[str, None] = {}
    while len(words) < size:
        lengths = source.integers(1, 5, size).tolist()
        for row, length in zip(source.choice(_SYLLABLES, (size, 4)).tolist(), lengths, strict=True):
            words["".join(row[:length])] = None
    return np.array(list(words)[:size])


def _zipf(source: np.random.Generator, size: int, count: int) -> np.ndarray:
    """Numbers below `size`, 0 the most frequent; int64 [count]."""
    share = np.cumsum(1 / np.arange(1, size + 1))
    return np.searchsorted(share / share[-1], source.random(count))


def topics(count: int, *, mean_words: int = 60, per_topic: int = 8, seed: int = 0) -> list[str]:
    """`count` documents, about `per_topic` of them on each topic: half of a document's words are
    of its topic, the others are everyone's. So related documents can be found."""
    source = np.random.default_rng(seed)
    common = _lexicon(source, 2000)
    num_topics = max(1, count // per_topic)
    own = source.integers(0, len(common), (num_topics, _TOPIC_WORDS))
    texts = []
    for topic in source.integers(0, num_topics, count).tolist():
        length = max(8, int(source.gamma(8, mean_words / 8)))
        general = common[_zipf(source, len(common), length)]
        special = common[own[topic, _zipf(source, _TOPIC_WORDS, length)]]
        words = np.where(source.random(length) < 0.5, special, general).tolist()
        sentences = [" ".join(words[i : i + 12]).capitalize() for i in range(0, length, 12)]
        texts.append(". ".join(sentences) + ".")
    return texts


def accented(num_bytes: int, seed: int = 0) -> list[str]:
    """About `num_bytes` of paragraphs with letters beyond ASCII and spaces that do not break."""
    source = np.random.default_rng(seed)
    letters = str.maketrans("aeiou", "äéïöü")
    words = [
        w.translate(letters) if i % 5 == 0 else w for i, w in enumerate(_lexicon(source, 20_000))
    ]
    texts: list[str] = []
    written = 0
    while written < num_bytes:
        chosen = [words[i] for i in _zipf(source, len(words), 400).tolist()]
        lines = [" ".join(chosen[i : i + 14]) for i in range(0, 400, 14)]
        texts.append(",\u00a0".join(lines[:3]) + ".\n\n" + ".\n    ".join(lines[3:]))
        written += len(texts[-1].encode())
    return texts


def unspaced(num_bytes: int, seed: int = 0) -> list[str]:
    """About `num_bytes` of text without spaces: words of one to three Han characters."""
    source = np.random.default_rng(seed)
    signs = _zipf(source, 4000, 3 * 8000).reshape(-1, 3).tolist()
    lengths = source.integers(1, 4, len(signs)).tolist()
    words = [
        "".join(chr(0x4E00 + sign) for sign in row[:length])
        for row, length in zip(signs, lengths, strict=True)
    ]
    texts: list[str] = []
    written = 0
    while written < num_bytes:
        chosen = [words[i] for i in _zipf(source, len(words), 300).tolist()]
        lines = ["".join(chosen[i : i + 12]) for i in range(0, 300, 12)]
        texts.append("。".join(lines) + "。")
        written += len(texts[-1].encode())
    return texts
