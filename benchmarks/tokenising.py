"""Text to token ids with a tokenizer of our own: MB of UTF-8 a second, beside `tokenizers`.

The limit is the same way without a single merge: every piece that the expression cuts is a token.
Beside `tokenizers` (its fast batches, on as many threads) stands tiktoken as one would call it: a
text at a time, with the expression of GPT-2 that it has itself.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import tiktoken
from tokenizers import Tokenizer

from benchmarks.harness import Result, Setting, compare, note, paired
from benchmarks.texts import accented, unspaced
from synboot.data.byte_level import GPT2, PATTERNS, ByteLevelEncoder, merge_ranks
from synboot.data.tokenizer import TextTokenizer, train_tokenizer
from synboot.worlds.pydocs import python_documents

VOCAB_SIZE = 8192
_PUBLISHED = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


def run(setting: Setting) -> list[Result]:
    """Documentation of Python, accented words, and text without spaces."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if setting.threads > 1 else "false"
    num_bytes = 300_000 if setting.quick else 2_000_000
    texts = {
        "pydocs": _limited([d["text"] for d in python_documents()], num_bytes),
        "accented": accented(num_bytes),
        "unspaced": unspaced(num_bytes),
    }
    results: list[Result] = []
    for case, documents in texts.items():
        note(f"tokenising: {case}")
        results += _measure(case, documents, rounds=3 if setting.quick else 7)
    return results


def _measure(case: str, texts: list[str], rounds: int) -> list[Result]:
    ours = train_tokenizer(texts, VOCAB_SIZE)
    with tempfile.TemporaryDirectory() as directory:
        ours.save(Path(directory))
        theirs = Tokenizer.from_file(f"{directory}/tokenizer.json")
        ours = TextTokenizer.load(Path(directory))
    theirs.encode_special_tokens = True
    taken = merge_ranks(json.loads(theirs.to_str())["model"])
    assert taken is not None
    plain = tiktoken.Encoding(
        "plain", pat_str=_PUBLISHED, mergeable_ranks=taken[0], special_tokens={}
    )
    expected = [encoding.ids for encoding in theirs.encode_batch(texts, add_special_tokens=False)]
    assert [ids.tolist() for ids in ours.encode(texts)] == expected
    bare = _without_merges(theirs, texts)
    seconds = paired(
        {
            "ours": lambda: ours.encode(texts),
            "tokenizers": lambda: [
                encoding.ids
                for encoding in theirs.encode_batch_fast(texts, add_special_tokens=False)
            ],
            "tiktoken, a text at a time": lambda: [plain.encode_ordinary(text) for text in texts],
            "limit": lambda: bare.encode(texts, 0),
        },
        rounds,
    )
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    speeds = {name: megabytes / value for name, value in seconds.items()}
    return compare("tokenising", case, speeds, unit="MB/s", limit="limit")


def _without_merges(tokenizer: Tokenizer, texts: list[str]) -> ByteLevelEncoder:
    """An encoder for which every piece of `texts` is a token."""
    pieces = {
        text[start:stop].encode()
        for text in texts
        for _, (start, stop) in tokenizer.pre_tokenizer.pre_tokenize_str(text)
    }
    every = [bytes([byte]) for byte in range(256)]
    ranks = {piece: rank for rank, piece in enumerate(dict.fromkeys([*every, *sorted(pieces)]))}
    ids = np.arange(len(ranks))
    return ByteLevelEncoder(PATTERNS[GPT2], ranks, ids, odd=None, before_lines=True)


def _limited(texts: list[str], num_bytes: int) -> list[str]:
    sizes = np.cumsum([len(text.encode()) for text in texts])
    return texts[: int(np.searchsorted(sizes, num_bytes)) + 1]
