"""What a recipe can say of an encoder, and what of it counts in an identity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from synboot.core.config import Config
from synboot.pairs.encoders.fingerprint import fingerprint

FIT_DOCUMENTS = 200_000
FOREIGN = "sentence-transformers:"
_EXPECTED = f"expected lsa, lm or {FOREIGN}ORGANISATION/NAME (or a directory for the name)"


def check_encoder_name(name: str) -> str:
    """The name. Raises ValueError if it is none of an encoder."""
    if name not in ("lsa", "lm") and not name.removeprefix(FOREIGN).strip():
        raise ValueError(_EXPECTED)
    if name not in ("lsa", "lm") and not name.startswith(FOREIGN):
        raise ValueError(_EXPECTED)
    return name


EncoderName = Annotated[str, AfterValidator(check_encoder_name)]


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
    source = config.encoder.removeprefix(FOREIGN)
    model = fingerprint(Path(source)) if Path(source).is_dir() else source
    return {"encoder": FOREIGN + model, "prefix": config.prefix}
