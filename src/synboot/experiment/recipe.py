"""The recipe: everything that a run depends on, as one checked value.

Section names are the words of docs/design.md. `search` and `runtime` have no part in any identity.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from synboot.core.config import (
    Config,
    environment_settings,
    merge,
    parse_settings,
    read_recipe,
    validate,
)
from synboot.core.errors import BadInput
from synboot.data.corpus import MAX_DOCUMENT_BYTES, LongDocuments, OnBad
from synboot.data.cuts import MIN_PIECE_BYTES
from synboot.data.mixture import MixtureOrder
from synboot.eval.quality.settings import QualityConfig
from synboot.experiment.arm_settings import REFERENCE, ExperimentConfig, by_section
from synboot.experiment.base_model import BaseModelConfig
from synboot.experiment.search.settings import SearchConfig, check_search
from synboot.experiment.task_recipe import Tasks
from synboot.experiment.tune_recipe import TuneValidationConfig
from synboot.model.settings import PRESETS, CacheType
from synboot.pairs.encoders.settings import EncoderConfig
from synboot.pairs.filters import PairFilterConfig
from synboot.synth.filters import TextFilterConfig
from synboot.synth.settings import EngineName, SamplingConfig
from synboot.synth.template import MIN_CONTEXT
from synboot.train.settings import CompileName, DeviceName, LoopConfig, Precision
from synboot.worlds.facts.world import FactsConfig

CheckpointRule = Literal["last", "best"]
IndexName = Literal["exact", "lists"]

STANDARD_INPUT = "-"
_YOUNG_FIELDS = ("max_document_bytes", "long_documents")


class CorpusConfig(Config):
    """Where the documents come from and which of them may be used."""

    path: str | tuple[str, ...] | None = None
    """Files, directories, globs or URLs of JSONL, Parquet, text or saved datasets, relative to the
    working directory; `-` is standard input."""
    world: Literal["pydocs", "facts"] | None = None
    """In place of `path` a corpus that synboot makes itself: pydocs, the documentation of this
    Python, or facts about invented persons."""
    facts: FactsConfig = FactsConfig()
    """Only where the world is facts."""
    text_field: str = "text"
    """The field that has a record's text."""
    id_field: str = "id"
    """The field that has its id; where the first record has no `id`, ids are file and line."""
    group_field: str | None = None
    """The field that names a document's group; splits that are drawn, and the unique budget, take
    whole groups. Of text files `folder`, or none."""
    license: str | None = None
    """Licence of documents that name none."""
    on_bad: OnBad = "stop"
    """What a bad record does: stop the run, or be skipped and counted."""
    max_document_bytes: int = Field(default=MAX_DOCUMENT_BYTES, ge=MIN_PIECE_BYTES)
    """UTF-8 bytes of a document's text, at most."""
    long_documents: LongDocuments = "stop"
    """Of more than `max_document_bytes`: stop makes a bad record of it, split makes pieces of one
    group."""
    valid_fraction: float = Field(default=0.05, gt=0, lt=0.5)
    """Share of the groups (of documents without one) for validation, drawn where no file names that
    split."""
    test_fraction: float = Field(default=0.05, gt=0, lt=0.5)
    """The same for test."""
    max_heldout_overlap: float = Field(default=0.2, ge=0, le=1)
    """Training documents with a larger share of their 13-word windows in held-out text go."""

    @field_validator("path", mode="before")
    @classmethod
    def _paths(cls, path: Any) -> Any:
        if path == [None]:
            return STANDARD_INPUT  # YAML reads a lone dash as a list of nothing
        several = isinstance(path, (list, tuple))
        paths = path if several else [path]
        if path is not None and not (paths and all(isinstance(p, str) and p for p in paths)):
            raise ValueError("expected a path or a list of paths")
        if several and STANDARD_INPUT in paths:
            raise ValueError(f"expected {STANDARD_INPUT} (standard input) alone")
        return path

    def reading(self) -> dict[str, Any]:
        """What the corpus depends on beside its files.

        Fields that are younger than the first runs are left out where they hold their defaults, so
        that the ids of those runs stay (law 1).
        """
        values = self.model_dump(mode="json", exclude={"path", "world", "facts"})
        defaults = {name: type(self).model_fields[name].default for name in _YOUNG_FIELDS}
        return {k: v for k, v in values.items() if k not in defaults or v != defaults[k]}

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.world is None):
            raise ValueError(
                "expected either path (--set corpus.path=FILE) or world, "
                + ("got neither" if self.path is None else "got both")
            )
        if self.world != "facts" and self.facts != FactsConfig():
            raise ValueError("facts: only the world facts has these settings")
        return self


class TokenizerConfig(Config):
    """Byte-level BPE, trained on the unique budget."""

    vocab_size: int = Field(ge=258, le=1 << 20)
    """Entries, at most: 256 single bytes, the end of a document, and merges."""


class BudgetConfig(Config):
    """What may be seen, how long is trained, what the oracle has more."""

    unique_tokens: int = Field(ge=1)
    """Distinct tokens of real training text, at most, of all arms but oracle and repetition of more
    text; whole groups."""
    training_tokens: int = Field(ge=1)
    """Trained positions, exactly, of every arm but `repetition_same_cost`."""
    oracle_multiple: Annotated[float, Field(ge=1)] | Literal["max"] = "max"
    """Unique tokens of the oracle over those of the others; max takes all training text, and more
    than there is is refused."""
    synthetic_share: float = Field(default=0.4, gt=0, lt=1)
    """Share of the training tokens that is synthetic, or real pairs, in every arm that has such
    text. The paper: 12.5% to 37.5%."""

    @property
    def synthetic_tokens(self) -> int:
        """Synthetic tokens of the SBP arm."""
        return round(self.synthetic_share * self.training_tokens)


class ModelConfig(Config):
    """Shape and context of every model, but for the shape that `base_model` gives writers."""

    preset: str
    """One of the presets that docs/recipe.md lists."""
    context: int = Field(ge=MIN_CONTEXT)
    """Positions of a row, and the longest text that a model sees; in tuning and synthesis d1 is cut
    to half of it."""

    @model_validator(mode="after")
    def _known_preset(self) -> Self:
        if self.preset not in PRESETS:
            raise ValueError(f"preset: expected one of {', '.join(PRESETS)}")
        return self


class PairsConfig(EncoderConfig, PairFilterConfig):
    """Embedding, neighbours and the filters of pairs."""

    top_k: int = Field(default=20, ge=1)
    """Neighbours looked at for each document."""
    index: IndexName = "exact"
    """exact, or lists: only the parts of the corpus nearest to a document are searched."""
    min_recall: float = Field(default=0.95, gt=0, le=1)
    """Share of the exact neighbours that lists must find on a sample of documents, less two
    standard errors."""

    def neighbour_settings(self) -> dict[str, Any]:
        """What the neighbours depend on beside the vectors; exact search has no recall, and names
        itself no more than it did when there was no other (law 1)."""
        exact = self.index == "exact"
        return self.model_dump(
            mode="json", include={"top_k"} if exact else {"top_k", "index", "min_recall"}
        )

    @model_validator(mode="after")
    def _recall_of_lists(self) -> Self:
        if (
            self.index == "exact"
            and self.min_recall != type(self).model_fields["min_recall"].default
        ):
            raise ValueError(f"min_recall: exact search finds all, got {self.min_recall:g}")
        return self


class PretrainConfig(LoopConfig):
    """Pretraining of every arm."""

    order: MixtureOrder = "mixed"
    """Of real and other text: rows of both spread over the run, or the other text first."""


class TuneConfig(LoopConfig, TuneValidationConfig):
    """Synthesizer-tuning. Small constant learning rate and checkpoint of lowest validation loss
    are the paper's, from memory."""

    schedule: Literal["cosine", "constant"] = "constant"
    """Of the learning rate after warmup."""
    passes: int = Field(default=2, ge=1)
    """Times that every ordered pair is seen."""
    initial: Literal["base", "scratch"] = "base"
    """Start from the base model, or from random weights."""
    initial_checkpoint: CheckpointRule = "best"
    """The weights of the base model that the synthesizer starts from, that self_distillation writes
    with, and that the encoder lm and best_of read with."""


class SynthesizeConfig(SamplingConfig):
    """Sampling, and what of it is kept."""

    draws_per_prompt: int = Field(default=4, ge=1)
    """Draws of a seed document that follow each other: its prompt is computed once for them."""
    max_draws_per_seed: int = Field(default=100, ge=1)
    """Give up when so many draws of every seed document, in whole rounds of `draws_per_prompt`, do
    not meet the need."""
    best_of: int = Field(default=1, ge=1)
    """Of so many consecutive draws of a seed document, as far as they pass the filters, keep the
    one of the highest log p(d2|d1) - log p(d2) a token. It divides `draws_per_prompt`."""
    megadocuments: int = Field(default=0, ge=0)
    """Train on a seed document and so many of its draws after it as one document, whose tokens all
    count as synthetic; 0 for draws alone."""
    writers: int = Field(default=1, ge=1, le=1000)
    """So many models, of training seeds that follow each other, write an equal share each."""
    filters: TextFilterConfig = TextFilterConfig()

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.draws_per_prompt % self.best_of:
            raise ValueError(
                f"best_of: {self.best_of} draws do not divide the {self.draws_per_prompt} of "
                "draws_per_prompt"
            )
        return self


class EvaluateConfig(Config):
    """Held-out likelihood and its statistics."""

    split: Literal["test", "valid"] = "test"
    """The held-out documents that are scored."""
    checkpoint: CheckpointRule = "best"
    """The one rule for all arms: the last, or the best on validation, which stops an arm that
    overfits (repetition, first of all) where it should be stopped."""
    bootstrap_resamples: int = Field(default=10_000, ge=100)
    """Of documents (of whole groups, where there are any) and of task items, for intervals."""
    tasks: Tasks = ()
    """A list of tasks, or {name: path or settings}."""


def _num_cpus() -> int:
    """The processors that this process may use, which a container may limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class RuntimeConfig(Config):
    """How the machine is used: no part of any identity. All but workers and checkpoint_seconds are
    numerics: recorded, and fixed while a stage is unfinished."""

    workers: int = Field(default_factory=_num_cpus, ge=1)
    """Processes that share the parts of a stage."""
    threads: int = Field(default_factory=_num_cpus, ge=1)
    """Threads of a process that trains or scores; other processes of parts have one each."""
    device: DeviceName = "auto"
    """Where models are; auto takes a CUDA device where there is one."""
    precision: Precision = "auto"
    """Of matrix products in training and in sampling by torch; what is scored is float32. auto is
    bfloat16 on a GPU, float32 on a CPU."""
    compile: CompileName = "auto"
    """Compile a model's blocks for training; auto does on a CPU with a C++ compiler, from 1e13
    FLOPs on."""
    micro_rows: int | None = Field(default=None, ge=1)
    """Rows of one forward pass, over which gradients of a step are added up; by default all rows of
    a step, on a CPU shared among threads."""
    slots: int | None = Field(default=None, ge=1)
    """Sequences that are sampled together, at most; by default 64 on a CPU, 1,024 on a GPU."""
    engine: EngineName = "auto"
    """What samples; auto is native on a CPU with a C compiler that works, else torch."""
    cache: CacheType = "float32"
    """Of keys and values while sampling; bfloat16 takes half the memory and rounds them. With torch
    they are in bfloat16 where `precision` is."""
    part_documents: int = Field(default=2048, ge=1)
    """Documents of a part; where `pairs.index` is lists, a part searches for four times as many."""
    part_draws: int | None = Field(default=None, ge=1)
    """Draws of a part; by default 512 on a CPU, 8,192 on a GPU."""
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    """Between checkpoints of a training."""

    @field_validator("compile", mode="before")
    @classmethod
    def _on_or_off(cls, given: Any) -> Any:
        """YAML reads a bare on or off as a truth value."""
        return ("off", "on")[given] if isinstance(given, bool) else given


class Recipe(Config):
    """A whole run. Every field but `search` and `runtime` may change results."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Of the run's folder below runs/: letters, digits and ._-"""
    seed: int = 0
    """Of splits, budgets, pairs, tuning, draws and resamples; the base model and the arms are
    trained with `experiment.seeds`."""
    corpus: CorpusConfig
    tokenizer: TokenizerConfig
    budget: BudgetConfig
    model: ModelConfig
    pretrain: PretrainConfig
    base_model: BaseModelConfig = BaseModelConfig()
    pairs: PairsConfig = PairsConfig()
    tune: TuneConfig
    synthesize: SynthesizeConfig = SynthesizeConfig()
    quality: QualityConfig = QualityConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    experiment: ExperimentConfig = ExperimentConfig()
    search: SearchConfig | None = None
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig)

    def of_arm(self, arm: str) -> Recipe:
        """This recipe with the arm's own settings in place. Raises BadInput."""
        return self._with(self.experiment.settings_of(arm), arm)

    def of_base_model(self, arm: str) -> Recipe:
        """With the settings of repetition and, above them, those of the base model of an arm's
        text. Raises BadInput."""
        own = self.of_arm(arm).base_model.settings()
        return self.of_arm(REFERENCE)._with(own, f"base_model of {arm}")

    def _with(self, settings: Mapping[str, Any], whose: str) -> Recipe:
        sections: dict[str, Config] = {}
        for name, values in by_section(settings).items():
            section = getattr(self, name)
            merged = merge(section.model_dump(), values)
            sections[name] = validate(type(section), merged, f"{whose}, section {name}")
        return self.model_copy(update=sections)

    @model_validator(mode="after")
    def _settings_of_arms(self) -> Self:
        for arm in (*self.experiment.arms, *self.experiment.overrides, *self.experiment.variants):
            try:
                self.of_base_model(arm)
            except BadInput as error:
                raise ValueError(f"experiment: settings of {error}") from None
        return self

    def dump(self) -> dict[str, Any]:
        """The resolved recipe as plain values."""
        return self.model_dump(mode="json")

    @model_validator(mode="after")
    def _search_fits(self) -> Self:
        if self.search is not None:
            check_search(
                self.search,
                {"pretrain": self.pretrain, "tune": self.tune},
                seed=self.seed,
                seeds=self.experiment.seeds,
                tokens=self.budget.training_tokens,
            )
        return self


def load_recipe(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """The recipe at `path` under environment and `--set` settings. Raises BadInput."""
    values = merge(read_recipe(path), environment_settings(Recipe))
    values = merge(values, parse_settings(settings))
    values.setdefault("name", path.stem)
    return validate(Recipe, values, str(path))
