"""pretrain (base and arms) and tune: the same loop with different rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from synboot.core.errors import BadInput
from synboot.core.storage import write_json
from synboot.data.mixture import REAL, Mixture, Source
from synboot.data.tokenizer import TextTokenizer
from synboot.data.tokens import TokenStore
from synboot.experiment.stages.corpus import oracle_documents, unique_documents
from synboot.experiment.stages.process import set_threads
from synboot.experiment.stages.validation_pairs import read_validation_pairs
from synboot.model.architecture import load_model, new_model, save_model
from synboot.model.flops import Cost, cost_of_shape, known_cost, training_flops
from synboot.model.settings import shape_of
from synboot.pairs.find import PairSplit, read_kept_pairs, split_pairs
from synboot.pairs.random import read_split
from synboot.pipeline.stage import Artifact, Context, Counts, Stage
from synboot.synth.template import PairRows
from synboot.train.checkpoint import TrainState, put_weights
from synboot.train.compiled import compiles
from synboot.train.loop import train
from synboot.train.loss import keeps_apart, mean_loss
from synboot.train.settings import LoopConfig

VALIDATION_TOKENS = 100_000

COST_OF = "cost_of_"
"""Begins the name of an input of which a stage reads nothing but what it cost."""

_CountedRows = Mixture | PairRows


class _TrainingStage(Stage):
    """What pretraining and tuning share: the loop, and a model directory for each checkpoint."""

    def __init__(
        self,
        *arguments: Any,
        checkpoint_seconds: float,
        model_directory: Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.checkpoint_seconds = checkpoint_seconds
        self.model_directory = model_directory
        """A user's model to start from; the config has the digest of its content."""

    def enter(self) -> None:
        """The training process has the threads of the recipe."""
        set_threads(self.numerics["threads"])

    def _train(
        self, context: Context, model: Any, rows: _CountedRows, validation: _CountedRows
    ) -> TrainState:
        loop = LoopConfig.model_validate(self.config["loop"])
        cost = known_cost(model)
        flops = None if cost is None else _flops(cost, rows)
        one_length = not isinstance(rows, PairRows) or rows.packed
        compiled = one_length and compiles(self.numerics["compile"], flops)
        context.emit("compile", compiled=compiled, numerics=self.numerics["compile"])
        state = train(
            model,
            rows,
            validation,
            loop,
            context.scratch,
            seed=self.seed,
            device=torch.device(self.numerics["device"]),
            precision=self.numerics["precision"],
            micro_rows=self.numerics["micro_rows"],
            compiled_length=self.config["model"]["context"] if compiled else None,
            checkpoint_seconds=self.checkpoint_seconds,
            progress=context.progress,
            should_stop=context.should_stop,
            emit=context.emit,
        )
        tokenizer = TextTokenizer.load(context.inputs["tokenizer"].path)
        model.to("cpu")
        for rule in ("last", "best"):
            if rule == "best":
                put_weights(model, load_file(context.scratch / "best.safetensors"))
            save_model(model, context.directory / rule)
            tokenizer.save(context.directory / rule)
        write_json(context.directory / "history.json", state.history)
        return state

    def _state_counts(
        self,
        state: TrainState,
        model: Any,
        rows: _CountedRows,
        validation: _CountedRows,
    ) -> Counts:
        cost = known_cost(model)
        flops = once = None
        if cost is not None:
            flops = _flops(cost, rows)
            once = _flops(cost, validation) // 3
        return {
            "flops": flops,
            "validation_flops": None if once is None else once * len(state.history),
            "steps": state.step,
            "trained_tokens": state.tokens,
            "best_step": state.best_step,
            "best_validation_loss": state.best_loss,
            "final_validation_loss": state.history[-1]["validation_loss"],
        }


class PretrainStage(_TrainingStage):
    """Trains a fresh model, or one that is given, on a mixture of real and synthetic text.

    Config `sources`: list of {documents: unique | oracle | synthetic | paired, tokens}, with
    `multiple` for the oracle; the token budget is their sum, `order` is of their rows. Synthetic
    text is a run's own, or a split of the user's documents; without `tokens` all of it, and real
    text the rest of the config's `tokens`. `and_flops_of` names stages, inputs as `cost_of_NAME`,
    whose FLOPs are trained on top.
    """

    name = "pretrain"
    version = 3

    def _sources(self, context: Context) -> list[Source]:
        tokens = context.inputs["tokens"]
        real = TokenStore(tokens.file("train"))
        sources: list[Source] = []
        left = self.config.get("tokens")
        for entry in reversed(self.config["sources"]):  # synthetic text comes before what is left
            kind, budget = entry["documents"], entry["tokens"]
            if kind == "synthetic":
                own = context.inputs.get("synthesize")
                store = TokenStore(own.file("tokens") if own else tokens.file("synthetic"))
                budget = store.num_tokens() if budget is None else budget
                if left is not None and budget > left:
                    raise BadInput(
                        f"tokens: {left} to train are fewer than the {budget} of the synthetic text"
                    )
                left = None if left is None else left - budget
                sources.append(Source("synthetic", store, len(store), budget, max_passes=1))
            elif kind == "paired":
                store = TokenStore(context.inputs["paired"].file("tokens"))
                sources.append(Source("paired", store, len(store), budget))
            elif kind == "unique":
                count = tokens.counts["unique"]["documents"]
                if paid := entry.get("and_flops_of"):
                    budget += self._tokens_worth(context, paid)
                sources.append(Source(REAL, real, count, left or 0 if budget is None else budget))
            else:
                count = oracle_documents(tokens, entry["multiple"])
                sources.append(Source(REAL, real, count, budget))
        return sources[::-1]

    def _tokens_worth(self, context: Context, stages: Sequence[str]) -> int:
        """How many training tokens, in whole rows, the FLOPs of `stages` would pay for. Raises
        BadInput where they are not known."""
        costs = {name: context.inputs[f"{COST_OF}{name}"].counts["flops"] for name in stages}
        if unknown := [name for name, flops in costs.items() if flops is None]:
            raise BadInput(
                f"field experiment.cost_inclusive: the FLOPs of {', '.join(unknown)} cannot be "
                "counted; expected false"
            )
        length = self.config["model"]["context"]
        vocab_size = context.inputs["tokenizer"].counts["vocab_size"]
        cost = cost_of_shape(shape_of(self.config["model"]["preset"]), vocab_size)
        return int(sum(costs.values()) * length // training_flops(cost, {length: 1}))

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write last/ and best/ (model directories) and history.json."""
        tokenizer = TextTokenizer.load(context.inputs["tokenizer"].path)
        length = self.config["model"]["context"]
        if self.model_directory is not None:
            model = load_model(self.model_directory)
        else:
            model = _fresh_model(self.config["model"], tokenizer, self.seed)
        ends = {"end_id": tokenizer.end_id, "start_id": tokenizer.start_id}
        order = self.config.get("order", "mixed")
        mixture = Mixture(self._sources(context), length, seed=self.seed, order=order, **ends)
        validation = validation_rows(context.inputs["tokens"], length, **ends)
        state = self._train(context, model, mixture, validation)
        if state.tokens != mixture.num_tokens:
            raise AssertionError(f"trained {state.tokens} tokens of {mixture.num_tokens}")
        counts = self._state_counts(state, model, mixture, validation)
        return counts | {"mixture": mixture.plan()}


class TuneStage(_TrainingStage):
    """Tunes the base model into the synthesizer, p(d2 given d1).

    With `initial: scratch` in the config, random weights are trained in its place.
    """

    name = "tune"
    version = 3

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write last/ and best/ (model directories) and history.json."""
        tokenizer = TextTokenizer.load(context.inputs["tokenizer"].path)
        on_text = "validation_pairs" in context.inputs
        split = pair_split(context.inputs, self.config.get("validation_fraction"), self.seed)
        tokens = context.inputs["tokens"]
        make: dict[str, Any] = {
            "context": self.config["model"]["context"],
            "end_id": tokenizer.end_id,
            "start_id": tokenizer.start_id,
            "seed": self.seed,
        }
        model, origin = self._initial(context, tokenizer)
        make["packed"] = keeps_apart(model)
        train_store = TokenStore(tokens.file("train"))
        rows = PairRows(train_store, split.training, passes=self.config["passes"], **make)
        validated_store = TokenStore(tokens.file("valid")) if on_text else train_store
        validation = PairRows(validated_store, split.validation, **make)
        device = torch.device(self.numerics["device"])
        start = mean_loss(
            model.to(device),
            validation,
            self.numerics["micro_rows"] or self.config["loop"]["batch_rows"],
            device,
            self.numerics["precision"],
        )
        state = self._train(context, model, rows, validation)
        return self._state_counts(state, model, rows, validation) | {
            "initial_weights": origin,
            "initial_validation_loss": start,
            "validated_on": "validation_text" if on_text else "held_out_pairs",
            "packed": rows.packed,
            "training_pairs": len(split.training),
            "validation_pairs": len(split.validation),
            "crossing_pairs": 2 * split.num_crossing,
        }

    def _initial(self, context: Context, tokenizer: TextTokenizer) -> tuple[Any, str]:
        """The model to start from, and what it is."""
        if self.model_directory is not None:
            given = f"the given model, {self.config['model']['content'][:12]}"
            return load_model(self.model_directory), given
        if self.config.get("initial") == "scratch":
            return _fresh_model(self.config["model"], tokenizer, self.seed), "random"
        rule, base = self.config["initial_checkpoint"], context.inputs["base"]
        step = base.counts["best_step"] if rule == "best" else base.counts["steps"]
        return load_model(base.file(rule)), f"base model, {rule} checkpoint (step {step})"


def pair_split(
    inputs: Mapping[str, Artifact], validation_fraction: float | None, seed: int
) -> PairSplit:
    """The pairs that a synthesizer is tuned on, and those that its checkpoint is chosen on: of the
    validation split, numbered as in its own token store, or held out of the pairs. Raises BadInput
    where none can be held out."""
    number = _numbers(inputs)
    file = inputs["pairs"].file("pairs.parquet")
    kept = read_kept_pairs(file)
    if "validation_pairs" in inputs:
        training = [(number[a], number[b]) for a, b in kept]
        return PairSplit(training, read_validation_pairs(inputs), 0, frozenset())
    if validation_fraction is None:
        raise AssertionError("tuning without validation")
    split = read_split(file, number) or split_pairs(
        ((number[a], number[b]) for a, b in kept),
        validation_fraction=validation_fraction,
        seed=seed,
    )
    if not split.training or not split.validation:
        count = len({frozenset(pair) for pair in kept})
        raise BadInput(
            f"{count} pairs cannot be split into training and validation pairs without a "
            "common document; expected more (field pairs.min_similarity: lower it)"
        )
    return split


def _numbers(inputs: Mapping[str, Artifact]) -> dict[str, int]:
    """The documents of the unique budget, as in the token store, by id."""
    documents = unique_documents(inputs)
    return {name: i for i, name in enumerate(documents.ids(0, len(documents)))}


def _fresh_model(settings: Mapping[str, Any], tokenizer: TextTokenizer, seed: int) -> Any:
    """A model of random weights."""
    return new_model(
        shape_of(settings["preset"]),
        vocab_size=tokenizer.vocab_size,
        context=settings["context"],
        end_id=tokenizer.end_id,
        seed=seed,
    )


def _flops(cost: Cost, rows: _CountedRows) -> int:
    """FLOPs of training on `rows` once: the output layer sees positions with loss only."""
    lengths = rows.row_lengths()
    positions = sum(length * count for length, count in lengths.items())
    targets = sum(rows.num_targets(position) for position in range(rows.num_rows))
    return training_flops(cost, lengths) - 3 * cost.output * (positions - targets)


def validation_rows(tokens: Artifact, context: int, *, end_id: int, start_id: int) -> Mixture:
    """One pass over the validation split, at most 100,000 tokens of it."""
    store = TokenStore(tokens.file("valid"))
    budget = min(store.num_tokens(), VALIDATION_TOKENS)
    valid = Source("valid", store, len(store), budget)
    return Mixture([valid], context, end_id, seed=0, start_id=start_id)


def loop_identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of a section is the loop's, for a stage's config."""
    return {key: settings[key] for key in LoopConfig.model_fields}
