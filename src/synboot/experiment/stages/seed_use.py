"""seed_use: what a synthesizer takes from its seed document.

The nats of a related document after its own d1 and after another document in d1's place, by the
same synthesizer. Where both are alike it writes as if nothing had been given to it, whatever its
loss, and its text is little else than self-distillation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from synboot.core.rng import rng
from synboot.data.documents import Documents
from synboot.data.tokenizer import TextTokenizer
from synboot.data.tokens import TokenStore
from synboot.experiment.stages.corpus import heldout_documents, unique_documents
from synboot.experiment.stages.process import set_threads
from synboot.experiment.stages.training import pair_split
from synboot.experiment.stages.validation_pairs import SPLIT
from synboot.experiment.statistics.scores import Scores
from synboot.model.architecture import load_model
from synboot.model.flops import forward_flops, known_cost
from synboot.pipeline.stage import Artifact, Context, Counts, Stage
from synboot.synth.likelihood import nats_after
from synboot.synth.template import prompt

MAX_PAIRS = 512
"""Ordered; as many as tuning is validated on, or a sample."""
_ROWS_AT_ONCE = 16
OWN, OTHER = "own_seed", "other_seed"


class SeedUseStage(Stage):
    """Scores the d2 of the pairs that tuning was validated on, after d1 and after a document that
    is not related to d2: drawn by key from the first documents of other pairs.

    Both times the same tokens are scored: as many as fit behind the longest prompt, half of the
    context, with END where d2 ends within them. Inputs: `tune` (its best checkpoint is read),
    `pairs` and perhaps `validation_pairs`, of related documents also where those that the
    synthesizer was tuned on are not. The seed is that of tuning.
    """

    name = "seed_use"
    version = 1

    def enter(self) -> None:
        """As many threads as training has."""
        set_threads(self.numerics["threads"])

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write seed_use.parquet: id, group, num_tokens, own_seed and other_seed (nats), a row for
        each d2, over all of its pairs."""
        on_text = "validation_pairs" in context.inputs
        fraction = self.config.get("validation_fraction")
        split = pair_split(context.inputs, fraction, self.seed)
        pairs = split.validation
        # Training pairs are of the same documents only where some of them are held out.
        known = pairs if on_text else [*split.training, *pairs]
        if len(pairs) > MAX_PAIRS:
            chosen = rng(self.seed, "seed use sample").permutation(len(pairs))[:MAX_PAIRS]
            pairs = [pairs[place] for place in np.sort(chosen).tolist()]
        documents = (
            heldout_documents(context.inputs["corpus"], SPLIT)
            if on_text
            else unique_documents(context.inputs)
        )
        tokens = context.inputs["tokens"].file("valid" if on_text else "train")
        triples = with_others(pairs, known, _groups(documents, known), self.seed)
        rows = self._rows(context, triples, TokenStore(tokens))
        model = load_model(context.inputs["tune"].file("best"))
        model.to(torch.device(self.numerics["device"])).eval()
        vocab_size = context.inputs["tokenizer"].counts["vocab_size"]
        sums: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(3))
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            context.advance(first, len(rows), "scoring")
            some = rows[first : first + _ROWS_AT_ONCE]
            texts = [text for _, _, text in some]
            for place in (0, 1):
                prompts = [row[place] for row in some]
                nats = nats_after(model, prompts, texts, vocab_size)
                for (_, d2, _), own in zip(triples[first:], nats, strict=False):
                    sums[d2][place] += own
            for (_, d2, _), text in zip(triples[first:], texts, strict=False):
                sums[d2][2] += len(text)
        scored = sorted(sums)
        found = np.array([sums[d2] for d2 in scored]).reshape(-1, 3)
        table = {
            "id": [documents.ids(d2, d2 + 1)[0] for d2 in scored],
            "group": pa.array([documents.groups(d2, d2 + 1)[0] for d2 in scored], pa.string()),
            "num_tokens": found[:, 2].astype(np.int64),
            OWN: found[:, 0],
            OTHER: found[:, 1],
        }
        pq.write_table(pa.table(table), context.directory / "seed_use.parquet")
        cost = known_cost(model)
        lengths = [len(before) + len(text) - 1 for *both, text in rows for before in both]
        return {
            "pairs": len(triples),
            "documents": len(scored),
            "tokens": int(found[:, 2].sum()),
            "flops": cost and sum(forward_flops(cost, 0, length) for length in lengths),
        }

    def _rows(
        self, context: Context, triples: Sequence[tuple[int, int, int]], store: TokenStore
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(prompt of d1, prompt of the other, the tokens of d2 that are scored) of each triple."""
        tokenizer = TextTokenizer.load(context.inputs["tokenizer"].path)
        length = self.config["model"]["context"]
        ends = {"end_id": tokenizer.end_id, "start_id": tokenizer.start_id}
        return [
            (
                prompt(store[d1][:-1], length, **ends),
                prompt(store[other][:-1], length, **ends),
                store[d2][: length // 2].astype(np.int64),
            )
            for d1, d2, other in triples
        ]


def _groups(documents: Documents, pairs: Sequence[tuple[int, int]]) -> dict[int, str | None]:
    numbers = {number for pair in pairs for number in pair}
    return {number: documents.groups(number, number + 1)[0] for number in numbers}


def with_others(
    pairs: Sequence[tuple[int, int]],
    known: Sequence[tuple[int, int]],
    groups: dict[int, str | None],
    seed: int,
) -> list[tuple[int, int, int]]:
    """(d1, d2, other) of `pairs`: another first document of the `known` pairs, which is in none of
    them with d2, not d2 itself and not of its group or d1's. Pairs for which there is none are left
    out."""
    related: dict[int, set[int]] = defaultdict(set)
    for a, b in known:
        related[a] |= {a, b}
        related[b] |= {a, b}
    firsts = sorted({d1 for d1, _ in known})
    triples = []
    for place, (d1, d2) in enumerate(pairs):
        near = {groups[d] for d in (d1, d2) if groups[d] is not None}
        possible = [d for d in firsts if d not in related[d2] | {d1} and groups[d] not in near]
        if possible:
            chosen = rng(seed, "seed use", place).integers(len(possible))
            triples.append((d1, d2, possible[int(chosen)]))
    return triples


def read_seed_use(artifact: Artifact) -> dict[str, list[Scores]] | None:
    """Of both, as scores of two arms with one seed; None where nothing was scored."""
    table: dict[str, Any] = pq.read_table(artifact.file("seed_use.parquet")).to_pydict()
    if not table["id"]:
        return None
    tokens = np.array(table["num_tokens"], dtype=np.int64)
    groups = table["group"] if any(group is not None for group in table["group"]) else None
    return {
        side: [Scores(table["id"], tokens, tokens, np.array(table[side]), groups)]
        for side in (OWN, OTHER)
    }
