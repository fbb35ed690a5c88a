"""synthesize: a synthetic corpus from a synthesizer and seed documents."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from synboot.core.config import validate
from synboot.experiment.recipe import SynthesizeConfig
from synboot.experiment.stages.synthesis import SynthesizeStage
from synboot.model.architecture import read_config
from synboot.synth.engines import check_engine, why_torch
from synboot.synth.settings import SamplingConfig
from synboot.verbs.inputs import (
    Corpus,
    Reading,
    documents_stage,
    given_model,
    machine,
    token_stages,
    whole_number,
)
from synboot.verbs.work import Outcome, complete, output_path, publish_parquet


def synthesize(
    synthesizer: str | Path,
    corpus: Corpus,
    output: str | Path,
    *,
    tokens: int,
    context: int | None = None,
    temperature: float = 1.0,
    top_p: float = 0.9,
    top_k: int = 0,
    max_tokens: int = 4096,
    draws_per_prompt: int = 4,
    max_draws_per_seed: int = 100,
    keep_unfinished: bool = False,
    min_tokens: int = 8,
    max_repetition: float = 0.5,
    max_seed_overlap: float = 0.5,
    max_corpus_overlap: float = 0.8,
    max_draw_overlap: float = 0.8,
    seed: int = 0,
    workers: int | None = 1,
    slots: int | None = None,
    device: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **reading: Unpack[Reading],
) -> Outcome:
    """Write a synthetic corpus of exactly `tokens` tokens (counted after encoding the text again,
    END included): draws from p(d2 given d1), every document of `corpus` a seed in turn (paper),
    `draws_per_prompt` times in a row.

    Writes the Parquet file `output`: text, seed_id, draw, synthesizer, sampling settings, filter
    scores, licences, ... Counts: tokens, documents, candidates, verdicts, the engine that sampled,
    flops, ... Raises BadInput, and GateFellShort if `max_draws_per_seed` draws of every seed are
    not enough.
    """
    path = output_path(output, ".parquet")
    whole_number("tokens", tokens)
    settings = validate(
        SynthesizeConfig,
        {
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "max_tokens": max_tokens,
            "draws_per_prompt": draws_per_prompt,
            "max_draws_per_seed": max_draws_per_seed,
            "filters": {
                "keep_unfinished": keep_unfinished,
                "min_tokens": min_tokens,
                "max_repetition": max_repetition,
                "max_seed_overlap": max_seed_overlap,
                "max_corpus_overlap": max_corpus_overlap,
                "max_draw_overlap": max_draw_overlap,
            },
        },
        "synthesize",
    )
    own = machine(workers=workers, slots=slots, device=device)
    given = given_model(synthesizer, context)
    check_engine(own.runtime.engine, read_config(given.directory))
    documents = documents_stage({"train": corpus}, reading, path, seed=seed)
    inputs = token_stages(documents, own, model=given.directory)
    stage = SynthesizeStage(
        {
            "model": given.settings,
            "sampling": settings.model_dump(mode="json", include=set(SamplingConfig.model_fields)),
            "draws_per_prompt": settings.draws_per_prompt,
            "filters": settings.filters.model_dump(mode="json"),
            "need_tokens": tokens,
        },
        inputs,
        seed=seed,
        numerics=own.numerics.draws,
        max_draws_per_seed=max_draws_per_seed,
        model_directory=given.directory,
        synthesizer=given.name,
    )
    return complete(
        "synthesize",
        path,
        [*inputs.values(), stage],
        lambda made, stamp: publish_parquet(made[stage.id].file("synthetic.parquet"), path, stamp),
        workers=own.runtime.workers,
        overwrite=overwrite,
        quiet=quiet,
        notice=why_torch(own.runtime.engine, own.runtime.device),
    )
