"""What the verbs take: corpora, models, and the settings of the machine, as stages need them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from synboot.core.config import environment_settings, merge, validate
from synboot.core.errors import BadInput
from synboot.core.storage import damaged_files, digest
from synboot.data.files import DataFile, Split, bytes_digest, find_files, list_files, spool_stream
from synboot.data.tokenizer import TextTokenizer
from synboot.experiment.numerics import Numerics, numerics_of
from synboot.experiment.recipe import STANDARD_INPUT, CorpusConfig, Recipe, RuntimeConfig
from synboot.experiment.stages.corpus import TokensStage
from synboot.experiment.stages.files import DocumentsStage, PairFileStage, TokenizerFileStage
from synboot.model.architecture import context_of, model_digest, read_config
from synboot.pipeline.stage import Stage
from synboot.verbs.work import begin_work, model_stamp

Corpus = str | Path | Sequence[str | Path]
"""A file, a directory, a glob, an fsspec URL, `-` for standard input, or several of them."""


class Reading(TypedDict, total=False):
    """How documents are read; see `corpus` in docs/guide.md."""

    text_field: str
    id_field: str
    group_field: str | None
    license: str | None
    on_bad: Literal["stop", "skip"]
    max_document_bytes: int
    long_documents: Literal["stop", "split"]


READING_FIELDS = tuple(Reading.__annotations__)


@dataclass(frozen=True)
class Machine:
    """How the machine is used: no part of any identity."""

    runtime: RuntimeConfig
    numerics: Numerics


def machine(**given: Any) -> Machine:
    """The runtime settings: those given here and not None, over `SYNBOOT_RUNTIME__*` variables,
    over defaults."""
    environment = environment_settings(Recipe).get("runtime", {})
    values = merge(environment, {k: v for k, v in given.items() if v is not None})
    runtime = validate(RuntimeConfig, values, "runtime")
    return Machine(runtime, numerics_of(runtime))


def documents_stage(
    corpora: Mapping[str, Corpus],
    reading: Reading,
    output: Path,
    *,
    seed: int,
    valid_fraction: float = 0.0,
) -> DocumentsStage:
    """The documents of `corpora`, by split. Of files that name splits only that split is read;
    files without such names are the split that is asked for."""
    settings = validate(CorpusConfig, {"path": "given", **reading}, "corpus")
    files = {split: _files(corpus, split, output) for split, corpus in corpora.items()}
    config = {
        "content": {split: bytes_digest({None: own}) for split, own in files.items()},
        "valid_fraction": valid_fraction,
        **settings.model_dump(mode="json", include=set(READING_FIELDS)),
    }
    return DocumentsStage(config, seed=seed, files=files)


def pairs_stage(pairs: Corpus, documents: DocumentsStage, output: Path) -> PairFileStage:
    """The pairs of a user's files."""
    files = list_files(local_paths(pairs, output))
    config = {"content": bytes_digest({None: files})}
    return PairFileStage(config, {"corpus": documents}, seed=documents.seed, files=files)


def local_paths(corpus: Corpus, output: Path) -> list[str]:
    """The paths of a corpus; standard input is written beside the output's unfinished work."""
    paths = [str(p) for p in ([corpus] if isinstance(corpus, (str, Path)) else corpus)]
    for path in paths:
        if not path:
            raise BadInput("expected the path of a corpus, got an empty one")
        if Path(path).is_dir() and output.resolve().is_relative_to(Path(path).resolve()):
            raise BadInput(
                f"{output}: would become a part of the corpus {path}; name an output elsewhere"
            )
    if STANDARD_INPUT not in paths:
        return paths
    if len(paths) > 1:
        raise BadInput(f"expected {STANDARD_INPUT} (standard input) alone, got {' '.join(paths)}")
    return [str(spool_stream(sys.stdin.buffer, begin_work(output) / "input"))]


def _files(corpus: Corpus, split: str, output: Path) -> list[DataFile]:
    paths = local_paths(corpus, output)
    found = find_files(paths)
    files = next((own for name, own in found.items() if name in (None, split)), None)
    if files is None:
        only = ", ".join(map(str, found))
        raise BadInput(f"{', '.join(paths)}: holds no file of the split {split}, only {only}")
    return files


def has_split(corpus: Corpus, split: Split) -> bool:
    """Whether the files of `corpus` name that split."""
    paths = [str(p) for p in ([corpus] if isinstance(corpus, (str, Path)) else corpus)]
    return STANDARD_INPUT not in paths and split in find_files(paths)


@dataclass(frozen=True)
class GivenModel:
    """A user's model directory: `content` stands for it in identities."""

    directory: Path
    content: str
    context: int

    @property
    def settings(self) -> dict[str, Any]:
        """What stages have as `model` in their config."""
        return {"content": self.content, "context": self.context}

    @property
    def name(self) -> str:
        """What names it in lineage: the id of what made it, if synboot did, else its digest."""
        made = self.made_by()
        return str(made["id"]) if made else self.content

    def made_by(self) -> dict[str, Any] | None:
        """The stamp of the verb that made it, if its files are still the same."""
        stamp = model_stamp(self.directory)
        if stamp is None or damaged_files(self.directory, stamp["files"]):
            return None
        return stamp


def given_model(directory: str | Path, context: int | None) -> GivenModel:
    """A model directory, with `context` positions (by default as many as the model has).

    Raises BadInput if it is no causal LM with a tokenizer, or has fewer positions.
    """
    path = Path(directory)
    return GivenModel(path, model_digest(path), context_of(read_config(path), context))


def whole_number(name: str, value: object) -> int:
    """`value` if it is a whole number above 0. Raises BadInput."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadInput(f"{name}: expected a whole number of 1 at least, got {value!r}")
    return value


def token_stages(
    documents: DocumentsStage,
    machine_: Machine,
    *,
    model: Path | None,
    vocab_size: int | None = None,
) -> dict[str, Stage]:
    """corpus, tokenizer, tokens: with the tokenizer of a model directory, or a new one."""
    if model is not None:
        given = TextTokenizer.load(model)
        ends = {"end_id": given.end_id, "start_id": given.start_id}
        config: dict[str, Any] = {"content": digest({"json": given.to_json(), **ends})}
    else:
        config = {"vocab_size": vocab_size}
    seed = documents.seed
    tokenizer = TokenizerFileStage(config, {"corpus": documents}, seed=seed, directory=model)
    inputs: dict[str, Stage] = {"corpus": documents, "tokenizer": tokenizer}
    tokens = TokensStage({}, inputs, seed=seed, numerics=machine_.numerics.parts)
    return {**inputs, "tokens": tokens}
