"""The benchmark program: what it writes, what it does where one fails, its parts."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.harness import Result, Setting, compare, paired
from benchmarks.plot import ceiling_ratio, save_plot
from benchmarks.recipe import SIZES, growth, slope, table
from benchmarks.recipe import save_plot as save_recipe_plot
from benchmarks.texts import accented, topics, unspaced

from benchmarks import __main__ as program

ROOT = Path(__file__).parents[2]


def run_program(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize("name", program.BENCHMARKS)
def test_every_benchmark_can_be_imported(name: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.{name}").run)


def test_a_quick_run_writes_results_and_their_plot(tmp_path: Path) -> None:
    outcome = run_program("embedding", "--quick", "--threads", "1", "--out", str(tmp_path))
    assert outcome.returncode == 0, outcome.stderr
    assert "embedding: 1000 documents" in outcome.stderr
    assert outcome.stdout.startswith("| embedding (1 threads) |")
    rows = json.loads((tmp_path / "results.json").read_text())
    fields = {*Result.__dataclass_fields__, "threads", "quick"}
    assert rows
    for row in rows:
        assert row.keys() == fields
        assert (row["name"], row["threads"], row["unit"]) == ("embedding", 1, "documents/s")
        assert row["ratio"] == pytest.approx(row["ours"] / row["peer"])
    assert ElementTree.parse(tmp_path / "results.svg").getroot().tag.endswith("svg")


def test_bad_arguments_are_refused() -> None:
    for arguments in (["nothing"], ["embedding", "--threads", "0"]):
        with pytest.raises(SystemExit) as caught:
            program.main(arguments)
        assert caught.value.code == 2


def test_a_benchmark_that_fails_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first is unknown to its own process; the second is run all the same."""
    started: list[str] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        started.append(command[3])
        return subprocess.CompletedProcess(command, int(command[3] == "recipe"))

    monkeypatch.setattr(program.subprocess, "run", run)
    assert program.main(["recipe", "embedding", "--out", str(tmp_path)]) == 1
    assert started == ["recipe", "embedding"]
    assert "failed: recipe" in capfd.readouterr().err


def row(name: str, case: str, threads: int, ratio: float) -> dict[str, Any]:
    peer = 10.0
    ours = peer * ratio
    return {
        "name": name,
        "case": case,
        "threads": threads,
        "quick": False,
        "ours": ours,
        "peer": peer,
        "peer_name": "peer",
        "limit": 2 * ours,
        "ratio": ratio,
        "unit": "MB/s",
    }


def test_results_of_others_stay(tmp_path: Path) -> None:
    """Of other benchmarks, of other numbers of threads, and full ones beside quick ones."""
    path = tmp_path / "results.json"
    quick = row("a", "old", 1, 2.0) | {"quick": True}
    path.write_text(json.dumps([row("a", "x", 1, 2.0), row("a", "x", 2, 3.0), quick]))
    results = [Result("a", "new", 5.0, 1.0, "peer", None, 5.0, "MB/s")]

    def kept(setting: Setting) -> set[tuple[Any, ...]]:
        program._keep(results, setting)
        rows = json.loads(path.read_text())
        return {(r["case"], r["threads"], r["quick"]) for r in rows}

    assert kept(Setting(True, 1, tmp_path)) == {("x", 1, False), ("x", 2, False), ("new", 1, True)}
    assert kept(Setting(False, 1, tmp_path)) == {
        ("new", 1, False),
        ("x", 2, False),
        ("new", 1, True),
    }


def test_a_ratio_above_one_is_ours_in_speeds_and_in_seconds() -> None:
    medians = {"ours": 2.0, "peer": 6.0, "limit": 1.0}
    [seconds] = compare("n", "c", medians, unit="s", limit="limit")
    assert (seconds.ratio, seconds.limit) == (3.0, 1.0)
    [speed] = compare("n", "c", medians, unit="MB/s", limit="limit")
    assert speed.ratio == pytest.approx(1 / 3)
    assert ceiling_ratio(vars(seconds)) == 6.0
    assert ceiling_ratio(vars(speed)) == pytest.approx(1 / 6)
    assert ceiling_ratio(vars(seconds) | {"limit": None}) is None
    [share] = compare("n", "c", {"ours": 0.9, "peer": 0.6, "all": 1.0}, unit="of all", limit="all")
    assert share.ratio == pytest.approx(1.5)
    assert ceiling_ratio(vars(share)) == pytest.approx(1 / 0.6)


def test_all_are_run_once_a_round_in_turns() -> None:
    order: list[str] = []
    medians = paired({name: lambda n=name: order.append(n) for name in "abc"}, 3)
    assert order == [*"abc", *"abc", *"bca", *"cab"]
    assert medians.keys() == {*"abc"}


def test_the_plot_says_everything(tmp_path: Path) -> None:
    rows = [row("tokenising", "pydocs", 1, 8.5), row("tokenising", "pydocs", 2, 0.25)]
    rows += [row("training", "demo", 1, 1.0) | {"limit": None, "quick": True}]
    save_plot(rows, tmp_path / "a.svg")
    save_plot(rows, tmp_path / "b.svg")
    text = (tmp_path / "a.svg").read_text()
    for words in ("TOKENISING", "TRAINING", "pydocs, 2 threads: peer", "demo, quick: peer", "8.5x"):
        assert words in text
    assert (tmp_path / "b.svg").read_text() == text


def test_the_growth_of_a_recipe(tmp_path: Path) -> None:
    seconds = {"corpus": [1.0, 2.0, 4.0, 8.0], "neighbours": [0.5, 2.0, 8.0, 32.0]}
    assert slope(SIZES, seconds["corpus"]) == pytest.approx(1)
    assert slope(SIZES, seconds["neighbours"]) == pytest.approx(2)
    assert "| neighbours | 0.50 | 2.00 | 8.00 | 32.00 | 2.00 |" in table(SIZES, seconds)
    assert "| in all | 1.50 | 4.00 | 12.00 | 40.00 |" in table(SIZES, seconds)
    rates = {(r.case, r.ratio) for r in growth(SIZES, seconds)}
    assert rates == {
        ("corpus, 1x to 8x", 1.0),
        ("corpus, 4x to 8x", 1.0),
        ("neighbours (quadratic), 1x to 8x", 0.125),
        ("neighbours (quadratic), 4x to 8x", 0.5),
    }
    save_recipe_plot(SIZES, seconds, tmp_path / "recipe.svg")
    assert "neighbours: 2.00" in (tmp_path / "recipe.svg").read_text()


@pytest.mark.slow
def test_a_recipe_runs_from_corpus_to_report() -> None:
    recipe = importlib.import_module("benchmarks.recipe")
    found = recipe.stage_seconds(0.3, 1)
    stages = ["corpus", "tokenizer", "tokens", "embed", "neighbours", "pairs", "pretrain", "tune"]
    assert found.keys() >= {*stages, "synthesize", "evaluate"}
    assert all(value > 0 for value in found.values())


def test_texts_are_keyed_and_of_the_size_asked_for() -> None:
    assert topics(50) == topics(50)
    assert topics(50) != topics(50, seed=1)
    lengths = [len(text.split()) for text in topics(400, mean_words=40)]
    assert np.mean(lengths) == pytest.approx(40, rel=0.1)
    for make in (accented, unspaced):
        texts = make(50_000)
        size = sum(len(text.encode()) for text in texts)
        assert 50_000 <= size < 60_000
        assert texts == make(50_000)
    assert not any(text.isascii() for text in accented(50_000))
    assert max(len(text.split()) for text in unspaced(50_000)) == 1


def test_documents_of_a_topic_share_words() -> None:
    """Otherwise no encoder could find pairs among them."""
    words = [set(text.lower().replace(".", "").split()) for text in topics(60, per_topic=6)]
    shares = [
        len(a & b) / math.sqrt(len(a) * len(b)) for i, a in enumerate(words) for b in words[i + 1 :]
    ]
    assert np.quantile(shares, 0.98) > 1.5 * np.median(shares)
