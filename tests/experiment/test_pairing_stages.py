"""embed and neighbours as stages: lists, their recall, and lsa that is fitted on a sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synboot.core.config import validate
from synboot.core.errors import BadInput, GateFellShort
from synboot.core.events import EventLog, QuietDisplay
from synboot.core.rng import rng
from synboot.experiment.recipe import PairsConfig
from synboot.experiment.stages.pairing import EmbedStage, NeighboursStage
from synboot.pairs.encoders.encoder import Encoder, load_encoder
from synboot.pairs.encoders.settings import encoder_settings
from synboot.pairs.neighbours.index import ReferenceIndex
from synboot.pipeline.runner import Runner
from synboot.pipeline.stage import Artifact
from synboot.verbs.inputs import documents_stage, machine

DOCUMENTS = 300


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty topics of fifteen documents."""
    path = tmp_path_factory.mktemp("topics") / "corpus.jsonl"
    lines = []
    for i in range(DOCUMENTS):
        words = rng("topics", i).integers(0, 30, 40).tolist()
        text = " ".join(f"topic{i % 20}word{w}" if w < 20 else f"any{w}" for w in words)
        lines.append(json.dumps({"id": f"d{i}", "text": text}))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def made(corpus: Path, runs: Path, part_documents: int = 64, **pairs: Any) -> list[Artifact]:
    """The artifacts of embed and neighbours."""
    settings = validate(PairsConfig, {"dimensions": 24, "top_k": 10, **pairs}, "test")
    numerics = machine(workers=1, device="cpu").numerics.parts | {"part_documents": part_documents}
    documents = documents_stage({"train": corpus}, {}, runs / "pairs.parquet", seed=0)
    embed = EmbedStage(
        encoder_settings(settings),
        {"corpus": documents},
        seed=0,
        numerics=numerics,
        settings=settings,
    )
    neighbours = NeighboursStage(
        settings.neighbour_settings(), {"embed": embed}, seed=0, numerics=numerics
    )
    runner = Runner(runs, 1, EventLog(None), QuietDisplay())
    artifacts = runner.run([documents, embed, neighbours])
    return [artifacts[embed.id], artifacts[neighbours.id]]


def neighbours_of(artifact: Artifact) -> tuple[np.ndarray, np.ndarray]:
    return np.load(artifact.file("documents.npy")), np.load(artifact.file("similarities.npy"))


def test_lists_find_what_they_say_whatever_the_parts(corpus: Path, tmp_path: Path) -> None:
    embed, found = made(corpus, tmp_path / "a", 16, index="lists", min_recall=0.8)
    vectors = np.load(embed.file("vectors.npy"))
    documents, similarities = neighbours_of(found)
    exact = ReferenceIndex(vectors).search(0, DOCUMENTS, 10)
    hits = [len(set(a) & set(b)) / 10 for a, b in zip(documents, exact.documents, strict=True)]
    assert found.counts["recall"] == pytest.approx(np.mean(hits), abs=1e-12)  # all are sampled
    assert 0.8 <= found.counts["recall"] < 1
    assert found.counts["recall_queries"] == DOCUMENTS
    assert 1 <= found.counts["probes"] <= found.counts["lists"] / 2
    assert found.counts["flops"] > 0
    for row, own in enumerate(documents.tolist()):
        known = {d: s for d, s in zip(own, similarities[row].tolist(), strict=True) if d >= 0}
        assert row not in known
        both = set(known) & set(exact.documents[row].tolist())
        for place, document in enumerate(exact.documents[row].tolist()):
            if document in both:
                assert known[document] == exact.similarities[row, place]
    again = neighbours_of(made(corpus, tmp_path / "b", 300, index="lists", min_recall=0.8)[1])
    np.testing.assert_array_equal(documents, again[0])
    np.testing.assert_array_equal(similarities, again[1])


def test_lists_that_miss_too_much_stop_with_the_figures(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(GateFellShort, match=r"pairs\.min_recall: \d+ of 17 lists hold 0\.\d+.*1;"):
        made(corpus, tmp_path, index="lists", min_recall=1.0, top_k=200)


def test_exact_neighbours_are_the_references(corpus: Path, tmp_path: Path) -> None:
    embed, found = made(corpus, tmp_path)
    exact = ReferenceIndex(np.load(embed.file("vectors.npy"))).search(0, DOCUMENTS, 10)
    documents, similarities = neighbours_of(found)
    np.testing.assert_array_equal(documents, exact.documents)
    np.testing.assert_array_equal(similarities, exact.similarities)


def test_parts_share_one_encoder_and_each_counts_its_own_work(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []

    def load(name: str, directory: Path, **options: Any) -> Encoder:
        loaded.append(directory)
        return load_encoder(name, directory, **options)

    monkeypatch.setattr("synboot.experiment.stages.pairing.load_encoder", load)
    parts, _ = made(corpus, tmp_path / "parts")
    assert len(loaded) == 1
    whole, _ = made(corpus, tmp_path / "whole", DOCUMENTS)
    assert len(loaded) == 2  # another run's encoder is not this one's
    assert parts.counts == whole.counts
    for name in ("vectors.npy", "encoder/components.npy"):
        assert parts.file(name).read_bytes() == whole.file(name).read_bytes()


def test_lsa_is_fitted_on_a_sample_of_a_larger_corpus(corpus: Path, tmp_path: Path) -> None:
    everything, _ = made(corpus, tmp_path)
    sampled, _ = made(corpus, tmp_path, fit_documents=60)
    other_parts, _ = made(corpus, tmp_path / "other", 37, fit_documents=60)
    assert len({everything.id, sampled.id}) == 2
    vectors = np.load(sampled.file("vectors.npy"))
    assert vectors.shape == (DOCUMENTS, 24)
    np.testing.assert_array_equal(vectors, np.load(other_parts.file("vectors.npy")))
    words = len(json.loads(sampled.file("encoder/vocabulary.json").read_text(encoding="utf-8")))
    all_words = json.loads(everything.file("encoder/vocabulary.json").read_text(encoding="utf-8"))
    assert 0 < words < len(all_words)
    # More documents than there are change neither the id nor the result.
    assert made(corpus, tmp_path, fit_documents=200_000)[0].id == everything.id


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_recall": 0.9}, "min_recall: exact search finds all"),
        ({"encoder": "lm", "fit_documents": 9}, "fit_documents: only lsa takes it"),
        ({"index": "list"}, "index"),
        ({"fit_documents": 1}, "fit_documents"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        validate(PairsConfig, settings, "test")
