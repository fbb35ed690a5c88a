"""pretrain and tune: a model from text, a synthesizer from pairs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal, Unpack, get_args

from synboot.core.config import validate
from synboot.core.errors import BadInput
from synboot.experiment.recipe import CheckpointRule, ModelConfig, TokenizerConfig, TuneConfig
from synboot.experiment.stages.training import PretrainStage, TuneStage, loop_identity
from synboot.pipeline.stage import Artifact
from synboot.train.compiled import why_eager
from synboot.train.settings import LoopConfig
from synboot.verbs.inputs import (
    Corpus,
    Reading,
    documents_stage,
    given_model,
    has_split,
    machine,
    pairs_stage,
    token_stages,
    whole_number,
)
from synboot.verbs.work import Outcome, complete, output_path, publish_directory

_PRESET_CONTEXT = 256
_VOCAB_SIZE = 2048
_VALID_FRACTION = 0.05


def pretrain(
    corpus: Corpus,
    output: str | Path,
    *,
    tokens: int,
    synthetic: Corpus | None = None,
    synthetic_tokens: int | None = None,
    valid: Corpus | None = None,
    valid_fraction: float | None = None,
    preset: str | None = None,
    tokenizer: str | Path | None = None,
    vocab_size: int | None = None,
    model: str | Path | None = None,
    context: int | None = None,
    learning_rate: float = 4e-3,
    weight_decay: float = 1.0,
    dropout: float = 0.0,
    batch_rows: int = 8,
    num_validations: int = 20,
    checkpoint: Literal["best", "last"] = "best",
    seed: int = 0,
    workers: int | None = 1,
    threads: int | None = None,
    device: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **reading: Unpack[Reading],
) -> Outcome:
    """Train a language model for exactly `tokens` tokens of `corpus`, END of documents included.

    With `synthetic`, `synthetic_tokens` of them (by default all that it holds) are synthetic text,
    passed once, and real text is repeated for the rest: joint pretraining (paper). A new model of
    the shape `preset`, with a tokenizer of `vocab_size` entries (2,048) trained on `corpus` or the
    one in the directory `tokenizer`; or the model in the directory `model`, trained on. Validation
    text is `valid`, else the files that `corpus` names so, else `valid_fraction` (0.05) of its
    documents, whole groups together. `context` is 256 for a preset by default, else the model's.

    Writes the model directory `output` with the checkpoint of lowest validation loss, or the last.
    Counts: trained_tokens, mixture, best_validation_loss, flops, ... Raises BadInput.
    """
    path = output_path(output)
    if (preset is None) == (model is None):
        raise BadInput("expected either preset (a new model) or model (a directory to train on)")
    if model is not None and tokenizer is not None:
        raise BadInput("tokenizer: the model in the directory model has its own")
    if vocab_size is not None and (model is not None or tokenizer is not None):
        raise BadInput("vocab_size: there is a tokenizer already, none will be trained")
    whole_number("tokens", tokens)
    if synthetic_tokens is not None:
        whole_number("synthetic_tokens", synthetic_tokens)
        if synthetic is None:
            raise BadInput("synthetic_tokens: there is no synthetic text")
    if checkpoint not in get_args(CheckpointRule):
        raise BadInput(f"checkpoint: expected best or last, got {checkpoint!r}")
    loop = validate(
        LoopConfig,
        {
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "dropout": dropout,
            "batch_rows": batch_rows,
            "num_validations": num_validations,
        },
        "pretrain",
    )
    own = machine(workers=workers, threads=threads, device=device)
    corpora: dict[Any, Corpus] = {"train": corpus}
    if valid is None and has_split(corpus, "valid"):
        valid = corpus
    if valid is not None:
        corpora["valid"] = valid
    if synthetic is not None:
        corpora["synthetic"] = synthetic
    if valid is not None and valid_fraction is not None:
        raise BadInput("valid_fraction: there is validation text already, none will be drawn")
    drawn = 0.0
    if valid is None:
        drawn = _VALID_FRACTION if valid_fraction is None else valid_fraction
        if not 0 < drawn < 0.5:
            raise BadInput(f"valid_fraction: expected between 0 and 0.5, got {valid_fraction!r}")
    documents = documents_stage(corpora, reading, path, seed=seed, valid_fraction=drawn)
    if model is not None:
        given = given_model(model, context)
        settings: dict[str, Any] = given.settings
        directory = given.directory
    else:
        length = _PRESET_CONTEXT if context is None else context
        shape = validate(ModelConfig, {"preset": preset, "context": length}, "pretrain")
        settings, directory = shape.model_dump(mode="json"), None
    if model is None and tokenizer is None:
        vocab_size = _VOCAB_SIZE if vocab_size is None else vocab_size
        validate(TokenizerConfig, {"vocab_size": vocab_size}, "pretrain")
    inputs = token_stages(
        documents,
        own,
        model=directory if tokenizer is None else Path(tokenizer),
        vocab_size=vocab_size,
    )
    sources: list[dict[str, Any]] = [{"documents": "unique", "tokens": None}]
    if synthetic is not None:
        sources.append({"documents": "synthetic", "tokens": synthetic_tokens})
    stage = PretrainStage(
        {
            "model": settings,
            "loop": loop_identity(loop.model_dump(mode="json")),
            "tokens": tokens,
            "sources": sources,
        },
        {name: inputs[name] for name in ("tokenizer", "tokens")},
        seed=seed,
        numerics=own.numerics.training,
        checkpoint_seconds=own.runtime.checkpoint_seconds,
        model_directory=directory,
    )
    return complete(
        "pretrain",
        path,
        [*inputs.values(), stage],
        lambda made, stamp: _publish(made[stage.id], checkpoint, path, stamp),
        workers=own.runtime.workers,
        overwrite=overwrite,
        quiet=quiet,
        notice=why_eager(own.runtime.compile, own.runtime.device),
        choice={"checkpoint": checkpoint},
    )


def tune(
    pairs: Corpus,
    output: str | Path,
    *,
    corpus: Corpus,
    model: str | Path,
    context: int | None = None,
    passes: int = 2,
    validation_fraction: float = 0.1,
    learning_rate: float = 3e-4,
    weight_decay: float = 0.1,
    dropout: float = 0.0,
    batch_rows: int = 8,
    num_validations: int = 20,
    seed: int = 0,
    workers: int | None = 1,
    threads: int | None = None,
    device: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **reading: Unpack[Reading],
) -> Outcome:
    """Tune the causal LM in `model` into a synthesizer, p(d2 given d1) (paper).

    `pairs`: JSONL or Parquet with d1 and d2, ids of `corpus`; rows whose verdict is drop are
    passed over, and every pair is used in both orders. Pairs that share no document with the others
    are held out. Writes the model directory `output`, the checkpoint of lowest loss on them.
    Counts: training_pairs, initial_validation_loss, best_validation_loss, flops, ... Raises
    BadInput.
    """
    path = output_path(output)
    config = validate(
        TuneConfig,
        {
            "passes": passes,
            "validation_fraction": validation_fraction,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "dropout": dropout,
            "batch_rows": batch_rows,
            "num_validations": num_validations,
        },
        "tune",
    ).model_dump(mode="json")
    own = machine(workers=workers, threads=threads, device=device)
    given = given_model(model, context)
    documents = documents_stage({"train": corpus}, reading, path, seed=seed)
    inputs = token_stages(documents, own, model=given.directory)
    judged = pairs_stage(pairs, documents, path)
    stage = TuneStage(
        {
            "model": given.settings,
            "loop": loop_identity(config),
            "passes": passes,
            "validation_fraction": validation_fraction,
        },
        {**inputs, "pairs": judged},
        seed=seed,
        numerics=own.numerics.training,
        checkpoint_seconds=own.runtime.checkpoint_seconds,
        model_directory=given.directory,
    )
    return complete(
        "tune",
        path,
        [documents, judged, inputs["tokenizer"], inputs["tokens"], stage],
        lambda made, stamp: _publish(made[stage.id], "best", path, stamp),
        workers=own.runtime.workers,
        overwrite=overwrite,
        quiet=quiet,
        notice=why_eager(own.runtime.compile, own.runtime.device),
    )


def _publish(made: Artifact, checkpoint: str, output: Path, stamp: dict[str, Any]) -> None:
    def fill(directory: Path) -> None:
        shutil.copytree(made.file(checkpoint), directory, dirs_exist_ok=True)
        shutil.copyfile(made.file("history.json"), directory / "history.json")

    publish_directory(output, stamp, fill)
