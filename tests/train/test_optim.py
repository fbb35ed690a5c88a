from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from synboot.model.architecture import new_model
from synboot.model.settings import Shape
from synboot.train.optim import learning_rate, new_optimizer
from synboot.train.settings import OptimConfig

PEAK = 4e-3


def config(**fields: object) -> OptimConfig:
    return OptimConfig.model_validate({"learning_rate": PEAK} | fields)


def model() -> torch.nn.Module:
    shape = Shape(2, 16, 2, 1, 8, 24)
    return new_model(shape, vocab_size=30, context=16, end_id=0, seed=0)


def test_warmup_is_a_twentieth_of_the_steps() -> None:
    rates = [learning_rate(config(), step, 100) for step in range(100)]
    assert rates[:5] == pytest.approx([PEAK * part / 5 for part in (1, 2, 3, 4, 5)])
    assert max(rates) == rates[4] == PEAK


def test_cosine_at_points_computed_by_hand() -> None:
    """100 steps, 4 of warmup: 96 of cosine, of which step 4 + 32 - 1 is a third."""
    by_hand = {
        4: 0.5 * (1 + math.cos(math.pi / 96)),
        35: 0.75,  # cos(pi / 3) = 1/2
        51: 0.5,  # cos(pi / 2) = 0
        67: 0.25,  # cos(2 pi / 3) = -1/2
        99: 0.0,
    }
    warm = config(warmup_fraction=0.04, final_learning_rate_fraction=0.0)
    for step, share in by_hand.items():
        assert learning_rate(warm, step, 100) == pytest.approx(PEAK * share, abs=1e-12)
    floored = config(warmup_fraction=0.04, final_learning_rate_fraction=0.1)
    for step, share in by_hand.items():
        assert learning_rate(floored, step, 100) == pytest.approx(PEAK * (0.1 + 0.9 * share))


def test_the_default_ends_where_the_paper_ends() -> None:
    """Peak 1e-2, end 5e-5."""
    paper = OptimConfig(learning_rate=1e-2)
    assert learning_rate(paper, 99_999, 100_000) == pytest.approx(5e-5)
    assert learning_rate(paper, 4_999, 100_000) == pytest.approx(1e-2)


def test_after_its_peak_the_cosine_only_falls() -> None:
    rates = [learning_rate(config(), step, 200) for step in range(200)]
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[:10] == sorted(rates[:10])


def test_constant_is_constant_after_warmup() -> None:
    rates = [learning_rate(config(schedule="constant"), step, 40) for step in range(40)]
    assert rates[0] == pytest.approx(PEAK / 2)
    assert rates[1:] == [PEAK] * 39


@pytest.mark.parametrize("num_steps", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 1.0])
def test_short_runs_have_a_rate(num_steps: int, warmup: float) -> None:
    for step in range(num_steps):
        assert 0 < learning_rate(config(warmup_fraction=warmup), step, num_steps) <= PEAK


def test_decay_shrinks_matrices_by_rate_times_decay_and_nothing_else() -> None:
    """With a gradient of zero, AdamW's own movement is zero: what is left is the decay."""
    moved = model()
    before = {name: p.detach().clone() for name, p in moved.named_parameters()}
    optimizer = new_optimizer(moved, config(weight_decay=0.5))
    for parameter in moved.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    names = {"matrix": 0, "vector": 0}
    for name, parameter in moved.named_parameters():
        if parameter.ndim == 2:
            expected = before[name] * (1 - PEAK * 0.5)
            torch.testing.assert_close(parameter.detach(), expected, atol=0, rtol=1e-6)
            names["matrix"] += 1
        else:
            assert torch.equal(parameter, before[name]), name
            names["vector"] += 1
    # 2 layers of 7 matrices and 4 norms, the embedding, the final norm.
    assert names == {"matrix": 15, "vector": 9}


def test_decay_is_decoupled_from_the_gradient() -> None:
    """The step with decay is the step without, less rate x decay x weights (not in the moments,
    where the gradient's size would divide it away)."""
    found = {}
    for decay in (0.0, 0.5):
        moved = model()
        before = moved.lm_head.weight.detach().clone()
        optimizer = new_optimizer(moved, config(weight_decay=decay))
        for number, parameter in enumerate(moved.parameters()):
            values = torch.arange(parameter.numel(), dtype=torch.float32) + number
            parameter.grad = torch.sin(values).view_as(parameter)
        optimizer.step()
        found[decay] = moved.lm_head.weight.detach()
    # Weights of size 0.1 in float32: 1e-8 is a unit in the last place.
    expected = found[0.0] - PEAK * 0.5 * before
    torch.testing.assert_close(found[0.5], expected, atol=3e-8, rtol=0)
    assert not torch.allclose(found[0.5], found[0.0], atol=1e-7, rtol=0)


def test_one_step_is_adam_by_hand() -> None:
    """First step: both moments, corrected, give gradient / (|gradient| + epsilon)."""
    moved = model()
    before = moved.model.norm.weight.detach().clone()
    optimizer = new_optimizer(moved, config(epsilon=1e-3))
    moved.model.norm.weight.grad = torch.linspace(-1, 1, 16)
    optimizer.step()
    gradient = torch.linspace(-1, 1, 16, dtype=torch.float64)
    expected = before - PEAK * gradient / (gradient.abs() + 1e-3)
    torch.testing.assert_close(moved.model.norm.weight.detach().double(), expected.double())


def test_every_parameter_is_trained_once() -> None:
    trained = model()
    groups = new_optimizer(trained, config()).param_groups
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in trained.parameters())


@pytest.mark.parametrize(
    "fields",
    [
        {"learning_rate": 0.0},
        {"warmup_fraction": 1.5},
        {"beta2": 1.0},
        {"gradient_clip": 0.0},
        {"schedule": "linear"},
        {"learning_rate": float("nan")},
        {"weight_decy": 0.1},
    ],
)
def test_settings_without_sense_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        config(**fields)
