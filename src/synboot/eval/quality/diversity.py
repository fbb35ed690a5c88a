"""Diversity: distinct runs of words, how far text can be compressed, scripts without spaces.

Both figures fall with the amount of text, so two corpora are compared over equal amounts.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np

from synboot.data.ngrams import distinct_hashes, words_of
from synboot.eval.quality.figures import Figure

DISTINCT = (1, 2, 3, 4)
"""The lengths, in words, of runs that are counted."""
ZLIB_LEVEL = 6
_CHUNK_TEXTS = 4096
# Han, kana, Thai, Lao, Tibetan, Myanmar, Khmer: written without spaces between words.
_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)


def distinct_runs(texts: Sequence[str], num_words: int) -> Figure:
    """Distinct runs of n words over all of them, n of DISTINCT, among the first `num_words` words
    of `texts` (the last text is cut): `{"words": ..., "1": ..., "2": ...}`; None without runs."""
    words = words_of(texts)
    cut = int(np.searchsorted(words.offsets, num_words, side="left"))
    offsets = np.minimum(words.offsets[: cut + 1], num_words)
    first = type(words)(words.hashes[:num_words], offsets)
    figures: Figure = {"words": int(offsets[-1])}
    for n in DISTINCT:
        hashes, _ = first.runs(n)
        figures[str(n)] = float(distinct_hashes(hashes).size / hashes.size) if hashes.size else None
    return figures


def compression_ratio(texts: Sequence[str], num_bytes: int) -> Figure:
    """Bytes over bytes after zlib (level 6, which looks 32 KB back), of the first `num_bytes` bytes
    of `texts` as UTF-8 with a line break after each; None for no bytes."""
    compressor, size, left = zlib.compressobj(ZLIB_LEVEL), 0, num_bytes
    for start in range(0, len(texts), _CHUNK_TEXTS):
        block = "".join(f"{text}\n" for text in texts[start : start + _CHUNK_TEXTS])
        data = block.encode("utf-8", "surrogatepass")[:left]
        size += len(compressor.compress(data))
        left -= len(data)
    size += len(compressor.flush())
    done = num_bytes - left
    return {"bytes": done, "ratio": done / size if done else None}


def without_spaces(text: str) -> bool:
    """Whether at least half of the characters between white space are of scripts that write no
    spaces between words: a word of `data.ngrams` is then a whole clause."""
    if text.isascii():
        return False
    letters = sum(map(len, text.split()))
    return 2 * len(_WITHOUT_SPACES.findall(text)) >= letters > 0
