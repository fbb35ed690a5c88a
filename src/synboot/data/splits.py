"""From users' files to three memory-mapped splits that share nothing they should not (law 13)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from synboot.core.errors import BadInput
from synboot.core.events import ReportProgress, ignore_progress
from synboot.core.rng import unit_interval
from synboot.data.corpus import (
    MAX_DOCUMENT_BYTES,
    Document,
    LongDocuments,
    OnBad,
    Rules,
    Tally,
    read_documents_by_file,
)
from synboot.data.digests import DIGEST_BYTES, digest
from synboot.data.fields import DEFAULT_ID_FIELD, Fields
from synboot.data.files import SPLITS, DataFile, Paths, Split, find_files, show_paths
from synboot.data.ngrams import WINDOW_WORDS, Hashes, all_windows, share_found, with_windows
from synboot.data.write import ArrowWriter

_PRECEDENCE: tuple[Split, ...] = ("test", "valid", "train")

_SAMPLE_SIZE = 20
_SAMPLE_CHARACTERS = 200


def split_of(seed: int, key: str, valid_fraction: float, test_fraction: float) -> Split:
    """The split that `key` (a group, or the id of a document without one) falls into.

    Depends on nothing but the arguments; another `valid_fraction` leaves the test split alone.
    """
    draw = unit_interval(seed, "split", key)
    if draw < test_fraction:
        return "test"
    return "valid" if draw < test_fraction + valid_fraction else "train"


def build_corpus(
    paths: Paths,
    out: Path,
    *,
    seed: int,
    valid_fraction: float,
    test_fraction: float,
    text_field: str = "text",
    id_field: str | None = DEFAULT_ID_FIELD,
    group_field: str | None = None,
    on_bad: OnBad = "stop",
    max_document_bytes: int = MAX_DOCUMENT_BYTES,
    long_documents: LongDocuments = "stop",
    license: str | None = None,
    max_heldout_overlap: float = 0.2,
    window_words: int = WINDOW_WORDS,
    progress: ReportProgress | None = None,
) -> dict[str, Any]:
    """Write train.arrow, valid.arrow, test.arrow and decontaminated.jsonl to the directory `out`.

    Splits are those that the files name; one that they do not name is drawn from train, by whole
    groups. Of equal texts one stays, in test before valid before train. A training document goes
    if more than `max_heldout_overlap` of its windows stand in a held-out document. `license` is
    for documents without one. Reads the files twice; holds 18 bytes and the digest of its id (24
    to 72 bytes) per document, about 150 bytes per group, and 8 per held-out window, 32 while they
    are merged. Returns counts. Raises BadInput for files and records that cannot be used and for a
    split that stays empty.
    """
    _check_settings(valid_fraction, test_fraction, max_heldout_overlap, window_words)
    found = find_files(paths)
    path = show_paths(paths)
    files = [(split, file) for split, names in found.items() for file in names]
    if None not in found and "train" not in found:
        raise BadInput(f"{path}: holds no file of the split train, only {sorted(map(str, found))}")
    fractions = (
        0.0 if "valid" in found else valid_fraction,
        0.0 if "test" in found else test_fraction,
    )
    report = progress or ignore_progress
    fields = Fields(text_field, id_field, group_field)
    rules = Rules(on_bad, max_document_bytes, long_documents)
    tally = Tally()

    def read(reading: int, tally: Tally) -> Iterator[tuple[Split, Document]]:
        """All documents with their splits, the same at every reading."""
        documents = read_documents_by_file(
            [file for _, file in files],
            fields,
            rules,
            tally,
            lambda done, total, note: report(reading * total + done, 2 * total, note),
        )
        for index, document in documents:
            split = files[index][0]
            if split is None or (split == "train" and any(fractions)):
                split = split_of(seed, document.group or document.id, *fractions)
            yield split, document

    survey = _survey(read(0, tally), window_words)
    keep = survey.first_of_equals()
    exact_duplicates: Counter[str] = Counter()
    near_heldout = 0
    with ExitStack() as stack:
        writers = {s: stack.enter_context(ArrowWriter(out / f"{s}.arrow")) for s in SPLITS}
        sample = stack.enter_context((out / "decontaminated.jsonl").open("w", encoding="utf-8"))

        def write(split: Split, document: Document) -> None:
            if license and not document.license:
                document = replace(document, license=license)
            writers[split].write(document)

        def training() -> Iterator[Document]:
            """Writes held-out documents on the way."""
            row = -1
            changed = BadInput(f"{path}: the files changed while they were read")
            for row, (split, document) in enumerate(read(1, Tally())):
                if not survey.agrees(row, split, document):
                    raise changed
                if not keep[row]:
                    exact_duplicates[split] += 1
                elif split == "train":
                    yield document
                else:
                    write(split, document)
            if row + 1 != len(survey.ranks):
                raise changed

        for document, windows in with_windows(training(), lambda d: d.text, window_words):
            rate = share_found(windows, survey.heldout_windows)
            if rate <= max_heldout_overlap:
                write("train", document)
                continue
            near_heldout += 1
            if near_heldout <= _SAMPLE_SIZE:
                text = document.text[:_SAMPLE_CHARACTERS]
                entry = {"id": document.id, "rate": rate, "text": text}
                sample.write(json.dumps(entry, ensure_ascii=False) + "\n")
    counts = {
        "documents": {split: writers[split].num_documents for split in SPLITS},
        "bytes": {split: writers[split].num_bytes for split in SPLITS},
        "exact_duplicates": {split: exact_duplicates[split] for split in SPLITS},
        "near_heldout": near_heldout,
        "groups_across_splits": survey.groups_across_splits(),
        "bad": dict(sorted(tally.bad.items())),
    }
    if long_documents == "split":
        counts["long_documents"] = {"documents": tally.split_documents, "pieces": tally.pieces}
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
    found: Mapping[Split | None, list[DataFile]],
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
            mend = f"put other documents into {found[split][0].path}"
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
        place = slice(row * DIGEST_BYTES, (row + 1) * DIGEST_BYTES)
        same_text = self.digests[place] == digest(document.text)
        return same_text and _PRECEDENCE[self.ranks[row]] == split

    def groups_across_splits(self) -> int:
        """How many groups have members both in train and in a held-out split."""
        return sum(sides == 3 for sides in self.groups.values())


def _survey(documents: Iterator[tuple[Split, Document]], window_words: int) -> _Survey:
    survey = _Survey()

    def heldout_texts() -> Iterator[str]:
        for split, document in documents:
            survey.digests += digest(document.text)
            survey.ranks.append(_PRECEDENCE.index(split))
            if document.group is not None:
                group = digest(document.group)
                side = 1 if split == "train" else 2
                survey.groups[group] = survey.groups.get(group, 0) | side
            if split != "train":
                yield document.text

    survey.heldout_windows = all_windows(heldout_texts(), window_words)
    return survey
