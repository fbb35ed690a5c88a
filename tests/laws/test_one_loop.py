"""Law 5: pretraining and synthesizer-tuning are one visible loop with other rows and masks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import synboot
from synboot.data.batches import IGNORED, Rows
from synboot.data.mixture import Mixture, Source
from synboot.data.tokens import TokenStore, write_token_store
from synboot.model.architecture import new_model
from synboot.model.settings import Shape
from synboot.synth.template import PairRows
from synboot.train.loop import train
from synboot.train.settings import LoopConfig

ROOT = Path(synboot.__file__).parent
SOURCES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.rglob("*.py")}
TREES = {name: ast.parse(text) for name, text in SOURCES.items()}
SCREENS_OF_LINES = 2 * 50


def calls(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(name as written, line) of every call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


def function(name: str, tree: ast.AST) -> ast.FunctionDef:
    [found] = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name]
    return found


def test_there_is_one_backward_pass_and_one_optimizer_step() -> None:
    found = {"backward": [], "step": []}  # type: dict[str, list[str]]
    for file, tree in TREES.items():
        for name, _ in calls(tree):
            if name.endswith(".backward"):
                found["backward"].append(file)
            if name.endswith("optimizer.step"):
                found["step"].append(file)
    assert found == {"backward": ["train/loop.py"], "step": ["train/loop.py"]}


def test_the_loop_fits_two_screens_and_goes_in_the_order_of_the_law() -> None:
    loop = function("train", TREES["train/loop.py"])
    assert loop.end_lineno is not None
    assert loop.end_lineno - loop.lineno < SCREENS_OF_LINES
    [body] = [node for node in ast.walk(loop) if isinstance(node, ast.While)]
    first_line: dict[str, int] = {}
    for name, line in calls(body):
        first_line[name] = min(line, first_line.get(name, line))
    order = [
        "batches.batch",
        "summed_loss",
        "torch.autograd.backward",
        "torch.nn.utils.clip_grad_norm_",
        "torch.isfinite",
        "optimizer.step",
        "mean_loss",
        "_log",
        "save_checkpoint",
    ]
    lines = [first_line[name] for name in order]
    assert lines == sorted(lines)


def test_there_are_no_trainers_and_no_registry_of_hooks() -> None:
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                assert "trainer" not in node.name.lower(), file
                assert "callback" not in node.name.lower(), file
    bases = {
        ast.unparse(base)
        for file, tree in TREES.items()
        if file.startswith("train/")
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
    }
    assert bases <= {"Config", "OptimConfig", "torch.autograd.Function"}


def test_both_stages_reach_the_loop_at_the_same_line() -> None:
    sites = [file for file, tree in TREES.items() for name, _ in calls(tree) if name == "train"]
    measuring = "experiment/costs/machine.py"  # how fast the same loop is here
    assert sorted(sites) == [measuring, "experiment/stages/training.py"]
    tree = TREES["experiment/stages/training.py"]
    for stage in ("PretrainStage", "TuneStage"):
        [node] = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == stage]
        assert [name for name, _ in calls(node)].count("self._train") == 1


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    random = np.random.default_rng(0)
    documents = [np.append(random.integers(1, 30, 4 + i % 9), 0) for i in range(16)]
    write_token_store(tmp_path / "store", documents, 30)
    return TokenStore(tmp_path / "store")


def loss_by_hand(model: Any, rows: Rows) -> float:
    """Mean nats over the positions of `rows` that carry loss."""
    nats, count = 0.0, 0
    for position in range(rows.num_rows):
        inputs, targets = (torch.from_numpy(half) for half in rows.row(position))
        with torch.inference_mode():
            logits = model.eval()(input_ids=inputs[None]).logits[0].log_softmax(-1)
        places = torch.nonzero(targets != IGNORED).flatten()
        nats -= float(logits[places, targets[places]].sum())
        count += len(places)
    return nats / count


@pytest.mark.parametrize("kind", ["pretrain", "tune"])
def test_the_loop_trains_on_what_the_rows_say(tmp_path: Path, store: TokenStore, kind: str) -> None:
    """One batch of everything: the loss it starts from is that of the rows' own targets."""
    torch.set_num_threads(1)
    rows: Rows
    if kind == "pretrain":
        rows = Mixture([Source("real", store, 16, 200)], 16, 0, seed=0)
        masked = 0
    else:
        pairs = [(i, (i + 3) % 16) for i in range(16)]
        rows = PairRows(store, pairs, context=16, end_id=0, seed=0)
        masked = sum(int((rows.row(p)[1] == IGNORED).sum()) for p in range(16))
        # END d1 END before each d2, d1 cut to 6: the loss begins at d2's first token.
        assert masked == sum(min(len(store[i]) - 1, 6) + 1 for i in range(16))
    model = new_model(Shape(1, 16, 2, 1, 8, 16), vocab_size=30, context=16, end_id=0, seed=0)
    expected = loss_by_hand(model, rows)
    config = LoopConfig(learning_rate=0.01, batch_rows=rows.num_rows, num_validations=1)
    state = train(model, rows, rows, config, tmp_path, seed=0, device=torch.device("cpu"))
    # Some hundred terms of size 3 summed in float32.
    assert state.history[0]["train_loss"] == pytest.approx(expected, rel=1e-5)
    assert state.best_loss is not None
    assert state.best_loss < expected
    assert state.tokens == sum(len(rows.row(p)[0]) for p in range(rows.num_rows)) - masked
