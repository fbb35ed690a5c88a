"""Which synthetic documents, real documents and real pairs are looked at for quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from synboot.core.errors import BadInput
from synboot.core.rng import rng
from synboot.core.storage import read_json, write_json
from synboot.data.corpus import Document
from synboot.data.documents import Documents
from synboot.data.fields import Problem, find_one, to_name
from synboot.eval.quality.figures import Integers
from synboot.experiment.stages.corpus import unique_documents
from synboot.pipeline.stage import Artifact

_BATCH = 4096
SEED_FIELD = "seed_id"
"""Where a synthetic document names its seed, unless another field is given."""


@dataclass(frozen=True)
class Samples:
    """Keyed samples, each in the order of its source.

    `synthetic`: texts; `ids` theirs; `seeds`: int64, the numbers of their seed documents, -1 for
    none; `tokens`: int64, empty where not known. `real`: int64, numbers of real documents. `pairs`:
    int64 [pairs, 2], numbers of d1 and d2.
    """

    synthetic: pa.ChunkedArray
    ids: pa.ChunkedArray
    seeds: Integers
    tokens: Integers
    real: Integers
    pairs: Integers
    totals: Mapping[str, int]

    @classmethod
    def load(cls, directory: Path) -> Samples:
        """What `take_samples` wrote; texts are mapped, not read."""
        table = pa.ipc.open_file(pa.memory_map(str(directory / "synthetic.arrow"))).read_all()
        tokens = table["tokens"]
        return cls(
            table["text"],
            table["id"],
            table["seed"].to_numpy(),
            tokens.to_numpy() if not tokens.null_count else np.empty(0, np.int64),
            np.load(directory / "real.npy", allow_pickle=False),
            np.load(directory / "pairs.npy", allow_pickle=False),
            read_json(directory / "totals.json"),
        )

    def counts(self) -> dict[str, int]:
        """How many there are, and how many are looked at."""
        return {
            **self.totals,
            "synthetic_looked_at": len(self.synthetic),
            "with_seed": int((self.seeds >= 0).sum()),
            "real_looked_at": len(self.real),
            "pairs_looked_at": len(self.pairs),
        }


def take_samples(
    inputs: Mapping[str, Artifact], directory: Path, *, most: int, seed_field: str | None, seed: int
) -> None:
    """Write keyed samples of at most `most` documents and pairs into `directory`.

    Raises BadInput for a seed that the real corpus does not have.
    """
    documents = unique_documents(inputs)
    if "synthesize" in inputs:
        total, table = _of_run(inputs["synthesize"], most, seed)
    else:
        total, table = _of_user(inputs["synthetic"], most, seed, seed_field)
    num_pairs, pairs = _pairs(inputs.get("pairs"), most, seed)
    names = table["seed_id"].to_pylist()
    if seed_field not in (None, SEED_FIELD) and not any(name is not None for name in names):
        raise BadInput(
            f"field {seed_field}: expected the name of a seed document in it, no synthetic "
            "document has one"
        )
    number = _numbers(documents, {*names, *pairs[0], *pairs[1]})
    seeds = [_seed(name, row, number, seed_field, table) for row, name in enumerate(names)]
    table = table.drop_columns("seed_id").append_column("seed", pa.array(seeds, pa.int64()))
    with pa.ipc.new_file(str(directory / "synthetic.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=_BATCH)
    ends = [[number[name] for name in names] for names in pairs]
    np.save(directory / "real.npy", _chosen(len(documents), most, seed, "real"))
    np.save(directory / "pairs.npy", np.array(ends, np.int64).T.reshape(-1, 2))
    totals = {"synthetic": total, "real": len(documents), "real_pairs": num_pairs}
    write_json(directory / "totals.json", totals)


def _numbers(documents: Documents, names: Set[str | None]) -> dict[str, int]:
    """The numbers of the documents of such ids, those that there are."""
    return {
        name: start + place
        for start in range(0, len(documents), _BATCH)
        for place, name in enumerate(documents.ids(start, start + _BATCH))
        if name in names
    }


def _seed(
    name: str | None, row: int, number: Mapping[str, int], field: str | None, table: pa.Table
) -> int:
    if name is None:
        return -1
    if name not in number:
        raise BadInput(
            f"{table['id'][row].as_py()}: field {field or 'seed_id'}: the real corpus has no "
            f"document {name!r}; give the corpus that the seeds are from, or another --seed-field"
        )
    return number[name]


def _of_run(synthesize: Artifact, most: int, seed: int) -> tuple[int, pa.Table]:
    """Texts are read a batch at a time, and those that are chosen are kept."""
    file = pq.ParquetFile(synthesize.file("synthetic.parquet"))
    total = file.metadata.num_rows
    chosen = _chosen(total, most, seed, "synthetic")
    columns = ["id", "text", "seed_id", "num_tokens"]
    taken, start = [], 0
    for batch in file.iter_batches(_BATCH, columns=columns):
        first, last = np.searchsorted(chosen, [start, start + batch.num_rows])
        if last > first:
            taken.append(batch.select(columns).take(pa.array(chosen[first:last] - start)))
        start += batch.num_rows
    schema = file.schema_arrow
    table = pa.Table.from_batches(taken, pa.schema([schema.field(name) for name in columns]))
    return total, table.rename_columns(["id", "text", "seed_id", "tokens"])


def _of_user(
    synthetic: Artifact, most: int, seed: int, seed_field: str | None
) -> tuple[int, pa.Table]:
    """A user's documents; the fields that are no text of a document stand in its metadata."""
    documents = Documents(synthetic.file("train.arrow"))
    chosen = _chosen(len(documents), most, seed, "synthetic")
    tables = []
    for start in range(0, len(chosen), _BATCH):
        own = [documents[place] for place in chosen[start : start + _BATCH].tolist()]
        columns: dict[str, Sequence[Any]] = {
            "id": [document.id for document in own],
            "text": [document.text for document in own],
            "seed_id": [_named(document, seed_field) for document in own],
            "tokens": [_tokens(document) for document in own],
        }
        kinds = (pa.string(), pa.string(), pa.string(), pa.int64())
        tables.append(pa.table(
            {name: pa.array(values, kind)
             for (name, values), kind in zip(columns.items(), kinds, strict=True)}
        ))  # fmt: skip
    return len(documents), pa.concat_tables(tables)


def _named(document: Document, field: str | None) -> str | None:
    """The seed that a document names; None where it has no such field, or null in it."""
    if field is None:
        return None
    try:
        value = find_one(document.metadata, field).value
    except Problem:
        return None
    try:
        return None if value is None else to_name(field, value)
    except Problem as problem:
        raise BadInput(f"{document.id}: {problem}") from None


def _tokens(document: Document) -> int | None:
    value = document.metadata.get("num_tokens")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _pairs(pairs: Artifact | None, most: int, seed: int) -> tuple[int, list[list[str]]]:
    """How many pairs are kept, and d1 and d2 of those that are looked at."""
    if pairs is None:
        return 0, [[], []]
    table = pq.read_table(pairs.file("pairs.parquet"), columns=["d1", "d2", "verdict"])
    table = table.filter(pc.equal(table["verdict"], "keep"))
    chosen = table.take(pa.array(_chosen(len(table), most, seed, "pairs")))
    return len(table), [chosen[end].to_pylist() for end in ("d1", "d2")]


def _chosen(count: int, most: int, seed: int, what: str) -> Integers:
    """At most `most` of `count`, ascending."""
    if count <= most:
        return np.arange(count)
    return np.sort(rng(seed, "quality sample", what).permutation(count)[:most])
