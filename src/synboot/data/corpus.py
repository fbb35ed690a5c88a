"""Documents: streamed from the files of users, checked, and counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from synboot.core.errors import BadInput
from synboot.core.events import ReportProgress, ignore_progress
from synboot.data.cuts import MIN_PIECE_BYTES, cut_text
from synboot.data.digests import Digests, digest
from synboot.data.fields import (
    ALL,
    DEFAULT_ID_FIELD,
    Fields,
    Place,
    Problem,
    find_all,
    find_one,
    num_bytes,
    plain,
    remove,
    to_name,
    type_name,
    wrong_type,
)
from synboot.data.files import DataFile, Paths, file_size, list_files
from synboot.data.records import StoredRecord, TextRecord, records, where

MAX_DOCUMENT_BYTES = 1 << 28
FOLDER = "folder"
"""The one group field that a text file has: the folder it lies in."""

_RECORD_FACTOR = 2  # the other fields and JSON's escapes take room too
_REPORT_EVERY = 256  # documents
_UNEXPECTED_ID = "unexpected_id"

OnBad = Literal["stop", "skip"]
LongDocuments = Literal["stop", "split"]


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
class Rules:
    """What becomes of records that cannot be used as they stand.

    A text of more than `max_document_bytes` (UTF-8) is a bad record, or split into pieces.
    """

    on_bad: OnBad = "stop"
    max_document_bytes: int = MAX_DOCUMENT_BYTES
    long_documents: LongDocuments = "stop"

    def __post_init__(self) -> None:
        if self.max_document_bytes < MIN_PIECE_BYTES:
            raise BadInput(
                f"field max_document_bytes: expected at least {MIN_PIECE_BYTES}, "
                f"got {self.max_document_bytes}"
            )


@dataclass
class Tally:
    """What a reading met beside documents that are as they were given."""

    bad: Counter[str] = field(default_factory=Counter)
    """Records that were skipped, by kind."""
    split_documents: int = 0
    pieces: int = 0
    """What the split documents became."""


def read_documents(
    paths: Paths,
    *,
    text_field: str = "text",
    id_field: str | None = DEFAULT_ID_FIELD,
    group_field: str | None = None,
    on_bad: OnBad = "stop",
    max_document_bytes: int = MAX_DOCUMENT_BYTES,
    long_documents: LongDocuments = "stop",
    tally: Tally | None = None,
    progress: ReportProgress | None = None,
) -> Iterator[Document]:
    """The documents at `paths` (files, directories, globs, URLs) in order, streamed.

    Field names may be dotted (`meta.label`, `turns.*.text`). Without an id field (None, or the
    default one where the first record has none) ids are made of file name and line. A group may be
    null. A text file is one document with its path below the folder for an id; its group is that
    path's folder if `group_field` is "folder". A document of more than `max_document_bytes` is bad,
    or split into pieces ID/1, ID/2 ... of one group. Holds one block of a file, one record, and 24
    to 72 bytes for every id. `progress` counts bytes of the files as they are stored. Raises
    BadInput for a file that cannot be read to its end and, where `on_bad` is "stop", for the first
    record that cannot be used; "skip" counts those in `tally`.
    """
    fields = Fields(text_field, id_field, group_field)
    rules = Rules(on_bad, max_document_bytes, long_documents)
    for _, document in read_documents_by_file(list_files(paths), fields, rules, tally, progress):
        yield document


def read_documents_by_file(
    files: Sequence[DataFile],
    fields: Fields,
    rules: Rules = Rules(),
    tally: Tally | None = None,
    progress: ReportProgress | None = None,
) -> Iterator[tuple[int, Document]]:
    """`read_documents`, each document with the index of its file in `files`."""
    tally = Tally() if tally is None else tally
    parse = _Parser(fields, rules, tally)
    report = progress or ignore_progress
    sizes = [file_size(file) for file in files]
    total, before = sum(sizes), 0
    max_bytes = _RECORD_FACTOR * max(rules.max_document_bytes, MAX_DOCUMENT_BYTES)
    names: Counter[str] = Counter()
    num_documents = 0
    for index, file in enumerate(files):
        names[file.name] += 1
        # Files of one name in several directories still make different ids.
        label = file.name if names[file.name] == 1 else f"{file.name}#{names[file.name]}"
        for number, position, load in records(file, max_bytes):
            try:
                documents = parse(load(), label, number)
            except Problem as problem:
                # After a first record without an id, skipping those that have one would lose the
                # whole corpus.
                if rules.on_bad == "stop" or problem.kind == _UNEXPECTED_ID:
                    raise BadInput(f"{where(file, number)}: {problem}") from None
                tally.bad[problem.kind] += 1
                continue
            for document in documents:
                num_documents += 1
                if num_documents % _REPORT_EVERY == 0:
                    done = before + min(position, sizes[index])
                    report(done, total, f"{num_documents} documents")
                yield index, document
        before += sizes[index]
    report(total, total, f"{num_documents} documents")


class _Parser:
    """From records to documents; knows the ids that are taken."""

    def __init__(self, fields: Fields, rules: Rules, tally: Tally) -> None:
        self._fields = fields
        self._rules = rules
        self._tally = tally
        self._ids_are_made = None if fields.id == DEFAULT_ID_FIELD else fields.id is None
        self._taken = Digests()

    def __call__(self, record: Any, label: str, number: int) -> Iterable[Document]:
        """The document of a record, or its pieces. Raises Problem."""
        if isinstance(record, TextRecord):
            return self._text_document(record.text, label)
        if isinstance(record, StoredRecord):
            return self._stored_document(record.values)
        if isinstance(record, dict):
            try:
                return self._document(record, f"{label}:{number}")
            except RecursionError:
                raise Problem("broken_json", "expected an object of usual depth") from None
        raise Problem("not_an_object", f"expected a JSON object, got {type_name(record)}")

    def _document(self, record: dict[str, Any], made_id: str) -> Iterable[Document]:
        fields = self._fields
        id_place = self._own_id(record)
        identifier = made_id if id_place is None else to_name(id_place.name, id_place.value)
        text, used = self._text(record)
        size = self._size(f"field {fields.text}", text)
        group = None
        if fields.group is not None:
            group_place = find_one(record, fields.group)
            group = _group(group_place)
            used.append(group_place)
        named = [name for name in ("source", "license") if isinstance(record.get(name), str)]
        own = {name: to_name(name, record[name]) for name in named if record[name]}
        used += [Place(record, name, name) for name in own]
        if id_place is not None:
            used.append(id_place)
        remove(used)
        document = Document(
            identifier, text, group, own.get("source"), own.get("license"), plain(record)
        )
        documents = self._admit(document, size)
        if self._ids_are_made is None:  # the first good record speaks for all
            self._ids_are_made = id_place is None
        return documents

    def _text_document(self, text: str, label: str) -> Iterable[Document]:
        size = self._size("the text", text)
        if self._fields.group not in (None, FOLDER):
            explanation = f"field {self._fields.group}: expected {FOLDER}, all that a text has"
            raise Problem("missing_field", explanation)
        folder = label.rpartition("/")[0] or None
        group = folder if self._fields.group == FOLDER else None
        return self._admit(Document(label, text, group, None, None, {}), size)

    def _stored_document(self, values: dict[str, Any]) -> Iterable[Document]:
        """Fields by the names that a document has; another group may stand in the metadata."""
        for name in ("text", "metadata"):
            if not isinstance(values.get(name), str):
                raise wrong_type(name, "text", values.get(name))
        size = self._size("field text", values["text"])
        try:
            metadata = plain(json.loads(values["metadata"]))
        except (ValueError, RecursionError) as error:
            raise Problem("broken_json", f"field metadata: expected JSON: {error}") from None
        if not isinstance(metadata, dict):
            raise wrong_type("metadata", "a JSON object", metadata)
        own = {
            name: None if values.get(name) is None else to_name(name, values[name])
            for name in ("group", "source", "license")
        }
        if self._fields.group not in (None, "group"):
            group_place = find_one(metadata, self._fields.group)
            own["group"] = _group(group_place)
            remove([group_place])
        identifier = to_name("id", values.get("id"))
        document = Document(identifier, values["text"], **own, metadata=metadata)
        return self._admit(document, size)

    def _own_id(self, record: dict[str, Any]) -> Place | None:
        """The place of the record's id, None where ids are made."""
        field = self._fields.id
        if field is None:
            return None
        found, missing = None, None
        try:
            found = find_one(record, field)
        except Problem as problem:
            missing = problem
        has_one = found is not None and found.value is not None
        made = not has_one if self._ids_are_made is None else self._ids_are_made
        if not made:
            if missing is not None:
                raise missing
            return found
        if has_one:
            raise Problem(_UNEXPECTED_ID, f"field {field}: expected none, as in the first record")
        return None

    def _text(self, record: dict[str, Any]) -> tuple[str, list[Place]]:
        """The text of a record, and the places that it takes up."""
        field = self._fields.text
        places = find_all(record, field)
        for found in places:
            if not isinstance(found.value, str):
                raise _no_text(found)
        text = "\n\n".join(found.value for found in places)
        lists = field.removesuffix(f".{ALL}")
        if lists != field and field not in record:
            places = find_all(record, lists)  # nothing is left of them
        return text, places

    def _size(self, name: str, text: str) -> int:
        """UTF-8 bytes of a text that is no reason to refuse its record."""
        if not text or text.isspace():
            raise Problem("empty_text", f"{name}: expected text, it is blank")
        size = num_bytes(name, text)
        limit = self._rules.max_document_bytes
        if size > limit and self._rules.long_documents == "stop":
            explanation = f"{name}: expected at most {limit} bytes (max_document_bytes), got {size}"
            raise Problem("too_long", explanation)
        return size

    def _admit(self, document: Document, size: int) -> Iterable[Document]:
        """The document if its id is free, or its pieces."""
        num_bytes("the id", document.id)  # names of files may be no Unicode
        limit = self._rules.max_document_bytes
        cuts = cut_text(document.text, limit) if size > limit else []
        ids = [document.id, *(f"{document.id}/{n}" for n in range(1, len(cuts) + 1))]
        keys = [digest(each) for each in ids]
        for each, key in zip(ids, keys, strict=True):
            if key in self._taken:
                field = self._fields.id or DEFAULT_ID_FIELD
                raise Problem("duplicate_id", f"field {field}: the id {each!r} is taken")
        for key in keys:
            self._taken.add(key)
        if not cuts:
            return (document,)
        self._tally.split_documents += 1
        self._tally.pieces += len(cuts)
        return self._pieces(document, ids[1:], cuts)

    def _pieces(
        self, document: Document, ids: list[str], cuts: list[tuple[int, int]]
    ) -> Iterator[Document]:
        """One group, so that they stay on one side of every split."""
        group = document.group or document.id
        for identifier, (start, stop) in zip(ids, cuts, strict=True):
            yield Document(
                identifier,
                document.text[start:stop],
                group,
                document.source,
                document.license,
                dict(document.metadata),
            )


def _group(found: Place) -> str | None:
    return None if found.value is None or found.value == "" else to_name(found.name, found.value)


def _no_text(found: Place) -> Problem:
    problem = wrong_type(found.name, "text", found.value)
    if not isinstance(found.value, list) or not found.value:
        return problem
    inner = ".NAME" if isinstance(found.value[0], dict) else ""
    return Problem(problem.kind, f"{problem}; {found.name}.{ALL}{inner} takes all of its elements")
