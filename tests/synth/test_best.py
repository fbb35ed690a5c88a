"""Best of several draws: the score by hand, and which draw of a group stays."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from synboot.core.rng import rng
from synboot.data.tokenizer import TextTokenizer, train_tokenizer
from synboot.model.flops import Cost, forward_flops
from synboot.synth.best import BestOf, scoring_flops
from synboot.synth.engine import Completion
from synboot.synth.filters import CorpusWindows, TextFilterConfig
from synboot.synth.generate import Row, SeedDocument, draw
from synboot.synth.order import DrawOrder
from synboot.synth.settings import SamplingConfig

sys.path.append(str(Path(__file__).parents[1] / "model"))

from tiny import tiny_model

torch.set_num_threads(1)
START, VOCABULARY = 0, 60
PROMPT = np.array([START, 7, 8, 9, START])
DRAWS = [rng("draw", i).integers(1, VOCABULARY, size) for i, size in enumerate((6, 1, 11))]


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    return tiny_model("qwen3"), tiny_model("gpt2")


@torch.no_grad()
def log_likelihood(model: Any, before: np.ndarray, draw: np.ndarray) -> float:
    """Of the draw after what stands before it, token by token."""
    total, ids = 0.0, before.tolist()
    for token in draw.tolist():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        total += float(logits.float().log_softmax(-1)[token])
        ids.append(token)
    return total


def test_a_score_is_what_d1_adds_a_token(models: tuple[Any, Any]) -> None:
    best = BestOf(3, *models, START, VOCABULARY)
    expected = [
        (log_likelihood(models[0], PROMPT, drawn) - log_likelihood(models[1], PROMPT[:1], drawn))
        / len(drawn)
        for drawn in DRAWS
    ]
    assert best.scores(PROMPT, DRAWS) == pytest.approx(expected, abs=1e-4)
    scores, drops = zip(*best.verdicts(PROMPT, DRAWS), strict=True)
    chosen = int(np.argmax(expected))
    assert [drop is None for drop in drops] == [i == chosen for i in range(3)]
    assert all(drop is None or (drop.reason, drop.score) == ("not_best", s)
               for s, drop in zip(scores, drops, strict=True))  # fmt: skip


def test_ids_that_cannot_be_drawn_have_no_part(models: tuple[Any, Any]) -> None:
    """A model's embedding may have more rows than its tokenizer has tokens."""
    few = [drawn % 20 for drawn in DRAWS]
    whole, part = (BestOf(3, *models, START, n).scores(PROMPT % 20, few) for n in (60, 20))
    assert whole != pytest.approx(part, abs=1e-3)


def test_the_first_of_equal_draws_stays(models: tuple[Any, Any]) -> None:
    verdicts = BestOf(2, *models, START, VOCABULARY).verdicts(PROMPT, [DRAWS[0], DRAWS[0]])
    assert [drop is None for _, drop in verdicts] == [True, False]


class Favours:
    """Scores a draw by its last token, in place of two models."""

    size = 2

    def verdicts(self, prompt: np.ndarray, draws: list[np.ndarray]) -> Any:
        return BestOf.verdicts(self, prompt, draws)  # type: ignore[arg-type]

    def scores(self, prompt: np.ndarray, draws: list[np.ndarray]) -> list[float]:
        return [float(drawn[-1]) for drawn in draws]


class Sampler:
    """Draw n of a document is n words; of document b none is long enough."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer

    def sample(self, requests: Any, sampling: SamplingConfig) -> list[Completion]:
        texts = [
            " ".join(f"{r.key[2]}word{i}" for i in range(int(r.key[3]) + 3))
            if r.key[2] == "a"
            else "x"
            for r in requests
        ]
        return [Completion(ids, "length") for ids in self._tokenizer.encode(texts)]


def test_of_each_group_the_filters_leave_at_most_one() -> None:
    texts = ["about one thing and another", "a second document"]
    tokenizer = train_tokenizer(texts, 300)
    seeds = [
        SeedDocument(name, text, tokenizer.encode([text])[0], None, None)
        for name, text in zip("ab", texts, strict=True)
    ]
    filters = {"keep_unfinished": True, "min_tokens": 3, "max_repetition": 1.0}

    def rows(first: int, stop: int) -> list[Row]:
        return draw(
            first,
            stop,
            seeds.__getitem__,
            DrawOrder(2, 4, 0),
            engine=Sampler(tokenizer),  # type: ignore[arg-type]
            tokenizer=tokenizer,
            corpus=CorpusWindows(texts),
            sampling=SamplingConfig(),
            filters=TextFilterConfig.model_validate(filters),
            context=64,
            seed=1,
            best_of=Favours(),  # type: ignore[arg-type]
        )

    whole = rows(0, 8)
    assert whole == [row for first in range(0, 8, 2) for row in rows(first, first + 2)]
    for first in range(0, 8, 2):
        group = whole[first : first + 2]
        kept = [row for row in group if row["verdict"] == "keep"]
        if group[0]["seed_id"] == "b":
            assert [row["reason"] for row in group] == ["too_short"] * 2
            assert not any("log_ratio" in row for row in group)
        else:
            assert len(kept) == 1
            assert kept[0]["log_ratio"] == max(row["log_ratio"] for row in group)
            dropped = next(row for row in group if row not in kept)
            assert (dropped["reason"], dropped["score"]) == ("not_best", dropped["log_ratio"])


def test_flops_of_a_score() -> None:
    one, other = Cost(1000, 300, 7), Cost(10, 30, 1)
    # Six positions of prompt and four of five tokens; the base model reads start and those four.
    assert scoring_flops(one, other, 6, 5) == forward_flops(one, 0, 10) + forward_flops(other, 0, 5)
