"""seed_use: what a synthesizer takes from its seed document.

The nats of a related document after its own d1 and after another document in d1's place, by the
same model: the synthesizer, and the base model that it was tuned from, which may use a document
that stands before another one without any tuning. Where both are alike the synthesizer writes as
if nothing had been given to it, whatever its loss, and its text is little else than
self-distillation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from synboot.core.rng import rng
from synboot.data.tokenizer import TextTokenizer
from synboot.data.tokens import TokenStore
from synboot.experiment.stages.corpus import heldout_documents, unique_documents
from synboot.experiment.stages.process import set_threads
from synboot.experiment.stages.training import pair_split
from synboot.experiment.stages.validation_pairs import LESS_SIMILAR, SPLIT
from synboot.model.architecture import load_model
from synboot.model.flops import forward_flops, known_cost
from synboot.pairs.find import read_kept_pairs
from synboot.pipeline.stage import Context, Counts, Stage
from synboot.synth.likelihood import nats_after
from synboot.synth.template import prompt

MAX_PAIRS = 512
"""Ordered; as many as tuning is validated on, or a sample."""
OWN, OTHER = "own_seed", "other_seed"
MODELS = ("synthesizer", "base")
_MAX_ROWS = 16
_LOGITS_AT_ONCE = 1 << 25

Pair = tuple[int, int]
Row = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Prompt of d1, prompt of the other document, the tokens of d2 that are scored."""


class SeedUseStage(Stage):
    """Scores the d2 of the pairs that tuning was validated on, after d1 and after a document that
    was not judged related to d2: drawn by key from the first documents of the other pairs.

    Both times the same tokens are scored: as many as fit behind the longest prompt, half of the
    context, with END where d2 ends within them. Inputs: `tune` (its best checkpoint is read),
    perhaps `base` (the checkpoint that the config names), `pairs` and perhaps `validation_pairs`,
    of related documents also where those that the synthesizer was tuned on are not. The seed is
    that of tuning.
    """

    name = "seed_use"
    version = 1

    def enter(self) -> None:
        """As many threads as training has."""
        set_threads(self.numerics["threads"])

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write seed_use.parquet, a row for each ordered pair: d1, d2, other (ids), group1, group2
        (of d1 and d2, null where none), num_tokens, and nats by model and side, such as
        synthesizer_own_seed."""
        inputs = context.inputs
        on_text = "validation_pairs" in inputs
        documents = (
            heldout_documents(inputs["corpus"], SPLIT) if on_text else unique_documents(inputs)
        )
        split = pair_split(inputs, self.config.get("validation_fraction"), self.seed)
        pairs = sample(split.validation, self.seed)
        ids = documents.ids(0, len(documents))
        number = {name: i for i, name in enumerate(ids)}
        judged = inputs["validation_pairs" if on_text else "pairs"].file("pairs.parquet")
        names = read_kept_pairs(judged, or_dropped_as=LESS_SIMILAR)
        related = [(number[a], number[b]) for a, b in names]
        groups = dict(enumerate(documents.groups(0, len(documents))))
        triples = with_others(pairs, related, groups, self.seed)
        rows = self._rows(context, triples, inputs["tokens"].file("valid" if on_text else "train"))
        columns, flops = self._scored(context, rows)
        table = {
            "d1": pa.array([ids[d1] for d1, _, _ in triples], pa.string()),
            "d2": pa.array([ids[d2] for _, d2, _ in triples], pa.string()),
            "other": pa.array([ids[other] for *_, other in triples], pa.string()),
            "group1": pa.array([groups[d1] for d1, _, _ in triples], pa.string()),
            "group2": pa.array([groups[d2] for _, d2, _ in triples], pa.string()),
            "num_tokens": pa.array([len(text) for *_, text in rows], pa.int64()),
            **{name: pa.array(nats, pa.float64()) for name, nats in columns.items()},
        }
        pq.write_table(pa.table(table), context.directory / "seed_use.parquet")
        return {
            "pairs": len(triples),
            "pairs_without_another": len(pairs) - len(triples),
            "documents": len({d2 for _, d2, _ in triples}),
            "tokens": sum(len(text) for *_, text in rows),
            "flops": flops,
        }

    @property
    def _models(self) -> dict[str, tuple[str, str]]:
        """Input and checkpoint of each model that is scored."""
        base = {"base": ("base", self.config["base_checkpoint"])} if "base" in self.inputs else {}
        return {"synthesizer": ("tune", "best"), **base}

    def _rows(
        self, context: Context, triples: Sequence[tuple[int, int, int]], tokens: Path
    ) -> list[Row]:
        tokenizer = TextTokenizer.load(context.inputs["tokenizer"].path)
        store, length = TokenStore(tokens), self.config["model"]["context"]
        ends = {"end_id": tokenizer.end_id, "start_id": tokenizer.start_id}
        return [
            (
                prompt(store[d1][:-1], length, **ends),
                prompt(store[other][:-1], length, **ends),
                store[d2][: length // 2].astype(np.int64),
            )
            for d1, d2, other in triples
        ]

    def _scored(
        self, context: Context, rows: Sequence[Row]
    ) -> tuple[dict[str, list[float]], int | None]:
        """(nats of each row by model and side; FLOPs)."""
        vocab_size = context.inputs["tokenizer"].counts["vocab_size"]
        length = self.config["model"]["context"]
        size = max(1, min(_MAX_ROWS, _LOGITS_AT_ONCE // (length * vocab_size)))
        columns: dict[str, list[float]] = {}
        costs = []
        for number, (name, (source, checkpoint)) in enumerate(self._models.items()):
            model = load_model(context.inputs[source].file(checkpoint))
            model.to(torch.device(self.numerics["device"])).eval()
            costs.append(known_cost(model))
            for first in range(0, len(rows), size):
                done = number * len(rows) + first
                context.advance(done, len(rows) * len(self._models), "scoring")
                some = rows[first : first + size]
                texts = [text for *_, text in some]
                for place, side in enumerate((OWN, OTHER)):
                    prompts = [row[place] for row in some]
                    nats = nats_after(model, prompts, texts, vocab_size)
                    columns.setdefault(f"{name}_{side}", []).extend(nats)
        lengths = [len(before) + len(text) - 1 for *both, text in rows for before in both]
        known = [cost for cost in costs if cost is not None]
        flops = sum(forward_flops(cost, 0, length) for cost in known for length in lengths)
        return columns, flops if len(known) == len(costs) else None


def sample(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """At most 512 of the pairs, chosen by key, in their order."""
    if len(pairs) <= MAX_PAIRS:
        return list(pairs)
    chosen = rng(seed, "seed use sample").permutation(len(pairs))[:MAX_PAIRS]
    return [pairs[place] for place in np.sort(chosen).tolist()]


def with_others(
    pairs: Sequence[Pair], related: Sequence[Pair], groups: Mapping[int, str | None], seed: int
) -> list[tuple[int, int, int]]:
    """(d1, d2, other) of `pairs`: another first document, of `pairs` or, where they have none, of
    all that are `related`, which was not judged related to d2, is not d2 itself and not of its
    group or d1's. Pairs for which there is none are left out."""
    near: dict[int, set[int]] = defaultdict(set)
    for a, b in [*pairs, *related]:
        near[a] |= {a, b}
        near[b] |= {a, b}
    pools = [sorted({d1 for d1, _ in some}) for some in (pairs, related)]
    triples = []
    for place, (d1, d2) in enumerate(pairs):
        without = near[d2] | {d1}
        named = {groups[d] for d in (d1, d2)} - {None}
        for pool in pools:
            possible = [d for d in pool if d not in without and groups[d] not in named]
            if possible:
                chosen = rng(seed, "seed use", place).integers(len(possible))
                triples.append((d1, d2, possible[int(chosen)]))
                break
    return triples
