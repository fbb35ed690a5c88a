"""Law 1 for whole recipes: a setting forks what follows it and nothing before it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ORDER = (
    "corpus", "tokenizer", "tokens", "embed", "neighbours", "pairs", "pretrain repetition, seed 0",
    "tune", "synthesize", "quality", "seed use", "pretrain sbp, seed 0", "pretrain oracle, seed 0",
    "evaluate repetition, seed 0", "evaluate sbp, seed 0", "evaluate oracle, seed 0",
)  # fmt: skip
AFTER_PAIRS = {
    "pairs", "tune", "synthesize", "quality", "seed use", "pretrain sbp, seed 0",
    "evaluate sbp, seed 0",
}  # fmt: skip


def missing(synboot, runs: Path, *settings: str) -> set[str]:
    """The labels that a dry run calls missing."""
    arguments = [item for setting in settings for item in ("--set", setting)]
    outcome = synboot(
        "run", str(runs / "small.yaml"), "--runs", str(runs), "--dry-run", "--json", *arguments
    )
    assert outcome.returncode == 0, outcome.stderr
    stages = json.loads(outcome.stdout)["stages"]
    assert [stage["label"] for stage in stages] == list(ORDER)
    assert {stage["status"] for stage in stages} <= {"done", "missing"}
    return {stage["label"] for stage in stages if stage["status"] == "missing"}


@pytest.mark.slow
def test_a_setting_forks_what_follows(finished_run: Path, synboot) -> None:
    assert missing(synboot, finished_run) == set()
    assert missing(synboot, finished_run, "pairs.min_similarity=0.11") == AFTER_PAIRS
    invisible = (
        "runtime.workers=7", "runtime.threads=2", "runtime.slots=8", "runtime.checkpoint_seconds=9",
    )  # fmt: skip
    assert missing(synboot, finished_run, *invisible, "name=other") == set()
    assert missing(synboot, finished_run, "seed=1") == set(ORDER)
    assert missing(synboot, finished_run, "budget.oracle_multiple=2") == {
        "pretrain oracle, seed 0",
        "evaluate oracle, seed 0",
    }
    assert missing(synboot, finished_run, "synthesize.max_draws_per_seed=21") == set()
    assert missing(synboot, finished_run, "evaluate.bootstrap_resamples=300") == set()
    assert missing(synboot, finished_run, "quality.max_repetition=0.3") == {"quality"}
    assert missing(synboot, finished_run, "quality.judge_documents=9") == set()  # nobody judges


def test_an_oracle_too_large_names_the_largest(finished_run: Path, synboot) -> None:
    outcome = synboot(
        "run", str(finished_run / "small.yaml"), "--runs", str(finished_run),
        "--set", "budget.oracle_multiple=500", "--set", "name=greedy",
    )  # fmt: skip
    assert outcome.returncode == 2
    assert "budget.oracle_multiple: 500" in outcome.stderr
    assert "at most" in outcome.stderr
    assert not (finished_run / "greedy" / "result.json").exists()
