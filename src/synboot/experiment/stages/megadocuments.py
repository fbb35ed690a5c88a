"""megadocuments: the synthetic text again, each seed document before its draws."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synboot.core.errors import GateFellShort
from synboot.data.tokenizer import TextTokenizer
from synboot.data.tokens import write_token_store
from synboot.experiment.stages.corpus import unique_documents
from synboot.pipeline.stage import Context, Counts, Stage
from synboot.synth.megadocuments import groups_of_draws, joined

_FIELDS = [
    ("text", pa.string()),
    ("seed_id", pa.string()),
    ("draws", pa.string()),
    ("num_tokens", pa.int64()),
    ("seed_tokens", pa.int64()),
    ("cut", pa.bool_()),
]


class MegadocumentsStage(Stage):
    """Joins draws with their seed document (`synth.megadocuments`), as many tokens as the draws
    have: the last ones are left out for the seed documents, whose text is repeated in this way.

    The last document is cut to the token and then has no END.
    """

    name = "megadocuments"
    version = 1

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write tokens/ and megadocuments.parquet: text, seed_id, draws (ids, a JSON list),
        num_tokens, seed_tokens (of them those of the seed document's text) and cut."""
        tokenizer = TextTokenizer.load(context.inputs["tokenizer"].path)
        documents = unique_documents(context.inputs)
        number = {name: i for i, name in enumerate(documents.ids(0, len(documents)))}
        source = context.inputs["synthesize"]
        columns = ["id", "text", "seed_id"]
        draws = pq.read_table(source.file("synthetic.parquet"), columns=columns).to_pylist()
        need = left = int(source.counts["tokens"])
        made: list[np.ndarray] = []
        rows = []
        for group in groups_of_draws([draw["seed_id"] for draw in draws], self.config["draws"]):
            if not left:
                break
            own = [draws[place] for place in group]
            seed_text = documents[number[own[0]["seed_id"]]].text
            text = joined(seed_text, [draw["text"] for draw in own])
            of_text, of_seed = tokenizer.encode([text, seed_text])
            ids = np.append(of_text, tokenizer.end_id)
            used = min(len(ids), left)
            cut = tokenizer.decode_bytes(ids[:used]).decode("utf-8", errors="replace")
            made.append(ids[:used])
            rows.append(
                {
                    "text": text if used == len(ids) else cut,
                    "seed_id": own[0]["seed_id"],
                    "draws": json.dumps([draw["id"] for draw in own]),
                    "num_tokens": used,
                    "seed_tokens": min(len(of_seed), used),
                    "cut": used < len(ids),
                }
            )
            left -= used
        table = pa.Table.from_pylist(rows, schema=pa.schema(_FIELDS))
        pq.write_table(table, context.directory / "megadocuments.parquet")
        tokens = write_token_store(context.directory / "tokens", made, tokenizer.vocab_size)
        if tokens != need:
            raise GateFellShort(
                f"megadocuments: joined, all draws and their seed documents have {tokens} of the "
                f"{need} tokens needed; ask for fewer draws a document (synthesize.megadocuments)"
            )
        return {
            "draws_per_document": self.config["draws"],
            "documents": len(rows),
            "draws": sum(len(json.loads(row["draws"])) for row in rows),
            "tokens": tokens,
            "seed_tokens": sum(row["seed_tokens"] for row in rows),
            "flops": 0,
        }
