"""Randomness by key, never by global state (law 4).

The same key gives the same stream on every machine, whatever ran before and beside it.
"""

from __future__ import annotations

import hashlib

import numpy as np

Key = int | str


def key_digest(*key: Key) -> bytes:
    """16 bytes that depend on every element of `key`, on its type and on its place.

    Raises TypeError for an element that is neither int nor str: anything else would need a
    canonical form first.
    """
    hasher = hashlib.blake2b(digest_size=16)
    for element in key:
        if isinstance(element, bool) or not isinstance(element, (int, str, np.integer)):
            raise TypeError(f"a random key is made of int and str, not {type(element).__name__}")
        kind = "s" if isinstance(element, str) else "i"
        body = str(element).encode("utf-8", "surrogatepass")
        hasher.update(f"{kind}{len(body)}:".encode() + body)
    return hasher.digest()


def rng(*key: Key) -> np.random.Generator:
    """A counter-based generator (Philox) for `key`, e.g. `rng(seed, "shuffle", pass_index)`."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key_digest(*key), "little")))


def seed_for(*key: Key) -> int:
    """A 63-bit seed for libraries that take an integer (torch, scikit-learn takes its low 32)."""
    return int.from_bytes(key_digest(*key)[:8], "little") >> 1


def unit_interval(*key: Key) -> float:
    """One number in [0, 1) for `key`: cheaper than a generator where one draw is all there is."""
    return (int.from_bytes(key_digest(*key)[:7], "little") >> 3) / 2.0**53
