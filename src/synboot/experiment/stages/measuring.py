"""The tasks of measuring synthetic text, each a part of the stage."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from synboot.core.rng import rng
from synboot.data.minhash import duplicate_rate
from synboot.data.ngrams import Words, windows_of, words_of
from synboot.data.tokens import TokenStore
from synboot.eval.quality.diversity import compression_ratio, distinct_runs
from synboot.eval.quality.documents import Columns, seed_scores, text_scores
from synboot.eval.quality.duplicates import near_in_corpus
from synboot.eval.quality.figures import Figure, Integers, rate_of
from synboot.eval.quality.novelty import new_to_corpus
from synboot.eval.quality.relevance import cosines
from synboot.experiment.stages.corpus import unique_documents
from synboot.experiment.stages.process import ranges
from synboot.experiment.stages.samples import Samples
from synboot.pairs.encoders.encoder import Encoder, load_encoder
from synboot.pipeline.stage import Context

_CORPUS_BLOCK = 1 << 13


class Measuring:
    """One part's work on the samples."""

    def __init__(
        self, context: Context, config: dict[str, Any], seed: int, encoder: str, device: str
    ) -> None:
        self.samples = Samples.load(context.prepared)
        self.documents = unique_documents(context.inputs)
        self.context, self.config, self.seed = context, config, seed
        self.encoder, self.device = encoder, device

    def synthetic(self, start: int, stop: int) -> tuple[Columns, Columns, int]:
        """Scores of the synthetic texts of a range; of those with a seed, beside it; FLOPs."""
        texts = self.samples.synthetic[start:stop].to_pylist()
        tokens = self.samples.tokens
        columns = text_scores(texts) | ({"tokens": tokens[start:stop]} if len(tokens) else {})
        seed_of = self.samples.seeds[start:stop]
        rows = np.flatnonzero(seed_of >= 0)
        own = [texts[row] for row in rows.tolist()]
        beside: Columns = {"row": rows + start, **self._beside(own, seed_of[rows])}
        if "embed" not in self.context.inputs:
            return columns, beside, 0
        source = self.context.inputs["embed"]
        encoder = _open_encoder(self.encoder, source.file("encoder"), self.device)
        before = encoder.flops
        vectors = np.load(source.file("vectors.npy"), mmap_mode="r")[seed_of[rows]]
        beside["relevance"] = cosines(encoder.encode(own), vectors)
        return columns, beside, encoder.flops - before

    def real(self, start: int, stop: int) -> Columns:
        """Scores of the real texts of a range."""
        places = self.samples.real[start:stop]
        columns = text_scores(self.documents.texts_of(places))
        if "tokens" in self.context.inputs:
            store = TokenStore(self.context.inputs["tokens"].file("train"))
            columns["tokens"] = store.lengths()[places]
        return columns

    def pairs(self, start: int, stop: int) -> Columns:
        """Scores of the second texts of real pairs beside their first ones."""
        first, second = self.samples.pairs[start:stop].T
        return self._beside(self.documents.texts_of(second), first)

    def _beside(self, texts: Sequence[str], seed_of: Integers) -> Columns:
        numbers, places = np.unique(seed_of, return_inverse=True)
        seeds = self.documents.texts_of(numbers)
        return seed_scores(texts, seeds, places, window_words=self.config["duplicate_words"])

    def novelty(self, n: int) -> Columns:
        """Of synthetic and real texts: runs of n words that no other real document has, and all."""
        corpus = ((start, words_of(texts)) for start, texts in self._blocks())
        new, runs = new_to_corpus(self._words(), self._itself(), corpus, n)
        return {"new": new, "runs": runs}

    def near_in_corpus(self) -> npt.NDArray[np.bool_]:
        """Of synthetic and real texts: whether another real document is a near duplicate."""
        n = self.config["duplicate_words"]
        corpus = ((start, windows_of(texts, n)) for start, texts in self._blocks())
        similarity = self.config["duplicate_similarity"]
        own, itself = windows_of(self._both(), n), self._itself()
        return near_in_corpus(own, itself, corpus, min_similarity=similarity, seed=self.seed)

    def draws(self) -> dict[str, Figure]:
        """Near duplicates among the synthetic texts and among the real ones; also among equal
        numbers where these differ."""
        sides = {"synthetic": self.samples.synthetic.to_pylist(),
                 "real": self.documents.texts_of(self.samples.real)}  # fmt: skip
        equal = min(map(len, sides.values()))
        found = {side: {"draws": self._duplicates(texts)} for side, texts in sides.items()}
        for side, texts in sides.items():
            if len({len(own) for own in sides.values()}) > 1:
                rows = rng(self.seed, "quality equal", side).permutation(len(texts))[:equal]
                some = [texts[row] for row in np.sort(rows).tolist()]
                found[side]["draws_equal"] = self._duplicates(some)
        return found

    def _duplicates(self, texts: Sequence[str]) -> Figure:
        found = duplicate_rate(
            texts,
            min_similarity=self.config["duplicate_similarity"],
            n=self.config["duplicate_words"],
            seed=self.seed,
        )
        return rate_of(found.duplicates, found.documents)

    def diversity(self) -> dict[str, Figure]:
        """Distinct runs and compression over equal amounts of both sides, documents in a keyed
        order."""
        sides = {"synthetic": self.samples.synthetic.to_pylist(),
                 "real": self.documents.texts_of(self.samples.real)}  # fmt: skip
        mixed = {}
        for side, texts in sides.items():
            rows = rng(self.seed, "quality diversity", side).permutation(len(texts))
            mixed[side] = [texts[row] for row in rows.tolist()]
        num_words = min(int(words_of(texts).offsets[-1]) for texts in mixed.values())
        num_bytes = min(
            sum(len(text.encode("utf-8", "surrogatepass")) + 1 for text in texts)
            for texts in mixed.values()
        )
        return {
            side: {
                "distinct": distinct_runs(texts, num_words),
                "compression": compression_ratio(texts, num_bytes),
            }
            for side, texts in mixed.items()
        }

    def _words(self) -> Words:
        """The words of synthetic and real texts; texts are held some thousand at a time."""
        synthetic, real = self.samples.synthetic, self.samples.real
        blocks = [
            words_of(synthetic[start:stop].to_pylist())
            for start, stop in ranges(len(synthetic), _CORPUS_BLOCK)
        ] + [
            words_of(self.documents.texts_of(real[start:stop]))
            for start, stop in ranges(len(real), _CORPUS_BLOCK)
        ]
        sizes = np.concatenate([np.zeros(1, np.int64), *(block.sizes for block in blocks)])
        hashes = np.concatenate([np.empty(0, np.uint64), *(block.hashes for block in blocks)])
        return Words(hashes, np.cumsum(sizes))

    def _both(self) -> list[str]:
        real = self.documents.texts_of(self.samples.real)
        return [*self.samples.synthetic.to_pylist(), *real]

    def _itself(self) -> Integers:
        none = np.full(len(self.samples.synthetic), -1, np.int64)
        return np.concatenate([none, self.samples.real])

    def _blocks(self) -> Iterator[tuple[int, list[str]]]:
        for start, stop in ranges(len(self.documents), _CORPUS_BLOCK):
            yield start, self.documents.texts(start, stop)


@functools.lru_cache(maxsize=1)
def _open_encoder(name: str, directory: Path, device: str) -> Encoder:
    return load_encoder(name, directory, device=device)


def close_encoder() -> None:
    """Let go of the encoder that this process holds from part to part."""
    _open_encoder.cache_clear()
