"""Stages that take what a user gives as files, in place of what a run makes itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from synboot.core.errors import BadInput
from synboot.data.corpus import MAX_DOCUMENT_BYTES, Rules, Tally, read_documents_by_file
from synboot.data.fields import Fields, Problem, find_one, to_name
from synboot.data.files import DataFile, bytes_digest
from synboot.data.records import records, where
from synboot.data.splits import split_of
from synboot.data.tokenizer import TextTokenizer, train_tokenizer
from synboot.data.write import ArrowWriter
from synboot.experiment.stages.corpus import unique_documents
from synboot.pipeline.stage import Context, Counts, Stage


class DocumentsStage(Stage):
    """The documents of a user's files as they are: nothing is dropped but bad records.

    Config: `content` ({split: digest of its files' bytes}), `valid_fraction` (share of the groups
    of train that becomes valid; 0 for none) and the fields of a recipe's corpus that say how
    documents are read. The synthetic split has synboot's own field names.
    """

    name = "documents"
    version = 1

    def __init__(
        self, config: Mapping[str, Any], *, seed: int, files: Mapping[str, Sequence[DataFile]]
    ) -> None:
        super().__init__(config, {}, seed=seed)
        self.files = dict(files)

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write SPLIT.arrow for every split."""
        fraction, license_ = self.config["valid_fraction"], self.config["license"]
        own_fields = Fields(*(self.config[f"{name}_field"] for name in ("text", "id", "group")))
        rules = Rules(
            self.config["on_bad"], self.config["max_document_bytes"], self.config["long_documents"]
        )
        tally = Tally()
        with ExitStack() as stack:
            writers = {
                split: stack.enter_context(ArrowWriter(context.directory / f"{split}.arrow"))
                for split in (*self.files, *(("valid",) if fraction else ()))
            }
            for split, files in self.files.items():
                fields = Fields() if split == "synthetic" else own_fields
                read = read_documents_by_file(files, fields, rules, tally, context.advance)
                for _, document in read:
                    key = document.group or document.id
                    side = split_of(self.seed, key, fraction, 0.0) if split == "train" else split
                    own_license = document.license or license_
                    writers[side].write(replace(document, license=own_license))
        if {split: bytes_digest({None: f}) for split, f in self.files.items()} != self.config[
            "content"
        ]:
            raise BadInput("the files of the corpus changed while they were read; begin again")
        for split, writer in writers.items():
            if writer.num_documents == 0:
                raise BadInput(_nothing(split, self.files, fraction))
        return {
            "documents": {split: writer.num_documents for split, writer in writers.items()},
            "bytes": {split: writer.num_bytes for split, writer in writers.items()},
            "bad": dict(sorted(tally.bad.items())),
            "split_documents": tally.split_documents,
            "flops": 0,
        }


def _nothing(split: str, files: Mapping[str, Sequence[DataFile]], fraction: float) -> str:
    if split in files:
        return f"{_shown(files[split])}: expected documents, found none that can be used"
    return (
        f"{_shown(files['train'])}: {fraction:g} of the documents hold none for validation; "
        "raise valid_fraction, or name a file for it"
    )


def _shown(files: Sequence[DataFile]) -> str:
    return ", ".join(file.path for file in files)


class TokenizerFileStage(Stage):
    """A tokenizer trained on all training documents, or taken from a model directory.

    Config: `vocab_size`, or `content` (the digest of the directory).
    """

    name = "tokenizer"
    version = 1

    def __init__(
        self,
        config: Mapping[str, Any],
        inputs: Mapping[str, Stage],
        *,
        seed: int,
        directory: Path | None = None,
    ) -> None:
        super().__init__(config, inputs, seed=seed)
        self.directory_given = directory

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write the tokenizer."""
        split = "train" if context.inputs["corpus"].file("train.arrow").exists() else "test"
        count = int(context.inputs["corpus"].counts["documents"][split])
        if self.directory_given is not None:
            tokenizer = TextTokenizer.load(self.directory_given)
        else:
            documents = unique_documents(context.inputs)
            texts = (documents[i].text for i in range(len(documents)))
            tokenizer = train_tokenizer(
                _advancing(context, texts, count), self.config["vocab_size"]
            )
        tokenizer.save(context.directory)
        return {"vocab_size": tokenizer.vocab_size, "unique_documents": count, "flops": 0}


def _advancing(context: Context, texts: Iterator[str], total: int) -> Iterator[str]:
    for number, text in enumerate(texts):
        if number % 256 == 0:
            context.advance(number, total, "reading")
        yield text


class PairFileStage(Stage):
    """A user's pairs: d1 and d2 are ids of the corpus; rows whose verdict is drop are
    passed over. Config: `content` (digest of the file's bytes)."""

    name = "pairs"
    version = 1

    def __init__(
        self,
        config: Mapping[str, Any],
        inputs: Mapping[str, Stage],
        *,
        seed: int,
        files: Sequence[DataFile],
    ) -> None:
        super().__init__(config, inputs, seed=seed)
        self.files = files

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write pairs.parquet: d1, d2, verdict."""
        documents = unique_documents(context.inputs)
        known = set(documents.ids(0, len(documents)))
        kept: list[tuple[str, str]] = []
        num_rows = 0
        for file in self.files:
            for number, _, load in records(file, MAX_DOCUMENT_BYTES):
                num_rows += 1
                try:
                    pair = _pair(load(), known)
                except Problem as problem:
                    raise BadInput(f"{where(file, number)}: {problem}") from None
                if pair is not None:
                    kept.append(pair)
        if bytes_digest({None: self.files}) != self.config["content"]:
            raise BadInput(f"{_shown(self.files)}: changed while it was read; begin again")
        if not kept:
            raise BadInput(
                f"{_shown(self.files)}: expected pairs to keep, found none in {num_rows} rows"
            )
        first, second = zip(*kept, strict=True)
        table = pa.table({"d1": first, "d2": second, "verdict": ["keep"] * len(kept)})
        pq.write_table(table, context.directory / "pairs.parquet")
        return {"rows": num_rows, "kept": len(kept), "flops": 0}


def _pair(record: Any, known: set[str]) -> tuple[str, str] | None:
    """(d1, d2) of a row; None if it was judged and dropped. Raises Problem."""
    if not isinstance(record, dict):
        raise Problem("not_an_object", "expected an object with d1 and d2")
    verdict = record.get("verdict", "keep")
    if verdict not in ("keep", "drop"):
        raise Problem("verdict", f"field verdict: expected keep or drop, got {verdict!r}")
    if verdict == "drop":
        return None
    first, second = (_known_id(record, name, known) for name in ("d1", "d2"))
    if first == second:
        raise Problem("same", f"expected two documents, d1 and d2 are both {first!r}")
    return first, second


def _known_id(record: dict[str, Any], field: str, known: set[str]) -> str:
    place = find_one(record, field)
    identifier = to_name(field, place.value)
    if identifier not in known:
        raise Problem("unknown", f"field {field}: the corpus has no document {identifier!r}")
    return identifier
