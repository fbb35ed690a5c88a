"""The instrument itself: readers whose worth is known get it."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

sys.path.append(str(Path(__file__).parents[2]))

from calibration._concept_learning import pairs_of
from calibration.concept import (
    PAIRS,
    QUICK,
    RANDOM,
    captured,
    log_probabilities,
    measure,
    ratio,
    variation,
)

from synboot.data.tokens import TokenStore, write_token_store
from synboot.model.architecture import new_model
from synboot.model.settings import Shape
from synboot.synth.template import PairRows
from synboot.train.loss import mean_loss
from synboot.train.settings import LoopConfig
from synboot.worlds.concept import END, ConceptConfig, ConceptWorld


class Reader(torch.nn.Module):
    """Logits of the exact p(next token|d1, beginning of d2), or of the same without d1."""

    def __init__(self, world: ConceptWorld, reads_d1: bool) -> None:
        super().__init__()
        self._world, self._reads_d1 = world, reads_d1

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        logits = np.zeros((*input_ids.shape, self._world.vocab_size))
        for row, ids in zip(logits, input_ids.numpy(), strict=True):
            begin = int(np.flatnonzero(ids == END)[1])
            weights = self._world.given([ids[1:begin]]) if self._reads_d1 else self._world.prior
            for place in range(begin, len(ids)):
                beginning = ids[begin + 1 : place + 1]
                if END in beginning or len(beginning) > self._world.max_words:
                    break
                row[place] = self._next(weights[0], beginning)
        return SimpleNamespace(logits=torch.from_numpy(logits))

    def _next(self, weights: np.ndarray, beginning: np.ndarray) -> np.ndarray:
        world = self._world
        seen = weights + np.log(world.words[:, :, beginning - 1]).sum(-1)
        words = logsumexp(seen[..., None] + np.log(world.words), axis=(0, 1)) - logsumexp(seen)
        end = world.ends[len(beginning)]
        with np.errstate(divide="ignore"):
            return np.concatenate([[np.log(end)], np.log1p(-end) + words]).clip(min=-1e4)


def test_exact_readers_capture_all_and_nothing() -> None:
    size = replace(QUICK, num_fresh=150)
    world = ConceptWorld.draw(size.world)
    models = {PAIRS: Reader(world, True), RANDOM: Reader(world, False)}
    found = captured(world, models, size, seed=0)
    assert found["captured"]["value"] == pytest.approx(1, abs=1e-9)
    assert found["captured"]["standard_error"] == pytest.approx(0, abs=1e-9)
    assert found["captured_of_random"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["captured_by_style"]["value"] < 0.9
    by_token = found["by_token"]
    np.testing.assert_allclose(by_token["gained"], by_token["information"], atol=1e-12)
    assert sum(by_token["gained"]) == pytest.approx(found["information"]["value"])
    nats = {name: figure["value"] for name, figure in found["nats_of_d2"].items()}
    assert found["information"]["value"] == pytest.approx(nats["marginal"] - nats["Bayes"])


def test_losses_of_pairs_are_those_of_the_training_rows(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    world = ConceptWorld.draw(ConceptConfig(num_words=20))
    first, second = (world.sample(9, 0, name).documents for name in ("first", "second"))
    write_token_store(tmp_path, [np.append(d, END) for d in first + second], world.vocab_size)
    pairs = [(i, i + 9) for i in range(9)]
    rows = PairRows(TokenStore(tmp_path), pairs, context=64, end_id=END, seed=0, packed=True)
    model = new_model(Shape(1, 16, 2, 1, 8, 16), vocab_size=21, context=64, end_id=END, seed=0)
    found = log_probabilities(model, first, second, 64)
    positions = sum(map(len, second)) + 9
    expected = mean_loss(model.eval(), rows, 4, torch.device("cpu"))
    # Some hundred terms of size 3 in float32.
    assert -found.sum() / positions == pytest.approx(expected, rel=1e-5)
    assert ((found < 0).sum(1) == [len(document) + 1 for document in second]).all()


def test_partners_share_a_concept_and_everyone_is_on_each_side_once() -> None:
    concepts = np.random.default_rng(0).integers(0, 5, 400)
    concepts[7] = 99  # alone: it has no partner
    pairs = pairs_of(concepts, 0, "corpus")
    assert all(concepts[a] == concepts[b] and a != b for a, b in pairs)
    for side in (0, 1):
        assert Counter(pair[side] for pair in pairs) == Counter({*range(400)} - {7})
    assert pairs != pairs_of(concepts, 1, "corpus")


@pytest.mark.slow
def test_processes_change_no_figure() -> None:
    loop = LoopConfig(learning_rate=1e-2, batch_rows=8, num_validations=1)
    size = replace(QUICK, num_documents=400, pretrain=loop, tune=loop, num_fresh=50, num_seeds=50)
    alone, together = (measure(size, 0, workers) for workers in (1, 2))
    assert alone.pop("seconds").keys() == together.pop("seconds").keys()
    assert alone == together
    assert not alone["held"]  # it has hardly learnt


def test_the_standard_error_of_captured_is_what_resamples_show() -> None:
    source = np.random.default_rng(3)
    information = source.normal(2, 1.2, 2_000)
    gains = 0.9 * information + source.normal(0, 0.5, 2_000)
    found = ratio(gains, information)
    assert found["value"] == pytest.approx(gains.mean() / information.mean())
    rows = source.integers(2_000, size=(2_000, 2_000))
    resampled = gains[rows].mean(1) / information[rows].mean(1)
    # The spread of 2,000 resamples has a relative error of 1.6%.
    assert found["standard_error"] == pytest.approx(resampled.std(), rel=0.1)


def test_total_variation() -> None:
    assert variation(np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.25, 0.5])) == 0.5
    assert variation(np.eye(2) / 2, np.ones((2, 2)) / 4) == 0.5
