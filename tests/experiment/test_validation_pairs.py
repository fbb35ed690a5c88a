"""Pairs of validation documents: found as pairs are, and what they are for."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from synboot.core.config import validate
from synboot.core.errors import BadInput
from synboot.core.events import EventLog, QuietDisplay
from synboot.data.documents import Documents
from synboot.data.ngrams import reference_windows
from synboot.data.tokenizer import TextTokenizer
from synboot.data.tokens import TokenStore
from synboot.experiment.plan import Plan, make_plan
from synboot.experiment.recipe import TuneConfig, load_recipe
from synboot.experiment.run import run_recipe
from synboot.experiment.stages import validation_pairs
from synboot.experiment.stages.corpus import heldout_documents
from synboot.experiment.stages.process import own_threads
from synboot.experiment.stages.validation_pairs import read_validation_pairs
from synboot.model.architecture import load_model
from synboot.pairs.encoders.encoder import load_encoder
from synboot.pipeline.runner import Runner
from synboot.pipeline.stage import Artifact
from synboot.synth.template import PairRows
from synboot.train.loss import mean_loss

ON_TEXT = "tune.validate_on=validation_text"
ROOT = Path(__file__).parents[2]
CONTENT = "0" * 64


_VALIDATED = ("corpus", "validation_pairs")


def plan_of(runs: Path, *settings: str) -> Plan:
    """Of the small recipe, which is finished without validation text."""
    return make_plan(load_recipe(runs / "small.yaml", [ON_TEXT, *settings]), runs)


def made(runs: Path, plan: Plan, until: str) -> dict[str, Artifact]:
    """The artifacts of the plan's stages, by label, up to the last one of a name."""
    runner = Runner(runs / "artifacts", 1, EventLog(None), QuietDisplay())
    stages = plan.until(until)
    with own_threads():
        artifacts = runner.run(stages)
    return {stage.label: artifacts[stage.id] for stage in stages}


def kept_of(artifact: Artifact) -> list[tuple[str, str]]:
    rows = pq.read_table(artifact.file("pairs.parquet")).to_pylist()
    return [(row["d1"], row["d2"]) for row in rows if row["verdict"] == "keep"]


def slow_pairs(
    ids: list[str], texts: list[str], vectors: np.ndarray, *, top_k: int, least: float, most: int
) -> set[frozenset[str]]:
    """Of every document the `top_k` nearest; of those pairs the similar ones that do not share
    half of their windows, the most similar first, as long as neither has `most`."""
    similar = np.array([[float(np.dot(a, b)) for b in vectors] for a in vectors])
    near = {
        frozenset((i, j))
        for i in range(len(ids))
        for j in sorted(set(range(len(ids))) - {i}, key=lambda j: -similar[i, j])[:top_k]
    }
    windows = [reference_windows(text) for text in texts]
    degree = [0] * len(ids)
    kept = set()
    for i, j in sorted((sorted(pair) for pair in near), key=lambda pair: -similar[*pair]):
        smaller = min(len(windows[i]), len(windows[j]))
        copied = bool(smaller) and len(windows[i] & windows[j]) > 0.5 * smaller
        if similar[i, j] >= least and not copied and max(degree[i], degree[j]) < most:
            degree[i] += 1
            degree[j] += 1
            kept.add(frozenset((ids[i], ids[j])))
    return kept


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["lsa", "lm"])
def test_they_are_those_of_a_slow_search_in_the_validation_split(
    finished_run: Path, encoder: str
) -> None:
    more = ["corpus.valid_fraction=0.3"] if encoder == "lsa" else []  # lm needs a base for it
    plan = plan_of(
        finished_run, f"pairs.encoder={encoder}", "pairs.max_pairs_per_document=3",
        "pairs.min_similarity=0.2", *more,
    )  # fmt: skip
    of = made(finished_run, plan, "validation_pairs")
    documents = Documents(of["corpus"].file("valid.arrow"))
    ids, texts = documents.ids(0, len(documents)), documents.texts(0, len(documents))
    base = of.get("pretrain repetition, seed 0")
    fitted = load_encoder(
        encoder, of["embed"].file("encoder"), model_directory=base.file("best") if base else None
    )
    expected = slow_pairs(ids, texts, fitted.encode(texts), top_k=5, least=0.2, most=3)
    artifact = of["validation pairs"]
    kept = kept_of(artifact)
    assert {frozenset(pair) for pair in kept} == expected
    assert len(set(kept)) == len(kept) == 2 * len(expected)  # both orders
    counts = artifact.counts
    assert counts["kept"] == len(expected)
    assert counts["candidates"] == sum(
        n for name, n in counts.items() if name == "kept" or name.startswith("dropped_")
    )
    assert counts["dropped_degree_limit"] > 0
    assert counts["documents"] == len(ids) >= (48 if more else 12)
    assert 0.2 <= counts["mean_similarity"] <= 1
    compared = 2 * len(ids) ** 2 * of["embed"].counts["dimensions"]
    assert compared < counts["flops"] < compared + of["embed"].counts["flops"]
    number = {name: i for i, name in enumerate(ids)}
    inputs = {"corpus": of["corpus"], "validation_pairs": artifact}
    assert read_validation_pairs(inputs) == [(number[a], number[b]) for a, b in kept]


@pytest.mark.slow
def test_of_more_than_are_needed_the_most_similar_stay(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = made(finished_run, plan_of(finished_run), "validation_pairs")
    whole = everything["validation pairs"]
    monkeypatch.setattr(validation_pairs, "MAX_PAIRS", 10)

    def found(name: str) -> Artifact:
        """The stage anew, in a store of its own."""
        runner = Runner(tmp_path / name, 1, EventLog(None), QuietDisplay())
        (stage,) = (s for s in plan_of(finished_run).stages if s.name == "validation_pairs")
        known = {stage.inputs[i].id: everything[stage.inputs[i].label] for i in stage.inputs}
        return runner.run([stage], known=known)[stage.id]

    few = found("a")
    kept = kept_of(few)
    assert set(kept) < set(kept_of(whole))
    assert len(kept) == 20
    assert {(b, a) for a, b in kept} == set(kept)
    assert few.counts["kept"] == 10
    assert few.counts["dropped_less_similar"] == whole.counts["kept"] - 10
    rows = pq.read_table(few.file("pairs.parquet")).to_pylist()
    similar = {
        reason: [row["similarity"] for row in rows if row["reason"] == reason]
        for reason in (None, "less_similar")
    }
    assert min(similar[None]) >= max(similar["less_similar"])
    monkeypatch.setattr(validation_pairs, "MAX_DOCUMENTS", 7)
    first = found("b")
    documents = Documents(everything["corpus"].file("valid.arrow"))
    assert first.counts["documents"] == 7 < len(documents)
    assert {d for pair in kept_of(first) for d in pair} <= set(documents.ids(0, 7))


@pytest.mark.parametrize("most", [1, 4])
def test_too_few_are_said_before_anything_is_trained(
    small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(validation_pairs, "MAX_DOCUMENTS", most)
    plan = make_plan(load_recipe(small_recipe, [ON_TEXT]), tmp_path)
    pairs = rf"tune\.validate_on: validation_text has \d pairs .* among {most} \(kept \d"
    helps = (
        r"at least 8; set held_out_pairs, .*corpus\.valid_fraction.* lower pairs\.min_similarity"
    )
    with pytest.raises(BadInput, match=f"{pairs}.*{helps}"):
        made(tmp_path, plan, "evaluate")
    assert not list((tmp_path / "artifacts" / "pretrain").glob("*"))
    assert list((tmp_path / "artifacts" / "pairs").glob("*/manifest.json"))


def test_they_stand_beside_the_pairs_whoever_needs_them() -> None:
    def labels(*settings: str) -> list[str]:
        recipe = load_recipe(
            ROOT / "recipes" / "demo.yaml", ["tune.validate_on=held_out_pairs", *settings]
        )
        return [stage.label for stage in make_plan(recipe, Path("nowhere"), CONTENT).stages]

    plain = labels()
    assert "validation pairs" not in plain
    settings = [
        "experiment.overrides.sbp={tune.validate_on: validation_text}",
        "experiment.variants.a={of: sbp, set: {tune.validate_on: validation_text}}",
    ]
    for setting in settings:
        found = labels(setting)
        assert found[found.index("pairs") + 1] == "validation pairs"
        assert found.index("validation pairs") < found.index("pretrain repetition, seed 0")
    of_variant = [label for label in labels(settings[1]) if label not in plain]
    assert of_variant == [
        "validation pairs", "tune a", "synthesize a", "seed use a", "pretrain a, seed 0",
        "evaluate a, seed 0",
    ]  # fmt: skip
    arms = "experiment.arms=[repetition, sbp, random_pairs, real_context, self_distillation]"
    control = labels(arms, "experiment.overrides.random_pairs={tune.validate_on: validation_text}")
    more = [label for label in control if label.endswith("pairs random_pairs")]
    assert more == ["pairs random_pairs", "validation pairs random_pairs"]
    alone = labels("experiment.arms=[repetition, real_context]", ON_TEXT)
    assert "validation pairs" not in alone  # nothing is tuned
    embedded = labels("pairs.encoder=lm", ON_TEXT)
    assert embedded.index("pretrain repetition, seed 0") < embedded.index("embed")
    assert embedded[embedded.index("pairs") + 1] == "validation pairs"


@pytest.mark.slow
def test_the_checkpoint_is_the_best_on_validation_text(finished_run: Path) -> None:
    of = made(finished_run, plan_of(finished_run), "tune")
    tune = of["tune"].counts
    assert tune["validated_on"] == "validation_text"
    assert tune["training_pairs"] == 2 * of["pairs"].counts["kept"]  # none is held out
    assert tune["validation_pairs"] == 2 * of["validation pairs"].counts["kept"]
    assert tune["crossing_pairs"] == 0
    assert tune["initial_validation_loss"] > tune["best_validation_loss"]
    tokenizer = TextTokenizer.load(of["tokenizer"].path)
    inputs = {"corpus": of["corpus"], "validation_pairs": of["validation pairs"]}
    for split, same in (("valid", True), ("train", False)):
        rows = PairRows(
            TokenStore(of["tokens"].file(split)),
            read_validation_pairs(inputs),
            context=64,
            end_id=tokenizer.end_id,
            start_id=tokenizer.start_id,
            seed=3,
        )
        losses = [
            mean_loss(load_model(directory), rows, 8, torch.device("cpu"), "float32")
            for directory in (
                of["pretrain repetition, seed 0"].file("best"),
                of["tune"].file("best"),
                of["tune"].file("last"),
            )
        ]
        names = ("initial_validation_loss", "best_validation_loss", "final_validation_loss")
        assert (losses == pytest.approx([tune[name] for name in names], rel=1e-4)) is same


@pytest.mark.slow
def test_seed_use_is_of_the_same_validation_documents(finished_run: Path) -> None:
    plan = plan_of(finished_run)
    of = made(finished_run, plan, "tune")
    stage = plan.seed_use["sbp"]
    runner = Runner(finished_run / "artifacts", 1, EventLog(None), QuietDisplay())
    with own_threads():
        used = runner.run([*plan.until("tune"), stage])[stage.id]
    pairs = read_validation_pairs({name: of[name.replace("_", " ")] for name in _VALIDATED})
    counts = used.counts
    assert counts["pairs"] + counts["pairs_without_another"] == len(pairs) <= 512
    documents = heldout_documents(of["corpus"], "valid")
    rows = pq.read_table(used.file("seed_use.parquet")).to_pylist()
    assert len(rows) == counts["documents"]
    assert {row["id"] for row in rows} <= {documents.ids(d2, d2 + 1)[0] for _, d2 in pairs}
    for row in rows:
        assert row["base_own_seed"] > 0
        assert row["synthesizer_own_seed"] != row["base_own_seed"]


@pytest.mark.slow
def test_random_pairs_are_as_many_of_either_kind(finished_run: Path) -> None:
    plan = plan_of(finished_run, "experiment.arms=[repetition, sbp, random_pairs]")
    of = made(finished_run, plan, "tune")
    unique = set(of["tokenizer"].counts and _unique_ids(of))
    valid = Documents(of["corpus"].file("valid.arrow"))
    valid_ids = set(valid.ids(0, len(valid)))
    for label, known in (("pairs", unique), ("validation pairs", valid_ids)):
        related, random = kept_of(of[label]), kept_of(of[f"{label} random_pairs"])
        assert len(random) == len(related) == len(set(random))
        assert {(b, a) for a, b in random} == set(random)
        assert {d for pair in random for d in pair} <= known
        assert not any(a == b for a, b in random)
        assert set(random) != set(related)
    sbp, control = of["tune"].counts, of["tune random_pairs"].counts
    for name in ("training_pairs", "validation_pairs", "crossing_pairs", "validated_on"):
        assert control[name] == sbp[name]


def _unique_ids(of: dict[str, Artifact]) -> list[str]:
    order = np.load(of["tokenizer"].file("order.npy"))
    documents = Documents(of["corpus"].file("train.arrow"), order)
    return documents.ids(0, of["tokenizer"].counts["unique_documents"])


@pytest.mark.slow
def test_killed_it_goes_on_to_the_same_end(
    finished_run: Path, tmp_path: Path, synboot: Any
) -> None:
    whole, runs = made(finished_run, plan_of(finished_run), "tune"), tmp_path / "runs"
    again = ("validation pairs", "tune")
    for label, artifact in whole.items():
        if label not in again:
            kept = runs / artifact.path.relative_to(finished_run)
            shutil.copytree(artifact.path, kept, copy_function=shutil.copy2)
    shutil.copy(finished_run / "small.yaml", runs)
    for kill in (("stage_start", "validation_pairs", 1, 1), ("checkpoint", "tune", 1, 2)):
        command = ("run", str(runs / "small.yaml"), "--runs", str(runs), "--set", ON_TEXT)
        killed = synboot(*command, kill=kill)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = made(runs, plan_of(runs), "tune")
    for label in again:
        assert resumed[label].manifest["files"] == whole[label].manifest["files"]
        assert resumed[label].counts == whole[label].counts


@pytest.mark.slow
def test_the_result_says_how_the_checkpoint_was_chosen(finished_run: Path) -> None:
    recipe = load_recipe(finished_run / "small.yaml", [ON_TEXT, "name=on_text"])
    with own_threads():
        result = run_recipe(recipe, finished_run, display=QuietDisplay())
    assert result is not None
    of = made(finished_run, plan_of(finished_run), "tune")
    tuned, counts = result["synthesizer"], of["tune"].counts
    assert tuned["validated_on"] == "validation_text"
    assert tuned["crossing_pairs"] == 0
    losses = [counts[f"{name}_validation_loss"] for name in ("initial", "best", "final")]
    assert [tuned[f"validation_loss_{name}"] for name in ("start", "best", "last")] == losses
    assert result["validation_pairs"]["kept"] == of["validation pairs"].counts["kept"]
    (entry,) = (e for e in result["ledger"] if e["stage"] == "validation_pairs")
    assert entry["arms"] == ["sbp"]
    assert entry["flops"] == of["validation pairs"].counts["flops"] > 0
    page = (finished_run / "on_text" / "report.html").read_text(encoding="utf-8")
    shown = page[page.index("validation loss on validation text") :][:200]
    assert [f"{loss:.4f}" in shown for loss in losses] == [True] * 3
    before = json.loads((finished_run / "small" / "result.json").read_text(encoding="utf-8"))
    assert before["synthesizer"]["validated_on"] == "held_out_pairs"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_fraction": 0.2}, r"validation_fraction: .* no pair is held out, got 0\.2"),
        ({"validate_on": "test_text"}, "validate_on"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    loop = {"learning_rate": 1e-3, "batch_rows": 8, "validate_on": "validation_text"}
    with pytest.raises(BadInput, match=message):
        validate(TuneConfig, loop | settings, "test")
