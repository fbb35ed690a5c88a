"""Variants on top of a finished run: what they train on, what they cost, what is shown of them."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from synboot.core.events import QuietDisplay
from synboot.data.tokens import TokenStore
from synboot.experiment.recipe import load_recipe
from synboot.experiment.run import run_recipe
from synboot.experiment.stages.process import own_threads

sys.path.append(str(Path(__file__).parent))

from blind import assert_test_text_unread, blind

SETTINGS = {
    "arms": ["repetition", "sbp", "real_context"],
    "variants": {
        "sbp_first": {"of": "sbp", "set": {"pretrain.order": "synthetic_first"}},
        "sbp_scratch": {
            "of": "sbp",
            "set": {"tune.initial": "scratch", "tune.passes": 6, "tune.learning_rate": 4e-3},
        },
        "sbp_best": {"of": "sbp", "set": {"synthesize.best_of": 2}},
        "sbp_mega": {"of": "sbp", "set": {"synthesize.megadocuments": 2}},
        "sbp_twice": {"of": "sbp", "rounds": 2},
    },
    "overrides": {"real_context": {"budget.synthetic_share": 0.5}},
}


@pytest.fixture(scope="module")
def run(finished_run: Path, synboot: Any) -> tuple[dict[str, Any], dict[str, Path], str]:
    """The result, the directory of every stage by label, and the page."""
    recipe = yaml.safe_load((finished_run / "small.yaml").read_text())
    recipe |= {"name": "variants", "experiment": SETTINGS}
    path = finished_run / "variants.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    outcome = synboot("run", str(path), "--runs", str(finished_run), "--json")
    assert outcome.returncode == 0, outcome.stderr
    stages = json.loads((finished_run / "variants" / "stages.json").read_text())
    directory = {stage["label"]: finished_run / stage["directory"] for stage in stages}
    page = (finished_run / "variants" / "report.html").read_text()
    return json.loads(outcome.stdout), directory, page


# (event, stage, which stage of that name in the order of the run, which such event)
KILLS = [("part_done", "synthesize", 3, 2), ("checkpoint", "pretrain", 4, 5)]
KILLED = ("sbp_first", "sbp_best", "sbp_mega", "real_context")


def manifest(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / "manifest.json").read_text()))


@pytest.mark.slow
def test_every_arm_has_the_tokens_of_its_share(run: Any) -> None:
    result, directory, _ = run
    arms = [*SETTINGS["arms"], *SETTINGS["variants"]]
    assert list(result["arms"]) == arms
    for arm in arms:
        assert result["arms"][arm]["trained_tokens"] == 8000
        tokens = [part["tokens"] for part in result["arms"][arm]["mixture"]]
        assert tokens == {"repetition": [8000], "real_context": [4000, 4000]}.get(arm, [6000, 2000])
    assert result["arms"]["sbp_twice"]["of"] == "sbp"
    assert result["arms"]["real_context"]["settings"] == {"budget.synthetic_share": 0.5}
    assert "of" not in result["arms"]["sbp"]
    first, mixed = (directory[f"pretrain {arm}, seed 0"] for arm in ("sbp_first", "sbp"))
    assert manifest(first)["inputs"] == manifest(mixed)["inputs"]
    assert (first / "history.json").read_bytes() != (mixed / "history.json").read_bytes()


@pytest.mark.slow
def test_paired_text_is_the_kept_pairs(run: Any) -> None:
    _, directory, _ = run
    kept = pq.read_table(directory["pairs"] / "pairs.parquet", filters=[("verdict", "=", "keep")])
    text = TokenStore(directory["paired real_context"] / "tokens")
    train = TokenStore(directory["tokens"] / "train")
    assert len(text) == kept.num_rows
    documents = {tuple(train[i].tolist()) for i in range(len(train))}
    for number in range(0, len(text), 7):
        end = int(text[number][-1])
        both = text[number].tolist()
        border = both.index(end) + 1
        assert tuple(both[:border]) in documents
        assert tuple(both[border:]) in documents


@pytest.mark.slow
def test_the_best_of_two_draws_is_kept(run: Any) -> None:
    result, directory, _ = run
    facts = result["controls"]["sbp_best"]
    scratch = result["controls"]["sbp_scratch"]["synthesizer"]
    assert scratch["initial_weights"] == "random"
    assert scratch["validation_loss_best"] < scratch["validation_loss_start"]
    assert facts["synthetic"]["best_of"] == 2
    assert facts["synthetic"]["mean_log_ratio_kept"] > facts["synthetic"]["mean_log_ratio"]
    assert facts["synthetic"]["verdicts"]["dropped_not_best"] > 0
    text = pq.read_table(directory["synthesize sbp_best"] / "synthetic.parquet").to_pylist()
    chosen = [(row["seed_id"], row["draw"] // 2) for row in text]
    assert len(set(chosen)) == len(chosen), "two of one group were kept"
    assert all(np.isfinite(row["log_ratio"]) for row in text)
    plain = pq.read_schema(directory["synthesize"] / "synthetic.parquet").names
    assert "log_ratio" not in plain
    flops = {entry["label"]: entry["flops"] for entry in result["ledger"]}
    drawn = facts["synthetic"]["sampled_tokens"] / result["synthetic"]["sampled_tokens"]
    assert flops["synthesize sbp_best"] > 1.5 * drawn * flops["synthesize"]


@pytest.mark.slow
def test_megadocuments_are_seeds_and_their_draws(run: Any) -> None:
    result, directory, _ = run
    draws = pq.read_table(directory["synthesize"] / "synthetic.parquet").to_pylist()
    text = {row["id"]: row for row in draws}
    made = pq.read_table(directory["megadocuments sbp_mega"] / "megadocuments.parquet").to_pylist()
    store = TokenStore(directory["megadocuments sbp_mega"] / "tokens")
    assert [row["num_tokens"] for row in made] == store.lengths().tolist()
    assert store.num_tokens() == 2000
    used = [name for row in made for name in json.loads(row["draws"])]
    assert len(used) == len(set(used)) < len(draws)
    for row in made[:-1]:
        own = [text[name] for name in json.loads(row["draws"])]
        assert {draw["seed_id"] for draw in own} == {row["seed_id"]}
        assert row["text"].endswith("\n\n".join(["", *(draw["text"] for draw in own)]))
        assert not row["cut"]
    facts = result["controls"]["sbp_mega"]["megadocuments"]
    assert facts["seed_tokens"] == sum(row["seed_tokens"] for row in made) > 0
    assert facts["tokens"] == 2000
    assert "synthesize sbp_mega" not in directory  # the draws are those of sbp


@pytest.mark.slow
def test_the_second_round_starts_from_the_first_model(run: Any) -> None:
    result, directory, _ = run
    second = manifest(directory["tune sbp_twice, round 2"])
    assert second["inputs"]["base"] == directory["pretrain sbp, seed 0"].name
    assert result["controls"]["sbp_twice"]["synthesizer"]["initial_weights"].startswith("base")
    needed = {e["label"] for e in result["ledger"] if "sbp_twice" in e["arms"]}
    assert {"pretrain repetition, seed 0", "pretrain sbp, seed 0", "tune"} <= needed


@pytest.mark.slow
def test_variants_on_validation_text_open_no_test_text(
    run: Any, finished_run: Path, tmp_path: Path
) -> None:
    """Rubbish in its place, and its files watched, while everything but corpus, tokens and vectors
    is made anew: what chooses a variant cannot depend on it."""
    runs = tmp_path / "runs"
    shutil.copytree(finished_run, runs)
    recipe = load_recipe(
        runs / "variants.yaml",
        ["evaluate.split=valid", "name=valid", "experiment.seeds=[7]", "pairs.top_k=4"],
    )
    with blind(runs) as read, own_threads():
        result = run_recipe(recipe, runs, display=QuietDisplay())
    assert_test_text_unread(read)
    assert result is not None
    assert result["split"] == "valid"
    assert set(result["arms"]) == {*SETTINGS["arms"], *SETTINGS["variants"]}
    before = json.loads((runs / "variants" / "stages.json").read_text())
    made = {stage["label"] for stage in json.loads((runs / "valid" / "stages.json").read_text())
            if stage["directory"] not in {old["directory"] for old in before}}  # fmt: skip
    assert {"pairs", "tune", "synthesize", "quality", "seed use"} <= made


@pytest.mark.slow
def test_variants_are_shown(run: Any) -> None:
    result, _, page = run
    over = result["statistics"]["variants_over"]
    assert {arm: list(gains) for arm, gains in over.items()} == {
        arm: ["real_context"] for arm in SETTINGS["variants"]
    }
    assert "SBP first is" in page
    assert "pretrain.order synthetic_first" in page
    standing = page[page.index("SBP is") :].split(".")[0]
    assert "real context" in standing
    assert "scratch" not in standing


@pytest.mark.slow
def test_killed_and_equal(run: Any, finished_run: Path, tmp_path: Path, synboot: Any) -> None:
    """Draws of which the best is kept, and rows in another order, go on where they were."""
    _, directory, _ = run
    runs = tmp_path / "runs"
    shutil.copytree(finished_run, runs)
    for label, path in directory.items():
        if label.split(",")[0].split()[-1] in KILLED:
            shutil.rmtree(runs / path.relative_to(finished_run))
    (runs / "variants" / "events.jsonl").unlink()
    command = ["run", str(runs / "variants.yaml"), "--runs", str(runs)]
    for kill in KILLS:
        killed = synboot(*command, kill=kill)
        assert killed.returncode == -signal.SIGKILL, (kill, killed.stderr)
    last = synboot(*command)
    assert last.returncode == 0, last.stderr
    for name in ("result.json", "report.html"):
        whole = (finished_run / "variants" / name).read_bytes()
        assert (runs / "variants" / name).read_bytes() == whole
    events = [json.loads(line) for line in (runs / "variants" / "events.jsonl").open()]
    assert [e for e in events if e["event"] == "part_reused" and e["stage"] == "synthesize"]
    assert [e for e in events if e["event"] == "training_from" and e["step"] > 0]
