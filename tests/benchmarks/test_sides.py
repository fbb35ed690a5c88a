"""What the benchmarks do on each side, on tiny cases: the same work, and all of it counted."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.harness import Workers
from benchmarks.models import SIZES, Size

from benchmarks import generation
from synboot.model.architecture import Shape, num_parameters

TINY = Size(Shape(2, 32, 2, 2, 16, 64), vocab_size=300, context=64, rows=2)


def test_models_are_those_of_the_issue() -> None:
    """Every head has its own keys and values."""
    for name, millions in (("S", 2.65), ("M", 14.2)):
        shape = SIZES[name].shape
        assert shape.query_heads == shape.key_value_heads
        assert num_parameters(shape, 0)[1] / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> generation.Case:
    """16 requests, 4 draws of each prompt."""
    sizes = {"PROMPT": 12, "LONGEST": 10, "SHORTEST": 2, "CONTEXT": 32, "SLOTS": 4}
    for name, value in sizes.items():
        monkeypatch.setattr(generation, name, value)
    return generation.make_case("tiny", TINY, "random", 4, 16)


def test_draws_of_a_prompt_stay_together(small: generation.Case) -> None:
    parts = small.requests(2)
    assert sorted(r.key[1] for part in parts for r in part) == list(range(16))
    for part in parts:
        prompts = {r.prompt.tobytes() for r in part}
        assert len(part) == 8
        assert len(prompts) == 2


def test_tokens_are_those_that_were_drawn(small: generation.Case) -> None:
    """END ends a text early, and counts as a draw."""
    model = TINY.model(32).eval()
    engine = generation.open_engine(model)
    [requests] = small.requests(1)
    done = engine.sample(requests, generation.SAMPLING)
    drawn = sum(len(each.tokens) + (each.finish_reason == "end") for each in done)
    assert generation.sampled_tokens(engine, requests) == drawn <= small.lengths.sum()
    with Workers(1, generation.open_engine, model) as workers:
        assert generation.ours(workers, small, 1) > 0


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_transformers_samples_all_that_is_asked_for(small: generation.Case, cache: str) -> None:
    model = TINY.model(32).eval()
    how = generation.Generate(cache, False, 8)
    assert generation.generate(model, small.part(0, 8), how) > 0
    assert generation.transformers_side(model, small, how)() > 0
    assert str(how) == f"{cache} cache, batches of 8"


def test_the_limit_goes_through_every_layer() -> None:
    model = TINY.model(32).eval()
    called: list[Any] = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda m, *_: called.append(m))
    assert generation.products_seconds(model, 4) > 0
    assert len(set(called)) == 2 * 7 + 1


def test_short_cases_ask_the_same(small: generation.Case) -> None:
    short = generation.shortened(replace(small, lengths=small.lengths + 100))
    assert (short.lengths == generation.TRIED).all()
    assert np.array_equal(short.prompts, small.prompts)


def held(made: list[int], part: int) -> list[int]:
    made.append(part)
    return made


def test_workers_make_their_own_and_keep_it() -> None:
    with Workers(1, list, (7,)) as one:
        assert one.map(held, [1, 2])[-1] == [7, 1, 2]


@pytest.mark.slow
def test_workers_are_processes() -> None:
    with Workers(2, np.zeros, 3) as two:
        assert [found.tolist() for found in two.map(np.add, [1, 2, 3])] == [
            [i] * 3 for i in (1, 2, 3)
        ]
        assert two.seconds >= 0
