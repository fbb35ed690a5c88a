"""lm: mean hidden states of the run's own language model, whitened. Closed system: the model has
seen the unique budget and nothing else.

Mean hidden states differ little from document to document beside what they have in common, so
they are centred and their directions brought to like variance. Which layer is read, and how far
small variances are lifted before that, is decided on pairs that need no label: of up to 512
documents, the first half should have its own second half as the nearest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synboot.core.errors import BadInput
from synboot.core.rng import rng
from synboot.core.storage import atomic_file, read_json, write_json
from synboot.pairs.encoders.fingerprint import fingerprint
from synboot.pairs.encoders.hidden_states import HiddenStates

_FIT_DOCUMENTS = 4096
_HALVED_DOCUMENTS = 512
_SHRINKAGES = (1.0, 0.1, 0.01, 0.001, 0.0001)
_ROUNDING = 1e-6
"""A direction that varies by less than this share of the states' length holds rounding."""
_MIN_NORM = np.float32(1e-3)
"""Whitened vectors have a length of 1 and more; this is rounding around the mean."""


@dataclass(frozen=True)
class _Spectrum:
    """Mean [width], directions [rank, width] and their variances [rank] of a sample, largest
    first; `total` variance is over all directions."""

    mean: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    total: float

    def whitening(self, shrinkage: float) -> np.ndarray:
        """Directions over their standard deviations, float32 [rank, width]. Each variance has
        `shrinkage` times the mean variance added, so that where documents are few, directions
        that vary by chance do not count in full."""
        lifted = self.variances + shrinkage * self.total / len(self.mean)
        return (self.directions / np.sqrt(lifted)[:, None]).astype(np.float32)


def _spectrum(states: np.ndarray, dimensions: int) -> _Spectrum:
    """The `dimensions` directions in which `states` [documents, width] vary most, without those
    that hold nothing but rounding."""
    exact = states.astype(np.float64)
    mean = exact.mean(axis=0)
    _, values, directions = np.linalg.svd(exact - mean, full_matrices=False)
    variances = values**2 / len(states)
    rounding = _ROUNDING**2 * np.mean(np.sum(exact**2, axis=1))
    kept = min(dimensions, int(np.sum(variances > rounding)))
    total = float(variances.sum())
    return _Spectrum(mean.astype(np.float32), directions[:kept], variances[:kept], total)


def _to_unit(states: np.ndarray, mean: np.ndarray, whitening: np.ndarray) -> np.ndarray:
    """float32 [documents, dimensions] from states [documents, width]; rows of length 1 or 0."""
    vectors = np.asarray((states - mean) @ whitening.T, dtype=np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(norms > _MIN_NORM, vectors / np.maximum(norms, _MIN_NORM), np.float32(0))


def reciprocal_rank(first: np.ndarray, second: np.ndarray) -> float:
    """Mean of 1 / rank of row i of `second` among all its rows, by inner product with row i of
    `first`; of rows that are equally near, the own one counts as the last."""
    similarities = first.astype(np.float64) @ second.astype(np.float64).T
    ranks = np.sum(similarities >= np.diag(similarities)[:, None], axis=1)
    return float(np.mean(1 / ranks))


class LmEncoder:
    """Mean-pooled hidden states of one layer of a causal LM, whitened, of unit length."""

    def __init__(
        self,
        states: HiddenStates,
        settings: dict[str, Any],
        mean: np.ndarray,
        whitening: np.ndarray,
    ) -> None:
        self._states = states
        self._settings = settings
        self._mean = mean  # float32 [width]
        self._whitening = whitening  # float32 [dimensions, width]

    @property
    def choice(self) -> dict[str, Any]:
        """`layer`, `shrinkage`, how many `documents` were halved for choosing them, and the
        `scores` of all candidates: mean reciprocal rank of a half's other half."""
        return dict(self._settings["choice"])

    @property
    def flops(self) -> int:
        """Cost so far; the sums that choose and whiten are not counted."""
        return self._states.flops

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        *,
        model_directory: Path,
        dimensions: int,
        seed: int,
        layer: int | None = None,
        prefix: str = "",
        device: str = "cpu",
    ) -> LmEncoder:
        """Choose the layer unless it is given, and learn mean and at most `dimensions` directions
        from up to 4,096 of `texts`.

        Raises BadInput for a layer that the model does not have, and if there are not at least
        two documents that differ.
        """
        states = HiddenStates(model_directory, prefix=prefix, device=device)
        if layer is not None and layer >= states.num_layers:
            raise BadInput(
                f"field pairs.layer: expected 0 to {states.num_layers - 1} for this model, "
                f"got {layer}"
            )
        order = rng(seed, "lm documents").permutation(len(texts))[:_FIT_DOCUMENTS]
        documents = [ids for ids in states.tokenize([texts[i] for i in order]) if len(ids) > 1]
        if len(documents) < 2:
            raise BadInput("field pairs.encoder: lm needs at least two documents with text")
        layers = range(states.num_layers) if layer is None else [layer]
        choice = _choose(states, documents[:_HALVED_DOCUMENTS], layers, dimensions)
        states.stop_at(choice["layer"])
        sample = states.means(documents, [choice["layer"]])[:, 0]
        spectrum = _spectrum(sample, dimensions)
        if not len(spectrum.variances):
            raise BadInput("field pairs.encoder: lm needs at least two documents that differ")
        settings = {"model": fingerprint(model_directory), "prefix": prefix, "choice": choice}
        return cls(states, settings, spectrum.mean, spectrum.whitening(choice["shrinkage"]))

    @classmethod
    def load(cls, directory: Path, *, model_directory: Path, device: str = "cpu") -> LmEncoder:
        """The encoder that `save` wrote, on the same model. Raises BadInput for another one."""
        settings = read_json(directory / "settings.json")
        found = fingerprint(model_directory)
        if found != settings["model"]:
            raise BadInput(
                f"{model_directory}: not the model that the encoder was fitted with "
                f"(fingerprint {found}, expected {settings['model']})"
            )
        states = HiddenStates(model_directory, prefix=settings["prefix"], device=device)
        states.stop_at(settings["choice"]["layer"])
        return cls(
            states,
            settings,
            np.load(directory / "mean.npy", allow_pickle=False),
            np.load(directory / "whitening.npy", allow_pickle=False),
        )

    def save(self, directory: Path) -> None:
        """Write settings.json (model's fingerprint, prefix, choice), mean and directions."""
        write_json(directory / "settings.json", self._settings)
        for name, array in (("mean", self._mean), ("whitening", self._whitening)):
            with atomic_file(directory / f"{name}.npy") as file:
                np.save(file, array, allow_pickle=False)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [texts, dimensions], unit rows; 0 for a blank text. On a CPU the same texts give
        the same bytes; grouped otherwise, batches round otherwise."""
        documents = self._states.tokenize(texts)
        states = self._states.means(documents, [self._settings["choice"]["layer"]])[:, 0]
        vectors = _to_unit(states, self._mean, self._whitening)
        vectors[[not len(ids) for ids in documents]] = 0
        return vectors


def _choose(
    states: HiddenStates,
    documents: Sequence[np.ndarray],
    layers: Sequence[int],
    dimensions: int,
) -> dict[str, Any]:
    """The layer and shrinkage with which halves of documents find each other best; of equals, the
    lower layer and the larger shrinkage. Whitened as fitted on the halves themselves."""
    halves = [ids[: len(ids) // 2] for ids in documents]
    halves += [ids[len(ids) // 2 :] for ids in documents]
    pooled = states.means(halves, layers)
    scores = []
    for place, layer in enumerate(layers):
        spectrum = _spectrum(pooled[:, place], dimensions)
        for shrinkage in _SHRINKAGES:
            vectors = _to_unit(pooled[:, place], spectrum.mean, spectrum.whitening(shrinkage))
            score = reciprocal_rank(vectors[: len(documents)], vectors[len(documents) :])
            scores.append({"layer": layer, "shrinkage": shrinkage, "score": score})
    best = max(scores, key=lambda entry: entry["score"])  # the first of equals
    return {
        "layer": best["layer"],
        "shrinkage": best["shrinkage"],
        "documents": len(documents),
        "scores": scores,
    }
