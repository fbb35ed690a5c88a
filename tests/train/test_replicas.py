"""Replicas: the same sums as one model alone, in an order that time cannot change."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from synboot.core.errors import Incomplete
from synboot.data.batches import Batch
from synboot.model.architecture import new_model
from synboot.model.settings import Shape
from synboot.train.checkpoint import weights_of
from synboot.train.loop import train
from synboot.train.replicas import Replicas, share_rows
from synboot.train.settings import LoopConfig

CPU = torch.device("cpu")
CONTEXT, VOCAB_SIZE = 12, 32


def model() -> Any:
    shape = Shape(2, 16, 2, 1, 8, 24)
    return new_model(shape, vocab_size=VOCAB_SIZE, context=CONTEXT, end_id=0, seed=0)


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def three() -> Iterator[Replicas]:
    with threads(6):
        replicas = Replicas(model(), 3)
        yield replicas
        replicas.close()
        assert torch.get_num_threads() == 6


def batches(number: int) -> list[Batch]:
    one = np.zeros((1, 1), np.int64)
    return [Batch(one, one, i, np.arange(1)) for i in range(number)]


@pytest.mark.parametrize("number", [0, 1, 2, 3, 7])
def test_results_come_in_the_order_of_batches_and_each_replica_has_its_own(
    three: Replicas, number: int
) -> None:
    def work(replica: Any, batch: Batch) -> tuple[int, int]:
        time.sleep(0.01 * (3 - batch.global_targets % 3))  # the first ones come last
        return batch.global_targets, three.models.index(replica)

    assert three.run(work, batches(number)) == [(i, i % 3) for i in range(number)]


def test_replicas_work_at_once_with_their_share_of_the_threads(three: Replicas) -> None:
    meeting = threading.Barrier(3, timeout=20)

    def work(replica: Any, batch: Batch) -> int:
        meeting.wait()  # passes only if all three are here
        return torch.get_num_threads()

    assert three.run(work, batches(3)) == [2, 2, 2]


def test_new_work_is_done_in_turn_where_it_may_compile() -> None:
    together = threading.Barrier(2, timeout=20)
    running, alone = [], False

    def work(replica: Any, batch: Batch) -> None:
        running.append(1)
        if alone:
            time.sleep(0.05)
            assert len(running) == 1
        else:
            together.wait()  # passes only if both are here
        running.pop()

    def other_work(replica: Any, batch: Batch) -> None:
        work(replica, batch)

    with threads(2):
        replicas = Replicas(model(), 2, compiled_shape=(1, 1))
        packed = [dataclasses.replace(one, positions=one.inputs) for one in batches(2)]
        longer = [dataclasses.replace(one, inputs=np.zeros((1, 2), np.int64)) for one in packed]
        for new, kind, given in (
            (False, other_work, longer),  # which is not compiled
            (True, work, batches(2)),
            (False, work, batches(2)),
            (True, other_work, batches(2)),
            (False, work, batches(2)),
            (True, work, packed),
            (False, work, packed),
        ):
            alone = new
            replicas.run(kind, given)
        replicas.close()


def test_the_first_error_of_new_work_ends_it() -> None:
    began: list[int] = []

    def work(replica: Any, batch: Batch) -> None:
        began.append(batch.global_targets)
        if len(began) == 1:
            raise ValueError("no luck")

    with threads(2):
        replicas = Replicas(model(), 2, compiled_shape=(1, 1))
        with pytest.raises(ValueError, match="no luck"):
            replicas.run(work, batches(2))
        assert began == [0]
        replicas.run(work, batches(2))
        replicas.close()


def test_an_error_comes_after_all_have_ended(three: Replicas) -> None:
    ended: list[int] = []

    def work(replica: Any, batch: Batch) -> None:
        if batch.global_targets == 0:
            raise ValueError("the first")
        time.sleep(0.1)
        ended.append(batch.global_targets)

    with pytest.raises(ValueError, match="the first"):
        three.run(work, batches(3))
    assert sorted(ended) == [1, 2]


def test_weights_are_the_same_memory_and_gradients_are_summed(three: Replicas) -> None:
    first, *others = three.models
    for i, replica in enumerate(three.models):
        for parameter, own in zip(replica.parameters(), first.parameters(), strict=True):
            assert parameter.data_ptr() == own.data_ptr()
            parameter.grad = torch.full_like(parameter, 10.0**i)
        assert (replica.lm_head.weight is replica.model.embed_tokens.weight) == (
            first.lm_head.weight is first.model.embed_tokens.weight
        )
    # An expert that no token went to has no gradient.
    first.model.norm.weight.grad = others[1].model.norm.weight.grad = None
    three.sum_gradients()
    assert all(p.grad is None for replica in others for p in replica.parameters())
    for name, parameter in first.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.unique().tolist() == [10.0 if name == "model.norm.weight" else 111.0]


def test_how_many_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    def shared(count: int, batch_rows: int = 8, micro_rows: int | None = None) -> tuple[int, int]:
        with threads(count):
            return share_rows(model(), CPU, batch_rows, micro_rows)

    assert shared(1) == (1, 8)
    assert shared(2) == (2, 4)
    assert shared(3) == (3, 3)
    assert shared(64) == (8, 1)
    assert shared(2, micro_rows=8) == (1, 8)
    assert shared(2, micro_rows=3) == (2, 3)
    assert shared(4, batch_rows=1) == (1, 1)
    assert shared(6) == (4, 2)  # four passes of two rows
    assert share_rows(model(), torch.device("cuda"), 8) == (1, 8)
    size = sum(p.numel() * p.element_size() for p in model().parameters())
    monkeypatch.setattr("synboot.train.replicas._GRADIENT_BYTES", 2 * size + 1)
    assert shared(64) == (3, 3)


def noisy_model() -> Any:
    """It draws in training, as the router of some mixtures of experts does."""
    fresh = model()

    def add_noise(module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output + 0.1 * torch.randn_like(output) if module.training else output

    fresh.model.layers[0].mlp.register_forward_hook(add_noise)
    return fresh


def test_a_model_that_draws_itself_is_one_and_resumes_to_the_bit(tmp_path: Path) -> None:
    """Laws 4 and 6; the caller's generator is left alone."""
    config = LoopConfig(learning_rate=0.01, batch_rows=8, num_validations=2)
    stops = iter([False, False, True])
    with threads(2):
        torch.manual_seed(5)
        expected = torch.rand(2)
        torch.manual_seed(5)
        assert share_rows(noisy_model(), CPU, 8) == (1, 8)

        def run(scratch: Path, **options: Any) -> Any:
            trained, rows = noisy_model(), RandomRows()
            train(trained, rows, rows, config, scratch, seed=3, device=CPU, **options)
            return weights_of(trained)

        whole = run(tmp_path / "whole")
        with pytest.raises(Incomplete):
            run(tmp_path / "parts", should_stop=lambda: next(stops))
        resumed = run(tmp_path / "parts")
        assert torch.equal(torch.rand(2), expected)
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


class RandomRows:
    """45 rows, some shorter: batches of 8, the last of 5."""

    num_rows = 45

    def num_targets(self, position: int) -> int:
        return CONTEXT - 5 * (position % 7 == 5)

    def row(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.random.default_rng(position).integers(0, VOCAB_SIZE, CONTEXT + 1)
        length = self.num_targets(position)
        return tokens[:-1][:length], tokens[1:][:length]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("number", [2, 3, 5])
def test_training_with_threads_is_training_without_and_the_same_each_time(
    tmp_path: Path, number: int, dropout: float
) -> None:
    """Masks of dropout included. Against one thread up to the order of sums in float32, which
    Adam's division can make grow: hence 1e-4."""
    config = LoopConfig(learning_rate=0.01, batch_rows=8, num_validations=3, dropout=dropout)
    found = []
    for turn, count in enumerate((1, number, number)):
        trained = model()
        with threads(count):
            state = train(
                trained,
                RandomRows(),
                RandomRows(),
                config,
                tmp_path / str(turn),
                seed=3,
                device=CPU,
            )
        found.append((state, weights_of(trained)))
    (alone, _), (state, weights), (again, same) = found
    assert state.tokens == alone.tokens
    for a, b in zip(state.history, alone.history, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    assert state == again
    for name, tensor in weights.items():
        assert torch.equal(tensor, same[name]), name
