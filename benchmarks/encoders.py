"""Encoders on documents that are known to be related: precision of the nearest neighbour, speed.

    SYNBOOT_DATA=DIR python benchmarks/encoders.py --encoder lsa lm --model MODEL_DIRECTORY

Precision is the share of documents with a sibling (of the same label) whose nearest neighbour,
never itself, has their label. The labels take no part in anything else. Beside the encoders stands
TF-IDF without SVD, by cosine. Documents a second are those of fitting and of encoding all
documents, in one process, on as many threads as it is given.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from threadpoolctl import threadpool_limits

from synboot.core.errors import BadInput
from synboot.pairs.encoders.encoder import fit_encoder
from synboot.pairs.encoders.lm import LmEncoder
from synboot.pairs.neighbours.exact import ExactIndex

BLOCK = 512


class Labelled(NamedTuple):
    """Texts and their labels."""

    texts: list[str]
    labels: list[str]


class Line(NamedTuple):
    """A row of the table."""

    corpus: str
    encoder: str
    dimensions: int
    precision: float
    fit_seconds: float
    encode_seconds: float
    documents: int

    def __str__(self) -> str:
        fit = f"{self.documents / self.fit_seconds:,.0f}" if self.fit_seconds else "-"
        encode = f"{self.documents / self.encode_seconds:,.0f}"
        return (
            f"| {self.corpus} | {self.encoder} | {self.dimensions:,} | {self.precision:.3f} "
            f"| {fit} | {encode} |"
        )


HEADER = """| corpus | encoder | dimensions | precision | documents/s, fit | documents/s, encode |
|---|---|---|---|---|---|"""


def read_sections(data: Path) -> Labelled:
    """Sections of Wikipedia articles; label = article."""
    table = pq.read_table(data / "enwiki_sec" / "test.parquet", columns=["label", "text"])
    return Labelled(table["text"].to_pylist(), [str(v) for v in table["label"].to_pylist()])


def read_answers(data: Path) -> Labelled:
    """Answers to medical questions; label = disease."""
    with gzip.open(data / "labelled" / "medquad.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return Labelled([row["text"] for row in rows], [row["label"] for row in rows])


CORPORA: dict[str, Callable[[Path], Labelled]] = {
    "enwiki_sec": read_sections,
    "medquad": read_answers,
}


def limited(corpus: Labelled, limit: int | None) -> Labelled:
    """The documents of the first labels, whole, until there are `limit` of them."""
    sizes = Counter(corpus.labels)
    taken: set[str] = set()
    total = 0
    for label in dict.fromkeys(corpus.labels):
        if limit is not None and total >= limit:
            break
        taken.add(label)
        total += sizes[label]
    kept = [i for i, label in enumerate(corpus.labels) if label in taken]
    return Labelled([corpus.texts[i] for i in kept], [corpus.labels[i] for i in kept])


def precision(nearest: np.ndarray, labels: Sequence[str]) -> float:
    """Share of the documents with a sibling whose nearest neighbour has their label."""
    sizes = Counter(labels)
    hits = [
        other >= 0 and labels[other] == label
        for other, label in zip(nearest.tolist(), labels, strict=True)
        if sizes[label] > 1
    ]
    return float(np.mean(hits))


def measure(
    name: str, corpus_name: str, corpus: Labelled, args: argparse.Namespace, layer: int | None
) -> tuple[Line, LmEncoder | None]:
    """Fit on the corpus, encode it, look for its neighbours."""
    start = time.perf_counter()
    encoder = fit_encoder(
        name,
        corpus.texts,
        dimensions=args.dimensions,
        seed=args.seed,
        model_directory=args.model,
        layer=layer,
        prefix=args.prefix if name != "lsa" else "",
        device=args.device,
    )
    fitted = time.perf_counter()
    vectors = encoder.encode(corpus.texts)
    encoded = time.perf_counter()
    nearest = ExactIndex(vectors).search(0, len(vectors), 1).documents[:, 0]
    title = name
    if isinstance(encoder, LmEncoder):
        title = f"lm, layer {encoder.choice['layer']} {'chosen' if layer is None else 'given'}"
    elif ":" in name:
        title = f"sentence-transformers, {Path(name.partition(':')[2]).parent.name or name}"
    line = Line(
        corpus_name,
        title,
        vectors.shape[1],
        precision(nearest, corpus.labels),
        fitted - start,
        encoded - fitted,
        len(vectors),
    )
    return line, encoder if isinstance(encoder, LmEncoder) else None


def measure_tfidf(corpus_name: str, corpus: Labelled) -> Line:
    """The peer: cosines of TF-IDF vectors, all words."""
    start = time.perf_counter()
    vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32).fit(corpus.texts)
    fitted = time.perf_counter()
    matrix = vectorizer.transform(corpus.texts)
    encoded = time.perf_counter()
    nearest = np.empty(matrix.shape[0], dtype=np.int64)
    for first in range(0, len(nearest), BLOCK):
        similarities = (matrix[first : first + BLOCK] @ matrix.T).toarray()
        rows = np.arange(len(similarities))
        similarities[rows, first + rows] = -np.inf
        nearest[first : first + BLOCK] = similarities.argmax(axis=1)
    found = precision(nearest, corpus.labels)
    times = fitted - start, encoded - fitted
    return Line(corpus_name, "TF-IDF", matrix.shape[1], found, *times, len(nearest))


def report_choice(encoder: LmEncoder) -> None:
    """How well halves found each other, by layer and shrinkage: no label is in this."""
    scores = encoder.choice["scores"]
    shrinkages = list(dict.fromkeys(entry["shrinkage"] for entry in scores))
    print(f"\nMean reciprocal rank of the other half, {encoder.choice['documents']} documents:\n")
    print("| layer | " + " | ".join(f"shrinkage {value:g}" for value in shrinkages) + " |")
    print("|---" * (len(shrinkages) + 1) + "|")
    for layer in dict.fromkeys(entry["layer"] for entry in scores):
        row = [f"{entry['score']:.3f}" for entry in scores if entry["layer"] == layer]
        print(f"| {layer} | " + " | ".join(row) + " |")


def main() -> None:
    """Measure what was asked for and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", nargs="+", default=["lsa"], metavar="NAME")
    parser.add_argument("--model", type=Path, metavar="DIR", help="the causal LM of lm")
    parser.add_argument("--every-layer", action="store_true", help="lm with each layer given, too")
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--prefix", default="")
    parser.add_argument("--limit", type=int, metavar="N", help="whole labels, N documents or so")
    parser.add_argument("--corpus", nargs="+", choices=list(CORPORA), default=list(CORPORA))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if "SYNBOOT_DATA" not in os.environ:
        sys.exit("SYNBOOT_DATA is not set: the folder with enwiki_sec/ and labelled/")
    torch.set_num_threads(args.threads)
    choices = []
    print(HEADER, flush=True)
    with threadpool_limits(args.threads):
        for corpus_name in args.corpus:
            corpus = limited(CORPORA[corpus_name](Path(os.environ["SYNBOOT_DATA"])), args.limit)
            print(measure_tfidf(corpus_name, corpus), flush=True)
            for name in args.encoder:
                line, chosen = measure(name, corpus_name, corpus, args, None)
                print(line, flush=True)
                if chosen is not None:
                    choices.append(chosen)
                    layers = dict.fromkeys(entry["layer"] for entry in chosen.choice["scores"])
                    for layer in layers if args.every_layer else ():
                        print(measure(name, corpus_name, corpus, args, layer)[0], flush=True)
    for chosen in choices:
        report_choice(chosen)


if __name__ == "__main__":
    try:
        main()
    except BadInput as error:
        sys.exit(str(error))
