"""The options of the verb quality."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synboot.verbs.options import DeviceOption, OutputOption, SeedOption, WorkersOption


def quality(
    synthetic: Annotated[
        list[str], typer.Argument(help="Synthetic text: files, globs.", show_default=False)
    ],
    *,
    output: OutputOption,
    corpus: Annotated[
        list[str], typer.Option(help="The real documents; may be given several times.")
    ],
    pairs: Annotated[Path | None, typer.Option(help="Real pairs: d1, d2, ids of them.")] = None,
    synthetic_text_field: Annotated[
        str, typer.Option(help="Where a synthetic record has its text.")
    ] = "text",
    seed_field: Annotated[
        str, typer.Option(help="Where it names its seed document, if it does.")
    ] = "seed_id",
    sample_documents: Annotated[
        int, typer.Option(help="Documents looked at on either side, at most; a sample.")
    ] = 100_000,
    max_repetition: Annotated[
        float, typer.Option(help="Share of repeated 4-word windows; more is repetitive.")
    ] = 0.2,
    duplicate_similarity: Annotated[
        float, typer.Option(help="Jaccard similarity of near duplicates, at least.")
    ] = 0.6,
    duplicate_words: Annotated[int, typer.Option(help="Words of the windows compared.")] = 5,
    relevance: Annotated[bool, typer.Option(help="Measure similarity to the seed.")] = True,
    encoder: Annotated[str, typer.Option(help="lsa or sentence-transformers:NAME.")] = "lsa",
    dimensions: Annotated[int, typer.Option(help="Of lsa's vectors.")] = 256,
    fit_documents: Annotated[
        int, typer.Option(help="Documents that lsa learns from, at most; a sample.")
    ] = 20_000,
    judge: Annotated[
        str | None, typer.Option(help="endpoint:MODEL (with --judge-url) or model:DIRECTORY.")
    ] = None,
    judge_url: Annotated[
        str | None, typer.Option(help="Of an OpenAI-compatible endpoint: http://HOST/v1.")
    ] = None,
    judge_key_variable: Annotated[
        str | None, typer.Option(help="Environment variable that holds its API key.")
    ] = None,
    judge_documents: Annotated[
        int, typer.Option(help="Documents judged on either side, at most; a sample.")
    ] = 500,
    judge_requests: Annotated[int | None, typer.Option(help="Budget: requests.")] = None,
    judge_tokens: Annotated[int | None, typer.Option(help="Budget: tokens, as reported.")] = None,
    judge_answer_tokens: Annotated[int, typer.Option(help="Of one answer, at most.")] = 16,
    judge_characters: Annotated[int, typer.Option(help="Of a text that is shown, at most.")] = 8000,
    judge_attempts: Annotated[int, typer.Option(help="Of one question, at most.")] = 6,
    judge_concurrency: Annotated[int, typer.Option(help="Requests at a time.")] = 8,
    judge_timeout: Annotated[float, typer.Option(help="Seconds for one request.")] = 60.0,
    judge_answers: Annotated[
        Path | None, typer.Option(help="Directory that keeps answers for other commands.")
    ] = None,
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    device: DeviceOption = None,
) -> None:
    """Measure synthetic text, anyone's, beside real text: repetition, copies, relevance, ..."""
