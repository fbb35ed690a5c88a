"""From users' files to three memory-mapped splits that share nothing they should not (law 13)."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from synboot.core.errors import BadInput
from synboot.core.events import ReportProgress, ignore_progress
from synboot.core.rng import unit_interval
from synboot.data.corpus import (
    DEFAULT_ID_FIELD,
    FORMATS_UNDERSTOOD,
    Document,
    Fields,
    OnBad,
    data_format,
    read_documents_by_file,
)
from synboot.data.ngrams import WINDOW_WORDS, Hashes, share_found, window_hashes

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")

_SPLIT_WORDS: dict[str, Split] = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
}
_SPLIT_NAMES_UNDERSTOOD = f"{', '.join(_SPLIT_WORDS)} (also as train-00000-of-00002)"
_SHARD = re.compile(r"([a-z]+)([-_]\d+(-of-\d+)?(-[0-9a-f]+)?)?")
_PRECEDENCE: tuple[Split, ...] = ("test", "valid", "train")

_DIGEST_BYTES = 16
_BATCH_BYTES = 1 << 22
_BATCH_ROWS = 4096
_SAMPLE_SIZE = 20
_SAMPLE_CHARACTERS = 200
_COPY_BYTES = 1 << 20
_MERGE_WINDOWS = 1 << 20

_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("group", pa.string()),
        pa.field("source", pa.string()),
        pa.field("license", pa.string()),
        pa.field("metadata", pa.string(), nullable=False),
    ]
)


def find_files(path: str) -> dict[Split | None, list[str]]:
    """The data files at `path` (a file, a directory or an fsspec URL) by the split they name.

    A split is named by a file's name before its first dot or by a sub-directory; a single file
    and files without such names stand under None. Sorted; hidden files and what is no data file
    are passed over. Raises BadInput if there is nothing to read, or if only some files name one.
    """
    try:
        filesystem, root = fsspec.core.url_to_fs(path)
        if filesystem.isfile(root):
            names = [""]
        else:
            # Unlike find(), this does not pass over a directory that cannot be read.
            names = [
                f"{directory}/{name}"[len(root.rstrip("/")) :]
                for directory, _, files in filesystem.walk(root, on_error="raise")
                for name in files
            ]
    except FileNotFoundError:
        raise BadInput(f"{path}: expected a data file or a directory of them, found none") from None
    except (OSError, ValueError, ImportError) as error:
        raise BadInput(f"{path}: cannot look for data files: {error}") from None
    if names == [""] and data_format(path) is None:
        raise BadInput(f"{path}: expected a data file: {FORMATS_UNDERSTOOD}")
    found: dict[Split | None, list[str]] = {}
    for name in sorted(names):
        if data_format(path + name) and not any(p.startswith(".") for p in name.split("/")):
            found.setdefault(_named_split(path, name), []).append(path.rstrip("/") + name)
    if not found:
        raise BadInput(f"{path}: holds no data file; understood are {FORMATS_UNDERSTOOD}")
    if None in found and len(found) > 1:
        named = next(files[0] for split, files in found.items() if split is not None)
        raise BadInput(
            f"{path}: {named} names a split and {found[None][0]} does not; expected all or none "
            f"of the files to be named by {_SPLIT_NAMES_UNDERSTOOD}"
        )
    return {split: found[split] for split in (*SPLITS, None) if split in found}


def _named_split(path: str, name: str) -> Split | None:
    """The split that the file `name` below `path` names, by itself or by its directories."""
    *directories, last = PurePosixPath(name.lower()).parts[1:] or [""]
    shard = _SHARD.fullmatch(last.split(".")[0])
    words = [*directories, shard[1] if shard else ""]
    named = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    if len(named) > 1:
        raise BadInput(f"{path}{name}: expected the name of one split, found {sorted(named)}")
    return named.pop() if named else None


def corpus_bytes_digest(path: str) -> str:
    """SHA-256 (hexadecimal) over the data files at `path`: bytes, file names, splits, order.

    The same wherever the files lie, for identity (law 1). Raises BadInput as `find_files` does.
    """
    whole = hashlib.sha256()
    for split, files in find_files(path).items():
        for file in files:
            content = hashlib.sha256()
            try:
                filesystem, place = fsspec.core.url_to_fs(file)
                with filesystem.open(place, "rb") as stream:
                    while block := stream.read(_COPY_BYTES):
                        content.update(block)
            except OSError as error:
                raise BadInput(f"{file}: cannot read the file: {error}") from None
            entry = [split, PurePosixPath(file).name, content.hexdigest()]
            whole.update(json.dumps(entry).encode() + b"\n")
    return whole.hexdigest()


def split_of(seed: int, key: str, valid_fraction: float, test_fraction: float) -> Split:
    """The split that `key` (a group, or the id of a document without one) falls into.

    Depends on nothing but the arguments; another `valid_fraction` leaves the test split alone.
    """
    draw = unit_interval(seed, "split", key)
    if draw < test_fraction:
        return "test"
    return "valid" if draw < test_fraction + valid_fraction else "train"


def build_corpus(
    path: str,
    out: Path,
    *,
    seed: int,
    valid_fraction: float,
    test_fraction: float,
    text_field: str = "text",
    id_field: str | None = DEFAULT_ID_FIELD,
    group_field: str | None = None,
    on_bad: OnBad = "stop",
    license: str | None = None,
    max_heldout_overlap: float = 0.2,
    window_words: int = WINDOW_WORDS,
    progress: ReportProgress | None = None,
) -> dict[str, Any]:
    """Write train.arrow, valid.arrow, test.arrow and decontaminated.jsonl to the directory `out`.

    Splits are those that the files name; one that they do not name is drawn from train, by whole
    groups. Of equal texts one stays, in test before valid before train. A training document goes
    if more than `max_heldout_overlap` of its windows stand in a held-out document. `license` is
    for documents without one. Reads the files twice; holds 17 bytes and the digests of id and
    group per document, and 8 bytes per held-out window. Returns counts. Raises BadInput for files
    and records that cannot be used and for a split that stays empty.
    """
    _check_settings(valid_fraction, test_fraction, max_heldout_overlap, window_words)
    found = find_files(path)
    files = [(split, file) for split, names in found.items() for file in names]
    if None not in found and "train" not in found:
        raise BadInput(f"{path}: holds no file of the split train, only {sorted(map(str, found))}")
    fractions = (
        0.0 if "valid" in found else valid_fraction,
        0.0 if "test" in found else test_fraction,
    )
    report = progress or ignore_progress
    bad: Counter[str] = Counter()

    def read(reading: int, bad: Counter[str]) -> Iterator[tuple[Split, Document]]:
        """All documents with their splits, the same at every reading."""
        documents = read_documents_by_file(
            [file for _, file in files],
            Fields(text_field, id_field, group_field),
            on_bad,
            bad,
            lambda done, total, note: report(reading * total + done, 2 * total, note),
        )
        for index, document in documents:
            split = files[index][0]
            if split is None or (split == "train" and any(fractions)):
                split = split_of(seed, document.group or document.id, *fractions)
            yield split, document

    survey = _survey(read(0, bad), window_words)
    keep = survey.first_of_equals()
    exact_duplicates: Counter[str] = Counter()
    near_heldout = 0
    row = -1
    changed = BadInput(f"{path}: the files changed while they were read")
    with ExitStack() as stack:
        writers = {s: stack.enter_context(_Writer(out / f"{s}.arrow")) for s in SPLITS}
        sample = stack.enter_context((out / "decontaminated.jsonl").open("w", encoding="utf-8"))
        for row, (split, document) in enumerate(read(1, Counter())):
            if not survey.agrees(row, split, document):
                raise changed
            if not keep[row]:
                exact_duplicates[split] += 1
                continue
            if split == "train":
                windows = window_hashes(document.text, window_words)
                rate = share_found(windows, survey.heldout_windows)
                if rate > max_heldout_overlap:
                    near_heldout += 1
                    if near_heldout <= _SAMPLE_SIZE:
                        text = document.text[:_SAMPLE_CHARACTERS]
                        entry = {"id": document.id, "rate": rate, "text": text}
                        sample.write(json.dumps(entry, ensure_ascii=False) + "\n")
                    continue
            writers[split].write(replace(document, license=document.license or license))
        if row + 1 != len(survey.ranks):
            raise changed
    counts = {
        "documents": {split: writers[split].num_documents for split in SPLITS},
        "bytes": {split: writers[split].num_bytes for split in SPLITS},
        "exact_duplicates": {split: exact_duplicates[split] for split in SPLITS},
        "near_heldout": near_heldout,
        "groups_across_splits": survey.groups_across_splits(),
        "bad": dict(sorted(bad.items())),
    }
    _check_splits(path, counts, found, valid_fraction, test_fraction)
    return counts


def _check_settings(
    valid_fraction: float, test_fraction: float, max_heldout_overlap: float, window_words: int
) -> None:
    for name, value in (("valid_fraction", valid_fraction), ("test_fraction", test_fraction)):
        if not 0 <= value < 1:
            raise BadInput(f"field {name}: expected a share from 0 to below 1, got {value}")
    if valid_fraction + test_fraction >= 1:
        raise BadInput("fields valid_fraction and test_fraction: expected a sum below 1")
    if not 0 <= max_heldout_overlap <= 1:
        raise BadInput(
            f"field max_heldout_overlap: expected a share from 0 to 1, got {max_heldout_overlap}"
        )
    if window_words < 1:
        raise BadInput(f"field window_words: expected at least 1, got {window_words}")


def _check_splits(
    path: str,
    counts: Mapping[str, Any],
    found: Mapping[Split | None, list[str]],
    valid_fraction: float,
    test_fraction: float,
) -> None:
    for split in SPLITS:
        if counts["documents"][split]:
            continue
        gone = f"{counts['exact_duplicates'][split]} exact duplicates dropped"
        if split == "train":
            gone += f", {counts['near_heldout']} near to validation or test"
            mend = "give more documents, smaller fractions or a larger max_heldout_overlap"
        elif split in found:
            mend = f"put other documents into {found[split][0]}"
        else:
            fraction = valid_fraction if split == "valid" else test_fraction
            mend = (
                f"raise {split}_fraction (now {fraction}), give more documents or groups, or a "
                f"file that is named {split}"
            )
        raise BadInput(f"{path}: the split {split} is empty ({gone}); {mend}")


@dataclass
class _Survey:
    """What the first reading learns: 16 bytes of every text, its split, the held-out windows."""

    digests: bytearray = field(default_factory=bytearray)
    ranks: bytearray = field(default_factory=bytearray)
    groups: dict[bytes, int] = field(default_factory=dict)
    heldout_windows: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))

    def first_of_equals(self) -> npt.NDArray[np.bool_]:
        """bool [documents]: of equal texts the first in the order test, valid, train."""
        halves = np.frombuffer(self.digests, "<u8").reshape(-1, 2)
        order = np.lexsort((np.frombuffer(self.ranks, np.uint8), halves[:, 1], halves[:, 0]))
        equal = (halves[order[1:]] == halves[order[:-1]]).all(axis=1)
        keep = np.ones(len(halves), np.bool_)
        keep[order[1:][equal]] = False
        return keep

    def agrees(self, row: int, split: Split, document: Document) -> bool:
        """Whether the first reading had the same text and split in this place."""
        place = slice(row * _DIGEST_BYTES, (row + 1) * _DIGEST_BYTES)
        same_text = self.digests[place] == _digest(document.text)
        return same_text and _PRECEDENCE[self.ranks[row]] == split

    def groups_across_splits(self) -> int:
        """How many groups have members both in train and in a held-out split."""
        return sum(sides == 3 for sides in self.groups.values())


def _survey(documents: Iterator[tuple[Split, Document]], window_words: int) -> _Survey:
    survey = _Survey()
    pending: list[Hashes] = []
    pending_windows = 0
    for split, document in documents:
        survey.digests += _digest(document.text)
        survey.ranks.append(_PRECEDENCE.index(split))
        if document.group is not None:
            group = _digest(document.group)
            side = 1 if split == "train" else 2
            survey.groups[group] = survey.groups.get(group, 0) | side
        if split != "train":
            pending.append(window_hashes(document.text, window_words))
            pending_windows += pending[-1].size
            # Doubling keeps the work of merging in proportion to the number of windows.
            if pending_windows > max(_MERGE_WINDOWS, survey.heldout_windows.size):
                survey.heldout_windows = np.unique(
                    np.concatenate([survey.heldout_windows, *pending])
                )
                pending, pending_windows = [], 0
    survey.heldout_windows = np.unique(np.concatenate([survey.heldout_windows, *pending]))
    return survey


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()


class _Writer:
    """Writes documents to an uncompressed Arrow IPC file in batches of bounded bytes."""

    def __init__(self, path: Path) -> None:
        self._file = pa.ipc.new_file(str(path), _SCHEMA)
        self._rows: list[tuple[str | None, ...]] = []
        self._pending_bytes = 0
        self.num_documents = 0
        self.num_bytes = 0

    def write(self, document: Document) -> None:
        """Append one document; `num_bytes` counts the UTF-8 bytes of the texts."""
        num_bytes = len(document.text.encode())
        if self._pending_bytes + num_bytes > _BATCH_BYTES or len(self._rows) == _BATCH_ROWS:
            self._flush()
        metadata = json.dumps(document.metadata, allow_nan=False)
        names = (document.group, document.source, document.license)
        self._rows.append((document.id, document.text, *names, metadata))
        self._pending_bytes += num_bytes + len(metadata)
        self.num_documents += 1
        self.num_bytes += num_bytes

    def _flush(self) -> None:
        if self._rows:
            arrays = [pa.array(column, pa.string()) for column in zip(*self._rows, strict=True)]
            self._file.write_batch(pa.record_batch(arrays, schema=_SCHEMA))
        self._rows, self._pending_bytes = [], 0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._flush()
        self._file.close()
