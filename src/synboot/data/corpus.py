"""Documents: streamed from users' files, and memory-mapped once a corpus is built of them."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from synboot.core.errors import BadInput
from synboot.core.events import ReportProgress, ignore_progress

FORMATS_UNDERSTOOD = ".jsonl and .ndjson (plain, .gz or .zst) and .parquet"
DEFAULT_ID_FIELD = "id"
MAX_DOCUMENT_BYTES = 1 << 28

_CODECS = {".gz": "gzip", ".zst": "zstd"}
_LINE_BYTES = 2 * MAX_DOCUMENT_BYTES  # the other fields and JSON's escapes take room too
_READ_BYTES = 1 << 20
_PARQUET_ROWS = 256
_REPORT_EVERY = 256  # documents


@dataclass(frozen=True)
class Document:
    """A text and what its owner says of it; `metadata` is JSON-able."""

    id: str
    text: str
    group: str | None
    source: str | None
    license: str | None
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Fields:
    """Where a record has its text, id and group; dotted names go into nested objects."""

    text: str = "text"
    id: str | None = DEFAULT_ID_FIELD
    group: str | None = None


class _Problem(Exception):
    """One record cannot be used; problems are counted by `kind`."""

    def __init__(self, kind: str, explanation: str) -> None:
        super().__init__(explanation)
        self.kind = kind


_UNEXPECTED_ID = "unexpected_id"
OnBad = Literal["stop", "skip"]
_Load = Callable[[], Any]  # gives one record or raises _Problem; a reader goes on after it


def data_format(file: str) -> tuple[str, str | None] | None:
    """`"a.jsonl.gz" -> ("jsonl", "gzip")`; None if `file` is not named as a data file is."""
    suffixes = PurePosixPath(file.lower()).suffixes
    codec = _CODECS.get(suffixes[-1]) if suffixes else None
    form = (suffixes[:-1] if codec else suffixes)[-1:]
    if form in ([".jsonl"], [".ndjson"]):
        return "jsonl", codec
    return ("parquet", None) if form == [".parquet"] and codec is None else None


def read_documents(
    files: Sequence[str],
    *,
    text_field: str = "text",
    id_field: str | None = DEFAULT_ID_FIELD,
    group_field: str | None = None,
    on_bad: OnBad = "stop",
    bad: Counter[str] | None = None,
    progress: ReportProgress | None = None,
) -> Iterator[Document]:
    """The documents of `files` (paths or URLs) in order, streamed.

    Field names may be dotted (`meta.label`). Without an id field (None, or the default one where
    the first record has none) ids are made of file name and line. A group may be null. Holds one
    block of a file, and of every document a 16-byte digest of its id. `progress` counts bytes of
    the files as they are stored. Raises BadInput for a file that cannot be read to its end and,
    where `on_bad` is "stop", for the first record that cannot be used; "skip" counts those by
    kind in `bad`.
    """
    fields = Fields(text_field, id_field, group_field)
    for _, document in read_documents_by_file(files, fields, on_bad, bad, progress):
        yield document


def read_documents_by_file(
    files: Sequence[str],
    fields: Fields,
    on_bad: OnBad = "stop",
    bad: Counter[str] | None = None,
    progress: ReportProgress | None = None,
) -> Iterator[tuple[int, Document]]:
    """`read_documents`, each document with the index of its file in `files`."""
    parse = _Parser(fields)
    report = progress or ignore_progress
    sizes = [_file_size(file) for file in files]
    total = sum(sizes)
    names: Counter[str] = Counter()
    num_documents = 0
    for index, file in enumerate(files):
        name = PurePosixPath(file).name
        names[name] += 1
        # Files of one name in several directories still make different ids.
        label = name if names[name] == 1 else f"{name}#{names[name]}"
        for number, position, load in _records(file):
            try:
                document = parse(load(), f"{label}:{number}")
            except _Problem as problem:
                # After a first record without an id, skipping those that have one would lose the
                # whole corpus.
                if on_bad == "stop" or problem.kind == _UNEXPECTED_ID:
                    raise BadInput(f"{file}, {_unit(file)} {number}: {problem}") from None
                if bad is not None:
                    bad[problem.kind] += 1
                continue
            num_documents += 1
            if num_documents % _REPORT_EVERY == 0:
                done = sum(sizes[:index]) + min(position, sizes[index])
                report(done, total, f"{num_documents} documents")
            yield index, document
    report(total, total, f"{num_documents} documents")


class _Parser:
    """From records to documents; knows the ids that are taken."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._ids_are_made = None if fields.id == DEFAULT_ID_FIELD else fields.id is None
        self._taken: set[bytes] = set()

    def __call__(self, record: Any, made_id: str) -> Document:
        if not isinstance(record, dict):
            raise _Problem("not_an_object", f"expected a JSON object, got {_type_name(record)}")
        fields = self._fields
        identifier = self._own_id(record) or made_id
        text = _value(record, fields.text)
        if not isinstance(text, str):
            raise _wrong_type(fields.text, "text", text)
        if not text or text.isspace():
            raise _Problem("empty_text", f"field {fields.text}: expected text, it is blank")
        if _num_bytes(fields.text, text) > MAX_DOCUMENT_BYTES:
            raise _too_long()
        group = None
        if fields.group is not None:
            group = _value(record, fields.group)
            group = None if group is None or group == "" else _name(fields.group, group)
        named = [name for name in ("source", "license") if isinstance(record.get(name), str)]
        own = {name: _name(name, record[name]) for name in named if record[name]}
        key = hashlib.blake2b(identifier.encode(), digest_size=16).digest()
        if key in self._taken:
            raise _Problem("duplicate_id", f"field {fields.id}: the id {identifier!r} is taken")
        self._taken.add(key)
        if self._ids_are_made is None:  # the first good record speaks for all
            self._ids_are_made = identifier == made_id
        for name in (fields.text, fields.group, None if self._ids_are_made else fields.id, *own):
            place = None if name is None else _locate(record, name)
            if place is not None:
                del place[0][place[1]]
        source, license_ = own.get("source"), own.get("license")
        return Document(identifier, text, group, source, license_, _plain(record))

    def _own_id(self, record: dict[str, Any]) -> str | None:
        field = self._fields.id
        if field is None:
            return None
        place = _locate(record, field)
        has_one = place is not None and place[0][place[1]] is not None
        made = not has_one if self._ids_are_made is None else self._ids_are_made
        if not made:
            return _name(field, _value(record, field))
        if has_one:
            raise _Problem(_UNEXPECTED_ID, f"field {field}: expected none, as in the first record")
        return None


def _locate(record: dict[str, Any], field: str) -> tuple[dict[str, Any], str] | None:
    """The mapping and the key that hold `field`: the name as it stands, else dot by dot."""
    if field in record:
        return record, field
    *outer, last = field.split(".")
    within: Any = record
    for name in outer:
        within = within.get(name)
        if not isinstance(within, dict):
            return None
    return (within, last) if last in within else None


def _value(record: dict[str, Any], field: str) -> Any:
    place = _locate(record, field)
    if place is None:
        names = ", ".join(map(repr, itertools.islice(record, 12))) or "no fields"
        raise _Problem("missing_field", f"field {field}: expected one, the record has {names}")
    return place[0][place[1]]


def _name(field: str, value: Any) -> str:
    """The value of a field that names something (id, group, source, license) as text."""
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise _wrong_type(field, "text or a whole number", value)
    name = str(value)
    _num_bytes(field, name)
    return name


def _num_bytes(field: str, text: str) -> int:
    try:
        return len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:
        code = f"\\u{ord(text[error.start]):04x}"
        explanation = f"field {field}: expected Unicode text, character {error.start + 1} is {code}"
        raise _Problem("lone_surrogate", f"{explanation}, half of a surrogate pair") from None


def _wrong_type(field: str, expected: str, value: Any) -> _Problem:
    return _Problem("wrong_type", f"field {field}: expected {expected}, got {_type_name(value)}")


def _too_long() -> _Problem:
    return _Problem("too_long", f"expected at most {MAX_DOCUMENT_BYTES} bytes of text in a record")


def _type_name(value: Any) -> str:
    return "null" if value is None else type(value).__name__ if value != "" else "empty text"


def _plain(value: Any) -> Any:
    """`value` in types that JSON has: Parquet and NaN go beyond them."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _file_size(file: str) -> int:
    try:
        filesystem, path = fsspec.core.url_to_fs(file)
        return filesystem.size(path) or 0
    except (OSError, ValueError, ImportError) as error:
        raise BadInput(f"{file}: cannot read the file: {error}") from None


def _unit(file: str) -> str:
    return "row" if data_format(file) == ("parquet", None) else "line"


def _records(file: str) -> Iterator[tuple[int, float, _Load]]:
    """Line or row from 1, the place in the file in bytes, the record."""
    kind = data_format(file)
    if kind is None:
        raise BadInput(f"{file}: expected a data file: {FORMATS_UNDERSTOOD}")
    number = 0
    try:
        filesystem, path = fsspec.core.url_to_fs(file)
        with filesystem.open(path, "rb") as raw:
            lines = _parquet_rows(raw) if kind[0] == "parquet" else _json_lines(raw, kind[1])
            for number, position, load in lines:
                yield number, position, load
    except (OSError, pa.ArrowException) as error:
        where = f", after {_unit(file)} {number}" if number else ""
        message = f"{file}{where}: cannot read, expected a whole and undamaged file: {error}"
        raise BadInput(message) from None


def _json_lines(raw: Any, codec: str | None) -> Iterator[tuple[int, float, _Load]]:
    stream = pa.PythonFile(raw, mode="r")
    if codec is not None:  # Python's own readers take a cut zstd file for a whole one
        stream = pa.CompressedInputStream(stream, codec)
    lines = io.BufferedReader(stream, _READ_BYTES)
    for number in itertools.count(1):
        line = lines.readline(_LINE_BYTES)
        if not line:
            return
        if len(line) == _LINE_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = lines.readline(_LINE_BYTES)
            line = b""
        if not line or not line.isspace():
            yield number, raw.tell(), partial(_parse_line, line)


def _parse_line(line: bytes) -> Any:
    if not line:
        raise _too_long()
    try:
        return json.loads(line.rstrip().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _not_utf8(f"byte {error.start + 1} of the line") from None
    except json.JSONDecodeError as error:
        explanation = f"expected one JSON object on the line; column {error.colno}: {error.msg}"
        raise _Problem("broken_json", explanation) from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, [[[[...
        raise _Problem("broken_json", f"expected a JSON object of usual size: {error}") from None


def _parquet_rows(raw: Any) -> Iterator[tuple[int, float, _Load]]:
    num_bytes = raw.seek(0, io.SEEK_END)
    file = pq.ParquetFile(raw, buffer_size=_READ_BYTES, pre_buffer=False)
    number = 0
    for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
        try:
            loads: list[_Load] = [partial(dict, row) for row in batch.to_pylist()]
        except UnicodeDecodeError:  # find the row
            loads = [partial(_parse_row, batch.slice(i, 1)) for i in range(batch.num_rows)]
        for load in loads:
            number += 1
            yield number, num_bytes * number / file.metadata.num_rows, load


def _parse_row(row: Any) -> Any:
    values = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            values[name] = column[0].as_py()
        except UnicodeDecodeError as error:
            raise _not_utf8(f"field {name}: byte {error.start + 1}") from None
    return values


def _not_utf8(where: str) -> _Problem:
    return _Problem("invalid_utf8", f"expected UTF-8; {where} is not")


class Documents:
    """Read-only, memory-mapped view of a split that `splits.build_corpus` wrote.

    `order`: int [documents], the rows to show and their order; by default all, as written. Raises
    IndexError if it names a row that is not there.
    """

    def __init__(self, path: Path, order: npt.NDArray[np.integer[Any]] | None = None) -> None:
        self._file = pa.ipc.open_file(pa.memory_map(str(path)))
        sizes = [self._file.get_batch(i).num_rows for i in range(self._file.num_record_batches)]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
        num_rows = int(self._starts[-1])
        self._order = np.arange(num_rows) if order is None else np.asarray(order)
        if self._order.size and not 0 <= self._order.min() <= self._order.max() < num_rows:
            raise IndexError(f"the order names a row outside of the {num_rows} rows of {path}")

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Document:
        row = self._order[operator.index(index)]
        batch = int(np.searchsorted(self._starts, row, side="right")) - 1
        place = int(row - self._starts[batch])
        values = self._file.get_batch(batch).slice(place, 1).to_pylist()[0]
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

    def _values(self, column: str, start: int, stop: int) -> list[Any]:
        rows = self._order[start:stop]
        by_row = np.argsort(rows, kind="stable")
        batches = np.searchsorted(self._starts, rows[by_row], side="right") - 1
        values: list[Any] = [None] * len(rows)
        touched, firsts = np.unique(batches, return_index=True)
        for batch, places in zip(touched, np.split(by_row, firsts)[1:], strict=True):
            taken = self._file.get_batch(int(batch)).column(column)
            taken = taken.take(pa.array(rows[places] - self._starts[batch]))
            for place, value in zip(places.tolist(), taken.to_pylist(), strict=True):
                values[place] = value
        return values
