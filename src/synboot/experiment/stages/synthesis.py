"""synthesize: the synthetic corpus, in parts of a total order, until the need is met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from synboot.core.errors import GateFellShort
from synboot.core.storage import canonical_json, write_json
from synboot.data.documents import Documents
from synboot.data.tokenizer import TextTokenizer
from synboot.data.tokens import TokenStore, write_token_store
from synboot.experiment.stages.corpus import unique_documents
from synboot.experiment.stages.process import set_threads
from synboot.model.architecture import empty_model, load_model
from synboot.model.flops import Cost, forward_flops, known_cost, sampling_flops
from synboot.pipeline.stage import Context, Counts, Stage, part_counts
from synboot.synth.best import BestOf, scoring_flops
from synboot.synth.engine import Engine, ReferenceEngine
from synboot.synth.engines import SHARES_PROMPTS, engine_for
from synboot.synth.filters import CorpusWindows, TextFilterConfig
from synboot.synth.generate import UNPROMPTED, Prefix, Row, SeedDocument, distinct, draw
from synboot.synth.order import DrawOrder
from synboot.synth.settings import SamplingConfig
from synboot.synth.template import prompt

_SAMPLES = 20
_CANDIDATE_FIELDS = [
    ("id", pa.string()),
    ("text", pa.string()),
    ("seed_id", pa.string()),
    ("draw", pa.int64()),
    ("sampled_tokens", pa.int64()),
    ("finish_reason", pa.string()),
    ("verdict", pa.string()),
    ("reason", pa.string()),
    ("score", pa.float64()),
    ("repetition", pa.float64()),
    ("seed_overlap", pa.float64()),
    ("corpus_overlap", pa.float64()),
    ("license", pa.string()),
    ("source", pa.string()),
]
_EXTRA_FIELDS = [
    ("num_tokens", pa.int64()),
    ("cut", pa.bool_()),
    ("synthesizer", pa.string()),
    ("temperature", pa.float64()),
    ("top_p", pa.float64()),
    ("top_k", pa.int64()),
    ("max_tokens", pa.int64()),
    ("draw_overlap", pa.float64()),
    ("corpus_licenses", pa.string()),
    ("corpus_sources", pa.string()),
]


@dataclass(frozen=True)
class _Workshop:
    """What a process needs to draw; made once in each."""

    tokenizer: TextTokenizer
    documents: Documents
    store: TokenStore
    engine: Engine
    corpus: CorpusWindows
    prompted: bool
    best_of: BestOf | None

    def seed_document(self, index: int) -> SeedDocument:
        if not self.prompted:
            return UNPROMPTED
        document = self.documents[index]
        tokens = self.store[index][:-1]
        return SeedDocument(document.id, document.text, tokens, document.license, document.source)


_WORKSHOPS: dict[tuple[str, str, str], _Workshop] = {}
"""The one workshop that is open in this process, by stage, place and numerics."""


class SynthesizeStage(Stage):
    """Samples p(d2 given d1) for seeds of the unique budget, filters, keeps what is needed.

    With `prompt: none` in the config, the base model's `checkpoint` is given nothing instead of a
    seed document; as many draws may be made as if there were seed documents. With `best_of`, the
    base model's `checkpoint` helps to choose (`synth.best`).

    `max_draws_per_seed` ends the search for more; it cannot change a result that meets the need
    and is no part of the identity, so a search that fell short goes on when it is raised.
    """

    name = "synthesize"
    version = 3

    def __init__(
        self,
        *arguments: Any,
        max_draws_per_seed: int,
        model_directory: Path | None = None,
        synthesizer: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.max_draws_per_seed = max_draws_per_seed
        self.model_directory = model_directory
        """A user's synthesizer, in place of the run's own; the config has its digest."""
        self.synthesizer = synthesizer
        if self.numerics["device"] != "cpu":
            self.max_workers = 1  # the processes would share one device and its memory
        self._prefix: Prefix | None = None
        self._gathered = 0

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_prefix": None, "_gathered": 0}

    def enter(self) -> None:
        """Processes of parts have the stage's threads, one by default."""
        set_threads(self.numerics["threads"])

    def _workshop(self, context: Context) -> _Workshop:
        key = (self.id, str(context.directory), canonical_json(self.numerics))
        if key not in _WORKSHOPS:
            _WORKSHOPS.clear()
            _WORKSHOPS[key] = self._open_workshop(context)
        return _WORKSHOPS[key]

    def _open_workshop(self, context: Context) -> _Workshop:
        tokenizer = TextTokenizer.load(context.inputs["tokenizer"].path)
        documents = unique_documents(context.inputs)
        device = torch.device(self.numerics["device"])
        model = load_model(self._model_directory(context)).to(device)
        engine = engine_for(
            model,
            context=self.config["model"]["context"],
            end_id=tokenizer.end_id,
            num_tokens=tokenizer.vocab_size,
            slots=self.numerics["slots"],
            engine=self.numerics["engine"],
            cache=self.numerics["cache"],
            precision=self.numerics.get("precision", "float32"),  # of torch alone
        )
        store = TokenStore(context.inputs["tokens"].file("train"))
        windows = CorpusWindows(documents.texts(0, len(documents)))
        best_of = None
        if self._best_of > 1:
            base = load_model(self._base_directory(context)).to(device)
            ids = tokenizer.start_id, tokenizer.vocab_size
            best_of = BestOf(self._best_of, model.eval(), base.eval(), *ids)
        return _Workshop(tokenizer, documents, store, engine, windows, self._prompted, best_of)

    @property
    def _best_of(self) -> int:
        return int(self.config.get("best_of", 1))

    @property
    def _part_draws(self) -> int:
        """Draws of a part: whole groups of those that one is chosen of."""
        return max(int(self.numerics["part_draws"]) // self._best_of, 1) * self._best_of

    @property
    def _prompted(self) -> bool:
        return bool(self.config.get("prompt") != "none")

    @property
    def _of_what(self) -> str:
        return "of every seed document" if self._prompted else "for every document, of no prompt,"

    def _model_directory(self, context: Context) -> Path:
        if not self._prompted:
            return self._base_directory(context)
        return self.model_directory or context.inputs["tune"].file("best")

    def _base_directory(self, context: Context) -> Path:
        return context.inputs["base"].file(self.config["checkpoint"])

    def num_parts(self, context: Context) -> int:
        """As many as `max_draws_per_seed` draws of every seed document fill."""
        seeds = int(context.inputs["tokenizer"].counts["unique_documents"])
        most = self.max_draws_per_seed * (1 if self._prompted else seeds)
        draws = self._order(context).size(most)
        return -(-draws // self._part_draws)

    def _order(self, context: Context) -> DrawOrder:
        seeds = int(context.inputs["tokenizer"].counts["unique_documents"])
        return DrawOrder(seeds if self._prompted else 1, self.config["draws_per_prompt"], self.seed)

    def run_part(self, context: Context, index: int, directory: Path) -> Counts:
        """The draws of one range of the total order, each with its verdict."""
        workshop = self._workshop(context)
        size = self._part_draws
        rows = draw(
            index * size,
            (index + 1) * size,
            workshop.seed_document,
            self._order(context),
            engine=workshop.engine,
            tokenizer=workshop.tokenizer,
            corpus=workshop.corpus,
            sampling=SamplingConfig.model_validate(self.config["sampling"]),
            filters=TextFilterConfig.model_validate(self.config["filters"]),
            context=self.config["model"]["context"],
            seed=self.seed,
            best_of=workshop.best_of,
        )
        table = pa.Table.from_pylist(rows, schema=pa.schema(self._fields()))
        pq.write_table(table, directory / "candidates.parquet")
        return {
            "engine": workshop.engine.name,
            "candidates": len(rows),
            "kept": sum(row["verdict"] == "keep" for row in rows),
        }

    def need(self, context: Context, parts: Sequence[Path]) -> tuple[float, float]:
        """Tokens kept so far, tokens needed."""
        prefix = self._gather(context, parts)
        return prefix.num_tokens, prefix.need_tokens

    def _gather(self, context: Context, parts: Sequence[Path]) -> Prefix:
        documents = unique_documents(context.inputs)
        if self._prefix is None:
            tokenizer = TextTokenizer.load(context.inputs["tokenizer"].path)
            filters = TextFilterConfig.model_validate(self.config["filters"])
            self._prefix = Prefix(self.config["need_tokens"], tokenizer, filters)
            self._gathered = 0
        order = self._order(context)
        for index in range(self._gathered, len(parts)):
            place = index * self._part_draws
            rows: list[Row] = pq.read_table(parts[index] / "candidates.parquet").to_pylist()
            for offset, row in enumerate(rows):
                if self._prefix.full:
                    break
                seed = documents[order.place(place + offset)[0]].text if self._prompted else ""
                self._prefix.add(row, seed)
            self._gathered = index + 1
        return self._prefix

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write synthetic.parquet, tokens/ and samples.json."""
        _WORKSHOPS.clear()  # training, which comes next, needs the memory
        prefix = self._gather(context, parts)
        if not prefix.full:
            raise GateFellShort(
                f"synthesize: {self.max_draws_per_seed} draws {self._of_what} gave "
                f"{prefix.num_tokens} of the {prefix.need_tokens} synthetic tokens needed "
                f"({_reasons(prefix)}); raise max_draws_per_seed to go on, ask for less (in a "
                "recipe: budget.synthetic_share), or loosen the filters of synthesize"
            )
        # Of any part, as numerics and model leave no choice; those of earlier versions do not say.
        engine = str(part_counts(parts[0]).get("engine", self.numerics["engine"]))
        documents = unique_documents(context.inputs)
        seen = [documents[i] for i in range(len(documents))]
        extra = {
            "synthesizer": self.synthesizer
            or context.inputs["tune" if self._prompted else "base"].id,
            "temperature": self.config["sampling"]["temperature"],
            "top_p": self.config["sampling"]["top_p"],
            "top_k": self.config["sampling"]["top_k"],
            "max_tokens": self.config["sampling"]["max_tokens"],
            "corpus_licenses": distinct([document.license for document in seen]),
            "corpus_sources": distinct([document.source for document in seen]),
        }
        schema = pa.schema(self._fields() + _EXTRA_FIELDS)
        table = pa.Table.from_pylist([row | extra for row in prefix.rows], schema=schema)
        pq.write_table(table, context.directory / "synthetic.parquet")
        vocab_size = prefix.tokenizer.vocab_size
        write_token_store(context.directory / "tokens", prefix.documents, vocab_size)
        write_json(context.directory / "samples.json", self._samples(prefix, documents))
        return {
            "requested_tokens": prefix.need_tokens,
            "tokens": prefix.num_tokens,
            "documents": len(prefix.rows),
            "candidates": len(prefix.sampled),
            "sampled_tokens": sum(prefix.sampled),
            "draws_per_seed": prefix.draws_per_seed(),
            "verdicts": prefix.tally.counts(),
            "engine": engine,
            **self._chosen(prefix),
            "flops": self._flops(context, prefix, engine),
        }

    def _fields(self) -> list[tuple[str, pa.DataType]]:
        """Columns of candidates."""
        return _CANDIDATE_FIELDS + [("log_ratio", pa.float64())] * (self._best_of > 1)

    def _chosen(self, prefix: Prefix) -> Counts:
        """What choosing came to, in nats a token."""
        if self._best_of == 1:
            return {}
        scores = [score for score in prefix.log_ratios if score is not None]
        kept = [row["log_ratio"] for row in prefix.rows]
        return {
            "best_of": self._best_of,
            "scored": len(scores),
            "mean_log_ratio": sum(scores) / len(scores),
            "mean_log_ratio_kept": sum(kept) / len(kept),
        }

    def _samples(self, prefix: Prefix, documents: Documents) -> dict[str, Any]:
        number = {name: i for i, name in enumerate(documents.ids(0, len(documents)))}
        step = max(1, len(prefix.rows) // _SAMPLES)
        shown = ("id", "seed_id", "draw", "text", "num_tokens", "finish_reason")
        return {
            "samples": [
                {key: row[key] for key in shown}
                | {"seed_text": documents[number[row["seed_id"]]].text if self._prompted else ""}
                for row in prefix.rows[::step][:_SAMPLES]
            ],
            "dropped_samples": [s for group in prefix.tally.samples.values() for s in group],
        }

    def _flops(self, context: Context, prefix: Prefix, engine: str) -> int | None:
        """Of the candidates that were looked at."""
        cost = known_cost(empty_model(self._model_directory(context)))
        if cost is None:
            return None
        length = self.config["model"]["context"]
        store = TokenStore(context.inputs["tokens"].file("train"))
        order = self._order(context)
        seeds = range(order.num_seeds)
        prompts = [len(prompt(store[i][:-1], length, 0)) if self._prompted else 1 for i in seeds]
        flops = draws_flops(cost, engine, order, self._part_draws, prompts, prefix.sampled)
        if self._best_of == 1:
            return flops
        base = known_cost(empty_model(self._base_directory(context)))
        if base is None:
            return None
        chosen = zip(prefix.sampled, prefix.log_ratios, strict=True)
        return flops + sum(
            scoring_flops(cost, base, prompts[order.place(i)[0]], sampled)
            for i, (sampled, score) in enumerate(chosen)
            if score is not None
        )


def draws_flops(
    cost: Cost,
    engine: str,
    order: DrawOrder,
    part_draws: int,
    prompts: Sequence[int],
    sampled: Sequence[int],
) -> int:
    """FLOPs of the first draws of `order`, as the engine of that name makes them: `prompts` are
    lengths by seed document, `sampled` the tokens of each draw, END included. Draws of a prompt
    that follow each other in a part share it, where the engine does that."""
    total = 0
    for index, count in enumerate(sampled):
        length = prompts[order.place(index)[0]]
        if engine == ReferenceEngine.name:  # which keeps nothing from token to token
            total += sum(forward_flops(cost, 0, length + before) for before in range(count))
            continue
        first = index % order.draws_per_prompt == 0 or index % part_draws == 0
        shared = engine in SHARES_PROMPTS and not first
        total += sampling_flops(cost, length, count, shared_prompt=shared)
    return total


def _reasons(prefix: Prefix) -> str:
    return ", ".join(f"{name} {count}" for name, count in prefix.tally.counts().items())
