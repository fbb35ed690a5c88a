"""Which encoder a recipe names, and what every encoder does.

An `Encoder` is fitted once on the unique budget's texts, saved, and applied in parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, Self

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from synboot.core.config import Config
from synboot.core.errors import BadInput
from synboot.pairs.encoders.fingerprint import fingerprint
from synboot.pairs.encoders.lm import LmEncoder
from synboot.pairs.encoders.lsa import LsaEncoder
from synboot.pairs.encoders.sentence_transformers import SentenceTransformersEncoder

FIT_DOCUMENTS = 200_000
_FOREIGN = "sentence-transformers:"
_EXPECTED = f"expected lsa, lm or {_FOREIGN}ORGANISATION/NAME (or a directory for the name)"


class Encoder(Protocol):
    """Texts in, unit vectors out."""

    @property
    def flops(self) -> int:
        """What fitting and encoding have cost so far."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [texts, dimensions]; rows have length 1, or 0 for a text without known words.

        A row depends on its text alone, up to float rounding where a model computes in batches.
        """

    def save(self, directory: Path) -> None:
        """Write what `load` of the same class reads: what was fitted, never a model's weights."""


def _known_name(name: str) -> str:
    if name not in ("lsa", "lm") and not name.removeprefix(_FOREIGN).strip():
        raise ValueError(_EXPECTED)
    if name not in ("lsa", "lm") and not name.startswith(_FOREIGN):
        raise ValueError(_EXPECTED)
    return name


EncoderName = Annotated[str, AfterValidator(_known_name)]


class EncoderConfig(Config):
    """The encoder and what it is told."""

    encoder: EncoderName = "lsa"
    """lsa, lm (the run's own base model) or sentence-transformers:NAME, a model from outside."""
    dimensions: int = Field(default=256, ge=1)
    """At most so many, for lsa and lm; a sentence-transformers model has its own."""
    prefix: str = ""
    """Stands before every text: an instruction, for encoders that are models."""
    layer: int | None = Field(default=None, ge=0)
    """The hidden states that lm reads, 0 for the embeddings; by default chosen on the halves of
    documents."""
    fit_documents: int = Field(default=FIT_DOCUMENTS, ge=2)
    """lsa learns its words and directions from at most so many documents, a keyed sample."""

    @model_validator(mode="after")
    def _fits_the_encoder(self) -> Self:
        if self.encoder == "lsa" and self.prefix:
            raise ValueError(f"prefix: lsa takes none, got {self.prefix!r}")
        if self.encoder != "lm" and self.layer is not None:
            raise ValueError(f"layer: only lm has layers to choose from, got {self.layer}")
        if self.encoder != "lsa" and self.fit_documents != FIT_DOCUMENTS:
            raise ValueError(f"fit_documents: only lsa takes it, got {self.fit_documents}")
        return self


def encoder_settings(config: EncoderConfig) -> dict[str, Any]:
    """What belongs into the identity of a stage that embeds (law 1): a directory counts by the
    bytes in it, a name by itself. Raises BadInput if the directory cannot be read."""
    if config.encoder == "lsa":
        fields = {"encoder", "dimensions"}
        if config.fit_documents != FIT_DOCUMENTS:
            fields.add("fit_documents")  # younger than the first runs, whose ids stay
        return config.model_dump(mode="json", include=fields)
    if config.encoder == "lm":
        return config.model_dump(mode="json", include={"encoder", "dimensions", "prefix", "layer"})
    source = config.encoder.removeprefix(_FOREIGN)
    model = fingerprint(Path(source)) if Path(source).is_dir() else source
    return {"encoder": _FOREIGN + model, "prefix": config.prefix}


def fit_encoder(
    name: EncoderName,
    texts: Sequence[str],
    *,
    dimensions: int,
    seed: int,
    model_directory: Path | None = None,
    layer: int | None = None,
    prefix: str = "",
    device: str = "cpu",
) -> Encoder:
    """A fitted encoder by its name in a recipe; `model_directory` is lm's causal LM.

    Raises BadInput for a name that does not exist, and for what the encoder cannot use.
    """
    _check(name)
    if name == "lsa":
        return LsaEncoder.fit(texts, dimensions=dimensions, seed=seed)
    if name == "lm":
        return LmEncoder.fit(
            texts,
            model_directory=_needed(model_directory),
            dimensions=dimensions,
            seed=seed,
            layer=layer,
            prefix=prefix,
            device=device,
        )
    source = name.removeprefix(_FOREIGN)
    return SentenceTransformersEncoder.open(source, prefix=prefix, device=device)


def load_encoder(
    name: EncoderName,
    directory: Path,
    *,
    model_directory: Path | None = None,
    device: str = "cpu",
) -> Encoder:
    """The encoder of that name that `save` wrote into `directory`, on the model it was fitted
    with: raises BadInput if it is given another."""
    _check(name)
    if name == "lsa":
        return LsaEncoder.load(directory)
    if name == "lm":
        return LmEncoder.load(directory, model_directory=_needed(model_directory), device=device)
    source = name.removeprefix(_FOREIGN)
    return SentenceTransformersEncoder.load(directory, source, device=device)


def _check(name: str) -> None:
    try:
        _known_name(name)
    except ValueError as error:
        raise BadInput(f"field pairs.encoder: {error}, got {name!r}") from None


def _needed(model_directory: Path | None) -> Path:
    if model_directory is None:
        raise BadInput("field pairs.encoder: lm needs the directory of a causal LM")
    return model_directory
