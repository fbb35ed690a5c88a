"""What a text repeats: itself, or another text up to case, white space and punctuation.

Nothing here knows a language: a share of windows, and letters alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

REPETITION_WINDOW = 4
"""Tokens, or words, whose second coming counts as repetition."""

_BARE = re.compile(r"[\W_]+")


def repetition(tokens: Iterable[int]) -> float:
    """Share of 4-token windows that stood in the text before; 0.0 for fewer than 4 tokens."""
    sequence = [int(token) for token in tokens]
    windows = list(zip(*(sequence[i:] for i in range(REPETITION_WINDOW)), strict=False))
    return (len(windows) - len(set(windows))) / len(windows) if windows else 0.0


def bare(text: str) -> str:
    """The text without case, white space and punctuation."""
    return _BARE.sub("", text.casefold())


def bare_digest(text: str) -> bytes:
    """16 bytes that stand for the bare text."""
    return hashlib.blake2b(bare(text).encode("utf-8", "surrogatepass"), digest_size=16).digest()
