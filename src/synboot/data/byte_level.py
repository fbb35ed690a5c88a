"""Byte-level BPE by tiktoken, where its ids are proven to be those of `tokenizers`.

tiktoken cuts a text into pieces by a regular expression and merges what no token is. Two things
make it the same and fast here. Look-ahead, which costs it most of its time and overflows its stack
on long white space, is done beforehand: `MARK`, which no piece may hold, stands wherever the last
character of white space is cut off the rest. And texts go through it together, with `END` between.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tiktoken
from tokenizers import Regex, pre_tokenizers

_MARK, _END = "\0", "\1"
"""Texts that have one of them are left to `tokenizers`."""
_SPACE, _LINE_BREAK, _TEXT_END = 1, 2, 4
_CHUNK = 1 << 17  # characters that are encoded together

_SPACES = (*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B))
_SPACES += (0x2028, 0x2029, 0x202F, 0x205F, 0x3000)
_ENDS = r"\x00\x01"
_WORDS = rf"'(?:[sdmt]|ll|ve|re)| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}{_ENDS}]+|\s+|\x01"
_LINES = (
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}{_ENDS}]?\p{{L}}+|\p{{N}}{{DIGITS}}"
    rf"| ?[^\s\p{{L}}\p{{N}}{_ENDS}]+[\r\n]*|\s*[\r\n]+|\s+|\x01"
)
_LINES_OF = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{DIGITS}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2 = "GPT-2"
PATTERNS = {GPT2: _WORDS} | {
    _LINES_OF.replace("{DIGITS}", digits): _LINES.replace("{DIGITS}", digits)
    for digits in ("", "{1,3}")  # Qwen 2 and 3; Llama 3
}
"""Regular expressions of published tokenizers, and the same without look-ahead."""

_NEWEST = "\U00011d50\u0560\U00011da0\ua7ba\ua7c7\U00011950\ua7c0\U0001e4d0\U00011f50\U0002ebf0"
_NEWEST += "\ua7cb\U00010d40\U0001e5f1\ua7ce\U000323b0\U00011de0"
"""Letters and digits of Unicode 10 to 17, which tell its versions apart."""


class ByteLevelEncoder:
    """Encodes texts as `tokenizers` would. Thread-safe."""

    def __init__(
        self,
        pattern: str,
        ranks: Mapping[bytes, int],
        ids: np.ndarray,
        *,
        odd: str | None,
        before_lines: bool,
    ) -> None:
        """`ids`: int64 [ranks], the id of each rank; `odd`: what a text may not hold;
        `before_lines`: white space is also cut before a last line break."""
        self._encoding = tiktoken.Encoding(
            "synboot",
            pat_str=pattern,
            mergeable_ranks=dict(ranks),
            special_tokens={_MARK * 2: len(ranks)},  # without any, it looks at every character
        )
        self._ids = ids
        self._end = ranks[_END.encode()]
        self._odd = None if odd is None else re.compile(odd)
        self._kinds = np.zeros(_SPACES[-1] + 2, dtype=np.uint8)
        self._kinds[list(_SPACES)] = _SPACE
        self._kinds[ord(_END)] = _TEXT_END
        self._kinds[[0x0A, 0x0D]] = _SPACE if before_lines else _LINE_BREAK

    def knows(self, text: str) -> bool:
        """Whether the ids of `text` are proven to be those of `tokenizers`."""
        if _MARK in text or _END in text:
            return False
        return self._odd is None or self._odd.search(text) is None

    def encode(self, texts: Sequence[str], end_id: int) -> list[np.ndarray]:
        """Token ids of texts that it knows, int64, `end_id` after each. Raises UnicodeEncodeError
        for a surrogate."""
        encode = functools.partial(self._chunk, end_id=end_id)
        chunks = list(_chunks(texts))
        if len(chunks) > 1 and (threads := _threads()) > 1:
            with ThreadPoolExecutor(threads) as pool:
                return [ids for chunk in pool.map(encode, chunks) for ids in chunk]
        return [ids for chunk in map(encode, chunks) for ids in chunk]

    def _chunk(self, texts: Sequence[str], end_id: int) -> list[np.ndarray]:
        text = self._marked(_END.join([*texts, ""]))
        ranks = self._encoding.encode_to_numpy(text, disallowed_special=())
        ends = np.flatnonzero(ranks == self._end)
        ids = self._ids[ranks]
        ids[ends] = end_id
        stops = (ends + 1).tolist()
        return [ids[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]

    def _marked(self, text: str) -> str:
        codec, dtype = ("ascii", np.uint8) if text.isascii() else ("utf-32-le", np.uint32)
        codes = np.frombuffer(text.encode(codec), dtype=dtype)
        kinds = self._kinds[codes if codec == "ascii" else np.minimum(codes, len(self._kinds) - 1)]
        cut = (kinds[:-2] & (_SPACE | _LINE_BREAK) != 0) & (kinds[1:-1] == _SPACE)
        places = np.flatnonzero(cut & (kinds[2:] == 0)) + 1
        return np.insert(codes, places, ord(_MARK)).tobytes().decode(codec) if len(places) else text


def byte_level_encoder(layout: Mapping[str, Any]) -> ByteLevelEncoder | None:
    """The encoder of a tokenizer.json, None where its ids could differ: it is no plain byte-level
    BPE, cuts text by an unknown expression, or its merges depend on more than their order."""
    pattern = _pattern(layout["pre_tokenizer"])
    normalizer = (layout["normalizer"] or {"type": None})["type"]
    if pattern not in PATTERNS or normalizer not in (None, "NFC") or not _same_unicode():
        return None
    found = merge_ranks(layout["model"])
    if found is None:
        return None
    plain = [re.escape(t["content"]) for t in layout["added_tokens"] if not t["special"]]
    odd = plain if normalizer is None else [*plain, "[^\0-\u02ff]"]  # below, all text is NFC
    return ByteLevelEncoder(
        PATTERNS[pattern], *found, odd="|".join(odd) or None, before_lines=pattern == GPT2
    )


def _pattern(steps: Mapping[str, Any] | None) -> str | None:
    """The regular expression by which text is cut, if nothing else is done before merging."""
    match steps:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return GPT2
        case {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": str(pattern)},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return pattern
    return None


def merge_ranks(model: Mapping[str, Any]) -> tuple[dict[bytes, int], np.ndarray] | None:
    """The rank of every token by its bytes, and the ids (int64) in this order.

    `tokenizers` merges pairs of tokens, tiktoken whatever two tokens make a third. Up to any merge
    both come to the same, since a token's bytes, where no other token reaches into them, are merged
    as if they stood alone: one pair makes the token there, and no other pair of the same bytes is
    ever met. None where that is not so, since a pair comes before the merges that make its halves;
    where a byte has no token; or where the model does something else.
    """
    plain = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    if model["type"] != "BPE" or any(model.get(name) for name in plain):
        return None
    pairs = [tuple(p.split(" ")) if isinstance(p, str) else tuple(p) for p in model["merges"]]
    characters = byte_characters()
    ranks = {character: rank for rank, character in enumerate(characters)}
    vocabulary = model["vocab"]
    if len(set(pairs)) < len(pairs) or not ranks.keys() <= vocabulary.keys():
        return None
    halves: dict[str, tuple[str, str]] = {}
    early = []
    for left, right in pairs:
        whole = left + right
        if whole in ranks:
            continue
        if left not in ranks or right not in ranks:
            early.append((left, right))
        elif _stay_apart(left, right, ranks, halves):
            ranks[whole] = len(ranks)
            halves[whole] = left, right
    for left, right in early:  # no harm where the whole is made before both halves are
        if {left, right} <= ranks.keys():
            last = max(ranks[left], ranks[right])
            if ranks.get(left + right, last) >= last:
                return None
    if model.get("ignore_merges"):
        whole_only = [t for t in vocabulary if t not in ranks and _is_bytes(t, characters)]
        if any(_is_two(token, ranks) for token in whole_only):
            return None
        ranks |= {token: len(ranks) + place for place, token in enumerate(whole_only)}
    ids = np.array([vocabulary[token] for token in ranks], dtype=np.int64)
    return {bytes(map(characters.__getitem__, token)): r for token, r in ranks.items()}, ids


def _stay_apart(
    left: str, right: str, ranks: Mapping[str, int], halves: Mapping[str, tuple[str, str]]
) -> bool:
    """Whether two tokens side by side are made as if each stood alone. Goes back through the
    tokens that touch, the latest first, each with the rank that took it up."""
    left_until = right_until = len(ranks)
    while left in halves or right in halves:
        if ranks[left] > ranks[right]:
            left_until, left = ranks[left], halves[left][1]
        else:
            right_until, right = ranks[right], halves[right][0]
        rank = ranks.get(left + right, len(ranks))
        if rank < left_until and rank <= right_until and rank < len(ranks):  # leftmost goes first
            return False
    return True


def _is_bytes(token: str, characters: Mapping[str, int]) -> bool:
    return token != "" and all(character in characters for character in token)


def _is_two(token: str, ranks: Mapping[str, int]) -> bool:
    """Whether a token that no merge makes is cut in two, which tiktoken would put together."""
    parts = [*token]
    while len(parts) > 2:
        merged = [ranks.get(a + b, len(ranks)) for a, b in itertools.pairwise(parts)]
        if min(merged) == len(ranks):
            return False
        place = merged.index(min(merged))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return True


@functools.cache
def _same_unicode() -> bool:
    """Whether both libraries know the same letters and digits."""
    every_byte = {bytes([byte]): byte for byte in range(256)}
    for kind in (r"\p{L}", r"\p{N}"):
        found = tiktoken.Encoding(
            "probe", pat_str=kind, mergeable_ranks=every_byte, special_tokens={}
        ).encode_ordinary(_NEWEST)
        others = pre_tokenizers.Split(Regex(kind), "removed").pre_tokenize_str(_NEWEST)
        rest = {character for piece, _ in others for character in piece}
        if bytes(found).decode() != "".join(c for c in _NEWEST if c not in rest):
            return False
    return True


def _chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Texts in order, in runs of about `_CHUNK` characters."""
    start = size = 0
    for place, text in enumerate(texts):
        size += len(text)
        if size >= _CHUNK:
            yield texts[start : place + 1]
            start, size = place + 1, 0
    if start < len(texts):
        yield texts[start:]


def _threads() -> int:
    """As `tokenizers`: one or all, by the variable that it reads."""
    if os.environ.get("TOKENIZERS_PARALLELISM", "").lower() in ("false", "0", "off", "f", "n"):
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def byte_characters() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character: bytes that print stand for
    themselves, the others take the code points from 256 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + place): byte for place, byte in enumerate(hidden)}
