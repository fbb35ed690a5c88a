"""The encoder `lsa` beside scikit-learn: documents fitted and encoded a second.

The peer is the usual pipeline, TfidfVectorizer, TruncatedSVD and Normalizer, with the same words,
weights, dimensions and iterations: once in one go, once as here, where documents are encoded in
parts after the fit, so that every text is read twice.
"""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer

from benchmarks.harness import Result, Setting, compare, note, paired
from benchmarks.texts import topics
from synboot.pairs.encoders.lsa import LsaEncoder

DIMENSIONS = 256


def run(setting: Setting) -> list[Result]:
    """Thousands of documents of 60 and of 300 words."""
    count = 1000 if setting.quick else 8000
    results: list[Result] = []
    for words in (60,) if setting.quick else (60, 300):
        note(f"embedding: {count} documents of {words} words")
        texts = topics(count, mean_words=words)
        results += _measure(f"lsa, {words} words", texts, rounds=3)
    return results


def _measure(case: str, texts: list[str], rounds: int) -> list[Result]:
    seconds = paired(
        {
            "ours": lambda: _ours(texts),
            "scikit-learn, fit and transform": lambda: _pipeline().fit(texts).transform(texts),
            "scikit-learn, fit_transform": lambda: _pipeline().fit_transform(texts),
        },
        rounds,
    )
    speeds = {name: len(texts) / value for name, value in seconds.items()}
    return compare("embedding", case, speeds, unit="documents/s")


def _ours(texts: list[str]) -> np.ndarray:
    return LsaEncoder.fit(texts, dimensions=DIMENSIONS, seed=0).encode(texts)


def _pipeline() -> Pipeline:
    return make_pipeline(
        TfidfVectorizer(sublinear_tf=True, dtype=np.float32),
        TruncatedSVD(DIMENSIONS, n_iter=5, n_oversamples=10, random_state=0),
        Normalizer(),
    )
