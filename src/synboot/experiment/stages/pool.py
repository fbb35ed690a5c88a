"""pool: the synthetic text of several writers as one, a document of each in turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synboot.core.storage import read_json, write_json
from synboot.data.tokens import TokenStore, write_token_store
from synboot.pipeline.stage import Artifact, Context, Counts, Stage
from synboot.synth.pool import interleaved

POOL = "pool"
_SUMS = (
    *("requested_tokens", "tokens", "documents", "candidates", "sampled_tokens"),
    "draws_per_seed",
)
_OF_A_WRITER = ("tokens", "documents", "candidates", "sampled_tokens")


class PoolStage(Stage):
    """Joins what writers wrote (`synth.pool`) into what a reader of `synthesize` reads.

    Inputs: `tokenizer`, and synthesize stages as `writer_1`, `writer_2` ...
    """

    name = POOL
    version = 1

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write synthetic.parquet, tokens/ and samples.json, of all writers. Ids have the number of
        their writer behind them, `ID.2`; all else of a row is as it was."""
        numbers = range(1, len(context.inputs))
        writers = [context.inputs[f"writer_{number}"] for number in numbers]
        stores = [TokenStore(writer.file("tokens")) for writer in writers]
        order = interleaved([store.lengths().tolist() for store in stores])
        tables = [_table(writer, number) for number, writer in enumerate(writers, 1)]
        first = np.cumsum([0, *map(len, tables)])
        places = pa.array([int(first[writer]) + document for writer, document in order])
        pq.write_table(
            pa.concat_tables(tables).take(places), context.directory / "synthetic.parquet"
        )
        tokens = write_token_store(
            context.directory / "tokens",
            (stores[writer][document] for writer, document in order),
            context.inputs["tokenizer"].counts["vocab_size"],
        )
        write_json(context.directory / "samples.json", _samples(writers))
        counted = [writer.counts for writer in writers]
        if tokens != sum(own["requested_tokens"] for own in counted):
            raise AssertionError(f"pool: {tokens} tokens are not what the writers were asked for")
        return {
            **_joined(counted),
            "writers": [
                {
                    "synthesizer": table["synthesizer"][0].as_py(),
                    **{name: own[name] for name in _OF_A_WRITER},
                }
                for table, own in zip(tables, counted, strict=True)
            ],
            "flops": 0,
        }


def _table(writer: Artifact, number: int) -> pa.Table:
    """The documents of a writer, with ids that no other one's have."""
    table = pq.read_table(writer.file("synthetic.parquet"))
    ids = [_id(name, number) for name in table["id"].to_pylist()]
    return table.set_column(table.schema.get_field_index("id"), "id", pa.array(ids, pa.string()))


def _id(name: str, number: int) -> str:
    return f"{name}.{number}"


def _samples(writers: Sequence[Artifact]) -> dict[str, Any]:
    """Samples of all writers in turn: as many kept ones as one writer has, all dropped ones."""
    found = [read_json(writer.file("samples.json")) for writer in writers]
    kept = [
        [{**sample, "id": _id(sample["id"], number)} for sample in own["samples"][:: len(found)]]
        for number, own in enumerate(found, 1)
    ]
    return {
        "samples": _in_turn(kept),
        "dropped_samples": _in_turn([own["dropped_samples"] for own in found]),
    }


def _in_turn(lists: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [one for group in zip_longest(*lists) for one in group if one is not None]


def _joined(counted: Sequence[Mapping[str, Any]]) -> Counts:
    """The counts of `synthesize`, of all writers: sums, and means over what they are means of."""
    joined: Counts = {name: sum(own[name] for own in counted) for name in _SUMS}
    verdicts: Counter[str] = Counter()
    for own in counted:
        verdicts.update(own["verdicts"])
    joined |= {
        "verdicts": dict(sorted(verdicts.items(), key=lambda item: (item[0] != "kept", item[0]))),
        "engine": ", ".join(dict.fromkeys(own["engine"] for own in counted)),
    }
    if "best_of" not in counted[0]:
        return joined
    joined |= {"best_of": counted[0]["best_of"], "scored": sum(own["scored"] for own in counted)}
    for mean, over in (("mean_log_ratio", "scored"), ("mean_log_ratio_kept", "documents")):
        joined[mean] = sum(own[mean] * own[over] for own in counted) / joined[over]
    return joined
