"""lsa: words that occur together, by truncated SVD of TF-IDF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # a second to import, so it is done where it is used
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

from synboot.core.errors import BadInput
from synboot.core.rng import seed_for
from synboot.core.storage import atomic_file, read_json, write_json

_ITERATIONS = 5
_OVERSAMPLES = 10
_MIN_NORM = np.float32(0.05)
"""TF-IDF vectors have length 1; less than this of it is rounding and chance, not meaning."""


class LsaEncoder:
    """Latent semantic analysis: TF-IDF (sublinear counts, words of two letters and more) reduced
    by truncated SVD, so that documents are near that use words that occur together."""

    def __init__(self, vocabulary: Sequence[str], idf: np.ndarray, components: np.ndarray) -> None:
        """`components`: float32 [dimensions, words]."""
        self._words = list(vocabulary)
        self._idf = idf
        # [words, dimensions]: what a product does not have to copy first.
        self._directions = np.ascontiguousarray(components.T)
        self._vectorizer = _new_vectorizer({word: i for i, word in enumerate(self._words)})
        self._vectorizer.idf_ = idf
        self.flops = 0

    @classmethod
    def fit(cls, texts: Sequence[str], *, dimensions: int, seed: int) -> LsaEncoder:
        """Learn words, their weights and at most `dimensions` directions from `texts`.

        Raises BadInput if the texts hold fewer than two words or documents.
        """
        from sklearn.utils.extmath import randomized_svd

        vectorizer = _new_vectorizer(None)
        try:
            matrix = vectorizer.fit_transform(texts)
        except ValueError:
            raise BadInput("field pairs.encoder: lsa found no word in the documents") from None
        words = vectorizer.get_feature_names_out().tolist()
        most = min(dimensions, matrix.shape[0] - 1, matrix.shape[1] - 1)
        if most < 1:
            raise BadInput("field pairs.encoder: lsa needs at least two documents and two words")
        _, _, components = randomized_svd(
            matrix,
            n_components=most,
            n_oversamples=_OVERSAMPLES,
            n_iter=_ITERATIONS,
            random_state=seed_for(seed, "lsa") % 2**32,
        )
        encoder = cls(words, vectorizer.idf_, components.astype(np.float32))
        encoder.flops = fitting_flops(int(matrix.nnz), most)
        return encoder

    @classmethod
    def load(cls, directory: Path) -> LsaEncoder:
        """The encoder that `save` wrote."""
        return cls(
            read_json(directory / "vocabulary.json"),
            np.load(directory / "idf.npy", allow_pickle=False),
            np.load(directory / "components.npy", mmap_mode="r"),
        )

    def save(self, directory: Path) -> None:
        """Write vocabulary, inverse document frequencies and SVD directions."""
        write_json(directory / "vocabulary.json", self._words)
        for name, array in (("idf", self._idf), ("components", self._directions.T)):
            with atomic_file(directory / f"{name}.npy") as file:
                np.save(file, array, allow_pickle=False)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [texts, dimensions], unit rows. A text of which next to nothing lies in the
        directions (a few words that nobody else uses) has no place: 0, like one without words."""
        if not texts:
            return np.empty((0, self._directions.shape[1]), dtype=np.float32)
        matrix: csr_matrix = self._vectorizer.transform(texts)
        self.flops += 2 * int(matrix.nnz) * self._directions.shape[1]
        vectors = np.asarray(matrix @ self._directions, dtype=np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.where(norms > _MIN_NORM, vectors / np.maximum(norms, _MIN_NORM), np.float32(0))


def fitting_flops(words: int, dimensions: int) -> int:
    """FLOPs of learning `dimensions` directions from documents that have `words` distinct words
    each, summed: two products of the sparse matrix an iteration, one before and one after."""
    return (2 * _ITERATIONS + 2) * 2 * words * (dimensions + _OVERSAMPLES)


def _new_vectorizer(vocabulary: dict[str, int] | None) -> TfidfVectorizer:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, dtype=np.float32, vocabulary=vocabulary)
