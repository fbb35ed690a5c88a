"""What each stage of a recipe will take: exact where it is known beforehand, else estimated.

Assumptions, which a run replaces by what it counts: every document keeps
min(top_k, max_pairs_per_document) pairs, each shared by two (`min_similarity` may keep far fewer,
and tuning costs as much less); what is held out for validation costs tuning as many pairs again,
which cross; documents of the validation split are like others; a synthesizer writes texts as long
as real ones, as far as they fit, and nine tenths of those that end pass the filters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from synboot.eval.likelihood import windows_of
from synboot.eval.tasks import Form, read_items, subset
from synboot.experiment.costs.text import Text
from synboot.experiment.recipe import Recipe
from synboot.experiment.stages.items import ItemsStage
from synboot.experiment.stages.seed_use import MAX_PAIRS as MAX_SCORED_PAIRS
from synboot.experiment.stages.training import COST_OF, VALIDATION_TOKENS
from synboot.experiment.stages.validation_pairs import MAX_DOCUMENTS, MAX_PAIRS
from synboot.model.flops import Cost, cost_of_shape, forward_flops, sampling_flops, training_flops
from synboot.model.settings import shape_of
from synboot.pairs.encoders.lsa import fitting_flops
from synboot.pipeline.stage import Artifact, Stage
from synboot.synth.engines import SHARES_PROMPTS
from synboot.train.loop import validation_steps

Basis = Literal["exact", "estimated", "unknown"]

_PASS_FILTERS = 0.9
_NO_FLOPS = (
    *("corpus", "tokenizer", "tokens", "pairs", "random_pairs", "random_validation_pairs"),
    *("pool", "megadocuments", "paired", "items", "contamination"),
)


@dataclass(frozen=True)
class Estimate:
    """What a stage takes. `tokens` are trained, written or scored; `sampled` are drawn; FLOPs as
    the ledger counts them, validation apart. None where nothing can be said."""

    basis: Basis
    tokens: int | None = None
    flops: int | None = None
    validation_flops: int = 0
    sampled: int = 0


class Estimator:
    """Estimates the stages of a recipe; `artifact` finds what is done already."""

    def __init__(
        self, recipe: Recipe, text: Text, artifact: Callable[[Stage], Artifact | None]
    ) -> None:
        self._recipe, self._text, self._artifact = recipe, text, artifact
        self._context = recipe.model.context
        self._known: dict[str, Estimate] = {}

    def of(self, stage: Stage) -> Estimate:
        """The estimate of a stage; of one that is done, what it counted."""
        if stage.id not in self._known:
            artifact = self._artifact(stage)
            found = self._planned(stage) if artifact is None else _counted(artifact)
            self._known[stage.id] = found
        return self._known[stage.id]

    def cost_of(self, stage: Stage) -> Cost:
        """What a position costs in the model of a stage."""
        return cost_of_shape(shape_of(preset_of(stage, self._recipe)), self._text.vocab_size)

    def _planned(self, stage: Stage) -> Estimate:
        if stage.name in _NO_FLOPS:
            return Estimate("exact", flops=0)
        make: Mapping[str, Callable[[Stage], Estimate]] = {
            "embed": self._embed,
            "neighbours": self._neighbours,
            "validation_pairs": self._validation_pairs,
            "tune": self._tune,
            "seed_use": self._seed_use,
            "synthesize": self._synthesize,
            "pretrain": self._pretrain,
            "evaluate": self._evaluate,
            "tasks": self._tasks,
        }
        return make[stage.name](stage) if stage.name in make else Estimate("unknown")

    def _embed(self, stage: Stage) -> Estimate:
        text, fitted = self._text, 0
        flops = self._encoding(stage, text.unique_documents)
        if stage.config["encoder"] == "lsa":
            documents = min(self._recipe.pairs.fit_documents, text.unique_documents)
            words = round(documents * text.words_per_document)
            fitted = fitting_flops(words, self._dimensions(stage))
        if flops is None:
            return Estimate("unknown", text.unique_tokens)
        return Estimate("estimated", text.unique_tokens, fitted + flops)

    def _encoding(self, embed: Stage, documents: int) -> int | None:
        """FLOPs of so many documents in a fitted encoder."""
        if embed.config["encoder"] == "lsa":
            words = documents * self._text.words_per_document
            return round(2 * words * self._dimensions(embed))
        if embed.config["encoder"] == "lm":
            lengths = np.minimum(self._text.unique_lengths, self._context)
            cost = self.cost_of(embed.inputs["base"])
            return round(float(np.mean([_reading(cost, int(n)) for n in lengths])) * documents)
        return None

    def _dimensions(self, embed: Stage) -> int:
        asked = int(embed.config.get("dimensions", self._recipe.pairs.dimensions))
        return min(asked, max(self._text.unique_documents - 1, 1))

    def _neighbours(self, stage: Stage) -> Estimate:
        documents, embed = self._text.unique_documents, stage.inputs["embed"]
        dimensions = self._dimensions(embed)
        # Lists are there to need less than this; what else embeds has dimensions of its own.
        all_compared = stage.config.get("index", "exact") == "exact"
        exact = self._text.exact and all_compared and embed.config["encoder"] == "lsa"
        basis: Basis = "exact" if exact else "estimated"
        return Estimate(basis, flops=2 * documents**2 * dimensions)

    def _validation_pairs(self, stage: Stage) -> Estimate:
        documents, embed = self._validation_documents, stage.inputs["embed"]
        flops = self._encoding(embed, documents)
        if flops is None:
            return Estimate("unknown")
        compared = 2 * documents**2 * self._dimensions(embed)
        return Estimate("estimated", flops=flops + compared)

    @property
    def _validation_documents(self) -> int:
        return min(self._text.valid_documents, MAX_DOCUMENTS)

    def num_pairs(self, stage: Stage) -> int:
        """Unordered pairs that a stage of pairs keeps, of validation documents or others, related
        or random."""
        if (artifact := self._artifact(stage)) is not None:
            return int(artifact.counts["kept"])
        for related in ("pairs", "validation_pairs"):
            if related in stage.inputs:
                return self.num_pairs(stage.inputs[related])
        allowed = int(stage.config["max_pairs_per_document"])
        if stage.name == "validation_pairs":
            looked_at, documents = int(stage.config["top_k"]), self._validation_documents
            return min(max(documents * min(looked_at, allowed) // 2, 1), MAX_PAIRS)
        looked_at = int(stage.inputs["neighbours"].config["top_k"])
        most = min(looked_at, allowed, self._text.unique_documents)
        return max(self._text.unique_documents * most // 2, 1)

    def _pair_lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """(positions of d1's prompt, of the whole row) of pairs of sampled documents."""
        first = self._text.unique_lengths - 1
        second = np.roll(first, 1)
        before = np.minimum(first, self._context // 2 - 2) + 2
        return before, np.minimum(before + second, self._context)

    def _tune(self, stage: Stage) -> Estimate:
        passes, kept = stage.config["passes"], 2 * self.num_pairs(stage.inputs["pairs"])
        if "validation_pairs" in stage.inputs:
            training, validated = kept, 2 * self.num_pairs(stage.inputs["validation_pairs"])
        else:
            fraction = stage.config["validation_fraction"]
            training, validated = max(kept * (1 - 2 * fraction), 1), kept * fraction
        before, whole = self._pair_lengths()
        cost, targets = self.cost_of(stage), float(np.mean(whole - before + 1))
        forward = float(np.mean([_reading(cost, int(n)) for n in whole]))
        once = forward + targets * cost.output
        trained = training * passes
        looks = stage.config["loop"]["num_validations"]
        return Estimate(
            "estimated",
            round(trained * targets),
            round(3 * trained * once),
            round(looks * validated * once),
        )

    def _seed_use(self, stage: Stage) -> Estimate:
        if "validation_pairs" in stage.inputs:
            scored = 2 * self.num_pairs(stage.inputs["validation_pairs"])
        else:
            kept = 2 * self.num_pairs(stage.inputs["pairs"])
            scored = round(kept * stage.config["validation_fraction"])
        pairs = min(max(scored, 1), MAX_SCORED_PAIRS)
        before, whole = self._pair_lengths()
        seconds = np.minimum(whole - before + 1, self._context // 2)
        cost = self.cost_of(stage)
        row = np.mean([forward_flops(cost, 0, int(n)) for n in before + seconds - 1])
        models = 2 if "base" in stage.inputs else 1
        tokens = round(pairs * float(seconds.mean()))
        return Estimate("estimated", tokens, round(2 * models * pairs * row))

    def _synthesize(self, stage: Stage) -> Estimate:
        need = stage.config["need_tokens"]
        keep_unfinished = stage.config["filters"]["keep_unfinished"]
        alone = stage.config.get("prompt") == "none"
        before, _ = self._pair_lengths()
        prompts = np.ones_like(before) if alone else before
        # The last token sampled needs no position.
        room = np.minimum(self._context + 1 - prompts, stage.config["sampling"]["max_tokens"])
        written = np.minimum(np.roll(self._text.unique_lengths, 1), room)
        ended = written < room
        passing = np.ones_like(ended) if keep_unfinished else ended
        kept = float(np.mean(written * passing)) * _PASS_FILTERS
        if kept == 0:
            return Estimate("unknown", need)
        draws = need / kept * stage.config.get("best_of", 1)
        engine, together = self.engine_of(stage), stage.config["draws_per_prompt"]
        shared = 1 - 1 / together if engine in SHARES_PROMPTS else 0.0
        cost = self.cost_of(stage)
        flops = [
            (1 - shared) * sampling_flops(cost, int(p), int(n))
            + shared * sampling_flops(cost, int(p), int(n), shared_prompt=True)
            for p, n in zip(prompts, written, strict=True)
        ]
        sampled = round(draws * float(written.mean()))
        return Estimate("estimated", need, round(draws * float(np.mean(flops))), sampled=sampled)

    @staticmethod
    def engine_of(stage: Stage) -> str:
        """The name of the engine that samples, as far as it is known without the model."""
        named = str(stage.numerics["engine"])
        return named if named == "native" else "slots"

    def lengths_of_draws(self) -> tuple[int, int]:
        """Mean positions of a prompt, mean tokens written."""
        before, whole = self._pair_lengths()
        return round(float(before.mean())), max(round(float((whole - before + 1).mean())), 1)

    def _pretrain(self, stage: Stage) -> Estimate:
        sources, basis, cost = stage.config["sources"], "exact", self.cost_of(stage)
        budgets = [int(source["tokens"]) for source in sources]
        if any("and_flops_of" in source for source in sources):
            sources_paid = [s for name, s in stage.inputs.items() if name.startswith(COST_OF)]
            paid = [self.of(source) for source in sources_paid]
            if any(one.flops is None for one in paid):
                return Estimate("unknown")
            row = training_flops(cost, {self._context: 1})
            budgets[0] += sum(one.flops or 0 for one in paid) * self._context // row
            done = all(self._artifact(source) for source in sources_paid)
            basis = "exact" if done else "estimated"
        lengths = _rows(budgets, self._context)
        steps = -(-sum(lengths.values()) // stage.config["loop"]["batch_rows"])
        looks = len(validation_steps(steps, stage.config["loop"]["num_validations"]))
        valid = _rows([min(self._text.valid_tokens, VALIDATION_TOKENS)], self._context)
        return Estimate(
            "exact" if basis == "exact" and self._text.exact else "estimated",
            sum(budgets),
            training_flops(cost, lengths),
            looks * (training_flops(cost, valid) // 3),
        )

    def _evaluate(self, stage: Stage) -> Estimate:
        lengths, cost = Counter((self._text.heldout_lengths - 1).tolist()), self.cost_of(stage)
        flops = sum(
            count * forward_flops(cost, 0, window.stop - window.start)
            for length, count in lengths.items()
            for window in windows_of(0, length, self._context)
        )
        tokens = sum(count * length for length, count in lengths.items())
        return Estimate("exact" if self._text.exact else "estimated", tokens, flops)

    def _tasks(self, stage: Stage) -> Estimate:
        items = stage.inputs["items"]
        if not isinstance(items, ItemsStage) or "world" in items.config:
            return Estimate("unknown")  # a world asks about text that is not there yet
        size = 0
        for task, settings in items.config["tasks"].items():
            form = {k: v for k, v in settings.items() if k not in ("content", "limit")}
            read = read_items(items.files[task], Form(**form))
            for item in subset(read, settings["limit"], items.seed, "task items"):
                size += len(item.context.encode()) + sum(len(c.encode()) for c in item.choices)
        tokens = round(size / self._text.bytes_per_token)
        cost = self.cost_of(stage)
        return Estimate("estimated", tokens, tokens * (cost.layers + cost.output))


def preset_of(stage: Stage, recipe: Recipe) -> str:
    """The size of a stage's model: the recipe's, or that of base models and writers."""
    return str((stage.config.get("model") or {}).get("preset", recipe.model.preset))


def _reading(cost: Cost, length: int) -> int:
    """FLOPs of all layers over a text, without the output layer."""
    return forward_flops(cost, 0, length) - length * cost.output


def _rows(budgets: list[int], context: int) -> Counter[int]:
    """Rows of a mixture of sources with these tokens, by length."""
    lengths: Counter[int] = Counter()
    for tokens in budgets:
        lengths[context] += tokens // context
        if rest := tokens % context:
            lengths[rest] += 1
    return lengths


def _counted(artifact: Artifact) -> Estimate:
    counts: dict[str, Any] = artifact.counts
    tokens = counts.get("trained_tokens", counts.get("tokens"))
    return Estimate(
        "exact",
        tokens if isinstance(tokens, int) else None,
        counts.get("flops"),
        counts.get("validation_flops") or 0,
        counts.get("sampled_tokens") or 0,
    )
