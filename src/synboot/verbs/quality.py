"""quality: what synthetic text is like, anyone's, beside the real text that it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

from synboot.core.config import validate
from synboot.core.errors import BadInput
from synboot.core.judgement import Judge
from synboot.core.storage import read_json
from synboot.eval.quality.settings import QualityConfig
from synboot.eval.quality.table import table_lines
from synboot.experiment.judges import open_judge
from synboot.experiment.quality_plan import quality_identity
from synboot.experiment.stages.files import DocumentsStage
from synboot.experiment.stages.pairing import EmbedStage
from synboot.experiment.stages.quality import QualityStage
from synboot.pairs.encoders.settings import EncoderConfig, encoder_settings
from synboot.pipeline.stage import Stage
from synboot.verbs.inputs import Corpus, Reading, documents_stage, machine, pairs_stage
from synboot.verbs.work import Outcome, complete, output_path, partial_folder, publish_json


def quality(
    synthetic: Corpus,
    output: str | Path,
    *,
    corpus: Corpus,
    pairs: Corpus | None = None,
    synthetic_text_field: str = "text",
    seed_field: str = "seed_id",
    sample_documents: int = 100_000,
    max_repetition: float = 0.2,
    duplicate_similarity: float = 0.6,
    duplicate_words: int = 5,
    relevance: bool = True,
    encoder: str = "lsa",
    dimensions: int = 256,
    fit_documents: int = 20_000,
    judge: str | None = None,
    judge_url: str | None = None,
    judge_key_variable: str | None = None,
    judge_documents: int = 500,
    judge_requests: int | None = None,
    judge_tokens: int | None = None,
    judge_answer_tokens: int = 16,
    judge_characters: int = 8000,
    judge_attempts: int = 6,
    judge_concurrency: int = 8,
    judge_timeout: float = 60.0,
    judge_answers: str | Path | None = None,
    seed: int = 0,
    workers: int | None = 1,
    device: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **reading: Unpack[Reading],
) -> Outcome:
    """Measure `synthetic` (any file of texts) beside the real documents of `corpus`.

    A synthetic document may name its seed document in `seed_field`; without, it is measured against
    the corpus alone. `pairs` are real pairs (d1, d2) as `find_pairs` writes them: what is measured
    of a text beside its seed is then measured of them too. `judge` is `endpoint:MODEL` at
    `judge_url`, whose key is in the environment variable `judge_key_variable`, or
    `model:DIRECTORY`; `judge_requests` and `judge_tokens` are the budget of an endpoint, whose
    answers are kept below `judge_answers`, by default only until the output stands.

    Writes the JSON file `output`: `quality`, and `synboot`, its stamp. Counts: the value of
    `quality`. Raises BadInput, and Incomplete where an endpoint is down.
    """
    path = output_path(output, ".json")
    settings = _settings(
        sample_documents=sample_documents,
        max_repetition=max_repetition,
        duplicate_similarity=duplicate_similarity,
        duplicate_words=duplicate_words,
        relevance=relevance,
        judge_documents=judge_documents,
        judge=None if judge is None else {
            "name": judge,
            "url": judge_url,
            "key_variable": judge_key_variable,
            "max_requests": judge_requests,
            "max_tokens": judge_tokens,
            "answer_tokens": judge_answer_tokens,
            "max_characters": judge_characters,
            "attempts": judge_attempts,
            "concurrency": judge_concurrency,
            "timeout_seconds": judge_timeout,
        },
    )  # fmt: skip
    of_judges = {"judge_url": judge_url, "judge_key_variable": judge_key_variable,
                 "judge_requests": judge_requests, "judge_tokens": judge_tokens,
                 "judge_answers": judge_answers}  # fmt: skip
    given = [name for name, value in of_judges.items() if value is not None]
    if judge is None and given:
        raise BadInput(f"judge: expected endpoint:MODEL or model:DIRECTORY beside {given[0]}")
    own = machine(workers=workers, device=device)
    numerics = own.numerics.embedding if relevance and encoder != "lsa" else own.numerics.parts
    real = documents_stage({"train": corpus}, reading, path, seed=seed)
    stages: dict[str, Stage] = {"corpus": real}
    stages["synthetic"] = _synthetic_stage(synthetic, synthetic_text_field, path, seed)
    if pairs is not None:
        stages["pairs"] = pairs_stage(pairs, real, path)
    if relevance:
        values: dict[str, Any] = {"encoder": encoder}
        if encoder == "lsa":
            values |= {"dimensions": dimensions, "fit_documents": fit_documents}
        embedding = validate(EncoderConfig, values, "quality")
        if embedding.encoder == "lm":
            raise BadInput("encoder: expected lsa or sentence-transformers:NAME, got 'lm'")
        stages["embed"] = EmbedStage(
            encoder_settings(embedding),
            {"corpus": real},
            seed=seed,
            numerics=numerics,
            settings=embedding,
        )
    answers = Path(judge_answers) if judge_answers is not None else partial_folder(path) / "answers"
    reader: Judge | None = None
    if settings.judge is not None:
        reader = open_judge(settings.judge, answers, device=own.runtime.device)
    stage = QualityStage(
        {**quality_identity(settings, reader), "seed_field": seed_field},
        stages,
        seed=seed,
        numerics=numerics,
        encoder=encoder,
        judge=reader,
    )
    outcome = complete(
        "quality",
        path,
        [*stages.values(), stage],
        lambda made, stamp: publish_json(
            "quality", read_json(made[stage.id].file("quality.json")), path, stamp
        ),
        workers=own.runtime.workers,
        overwrite=overwrite,
        quiet=quiet,
    )
    measured = read_json(path)["quality"]
    return Outcome(outcome.path, outcome.id, measured, table_lines(measured))


def _settings(**values: Any) -> QualityConfig:
    return validate(QualityConfig, values, "quality")


def _synthetic_stage(synthetic: Corpus, text_field: str, output: Path, seed: int) -> DocumentsStage:
    """The synthetic documents: named by file and row, since many draws may share an id."""
    reading: Reading = {"text_field": text_field}
    stage = documents_stage({"train": synthetic}, reading, output, seed=seed)
    stage = DocumentsStage(stage.config | {"id_field": None}, seed=seed, files=stage.files)
    stage.label = "synthetic documents"
    return stage
