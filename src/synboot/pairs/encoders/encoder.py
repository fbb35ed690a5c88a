"""What every encoder does, and which one settings ask for.

An `Encoder` is fitted once on the unique budget's texts, saved, and applied in parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from synboot.core.errors import BadInput
from synboot.pairs.encoders.lm import LmEncoder
from synboot.pairs.encoders.lsa import LsaEncoder
from synboot.pairs.encoders.sentence_transformers import SentenceTransformersEncoder
from synboot.pairs.encoders.settings import FOREIGN, EncoderName, check_encoder_name


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
    source = name.removeprefix(FOREIGN)
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
    source = name.removeprefix(FOREIGN)
    return SentenceTransformersEncoder.load(directory, source, device=device)


def _check(name: str) -> None:
    try:
        check_encoder_name(name)
    except ValueError as error:
        raise BadInput(f"field pairs.encoder: {error}, got {name!r}") from None


def _needed(model_directory: Path | None) -> Path:
    if model_directory is None:
        raise BadInput("field pairs.encoder: lm needs the directory of a causal LM")
    return model_directory
