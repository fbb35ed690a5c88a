"""The token store: documents as token ids on disk, memory-mapped, addressable one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

_TOKENS = "tokens.bin"
_OFFSETS = "offsets.npy"
_BLOCK = 1 << 16


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """uint16 where every id fits, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


class TokenStore:
    """Read-only documents; `store[i]` is document i's ids (a view), its END last: `tokens` from
    `offsets[i]` to `offsets[i + 1]`."""

    def __init__(self, directory: Path) -> None:
        self.offsets: np.ndarray = np.load(directory / _OFFSETS, allow_pickle=False)
        path = directory / _TOKENS
        width = path.stat().st_size // max(int(self.offsets[-1]), 1)
        dtype = np.uint16 if width == 2 else np.uint32
        if path.stat().st_size != int(self.offsets[-1]) * np.dtype(dtype).itemsize:
            raise ValueError(f"{path} does not hold the {self.offsets[-1]} tokens of its offsets")
        mapped = np.memmap(path, dtype=dtype, mode="r") if self.offsets[-1] else np.empty(0, dtype)
        self.tokens: np.ndarray = np.asarray(mapped)  # a plain array: slices of it cost less

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, document: int) -> np.ndarray:
        if document < 0:
            raise IndexError(f"document {document}; documents are counted from 0")
        return self.tokens[self.offsets[document] : self.offsets[document + 1]]

    def lengths(self, num_documents: int | None = None) -> np.ndarray:
        """Tokens of each of the first `num_documents` documents, END included; int64."""
        stop = len(self) if num_documents is None else num_documents
        return np.diff(self.offsets[: stop + 1])

    def num_tokens(self, num_documents: int | None = None) -> int:
        """Tokens of the first `num_documents` documents (all by default)."""
        return int(self.offsets[len(self) if num_documents is None else num_documents])


def write_token_store(directory: Path, documents: Iterable[np.ndarray], vocab_size: int) -> int:
    """Write documents' ids (each ends with END) in order; returns the number of tokens.

    Raises ValueError for an id outside the vocabulary.
    """
    directory.mkdir(parents=True, exist_ok=True)
    dtype = token_dtype(vocab_size)
    offsets = [0]
    with (directory / _TOKENS).open("wb") as file:
        for block in _blocks(documents):
            ids = np.concatenate(block)
            if len(ids) and not (ids.min() >= 0 and ids.max() < vocab_size):
                wrong = next(i for i, d in enumerate(block) if ((d < 0) | (d >= vocab_size)).any())
                number = len(offsets) - 1 + wrong
                raise ValueError(f"document {number} has ids outside 0..{vocab_size - 1}")
            file.write(ids.astype(dtype, casting="unsafe").tobytes())
            offsets += (offsets[-1] + np.cumsum([len(each) for each in block])).tolist()
    np.save(directory / _OFFSETS, np.asarray(offsets, dtype=np.int64))
    return offsets[-1]


def _blocks(documents: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """The documents in runs of some `_BLOCK` tokens: a check and a write for all of one."""
    block: list[np.ndarray] = []
    size = 0
    for ids in map(np.asarray, documents):
        block.append(ids)
        size += len(ids)
        if size >= _BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


def join_token_stores(directory: Path, parts: Sequence[Path]) -> int:
    """Write the stores `parts` one after the other as one; returns the number of tokens."""
    directory.mkdir(parents=True, exist_ok=True)
    offsets = [np.zeros(1, dtype=np.int64)]
    total = 0
    with (directory / _TOKENS).open("wb") as out:
        for part in parts:
            with (part / _TOKENS).open("rb") as file:
                while chunk := file.read(1 << 20):
                    out.write(chunk)
            own = np.load(part / _OFFSETS, allow_pickle=False)
            offsets.append(own[1:] + total)
            total += int(own[-1])
    np.save(directory / _OFFSETS, np.concatenate(offsets))
    return total


def documents_for(store: TokenStore, budget_tokens: int) -> int:
    """The fewest first documents that hold `budget_tokens` tokens; all of them if none do."""
    return min(int(np.searchsorted(store.offsets, budget_tokens, side="left")), len(store))
