"""Law 3, end to end: `kill -9` in every stage, and the result is that of an unbroken run."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from synboot.core.events import read_events

# (event, stage, which stage of that name in the order of the run, which such event)
KILLS = [
    ("stage_start", "corpus", 1, 1),
    ("stage_start", "tokenizer", 1, 1),
    ("part_done", "tokens", 1, 3),
    ("part_done", "embed", 1, 1),
    ("part_done", "neighbours", 1, 1),
    ("stage_start", "pairs", 1, 1),
    ("checkpoint", "pretrain", 1, 5),
    ("validation", "pretrain", 1, 1),
    ("checkpoint", "tune", 1, 2),
    ("part_done", "synthesize", 1, 1),
    ("part_done", "quality", 1, 3),
    ("checkpoint", "pretrain", 2, 5),
    ("checkpoint", "pretrain", 3, 5),
    ("stage_start", "evaluate", 2, 1),
]


@pytest.mark.slow
def test_killed_in_every_stage_and_equal(
    small_recipe: Path, finished_run: Path, tmp_path: Path, synboot
) -> None:
    runs = tmp_path / "runs"
    command = ["run", str(small_recipe), "--runs", str(runs)]
    for kill in KILLS:
        killed = synboot(*command, kill=kill)
        assert killed.returncode == -signal.SIGKILL, (kill, killed.stderr)
    last = subprocess.run(
        [sys.executable, "-m", "synboot.cli", *command], capture_output=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert last.returncode == 0, last.stderr.decode()

    whole = finished_run / "small"
    assert (runs / "small" / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    assert (runs / "small" / "report.html").read_bytes() == (whole / "report.html").read_bytes()

    events = list(read_events(runs / "small" / "events.jsonl"))
    done = [(e["stage"], e["id"], e["part"]) for e in events if e["event"] == "part_done"]
    assert len(done) == len(set(done)), "a committed part was made again"
    for stage in ("tokens", "embed", "neighbours", "synthesize", "quality"):
        reused = [e for e in events if e["event"] == "part_reused" and e["stage"] == stage]
        assert reused, f"the committed parts of {stage} were not taken up"
    resumed = [e for e in events if e["event"] == "training_from" and e["step"] > 0]
    assert {e["stage"] for e in resumed} == {"pretrain", "tune"}
    assert len({e["id"] for e in resumed}) == 4  # repetition, tune, sbp, oracle
    ended = [e["id"] for e in events if e["event"] == "stage_done"]
    assert len(ended) == len(set(ended)), "a finished stage was run again"


@pytest.mark.slow
def test_workers_and_processes_change_nothing(
    small_recipe: Path, finished_run: Path, tmp_path: Path, synboot
) -> None:
    runs = tmp_path / "runs"
    outcome = synboot("run", str(small_recipe), "--runs", str(runs), "--set", "runtime.workers=3")
    assert outcome.returncode == 0, outcome.stderr
    result = finished_run / "small" / "result.json"
    assert (runs / "small" / "result.json").read_bytes() == result.read_bytes()
