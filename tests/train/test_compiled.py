from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from synboot.core.config import packaged_recipe
from synboot.core.errors import BadInput, Incomplete, SynbootError
from synboot.experiment.recipe import load_recipe
from synboot.model.architecture import new_model
from synboot.model.settings import Shape
from synboot.train import compiled, loop
from synboot.train.checkpoint import TrainState, weights_of
from synboot.train.compiled import (
    AUTO_FLOPS,
    compiled_blocks,
    compiles,
    no_compiler,
    resolve_compile,
    why_eager,
)
from synboot.train.loop import train
from synboot.train.replicas import Replicas
from synboot.train.settings import LoopConfig

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CONTEXT, ROWS, VOCAB_SIZE = 12, 4, 32
SHAPE = Shape(2, 16, 2, 1, 8, 24)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(compiled, "no_compiler", lambda: "no C++ compiler")
    return "no C++ compiler"


@pytest.fixture
def with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "no_compiler", lambda: None)


def test_what_is_recorded_says_what_is_done(with_one: None) -> None:
    assert resolve_compile("off", CPU) == resolve_compile("auto", CUDA) == "eager"
    assert resolve_compile("on", CPU) == "inductor"
    assert resolve_compile("auto", CPU) == "inductor from 1e+13 FLOPs"
    assert why_eager("auto", "cpu") is None


@pytest.mark.parametrize("name", ["auto", "on", "off"])
def test_what_the_messages_advise_can_be_typed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """YAML takes a bare on or off for a truth value."""
    demo = packaged_recipe("demo")
    assert load_recipe(demo, [f"runtime.compile={name}"]).runtime.compile == name
    monkeypatch.setenv("SYNBOOT_RUNTIME__COMPILE", name)
    assert load_recipe(demo).runtime.compile == name


def test_auto_is_a_function_of_the_flops(with_one: None) -> None:
    auto = resolve_compile("auto", CPU)
    found = [compiles(auto, flops) for flops in (None, 0, AUTO_FLOPS - 1, AUTO_FLOPS, 10**20)]
    assert found == [False, False, False, True, True]
    assert compiles("inductor", None)
    assert not compiles("eager", 10**20)


def test_a_machine_without_a_compiler_says_so_beforehand(without: str) -> None:
    assert resolve_compile("auto", CPU) == resolve_compile("off", CPU) == "eager"
    line = "not compiled: no C++ compiler; training of 1e+13 FLOPs and more runs eagerly"
    assert why_eager("auto", "cpu") == line
    assert why_eager("off", "cpu") is None
    with pytest.raises(BadInput, match=r"runtime\.compile: on was asked for, but .* no C\+\+"):
        resolve_compile("on", CPU)


def test_the_compiler_is_the_one_that_inductor_looks_for(tmp_path: Path) -> None:
    """In a process of its own, whose PATH leads nowhere and whose CXX does not exist."""
    code = "from synboot.train.compiled import no_compiler; print(no_compiler())"
    for changes in ({"PATH": str(tmp_path)}, {"PATH": str(tmp_path), "CXX": "no-such-compiler"}):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | changes,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.startswith("no C++ compiler"), done.stderr


class RandomRows:
    """50 rows of CONTEXT positions, the sixth shorter, as the last row of a source is."""

    num_rows = 50

    def num_targets(self, position: int) -> int:
        return CONTEXT - 5 * (position == 5)

    def row(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.random.default_rng(position).integers(0, VOCAB_SIZE, CONTEXT + 1)
        length = self.num_targets(position)
        return tokens[:-1][:length], tokens[1:][:length]


def model() -> Any:
    return new_model(SHAPE, vocab_size=VOCAB_SIZE, context=CONTEXT, end_id=0, seed=0)


def run(scratch: Path, length: int | None, **options: Any) -> tuple[Any, TrainState]:
    config = LoopConfig(
        learning_rate=0.01, batch_rows=ROWS, num_validations=3, dropout=options.pop("dropout", 0.0)
    )
    trained, rows = model(), options.pop("rows", RandomRows())
    state = train(
        trained, rows, RandomRows(), config, scratch, seed=options.pop("seed", 3),
        device=CPU, compiled_length=length, **options,
    )  # fmt: skip
    return trained, state


def assert_same(a: Any, b: Any) -> None:
    for name, tensor in weights_of(a).items():
        assert torch.equal(tensor, weights_of(b)[name]), name


def test_what_cannot_be_compiled_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            raise torch._dynamo.exc.TorchDynamoException("no luck")

        return call

    monkeypatch.setattr(torch, "compile", fail)
    trained = model()
    with (
        pytest.raises(
            SynbootError, match=r"Qwen3ForCausalLM cannot .*no luck.*runtime\.compile=off"
        ),
        compiled_blocks([trained], (1, 3)),
    ):
        trained(input_ids=torch.zeros(1, 3, dtype=torch.int64), use_cache=False)
    assert all(module._compiled_call_impl is None for module in trained.modules())


def test_other_shapes_are_never_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    def watch(function: Any, **_: Any) -> Any:
        def call(*inputs: Any, **options: Any) -> Any:
            shapes.append(tuple(inputs[0].shape[:2]))
            return function(*inputs, **options)

        return call

    monkeypatch.setattr(torch, "compile", watch)
    trained = model()
    with compiled_blocks([trained], (2, 6)):
        for shape in ((2, 6), (1, 6), (2, 5), (2, 6)):
            trained(input_ids=torch.zeros(*shape, dtype=torch.int64), use_cache=False)
    assert shapes == [(2, 6)] * 4  # two blocks, two calls


@pytest.mark.slow
@pytest.mark.skipif(no_compiler() is not None, reason="no compiler")
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_compiled_training_is_eager_training_and_resumes_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropout: float
) -> None:
    """With an empty cache, a warm one, and code that this process has compiled; with the other
    dropout compiled before."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    run(tmp_path / "other", CONTEXT, dropout=0.2 - dropout)
    _, eager_state = run(tmp_path / "eager", None, dropout=dropout)
    whole, state = run(tmp_path / "cold", CONTEXT, dropout=dropout)
    assert state.tokens == eager_state.tokens
    for a, b in zip(state.history, eager_state.history, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    again, _ = run(tmp_path / "again", CONTEXT, dropout=dropout)
    assert_same(again, whole)
    stops = iter([False] * 4 + [True])
    with pytest.raises(Incomplete):
        run(tmp_path / "parts", CONTEXT, dropout=dropout, should_stop=lambda: next(stops))
    torch._dynamo.reset()  # as another process: only the files of the cache are left
    compiled._compiled_for = None
    resumed, resumed_state = run(tmp_path / "parts", CONTEXT, dropout=dropout)
    assert resumed_state == state
    assert_same(resumed, whole)
    assert all(module._compiled_call_impl is None for module in resumed.modules())


@pytest.mark.slow
@pytest.mark.skipif(no_compiler() is not None, reason="no compiler")
@pytest.mark.parametrize("threads", [1, 2])
def test_an_arm_of_equal_shape_is_not_compiled_again(tmp_path: Path, threads: int) -> None:
    """Another seed, other rows; one thread, and replicas in two."""
    counts = torch._dynamo.utils.counters["stats"]
    torch.set_num_threads(threads)
    try:
        first, _ = run(tmp_path / "first", CONTEXT, dropout=0.1)
        compiled_once = counts["unique_graphs"]
        assert compiled_once
        second, _ = run(tmp_path / "second", CONTEXT, dropout=0.1, seed=9)
    finally:
        torch.set_num_threads(1)
    assert counts["unique_graphs"] == compiled_once
    assert any(not torch.equal(w, weights_of(second)[n]) for n, w in weights_of(first).items())


class Watched(Replicas):
    """Says for each call whether it was in turn, and how many graphs were compiled in it."""

    calls: ClassVar[list[tuple[bool, int]]] = []

    def run(self, work: Any, batches: Any) -> Any:
        counts, known = torch._dynamo.utils.counters["stats"], len(self._compiled)
        before = counts["unique_graphs"]
        found = super().run(work, batches)
        alone = len(batches) == 1 or len(self._compiled) > known
        self.calls.append((alone, counts["unique_graphs"] - before))
        return found


class TextsInRows(RandomRows):
    """Two texts a row, but for the rows of the fourth and later batches, which hold one."""

    def num_targets(self, position: int) -> int:
        return CONTEXT

    def positions(self, position: int) -> np.ndarray:
        return np.arange(CONTEXT) if position >= 3 * ROWS else np.arange(CONTEXT) % 7


@pytest.mark.slow
@pytest.mark.skipif(no_compiler() is not None, reason="no compiler")
def test_graphs_are_compiled_in_turn_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where rows of one text each, which need no mask, come late."""
    monkeypatch.setattr(loop, "Replicas", Watched)
    monkeypatch.setattr(Watched, "calls", [])
    torch._dynamo.reset()
    torch.set_num_threads(2)
    try:
        run(tmp_path, CONTEXT, rows=TextsInRows())
    finally:
        torch.set_num_threads(1)
    compiled_in = [i for i, (_, graphs) in enumerate(Watched.calls) if graphs]
    assert compiled_in[0] == 0
    assert 3 in compiled_in
    assert all(Watched.calls[i][0] for i in compiled_in)
    assert sum(not alone for alone, _ in Watched.calls) > 5


def test_torch_leaves_what_it_compiled_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[bool] = []
    monkeypatch.setattr(torch._C._dynamo.eval_frame, "_set_lru_cache", set_to.append)
    with contextlib.suppress(ZeroDivisionError), compiled_blocks([model(), model()], (1, 3)):
        assert set_to == [False]
        raise ZeroDivisionError
    assert set_to == [False, True]


@pytest.mark.slow
@pytest.mark.skipif(no_compiler() is not None, reason="no compiler")
def test_replicas_compile_in_turn_so_that_time_changes_no_bit(tmp_path: Path) -> None:
    """While one thread compiles, code in another takes itself for compiled: transformers masks
    otherwise. Without turns 20 such runs gave three different weights."""
    counts = torch._dynamo.utils.counters["stats"]
    graphs: list[int] = []
    torch.set_num_threads(2)
    try:
        for i in range(4):
            torch._dynamo.reset()
            before = counts["unique_graphs"]
            trained, _ = run(tmp_path / str(i), CONTEXT, dropout=0.1)
            graphs.append(counts["unique_graphs"] - before)
            if i == 0:
                first = trained
            assert_same(trained, first)
    finally:
        torch.set_num_threads(1)
    assert len(set(graphs)) == 1
