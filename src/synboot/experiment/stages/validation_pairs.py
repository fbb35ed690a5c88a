"""validation_pairs: related documents of the validation split, which no model was trained on, for
choosing the synthesizer's checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from synboot.core.errors import BadInput
from synboot.core.verdict import Drop, Keep, Tally
from synboot.experiment.stages.corpus import heldout_documents
from synboot.experiment.stages.process import ranges, set_threads
from synboot.pairs.encoders.encoder import load_encoder
from synboot.pairs.encoders.settings import EncoderConfig
from synboot.pairs.filters import PairFilterConfig
from synboot.pairs.find import JudgedPairs, PairSplit, judge_pairs, read_kept_pairs, write_pairs
from synboot.pairs.neighbours.exact import ExactIndex
from synboot.pairs.random import random_split, write_split
from synboot.pipeline.stage import Artifact, Context, Counts, Stage

SPLIT = "valid"
"""The only one that is read here."""
MAX_DOCUMENTS = 4096
"""Of the split, the first ones: more would choose no better, and are compared with each other."""
MAX_PAIRS = 128
"""Unordered, the most similar. A validation split holds many more pairs that are hardly related:
similarities are higher in text that the encoder was not fitted on, so that `min_similarity` keeps
nearly all. Every validation of tuning reads all of them."""
LESS_SIMILAR = "less_similar"
"""Why pairs are dropped that the filters keep, but that are beyond `MAX_PAIRS`."""
MIN_PAIRS = 8
"""Unordered. The loss on fewer says little of any other pair."""


class ValidationPairsStage(Stage):
    """Finds pairs of validation documents as those for tuning are found: by the encoder that was
    fitted on the unique budget, exact neighbours and the same filters.

    Config: `top_k` and the filters. The encoder `lm` reads with the base model that it was fitted
    with, an input.
    """

    name = "validation_pairs"
    version = 1

    def __init__(
        self,
        *arguments: Any,
        settings: EncoderConfig,
        base_checkpoint: str = "best",
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.settings = settings
        self.base_checkpoint = base_checkpoint

    def enter(self) -> None:
        """One thread, as where the unique budget is embedded."""
        set_threads(self.numerics["threads"])

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write pairs.parquet. Raises BadInput for fewer than 8 pairs."""
        documents = heldout_documents(context.inputs["corpus"], SPLIT)
        count = min(len(documents), MAX_DOCUMENTS)
        ids, texts = documents.ids(0, count), documents.texts(0, count)
        vectors, flops = self._embedded(context, texts)
        neighbours = ExactIndex(vectors).search(0, count, self.config["top_k"])
        filters = {name: self.config[name] for name in PairFilterConfig.model_fields}
        config = PairFilterConfig.model_validate(filters)
        groups = documents.groups(0, count)
        pairs = _most_similar(judge_pairs(neighbours, texts, ids, groups, config))
        counts = pairs.tally.counts()
        if len(pairs.kept) < MIN_PAIRS:
            shown = ", ".join(f"{name} {n}" for name, n in counts.items())
            raise BadInput(
                f"field tune.validate_on: validation_text has {len(pairs.kept)} pairs of related "
                f"documents among {count} ({shown}); expected at least {MIN_PAIRS}; "
                "set held_out_pairs, a larger validation split (corpus.valid_fraction) or a lower "
                f"pairs.min_similarity than {config.min_similarity:g}"
            )
        write_pairs(context.directory / "pairs.parquet", pairs, ids)
        return {
            "documents": count,
            "candidates": len(pairs.candidates),
            **counts,
            "mean_similarity": float(np.mean([pair.similarity for pair in pairs.kept])),
            "flops": flops + 2 * count**2 * vectors.shape[1],
        }

    def _embedded(self, context: Context, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """(float32 [texts, dimensions], the FLOPs that they took)."""
        base = context.inputs.get("base")
        encoder = load_encoder(
            self.settings.encoder,
            context.inputs["embed"].file("encoder"),
            model_directory=base.file(self.base_checkpoint) if base else None,
            device=self.numerics.get("device", "cpu"),
        )
        before, vectors = encoder.flops, []
        for start, stop in ranges(len(texts), self.numerics["part_documents"]):
            context.advance(start, len(texts), "embedding")
            vectors.append(encoder.encode(texts[start:stop]))
        return np.concatenate(vectors), encoder.flops - before


class RandomValidationPairsStage(Stage):
    """A control: as many pairs of the same validation documents, at random."""

    name = "random_validation_pairs"
    version = 1

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write pairs.parquet: d1, d2, verdict, validation."""
        related = context.inputs["validation_pairs"]
        count = related.counts["documents"]
        ids = heldout_documents(context.inputs["corpus"], SPLIT).ids(0, count)
        wanted = PairSplit([], _numbered(related, ids), 0, frozenset(range(count)))
        drawn = random_split(count, wanted, self.seed)
        write_split(context.directory / "pairs.parquet", drawn, ids)
        return {"documents": count, "kept": len(drawn.validation) // 2, "flops": 0}


def _most_similar(pairs: JudgedPairs) -> JudgedPairs:
    """At most 128 of the pairs; the others are dropped as `less_similar`, with their similarity."""
    kept = [i for i, verdict in enumerate(pairs.verdicts) if isinstance(verdict, Keep)]
    verdicts = list(pairs.verdicts)
    for i in kept[MAX_PAIRS:]:
        verdicts[i] = Drop(LESS_SIMILAR, pairs.candidates[i].similarity)
    tally = Tally()
    for verdict in verdicts:
        tally.add(verdict, dict)
    return replace(pairs, verdicts=verdicts, tally=tally)


def read_validation_pairs(inputs: Mapping[str, Artifact]) -> list[tuple[int, int]]:
    """The ordered pairs of `validation_pairs`, numbered as in the token store of the split."""
    made = inputs["validation_pairs"]
    documents = heldout_documents(inputs["corpus"], SPLIT)
    return _numbered(made, documents.ids(0, made.counts["documents"]))


def _numbered(made: Artifact, ids: Sequence[str]) -> list[tuple[int, int]]:
    number = {name: i for i, name in enumerate(ids)}
    return [(number[a], number[b]) for a, b in read_kept_pairs(made.file("pairs.parquet"))]
