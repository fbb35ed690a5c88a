"""Documents to files: Arrow for the splits of a corpus, Parquet for everyone else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from synboot.core.storage import atomic_file
from synboot.data.corpus import Document
from synboot.data.records import DOCUMENTS_MARK

_BATCH_BYTES = 1 << 22
_BATCH_ROWS = 4096
_GROUP_BYTES = 1 << 24
_GROUP_ROWS = 1 << 16

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("group", pa.string()),
        pa.field("source", pa.string()),
        pa.field("license", pa.string()),
        pa.field("metadata", pa.string(), nullable=False),
    ]
)
"""The columns of written documents; `metadata` is JSON text."""


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write `documents` to the Parquet file `path` and return how many there were.

    The file appears complete or not at all. Holds one row group, 16 MB of text. The file says that
    its rows are documents, so that `read_documents` gives equal ones back.
    """
    schema = SCHEMA.with_metadata(DOCUMENTS_MARK)
    with atomic_file(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        batches = _Batches(schema, writer.write_batch, _GROUP_BYTES, _GROUP_ROWS)
        for document in documents:
            batches.add(document)
        batches.flush()
    return batches.num_documents


class ArrowWriter:
    """Writes documents to an uncompressed Arrow IPC file in batches of bounded bytes."""

    def __init__(self, path: Path) -> None:
        self._file = pa.ipc.new_file(str(path), SCHEMA)
        self._batches = _Batches(SCHEMA, self._file.write_batch, _BATCH_BYTES, _BATCH_ROWS)

    @property
    def num_documents(self) -> int:
        """Documents so far."""
        return self._batches.num_documents

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of their texts."""
        return self._batches.num_bytes

    def write(self, document: Document) -> None:
        """Append one document."""
        self._batches.add(document)

    def __enter__(self) -> ArrowWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._batches.flush()
        self._file.close()


class _Batches:
    """Collects documents and gives them on as record batches of bounded bytes and rows."""

    def __init__(
        self, schema: pa.Schema, give: Callable[[Any], None], max_bytes: int, max_rows: int
    ) -> None:
        self._schema = schema
        self._give = give
        self._max_bytes = max_bytes
        self._max_rows = max_rows
        self._rows: list[tuple[str | None, ...]] = []
        self._pending_bytes = 0
        self.num_documents = 0
        self.num_bytes = 0

    def add(self, document: Document) -> None:
        """Append one document; a batch that it would overfill goes first."""
        text = document.text
        num_bytes = len(text) if text.isascii() else len(text.encode())
        if self._pending_bytes + num_bytes > self._max_bytes or len(self._rows) == self._max_rows:
            self.flush()
        metadata = json.dumps(document.metadata, allow_nan=False) if document.metadata else "{}"
        names = (document.group, document.source, document.license)
        self._rows.append((document.id, text, *names, metadata))
        self._pending_bytes += num_bytes + len(metadata)
        self.num_documents += 1
        self.num_bytes += num_bytes

    def flush(self) -> None:
        """Give on what is left."""
        if self._rows:
            arrays = [pa.array(column, pa.string()) for column in zip(*self._rows, strict=True)]
            self._give(pa.record_batch(arrays, schema=self._schema))
        self._rows, self._pending_bytes = [], 0
