"""A built split: its documents, memory-mapped, one by one, by range or in another order."""

from __future__ import annotations

import functools
import json
import mmap
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from synboot.data.corpus import Document

_OPEN_BATCHES = 256
_RESIDENT_BYTES = 64 << 20  # of a mapped file, and one record batch more


class Documents:
    """Read-only, memory-mapped view of a split that `splits.build_corpus` wrote.

    `order`: int [documents], the rows to show and their order; by default all, as written. Raises
    IndexError if it names a row that is not there.
    """

    def __init__(self, path: Path, order: npt.NDArray[np.integer[Any]] | None = None) -> None:
        with path.open("rb") as opened:
            self._memory = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        file = pa.ipc.open_file(pa.py_buffer(self._memory))
        self._touched: set[int] = set()
        self._touched_bytes = 0
        self._view = functools.lru_cache(_OPEN_BATCHES)(file.get_batch)  # slow to make
        sizes = [file.get_batch(i).num_rows for i in range(file.num_record_batches)]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
        num_rows = int(self._starts[-1])
        self._order = np.arange(num_rows) if order is None else np.asarray(order)
        if self._order.size and not 0 <= self._order.min() <= self._order.max() < num_rows:
            raise IndexError(f"the order names a row outside of the {num_rows} rows of {path}")

    def _batch(self, number: int) -> pa.RecordBatch:
        """A view of a record batch. Now and then what was read is given back to the system, which
        has it in its own cache: else a pass over a file would end with all of it resident."""
        batch = self._view(number)
        if number not in self._touched:
            self._touched_bytes += batch.nbytes
            if self._touched_bytes > _RESIDENT_BYTES and hasattr(mmap, "MADV_DONTNEED"):
                self._memory.madvise(mmap.MADV_DONTNEED)
                self._touched, self._touched_bytes = set(), batch.nbytes
            self._touched.add(number)
        return batch

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Document:
        row = self._order[operator.index(index)]
        batch = int(np.searchsorted(self._starts, row, side="right")) - 1
        place = int(row - self._starts[batch])
        found = self._batch(batch)
        values = {
            name: column[place].as_py()
            for name, column in zip(found.schema.names, found.columns, strict=True)
        }
        return Document(**values | {"metadata": json.loads(values["metadata"])})

    def texts(self, start: int, stop: int) -> list[str]:
        """The texts of the documents [start, stop), bounds as in a slice."""
        return self._values("text", start, stop)

    def ids(self, start: int, stop: int) -> list[str]:
        """The ids of the documents [start, stop), bounds as in a slice."""
        return self._values("id", start, stop)

    def groups(self, start: int, stop: int) -> list[str | None]:
        """The groups of the documents [start, stop), bounds as in a slice."""
        return self._values("group", start, stop)

    def sizes(self, start: int, stop: int) -> np.ndarray:
        """UTF-8 bytes of the texts of the documents [start, stop), int64."""
        sizes = self._taken("text", self._order[start:stop], pc.binary_length)
        return np.array(sizes, dtype=np.int64)

    def texts_of(self, places: npt.NDArray[np.integer[Any]]) -> list[str]:
        """The texts of the documents at `places`, in this order."""
        return self._taken("text", self._order[places])

    def _values(self, column: str, start: int, stop: int) -> list[Any]:
        return self._taken(column, self._order[start:stop])

    def _taken(
        self,
        column: str,
        rows: npt.NDArray[np.integer[Any]],
        read: Callable[[Any], Any] | None = None,
    ) -> list[Any]:
        """A column's values at rows of the file, or what `read` makes of the column."""
        by_row = np.argsort(rows, kind="stable")
        batches = np.searchsorted(self._starts, rows[by_row], side="right") - 1
        values: list[Any] = [None] * len(rows)
        touched, firsts = np.unique(batches, return_index=True)
        for batch, places in zip(touched, np.split(by_row, firsts)[1:], strict=True):
            taken = self._batch(int(batch)).column(column)
            taken = taken.take(pa.array(rows[places] - self._starts[batch]))
            taken = read(taken) if read else taken
            for place, value in zip(places.tolist(), taken.to_pylist(), strict=True):
                values[place] = value
        return values
