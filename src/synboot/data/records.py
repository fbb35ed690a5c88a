"""Records out of files: JSON lines, Parquet, Arrow streams and texts, each with its place."""

from __future__ import annotations

import codecs
import io
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from synboot.core.errors import BadInput
from synboot.data.fields import Problem
from synboot.data.files import DataFile

DOCUMENTS_MARK = {b"synboot": b"documents 1"}
"""Schema metadata of a Parquet file whose rows are whole documents; metadata is JSON there."""

Load = Callable[[], Any]
"""Gives one record or raises Problem; a reader goes on after it."""

_READ_BYTES = 1 << 20
_ROWS_BYTES = 1 << 24
_ROWS = 256
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


@dataclass(frozen=True)
class TextRecord:
    """A file that is one document."""

    text: str


@dataclass(frozen=True)
class StoredRecord:
    """A row that `write_documents` wrote: a document's fields by their own names."""

    values: dict[str, Any]


def records(file: DataFile, max_bytes: int) -> Iterator[tuple[int, float, Load]]:
    """Line or row from 1 (0: the file itself), the place in the file in bytes, the record.

    A line or text of more than `max_bytes` is a Problem and never held. A file without a record is
    one Problem. Raises BadInput for a file that cannot be read to its end.
    """
    number = 0
    try:
        filesystem, path = fsspec.core.url_to_fs(file.path)
        if filesystem.size(path) == 0:
            yield 0, 0, partial(_no_record, "the file is empty (0 bytes)")
            return
        with filesystem.open(path, "rb") as raw:
            for number, position, load in _records_of(file, raw, max_bytes):
                yield number, position, load
            if not number and file.format != "text":
                yield 0, 0, partial(_no_record, "the file has none")
    except (OSError, pa.ArrowException) as error:
        after = f", after {unit(file)} {number}" if number else ""
        message = f"{file.path}{after}: cannot read, expected a whole and undamaged file: {error}"
        raise BadInput(message) from None


def unit(file: DataFile) -> str:
    """What the records of `file` are counted in."""
    return "line" if file.format == "jsonl" else "row"


def where(file: DataFile, number: int) -> str:
    """Where the record `number` stands, for a message."""
    return f"{file.path}, {unit(file)} {number}" if number else file.path


def _no_record(why: str) -> Any:
    raise Problem("empty_file", f"expected at least one record, {why}")


def _records_of(file: DataFile, raw: Any, max_bytes: int) -> Iterator[tuple[int, float, Load]]:
    if file.format == "parquet":
        return _parquet_rows(raw)
    if file.format == "arrow":
        return _arrow_rows(raw)
    stream = pa.PythonFile(raw, mode="r")
    if file.codec is not None:  # Python's own readers take a cut zstd file for a whole one
        stream = pa.CompressedInputStream(stream, file.codec)
    content = io.BufferedReader(stream, _READ_BYTES)
    if file.format == "text":
        return _text(raw, content, max_bytes)
    return _json_lines(raw, content, max_bytes)


def _text(raw: Any, content: Any, max_bytes: int) -> Iterator[tuple[int, float, Load]]:
    data = content.read(max_bytes + 1)
    load = partial(_too_long, max_bytes) if len(data) > max_bytes else partial(_parse_text, data)
    yield 0, raw.tell(), load


def _parse_text(data: bytes) -> TextRecord:
    return TextRecord(_decode(data, "file"))


def _json_lines(raw: Any, lines: Any, max_bytes: int) -> Iterator[tuple[int, float, Load]]:
    for number in itertools.count(1):
        line = lines.readline(max_bytes)
        if not line:
            return
        if len(line) == max_bytes and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = lines.readline(max_bytes)
            yield number, raw.tell(), partial(_too_long, max_bytes)
        elif not line.isspace():
            yield number, raw.tell(), partial(_parse_line, line)


def _too_long(max_bytes: int) -> Any:
    raise Problem("too_long", f"expected at most {max_bytes} bytes, it has more")


def _parse_line(line: bytes) -> Any:
    try:
        return json.loads(_decode(line.rstrip(), "line"))
    except json.JSONDecodeError as error:
        explanation = f"expected one JSON object on the line; column {error.colno}: {error.msg}"
        raise Problem("broken_json", explanation) from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, [[[[...
        raise Problem("broken_json", f"expected a JSON object of usual size: {error}") from None


def _decode(data: bytes, whole: str) -> str:
    """UTF-8 without a byte order mark."""
    start = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    try:
        return data[start:].decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(f"byte {start + error.start + 1} of the {whole}") from None


def _parquet_rows(raw: Any) -> Iterator[tuple[int, float, Load]]:
    num_bytes = raw.seek(0, io.SEEK_END)
    file = pq.ParquetFile(raw, buffer_size=_READ_BYTES, pre_buffer=False)
    stored = DOCUMENTS_MARK.items() <= (file.schema_arrow.metadata or {}).items()
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    row_bytes = max(
        (group.total_byte_size // max(group.num_rows, 1) for group in groups), default=1
    )
    rows = max(1, min(_ROWS, _ROWS_BYTES // max(row_bytes, 1)))
    number = 0
    for batch in file.iter_batches(batch_size=rows):
        for load in _rows_of(batch):
            number += 1
            position = num_bytes * number / file.metadata.num_rows
            yield number, position, partial(_stored, load) if stored else load


def _arrow_rows(raw: Any) -> Iterator[tuple[int, float, Load]]:
    raw.seek(-min(len(_END_OF_STREAM), raw.seek(0, io.SEEK_END)), io.SEEK_END)
    if raw.read() != _END_OF_STREAM:  # Arrow takes a stream cut between batches for a whole one
        raise OSError("the Arrow stream has no end")
    raw.seek(0)
    number = 0
    for batch in pa.ipc.open_stream(raw):
        for start in range(0, batch.num_rows, _ROWS):
            for load in _rows_of(batch.slice(start, _ROWS)):
                number += 1
                yield number, raw.tell(), load


def _rows_of(batch: Any) -> list[Load]:
    try:
        return [partial(dict, row) for row in batch.to_pylist()]
    except UnicodeDecodeError:  # find the row
        return [partial(_parse_row, batch.slice(i, 1)) for i in range(batch.num_rows)]


def _parse_row(row: Any) -> Any:
    values = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            values[name] = column[0].as_py()
        except UnicodeDecodeError as error:
            raise _not_utf8(f"field {name}: byte {error.start + 1}") from None
    return values


def _stored(load: Load) -> StoredRecord:
    return StoredRecord(load())


def _not_utf8(where: str) -> Problem:
    return Problem("invalid_utf8", f"expected UTF-8; {where} is not")
