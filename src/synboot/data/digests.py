"""Digests that stand for ids and texts: sixteen bytes each, held in one block."""

from __future__ import annotations

import hashlib

DIGEST_BYTES = 16

_FREE = bytes(DIGEST_BYTES)
_FIRST_SLOTS = 1 << 10


def digest(text: str) -> bytes:
    """16 bytes of BLAKE2b; two texts of 10^9 share one with odds of about 10^-21."""
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


class Digests:
    """A set of digests that holds 24 to 48 bytes for each, 72 while it grows (a set: 110)."""

    def __init__(self) -> None:
        self._table = bytearray(DIGEST_BYTES * _FIRST_SLOTS)
        self._num_slots = _FIRST_SLOTS
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: bytes) -> bool:
        place = self._place(key)
        return self._table[place : place + DIGEST_BYTES] == key

    def add(self, key: bytes) -> None:
        """Put `key` in, if it is not there."""
        place = self._place(key)
        if self._table[place : place + DIGEST_BYTES] == key:
            return
        self._table[place : place + DIGEST_BYTES] = key
        self._count += 1
        if 3 * self._count > 2 * self._num_slots:
            self._grow()

    def _place(self, key: bytes) -> int:
        """Where `key` stands in the table, or would."""
        table, last = self._table, self._num_slots - 1
        slot = int.from_bytes(key[:8], "little") & last
        while True:
            place = slot * DIGEST_BYTES
            there = table[place : place + DIGEST_BYTES]
            if there in (key, _FREE):
                return place
            slot = (slot + 1) & last

    def _grow(self) -> None:
        old = self._table
        self._num_slots *= 2
        self._table = bytearray(DIGEST_BYTES * self._num_slots)
        for start in range(0, len(old), DIGEST_BYTES):
            key = bytes(old[start : start + DIGEST_BYTES])
            if key != _FREE:
                place = self._place(key)
                self._table[place : place + DIGEST_BYTES] = key
