"""embed, neighbours, pairs: which documents of the unique budget are related."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from synboot.core.arrays import write_rows
from synboot.core.errors import BadInput
from synboot.core.rng import rng
from synboot.core.storage import read_json, write_json
from synboot.data.documents import Documents
from synboot.experiment.stages.corpus import unique_documents
from synboot.experiment.stages.process import ranges, set_threads
from synboot.pairs.encoders.encoder import Encoder, fit_encoder, load_encoder
from synboot.pairs.encoders.settings import EncoderConfig
from synboot.pairs.filters import PairFilterConfig
from synboot.pairs.find import (
    PairSplit,
    describe_pair,
    judge_pairs,
    pair_statistics,
    read_kept_pairs,
    split_pairs,
    write_pairs,
)
from synboot.pairs.neighbours.device import DeviceIndex
from synboot.pairs.neighbours.exact import ExactIndex
from synboot.pairs.neighbours.index import Index, Neighbours
from synboot.pairs.neighbours.lists import (
    ListIndex,
    Lists,
    Probes,
    build_lists,
    choose_probes,
    list_flops,
)
from synboot.pairs.random import random_split, write_split
from synboot.pipeline.stage import PART_FACTS, Context, Counts, Stage

_KEPT_SAMPLES = 20
_COST = "cost.json"
_PROBES = "probes.json"
_FOUND = ("documents.npy", "similarities.npy")
_PARTS_IN_LISTS = 4
"""Times the documents of a part."""
_JOINED = 8192
"""Rows that are put into the order of documents at once."""


class EmbedStage(Stage):
    """Fits the encoder on the unique budget and applies it in parts.

    The encoder `lm` reads with the run's base model, or with one that is given.
    """

    name = "embed"
    version = 2

    def __init__(
        self,
        *arguments: Any,
        settings: EncoderConfig,
        base_checkpoint: str = "best",
        model_directory: Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.settings = settings
        self.base_checkpoint = base_checkpoint
        self.model_directory = model_directory
        """A user's model; the config has the digest of its content."""
        if self.numerics.get("device", "cpu") != "cpu":
            self.max_workers = 1  # the processes would share one device and its memory

    def enter(self) -> None:
        """One thread a process."""
        set_threads(self.numerics["threads"])

    def _model(self, context: Context) -> dict[str, Any]:
        base = context.inputs.get("base")
        directory = base.file(self.base_checkpoint) if base else self.model_directory
        return {"model_directory": directory, "device": self.numerics.get("device", "cpu")}

    def prepare(self, context: Context, directory: Path) -> None:
        """Fit the encoder."""
        documents = unique_documents(context.inputs)
        encoder = fit_encoder(
            self.settings.encoder,
            self._texts_to_fit(documents),
            dimensions=self.settings.dimensions,
            seed=self.seed,
            layer=self.settings.layer,
            prefix=self.settings.prefix,
            **self._model(context),
        )
        encoder.save(directory)
        write_json(directory / _COST, {"flops": encoder.flops})

    def _texts_to_fit(self, documents: Documents) -> list[str]:
        """All, or for lsa a keyed sample of a larger corpus, in the order of documents."""
        count, most = len(documents), self.settings.fit_documents
        if self.settings.encoder != "lsa" or count <= most:
            return documents.texts(0, count)
        return documents.texts_of(np.sort(rng(self.seed, "lsa sample").permutation(count)[:most]))

    def num_parts(self, context: Context) -> int:
        """Ranges of documents."""
        return len(ranges(len(unique_documents(context.inputs)), self.numerics["part_documents"]))

    def run_part(self, context: Context, index: int, directory: Path) -> Counts:
        """Vectors of a range."""
        documents = unique_documents(context.inputs)
        start, stop = ranges(len(documents), self.numerics["part_documents"])[index]
        made = (context.prepared / _COST).stat().st_mtime_ns
        name, model = self.settings.encoder, self._model(context)
        encoder = _open_encoder(name, context.prepared, made, **model)
        before = encoder.flops
        vectors = encoder.encode(documents.texts(start, stop))
        np.save(directory / "vectors.npy", vectors)
        write_json(directory / _COST, {"flops": encoder.flops - before})
        return {"documents": stop - start}

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write vectors.npy and the encoder."""
        _open_encoder.cache_clear()
        documents = len(unique_documents(context.inputs))
        _join(parts, "vectors.npy", context.directory, documents)
        vectors = np.load(context.directory / "vectors.npy", mmap_mode="r")
        keep_out = shutil.ignore_patterns(PART_FACTS, _COST)
        shutil.copytree(context.prepared, context.directory / "encoder", ignore=keep_out)
        costs = [read_json(directory / _COST)["flops"] for directory in (context.prepared, *parts)]
        tokenizer = context.inputs.get("tokenizer")
        return {
            "documents": documents,
            "dimensions": int(vectors.shape[1]),
            "tokens": tokenizer.counts["unique_tokens"] if tokenizer else None,
            "flops": sum(costs),
        }


class NeighboursStage(Stage):
    """Nearest neighbours of every document of the unique budget: exact by default, or in lists.

    What is found does not depend on `device`.
    """

    name = "neighbours"
    version = 3

    def __init__(self, *arguments: Any, device: str = "cpu", **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._device = device
        if device != "cpu" and not self._in_lists:
            self.max_workers = 1  # the processes would share one device and its memory

    @property
    def _in_lists(self) -> bool:
        return bool(self.config.get("index") == "lists")

    def enter(self) -> None:
        """One thread a process."""
        set_threads(self.numerics["threads"])

    def prepare(self, context: Context, directory: Path) -> None:
        """Build the lists and choose how many of them a query looks at."""
        if not self._in_lists:
            return
        vectors = np.load(context.inputs["embed"].file("vectors.npy"), mmap_mode="r")
        k = self.config["top_k"]
        lists = build_lists(vectors, k, seed=self.seed)
        probes = choose_probes(
            lists, vectors, k, min_recall=self.config["min_recall"], seed=self.seed
        )
        lists.save(directory, vectors)
        probes.save(directory / _PROBES)

    def num_parts(self, context: Context) -> int:
        """Ranges of queries; in lists, in the order of lists."""
        return len(self._ranges(context))

    def _ranges(self, context: Context) -> list[tuple[int, int]]:
        """Longer ones in lists: queries that look at one list then do so in fewer products."""
        size = self.numerics["part_documents"] * (_PARTS_IN_LISTS if self._in_lists else 1)
        return ranges(context.inputs["embed"].counts["documents"], size)

    def run_part(self, context: Context, index: int, directory: Path) -> Counts:
        """Neighbours of a range of documents among all."""
        start, stop = self._ranges(context)[index]
        k = self.config["top_k"]
        if self._in_lists:
            chosen = context.prepared / _PROBES
            found = _open_lists(chosen, chosen.stat().st_mtime_ns).search_places(start, stop, k)
        else:
            vectors = context.inputs["embed"].file("vectors.npy")
            made = vectors.stat().st_mtime_ns
            found = _open_exact(vectors, made, self._device).search(start, stop, k)
        np.save(directory / "documents.npy", found.documents)
        np.save(directory / "similarities.npy", found.similarities)
        return {"queries": stop - start}

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write documents.npy and similarities.npy."""
        _open_exact.cache_clear()
        _open_lists.cache_clear()
        embedded = context.inputs["embed"].counts
        queries, dimensions = embedded["documents"], embedded["dimensions"]
        counts: Counts = {"queries": queries, "top_k": self.config["top_k"]}
        if not self._in_lists:
            for name in _FOUND:
                _join(parts, name, context.directory, queries)
            return counts | {"flops": 2 * queries**2 * dimensions}
        lists = Lists.load(context.prepared)
        place = np.empty(queries, dtype=np.int64)
        place[lists.order] = np.arange(queries)
        for name in _FOUND:
            _join(parts, name, context.scratch, queries)
            in_places = np.load(context.scratch / name, mmap_mode="r")
            blocks = (in_places[place[a:b]] for a, b in ranges(queries, _JOINED))
            with (context.directory / name).open("wb") as file:
                write_rows(file, queries, blocks)
        probes = Probes.load(context.prepared / _PROBES)
        return counts | {
            "lists": len(lists.centroids),
            "probes": probes.lists,
            "recall": probes.recall,
            "recall_error": probes.error,
            "recall_queries": probes.queries,
            "flops": list_flops(lists, probes),
        }


# Each is held by a process from one part to the next, for as long as its file is the same.


@functools.lru_cache(maxsize=1)
def _open_encoder(
    name: str, directory: Path, made: int, *, model_directory: Path | None, device: str
) -> Encoder:
    return load_encoder(name, directory, model_directory=model_directory, device=device)


@functools.lru_cache(maxsize=1)
def _open_exact(path: Path, made: int, device: str) -> Index:
    vectors = np.load(path, mmap_mode="r")
    return ExactIndex(vectors) if device == "cpu" else DeviceIndex(vectors, device)


@functools.lru_cache(maxsize=1)
def _open_lists(probes: Path, made: int) -> ListIndex:
    return ListIndex.load(probes.parent, Probes.load(probes).lists)


def _join(parts: Sequence[Path], name: str, directory: Path, rows: int) -> None:
    """The arrays `name` of all parts, one after another, as one of `rows` in `directory`."""
    blocks = (np.load(part / name, allow_pickle=False) for part in parts)
    with (directory / name).open("wb") as file:
        write_rows(file, rows, blocks)


class PairsStage(Stage):
    """Judges every candidate pair."""

    name = "pairs"
    version = 1

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write pairs.parquet, statistics.json and samples.json."""
        documents = unique_documents(context.inputs)
        count = len(documents)
        ids, texts = documents.ids(0, count), documents.texts(0, count)
        source = context.inputs["neighbours"]
        neighbours = Neighbours(
            np.load(source.file("documents.npy"), allow_pickle=False),
            np.load(source.file("similarities.npy"), allow_pickle=False),
        )
        config = PairFilterConfig.model_validate(self.config)
        pairs = judge_pairs(neighbours, texts, ids, documents.groups(0, count), config)
        if not pairs.kept:
            counts = ", ".join(f"{name} {n}" for name, n in pairs.tally.counts().items())
            raise BadInput(
                f"field pairs.min_similarity: {config.min_similarity:g} and the other pair "
                f"filters leave no pair of {len(pairs.candidates)} candidates ({counts}); lower it"
            )
        write_pairs(context.directory / "pairs.parquet", pairs, ids)
        statistics = pair_statistics(pairs, count)
        write_json(context.directory / "statistics.json", statistics)
        step = max(1, len(pairs.kept) // _KEPT_SAMPLES)  # over the whole range of similarities
        describe = partial(describe_pair, texts=texts, ids=ids)
        samples = {
            "kept_samples": [describe(pair) for pair in pairs.kept[::step][:_KEPT_SAMPLES]],
            "dropped_samples": [s for group in pairs.tally.samples.values() for s in group],
        }
        write_json(context.directory / "samples.json", samples)
        return {"candidates": len(pairs.candidates), **statistics["counts"], "flops": 0}


class RandomPairsStage(Stage):
    """A control: pairs at random in place of those that were kept, as many for tuning and as many
    for its validation. Config: `validation_fraction`, or `validate_on: validation_text`, where all
    are for tuning; the seed is of tuning."""

    name = "random_pairs"
    version = 2

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write pairs.parquet: d1, d2, verdict, validation."""
        documents = unique_documents(context.inputs)
        ids = documents.ids(0, len(documents))
        number = {name: i for i, name in enumerate(ids)}
        kept = read_kept_pairs(context.inputs["pairs"].file("pairs.parquet"))
        pairs = [(number[a], number[b]) for a, b in kept]
        split = PairSplit(pairs, [], 0, frozenset())
        if "validation_fraction" in self.config:
            split = split_pairs(
                pairs, validation_fraction=self.config["validation_fraction"], seed=self.seed
            )
        drawn = random_split(len(ids), split, self.seed)
        write_split(context.directory / "pairs.parquet", drawn, ids)
        return {"kept": (len(drawn.training) + len(drawn.validation)) // 2, "flops": 0}
