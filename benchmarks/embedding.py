"""The encoder `lsa` beside scikit-learn: documents fitted and encoded a second.

The peer is the usual pipeline, TfidfVectorizer, TruncatedSVD and Normalizer, with the same words,
weights, dimensions and iterations, fitted on the same documents; where these are all of them, also
in one go, so that every text is read once. Ours is what the stage does: fitted by one thread,
written, read, and applied to 2,048 documents at a time by a process for every core. Texts are
invented, and the documentation that Python carries, fitted on all of it and on a quarter.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer

from benchmarks.harness import Result, Setting, Workers, compare, note, paired
from benchmarks.texts import topics
from synboot.experiment.stages.process import own_threads, ranges, set_threads
from synboot.pairs.encoders.lsa import LsaEncoder
from synboot.worlds.pydocs import python_documents

DIMENSIONS = 256
PART = 2048


def run(setting: Setting) -> list[Result]:
    """Invented documents of 60 and of 300 words, then real ones."""
    count = 1000 if setting.quick else 8000
    corpora = {
        f"lsa, {words} words": topics(count, mean_words=words)
        for words in ((60,) if setting.quick else (60, 300))
    }
    real = [document["text"] for document in python_documents()]
    corpora["lsa, pydocs"] = real[:count]
    results: list[Result] = []
    with Workers(setting.threads, dict) as workers:
        for case, texts in corpora.items():
            note(f"embedding: {len(texts)} documents, {case}")
            results += _measure(case, texts, texts, workers)
        if setting.quick:
            return results
        texts = corpora["lsa, pydocs"]
        sample = np.sort(np.random.default_rng(0).permutation(len(texts))[: len(texts) // 4])
        fitted = [texts[i] for i in sample]
        results += _measure("lsa, pydocs, fitted on a quarter", texts, fitted, workers)
    return results


def _measure(case: str, texts: list[str], fitted: list[str], workers: Workers) -> list[Result]:
    work = {
        "ours": lambda: encoded(texts, fitted, workers),
        "scikit-learn, fit and transform": lambda: _pipeline().fit(fitted).transform(texts),
    }
    if fitted is texts:
        work["scikit-learn, fit_transform"] = lambda: _pipeline().fit_transform(texts)
    seconds = paired(work, 3)
    speeds = {name: len(texts) / value for name, value in seconds.items()}
    return compare("embedding", case, speeds, unit="documents/s")


def encoded(texts: Sequence[str], fitted: Sequence[str], workers: Workers) -> np.ndarray:
    """All that the stage does."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with own_threads():
            set_threads(1)
            LsaEncoder.fit(fitted, dimensions=DIMENSIONS, seed=0).save(directory)
        parts = [(directory, texts[start:stop]) for start, stop in ranges(len(texts), PART)]
        return np.concatenate(workers.map(encode_part, parts))


def encode_part(_: object, part: tuple[Path, Sequence[str]]) -> np.ndarray:
    """The encoder is read for every part."""
    directory, texts = part
    return LsaEncoder.load(directory).encode(texts)


def _pipeline() -> Pipeline:
    return make_pipeline(
        TfidfVectorizer(sublinear_tf=True, dtype=np.float32),
        TruncatedSVD(DIMENSIONS, n_iter=5, n_oversamples=10, random_state=0),
        Normalizer(),
    )
