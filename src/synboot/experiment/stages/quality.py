"""quality: what synthetic text is like, document by document and as a whole, beside real text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from synboot.core.judgement import Judge, Judgement
from synboot.core.rng import rng
from synboot.core.storage import read_json, write_json
from synboot.eval.quality.documents import Columns
from synboot.eval.quality.figures import Figure, pooled, rate
from synboot.eval.quality.judged import judge_sides, judged_figures
from synboot.eval.quality.novelty import RUNS
from synboot.eval.quality.relevance import cosines
from synboot.eval.quality.summary import (
    merged,
    quality_of,
    relevance_figures,
    seed_figures,
    text_figures,
)
from synboot.experiment.stages.corpus import unique_documents
from synboot.experiment.stages.measuring import Measuring, close_encoder
from synboot.experiment.stages.process import ranges, set_threads
from synboot.experiment.stages.samples import Samples, take_samples
from synboot.pipeline.stage import Context, Counts, Stage, part_counts

# Of a document, as measured; that of a synthetic one beside its seed is 1.
_RANGE_COSTS = {"synthetic": 1.0, "pairs": 0.8, "real": 0.1}
_WHOLE_COSTS = {"novelty": 0.15, "near_in_corpus": 0.15, "draws": 0.1, "diversity": 0.05}
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
        if self.numerics.get("device", "cpu") != "cpu":
            self.max_workers = 1  # the processes would share one device and its memory

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

    def need(self, context: Context, parts: Sequence[Path]) -> tuple[float, float]:
        """How much of the work is done: tasks differ in what they cost."""
        costs = [self._cost(context, task) for task in self._tasks(context)]
        return sum(costs[: len(parts)]), sum(costs)

    def _cost(self, context: Context, task: Task) -> float:
        name, first, second = task
        if name in _RANGE_COSTS:
            return _RANGE_COSTS[name] * (second - first)
        samples = Samples.load(context.prepared)
        return _WHOLE_COSTS[name] * (len(samples.synthetic) + len(samples.real))

    def run_part(self, context: Context, index: int, directory: Path) -> Counts:
        """One task: a table of documents' scores, or a few figures."""
        task, first, second = self._tasks(context)[index]
        work = Measuring(
            context, self.config, self.seed, self.encoder, self.numerics.get("device", "cpu")
        )
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
        """Write quality.json, and of the synthetic documents documents.parquet, their scores, and
        judged.parquet, what the judge said."""
        close_encoder()
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
        names = samples.ids.take(pa.array(rows)).to_pylist()
        _write_judged(context.directory / "judged.parquet", names, found[0])
        spent = {"spent": self.judge.spent} if hasattr(self.judge, "spent") else {}
        if spent:
            context.emit("judged", **spent)
        return {
            side: merged(figures[side], {"judged": judged_figures(judgements)})
            for side, judgements in zip(("synthetic", "real"), found, strict=True)
        }


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


def _write_judged(path: Path, ids: Sequence[str], judgements: Sequence[Judgement]) -> None:
    columns = {
        "id": ids,
        "non_factual": pa.array([each.non_factual for each in judgements], pa.bool_()),
        "irrelevant": pa.array([each.irrelevant for each in judgements], pa.bool_()),
        "problems": [list(getattr(each, "problems", ())) for each in judgements],
    }
    pq.write_table(pa.table(columns), path)


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
