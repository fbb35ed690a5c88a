"""quality: what synthetic text is like, document by document and as a whole, beside real text."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from synboot.core.judgement import Judge
from synboot.core.rng import rng
from synboot.core.storage import read_json, write_json
from synboot.data.minhash import duplicate_rate
from synboot.data.ngrams import windows_of, words_of
from synboot.data.tokens import TokenStore
from synboot.eval.quality.diversity import compression_ratio, distinct_runs
from synboot.eval.quality.documents import Columns, seed_scores, text_scores
from synboot.eval.quality.duplicates import near_in_corpus
from synboot.eval.quality.figures import Figure, Integers, pooled, rate, rate_of
from synboot.eval.quality.judged import judge_sides, judged_figures
from synboot.eval.quality.novelty import RUNS, new_to_corpus
from synboot.eval.quality.relevance import cosines
from synboot.eval.quality.summary import (
    merged,
    quality_of,
    relevance_figures,
    seed_figures,
    text_figures,
)
from synboot.experiment.stages.corpus import unique_documents
from synboot.experiment.stages.process import ranges, set_threads
from synboot.experiment.stages.samples import Samples, take_samples
from synboot.pairs.encoders.encoder import Encoder, load_encoder
from synboot.pipeline.stage import Context, Counts, Stage, part_counts

_CORPUS_BLOCK = 1 << 13
Task = tuple[str, int, int]
"""What a part does: its name, and two numbers."""


class QualityStage(Stage):
    """Measures synthetic text beside the real text that its synthesizer saw.

    Inputs: `corpus` (and a run's `tokenizer`, `tokens`), `synthesize` (a run's) or `synthetic` (a
    user's documents, the config has the name of their `seed_field`), and where there are any
    `pairs` and `embed` (an encoder fitted on the real text, and its vectors). Judging comes last,
    in this process: answers of an endpoint are kept one by one.
    """

    name = "quality"
    version = 1

    def __init__(
        self, *arguments: Any, encoder: str = "lsa", judge: Judge | None = None, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.encoder = encoder
        """The name of what is in `embed`."""
        self.judge = judge
        """The config has what it describes itself as."""

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"judge": None}

    def enter(self) -> None:
        """One thread a process."""
        set_threads(self.numerics["threads"])

    def prepare(self, context: Context, directory: Path) -> None:
        """Choose the documents and pairs that are looked at."""
        check = getattr(self.judge, "check", None)
        if check is not None:
            check()  # before the hours that come first
        take_samples(
            context.inputs,
            directory,
            most=self.config["sample_documents"],
            seed_field=self.config.get("seed_field"),
            seed=self.seed,
        )

    def _tasks(self, context: Context) -> list[Task]:
        """Those on whole corpora, which take longest, first; then ranges of documents."""
        samples = Samples.load(context.prepared)
        size = self.numerics["part_documents"]
        tasks: list[Task] = [("novelty", n, 0) for n in reversed(RUNS)]
        tasks += [(name, 0, 0) for name in ("near_in_corpus", "draws", "diversity")]
        for name, count in (
            ("synthetic", len(samples.synthetic)),
            ("real", len(samples.real)),
            ("pairs", len(samples.pairs)),
        ):
            tasks += [(name, start, stop) for start, stop in ranges(count, size)]
        return tasks

    def num_parts(self, context: Context) -> int:
        """One for each task."""
        return len(self._tasks(context))

    def run_part(self, context: Context, index: int, directory: Path) -> Counts:
        """One task: a table of documents' scores, or a few figures."""
        task, first, second = self._tasks(context)[index]
        work = _Work(context, self.config, self.seed, self.encoder)
        if task == "draws":
            write_json(directory / "draws.json", work.draws())
        elif task == "diversity":
            write_json(directory / "diversity.json", work.diversity())
        elif task == "novelty":
            _write(directory / "novelty.parquet", work.novelty(first))
        elif task == "near_in_corpus":
            _write(directory / "near_in_corpus.parquet", {"near": work.near_in_corpus()})
        elif task == "pairs":
            _write(directory / "beside.parquet", work.pairs(first, second))
        elif task == "real":
            _write(directory / "text.parquet", work.real(first, second))
        else:
            text, beside, flops = work.synthetic(first, second)
            _write(directory / "text.parquet", text)
            _write(directory / "beside.parquet", beside)
            return {"task": task, "documents": second - first, "flops": flops}
        return {"task": task, "flops": 0}

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write quality.json, and documents.parquet: the scores of the synthetic documents."""
        _open_encoder.cache_clear()
        samples = Samples.load(context.prepared)
        found: dict[str, list[tuple[int, Path]]] = {}
        for (task, first, _), part in zip(self._tasks(context), parts, strict=True):
            found.setdefault(task, []).append((first, part))
        text = {side: _read(found.get(side, []), "text.parquet") for side in ("synthetic", "real")}
        beside = {side: _read(found.get(side, []), "beside.parquet")
                  for side in ("synthetic", "pairs")}  # fmt: skip
        near = _read(found["near_in_corpus"], "near_in_corpus.parquet")["near"]
        num = len(samples.synthetic)
        similarity = self.config["duplicate_similarity"]
        figures: dict[str, Figure] = {}
        draws = read_json(found["draws"][0][1] / "draws.json")
        diversity = read_json(found["diversity"][0][1] / "diversity.json")
        for side, own_near in (("synthetic", near[:num]), ("real", near[num:])):
            own = beside["synthetic" if side == "synthetic" else "pairs"]
            figures[side] = merged(
                text_figures(text[side], max_repetition=self.config["max_repetition"]),
                seed_figures(own, duplicate_similarity=similarity) if own else {},
                {"duplicates": {"corpus": rate(own_near), **draws[side]}},
                {"novelty": {"corpus": _novelty(found["novelty"], side, num)}},
                diversity[side],
            )
        if "embed" in context.inputs:
            figures = _with_relevance(figures, context, samples, beside, self.seed)
        if self.judge is not None:
            figures = self._judged(figures, context, samples)
        quality = quality_of(
            samples.counts(),
            {k: v for k, v in self.config.items() if k not in ("judge", "seed_field")}
            | {"encoder": _encoder_of(context)},
            figures["synthetic"],
            figures["real"],
            self.config.get("judge"),
        )
        write_json(context.directory / "quality.json", quality)
        _write_documents(context.directory / "documents.parquet", samples, text, beside, near[:num])
        flops = sum(part_counts(part)["flops"] for part in parts)
        return {"documents": num, **samples.counts(), "flops": flops}

    def _judged(
        self, figures: dict[str, Figure], context: Context, samples: Samples
    ) -> dict[str, Figure]:
        """The figures with what the judge says of keyed samples of both sides; real pairs where
        there are any, else real documents."""
        assert self.judge is not None
        documents, most = unique_documents(context.inputs), self.config["judge_documents"]
        rows = rng(self.seed, "quality judged").permutation(len(samples.synthetic))[:most]
        seed_of = samples.seeds[rows]
        seeds = iter(documents.texts_of(seed_of[seed_of >= 0]))
        synthetic = (
            [samples.synthetic[row].as_py() for row in rows.tolist()],
            [next(seeds) if has else None for has in (seed_of >= 0).tolist()],
        )
        some = samples.pairs if len(samples.pairs) else samples.real[:, None]
        real = some[rng(self.seed, "quality judged real").permutation(len(some))[:most]]
        of_real = (
            documents.texts_of(real[:, -1]),
            documents.texts_of(real[:, 0]) if len(samples.pairs) else [None] * len(real),
        )
        found = judge_sides(self.judge, [synthetic, of_real], context.advance)
        spent = {"spent": self.judge.spent} if hasattr(self.judge, "spent") else {}
        if spent:
            context.emit("judged", **spent)
        return {
            side: merged(figures[side], {"judged": judged_figures(judgements)})
            for side, judgements in zip(("synthetic", "real"), found, strict=True)
        }


class _Work:
    """One part's work on the samples."""

    def __init__(self, context: Context, config: dict[str, Any], seed: int, encoder: str) -> None:
        self.samples = Samples.load(context.prepared)
        self.documents = unique_documents(context.inputs)
        self.context, self.config, self.seed, self.encoder = context, config, seed, encoder

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
        encoder = _open_encoder(self.encoder, source.file("encoder"))
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
        new, runs = new_to_corpus(words_of(self._both()), self._itself(), corpus, n)
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
def _open_encoder(name: str, directory: Path) -> Encoder:
    return load_encoder(name, directory)


def _encoder_of(context: Context) -> dict[str, Any] | None:
    embed = context.inputs.get("embed")
    return None if embed is None else dict(embed.manifest["config"])


def _with_relevance(
    figures: dict[str, Figure],
    context: Context,
    samples: Samples,
    beside: dict[str, Columns],
    seed: int,
) -> dict[str, Figure]:
    vectors = np.load(context.inputs["embed"].file("vectors.npy"), mmap_mode="r")
    order = rng(seed, "quality random pairs").permutation(len(samples.real))
    one, other = samples.real[order], samples.real[np.roll(order, 1)]
    first, second = samples.pairs.T
    own = beside["synthetic"].get("relevance", np.empty(0))
    synthetic, real = relevance_figures(
        own,
        cosines(vectors[first], vectors[second]),
        cosines(vectors[one], vectors[other]) if len(order) > 1 else np.empty(0),
    )
    return {
        side: merged(figures[side], {"relevance": relevance})
        for side, relevance in (("synthetic", synthetic), ("real", real))
    }


def _novelty(parts: Sequence[tuple[int, Path]], side: str, num: int) -> Figure:
    found = {}
    for n, part in sorted(parts):
        columns = _read([(n, part)], "novelty.parquet")
        own = slice(0, num) if side == "synthetic" else slice(num, None)
        found[str(n)] = pooled(columns["new"][own], columns["runs"][own])
    return found


def _write(path: Path, columns: Columns) -> None:
    pq.write_table(pa.table(dict(columns)), path)


def _read(parts: Sequence[tuple[int, Path]], name: str) -> Columns:
    """The tables of parts one after another; no columns where there are no parts."""
    if not parts:
        return {}
    table = pa.concat_tables([pq.read_table(part / name) for _, part in parts])
    return {column: table[column].to_numpy() for column in table.column_names}


def _write_documents(
    path: Path,
    samples: Samples,
    text: dict[str, Columns],
    beside: dict[str, Columns],
    near: npt.NDArray[np.bool_],
) -> None:
    """A row for each synthetic document: its id, its scores, null beside a seed that it lacks."""
    columns: dict[str, Any] = {"id": samples.ids, **text["synthetic"], "near_in_corpus": near}
    rows = beside["synthetic"].get("row", np.empty(0, np.int64))
    for name in ("copy", "seed_similarity", "coverage", "density", "relevance"):
        if name in beside["synthetic"]:
            values = np.full(len(near), None, dtype=object)
            values[rows] = beside["synthetic"][name]
            columns[name] = pa.array(values.tolist())
    pq.write_table(pa.table(columns), path)
