"""Law 13, on a finished run: what saw which text, read off the artifacts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from synboot.core.events import EventLog, QuietDisplay
from synboot.data.documents import Documents
from synboot.data.ngrams import reference_windows
from synboot.data.tokenizer import TextTokenizer, train_tokenizer
from synboot.data.tokens import TokenStore
from synboot.experiment.plan import make_plan
from synboot.experiment.recipe import load_recipe
from synboot.experiment.stages import training
from synboot.experiment.stages.process import own_threads
from synboot.pipeline.runner import Runner
from synboot.pipeline.stage import Artifact
from synboot.synth.template import PairRows


@pytest.fixture(scope="module")
def artifacts(finished_run: Path) -> dict[str, Path]:
    """The artifact directories of the run by label."""
    stages = json.loads((finished_run / "small" / "stages.json").read_text())
    return {stage["label"]: finished_run / stage["directory"] for stage in stages}


@pytest.fixture(scope="module")
def result(finished_run: Path) -> dict[str, Any]:
    """The run's result."""
    return json.loads((finished_run / "small" / "result.json").read_text())


def _training(artifacts: dict[str, Path]) -> Documents:
    order = np.load(artifacts["tokenizer"] / "order.npy")
    return Documents(artifacts["corpus"] / "train.arrow", order)


def test_tokenizer_saw_unique_text_only(artifacts: dict[str, Path]) -> None:
    counts = json.loads((artifacts["tokenizer"] / "manifest.json").read_text())["counts"]
    assert 0 < counts["tokenizer_documents"] <= counts["unique_documents"]
    texts = _training(artifacts).texts(0, counts["tokenizer_documents"])
    again = train_tokenizer(texts, 384)
    assert again.to_json() == TextTokenizer.load(artifacts["tokenizer"]).to_json()


def test_splits_share_no_group_and_no_text(artifacts: dict[str, Path]) -> None:
    groups, texts = {}, {}
    for split in ("train", "valid", "test"):
        documents = Documents(artifacts["corpus"] / f"{split}.arrow")
        groups[split] = set(documents.groups(0, len(documents)))
        texts[split] = set(documents.texts(0, len(documents)))
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not groups[one] & groups[other]
        assert not texts[one] & texts[other]


def test_training_text_is_not_near_heldout(artifacts: dict[str, Path]) -> None:
    heldout: set[tuple[str, ...]] = set()
    for split in ("valid", "test"):
        documents = Documents(artifacts["corpus"] / f"{split}.arrow")
        for text in documents.texts(0, len(documents)):
            heldout |= reference_windows(text)
    for text in _training(artifacts).texts(0, len(_training(artifacts))):
        windows = reference_windows(text)
        assert len(windows & heldout) <= 0.2 * len(windows)


def test_pairs_and_seeds_are_unique_documents(
    artifacts: dict[str, Path], result: dict[str, Any]
) -> None:
    unique = set(_training(artifacts).ids(0, result["unique"]["documents"]))
    pairs = pq.read_table(artifacts["pairs"] / "pairs.parquet")
    assert set(pairs["d1"].to_pylist()) | set(pairs["d2"].to_pylist()) <= unique
    rows = pq.read_table(artifacts["synthesize"] / "synthetic.parquet")
    assert set(rows["seed_id"].to_pylist()) <= unique


def test_overlap_with_heldout_text_is_reported(
    artifacts: dict[str, Path], result: dict[str, Any]
) -> None:
    test = Documents(artifacts["corpus"] / "test.arrow")
    heldout = set().union(*(reference_windows(t) for t in test.texts(0, len(test))))
    rows = pq.read_table(artifacts["synthesize"] / "synthetic.parquet")["text"].to_pylist()
    windows = [reference_windows(text) for text in rows]
    reported = result["synthetic"]["heldout_overlap"]
    assert reported["windows"] == sum(map(len, windows))
    assert reported["windows_found"] == sum(len(w & heldout) for w in windows)
    assert reported["documents"] == sum(bool(w & heldout) for w in windows)


def test_ledger_has_every_stage(result: dict[str, Any]) -> None:
    assert {entry["label"] for entry in result["ledger"]} == set(result["stages"])
    costly = {entry["stage"] for entry in result["ledger"] if entry["flops"] > 0}
    assert costly == {
        "embed", "neighbours", "pretrain", "tune", "synthesize", "quality", "seed_use",
        "evaluate",
    }  # fmt: skip
    for entry in result["ledger"]:
        assert ("validation_flops" in entry) == (entry["stage"] in ("pretrain", "tune"))


def test_unique_budget_within_oracle(artifacts: dict[str, Path], result: dict[str, Any]) -> None:
    groups = _training(artifacts).groups(0, result["oracle"]["documents"])
    unique = result["unique"]["documents"]
    assert unique < result["oracle"]["documents"]
    assert result["unique"]["tokens"] <= result["unique"]["requested_tokens"]
    # Whole groups: none of the unique budget's groups has a member outside of it.
    everything = _training(artifacts)
    rest = everything.groups(unique, len(everything))
    assert not set(groups[:unique]) & set(rest)


def test_budgets_to_the_token(artifacts: dict[str, Path], result: dict[str, Any]) -> None:
    for facts in result["arms"].values():
        assert facts["trained_tokens"] == 8000
        assert sum(source["tokens"] for source in facts["mixture"]) == 8000
    synthetic = TokenStore(artifacts["synthesize"] / "tokens")
    assert synthetic.num_tokens() == 2000 == result["synthetic"]["tokens"]
    rows = pq.read_table(artifacts["synthesize"] / "synthetic.parquet").to_pylist()
    assert sum(row["num_tokens"] for row in rows) == 2000
    tokenizer = TextTokenizer.load(artifacts["tokenizer"])
    for i, row in enumerate(rows):
        if not row["cut"]:
            assert synthetic[i][:-1].tolist() == tokenizer.encode([row["text"]])[0].tolist()
            assert synthetic[i][-1] == tokenizer.end_id


def test_synthetic_rows_carry_their_lineage(artifacts: dict[str, Path]) -> None:
    rows = pq.read_table(artifacts["synthesize"] / "synthetic.parquet").to_pylist()
    tune = json.loads((artifacts["tune"] / "manifest.json").read_text())["id"]
    documents = _training(artifacts)
    by_id = {documents[i].id: documents[i] for i in range(len(documents))}
    for row in rows:
        seed = by_id[row["seed_id"]]
        assert row["id"] == f"{row['seed_id']}#{row['draw']}"
        assert (row["license"], row["source"]) == (seed.license, seed.source)
        assert row["synthesizer"] == tune
        assert json.loads(row["corpus_licenses"]) == ["CC0-1.0", "MIT"]
        assert json.loads(row["corpus_sources"]) == ["generated"]
        assert row["max_tokens"] == 24
        for score in ("repetition", "seed_overlap", "corpus_overlap", "draw_overlap"):
            assert 0 <= row[score] <= 1
        assert row["verdict"] == "keep"
        assert row["finish_reason"] in ("end", "length")
    assert len({row["id"] for row in rows}) == len(rows)


def tuned_on_text(recipe: Path, runs: Path) -> dict[str, Artifact]:
    """The stages up to tuning that validation text chooses the checkpoint of, by label."""
    plan = make_plan(load_recipe(recipe, ["tune.validate_on=validation_text"]), recipe.parent)
    stages = plan.until("tune")
    with own_threads():
        made = Runner(runs / "artifacts", 1, EventLog(None), QuietDisplay()).run(stages)
    return {stage.label: made[stage.id] for stage in stages}


def documents_of(rows: PairRows, end: int) -> set[tuple[int, ...]]:
    """The beginnings of both documents of every pair, up to seven tokens: of d1 and of d2."""
    found = set()
    for position in range(rows.num_rows):
        inputs, places = rows.row(position)[0], rows.positions(position)
        for start in np.flatnonzero(places == 0).tolist():
            if inputs[start] != end:
                continue  # padding
            length = next((i for i in range(start + 1, len(inputs)) if places[i] == 0), len(inputs))
            first, second = (inputs[start:length] == end).nonzero()[0][:2].tolist()
            for at in (first, second):
                found.add(tuple(inputs[start + at + 1 : length][:7].tolist()))
    return found


@pytest.mark.slow
def test_validation_text_chooses_a_checkpoint_and_is_never_trained_on(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[PairRows, PairRows]] = []
    loop = training.train

    def spy(model: Any, rows: PairRows, validation: PairRows, *rest: Any, **options: Any) -> Any:
        seen.append((rows, validation))
        return loop(model, rows, validation, *rest, **options)

    monkeypatch.setattr(training, "train", spy)
    runs = tmp_path / "runs"
    for name in ("corpus", "tokenizer", "tokens", "embed", "neighbours", "pairs", "pretrain"):
        shutil.copytree(finished_run / "artifacts" / name, runs / "artifacts" / name)
    of = tuned_on_text(finished_run / "small.yaml", runs)
    ((rows, validation),) = seen
    end = TextTokenizer.load(of["tokenizer"].path).end_id
    starts = {}
    for split, label in (("train", "pairs"), ("valid", "validation pairs")):
        store = TokenStore(of["tokens"].file(split))
        documents = _training_of(of) if split == "train" else _valid_of(of)
        ids = documents.ids(0, len(documents))
        kept = pq.read_table(of[label].file("pairs.parquet"), filters=[("verdict", "=", "keep")])
        paired = set(kept["d1"].to_pylist())
        starts[split] = {tuple(store[i][:7].tolist()) for i, name in enumerate(ids)}
        used = {tuple(store[i][:7].tolist()) for i, name in enumerate(ids) if name in paired}
        assert documents_of(rows if split == "train" else validation, end) == used
    assert not starts["train"] & starts["valid"]


def _training_of(of: dict[str, Artifact]) -> Documents:
    return _training({label: artifact.path for label, artifact in of.items()})


def _valid_of(of: dict[str, Artifact]) -> Documents:
    return Documents(of["corpus"].file("valid.arrow"))


@pytest.mark.slow
def test_choosing_on_validation_text_does_not_read_test_text(
    finished_run: Path, tmp_path: Path
) -> None:
    recipe = finished_run / "small.yaml"
    whole = tuned_on_text(recipe, finished_run)
    runs = tmp_path / "runs"
    for label, artifact in whole.items():
        if label not in ("validation pairs", "tune"):
            shutil.copytree(artifact.path, runs / artifact.path.relative_to(finished_run))
    spoilt = 0
    for artifact in (whole["corpus"], whole["tokens"]):
        copy = runs / artifact.path.relative_to(finished_run)
        for file in [*copy.glob("test.arrow"), *copy.glob("test/*")]:
            file.write_bytes(bytes(file.stat().st_size))  # as long as before, and nothing in it
            spoilt += 1
    assert spoilt >= 2
    again = tuned_on_text(recipe, runs)
    for label in ("validation pairs", "tune"):
        assert again[label].path != whole[label].path
        assert again[label].manifest["files"] == whole[label].manifest["files"]
        assert again[label].counts == whole[label].counts
