"""What models score on evaluation tasks, and what can be said of their differences.

A model chooses the continuation of highest log-likelihood, as it is or over the choice's tokens,
bytes or characters (lm-evaluation-harness: acc, -, acc_bytes, acc_norm); the first of equal ones.
A last word is right if it is the likeliest token by token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from synboot.core.intervals import proportion_interval
from synboot.core.rng import rng
from synboot.experiment.statistics.losses import Interval, Losses, Weights
from synboot.experiment.statistics.scores import Metric, Scores

NORMALISATIONS = ("raw", "per_token", "per_byte", "per_character")
MIN_ITEMS = 6  # with fewer, all of them favouring one arm is no rare accident: 2 * 0.5**5 > 5%
_LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class TaskScores:
    """What one model does with the items of one task; arrays have a value for each item.

    `correct[normalisation]`: whether it chose right. `gold_nats`, `gold_bytes`: negative
    log-likelihood and UTF-8 bytes of the right choice. `num_choices`: 1 for last words.
    """

    ids: list[str]
    categories: list[str | None]
    num_choices: npt.NDArray[np.int64]
    gold_nats: npt.NDArray[np.float64]
    gold_bytes: npt.NDArray[np.int64]
    correct: dict[str, npt.NDArray[np.bool_]]

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[str, Any]]) -> TaskScores:
        """From the rows of a TasksStage's table."""
        num_choices = np.array([len(row["nats"]) for row in rows])
        greedy = np.array([row["greedy"] for row in rows])
        gold = np.array([row["gold"] for row in rows])
        names = NORMALISATIONS if num_choices.max() > 1 else NORMALISATIONS[:1]
        predicted = {n: np.array([row[f"prediction_{n}"] for row in rows]) for n in names}
        return cls(
            [row["id"] for row in rows],
            [row["category"] for row in rows],
            num_choices,
            np.array([row["nats"][row["gold"]] for row in rows]),
            np.array([row["num_bytes"][row["gold"]] for row in rows]),
            {name: np.where(num_choices > 1, chosen == gold, greedy)
             for name, chosen in predicted.items()},
        )  # fmt: skip

    def chosen(self, items: npt.NDArray[np.bool_]) -> TaskScores:
        """The scores of some of the items."""
        kept = np.flatnonzero(items)
        return TaskScores(
            [self.ids[i] for i in kept],
            [self.categories[i] for i in kept],
            self.num_choices[kept],
            self.gold_nats[kept],
            self.gold_bytes[kept],
            {name: values[kept] for name, values in self.correct.items()},
        )

    @property
    def chance(self) -> float | None:
        """Accuracy of one who guesses; None for last words."""
        return float((1 / self.num_choices).mean()) if self.num_choices.max() > 1 else None


def summary(scores: TaskScores) -> dict[str, Any]:
    """Accuracies of one model with their 95% Wilson intervals, overall and by category (raw), and
    what the right answers cost it: bits per byte, for last words the perplexity of the word."""
    own: dict[str, Any] = {
        "items": len(scores.ids),
        "chance": scores.chance,
        "accuracy": {name: _proportion(values) for name, values in scores.correct.items()},
        "gold_bits_per_byte": _bits_per_byte(scores),
    }
    if scores.chance is None:
        own["perplexity"] = _perplexity(scores)
    names = list(dict.fromkeys(name for name in scores.categories if name is not None))
    if names:
        place = {name: number for number, name in enumerate(names)}
        category = np.array([-1 if c is None else place[c] for c in scores.categories])
        raw = scores.correct["raw"]
        own["categories"] = {name: _proportion(raw[category == place[name]]) for name in names}
    return own


def compare_arms(
    scores: Mapping[str, Mapping[int, TaskScores]], *, seed: int, num_resamples: int
) -> dict[str, Any]:
    """One task over arms and training seeds: `scores[arm][seed]`.

    An arm's accuracy is the mean over its seeds; its interval is that of its one seed, or from
    resampling the items. Gains over repetition are paired, item by item. What the right answers
    cost has the interval over documents of `statistics.losses`, items being the documents; its gain
    is repetition's less the arm's, that of a perplexity the arm's over repetition's (`ratio`). With
    several seeds a figure's `seeds` is its interval over training seeds, Student's t of their own
    values, with the items as they are. Raises ValueError if the items differ.
    """
    everyone = [own for of_arm in scores.values() for own in of_arm.values()]
    if any(own.ids != everyone[0].ids for own in everyone):
        raise ValueError("the arms did not answer the same items")
    means = {
        arm: {name: np.mean([own.correct[name] for own in of_arm.values()], axis=0)
              for name in everyone[0].correct}
        for arm, of_arm in scores.items()
    }  # fmt: skip
    resampling = {"seed": seed, "num_resamples": num_resamples}
    right = {
        name: _losses(scores, partial(_correct, name), "nats_per_token", resampling)
        for name in everyone[0].correct
    }
    bits = _losses(scores, lambda own: own.gold_nats, "bits_per_byte", resampling)
    words = _losses(scores, lambda own: own.gold_nats, "nats_per_token", resampling)
    arms = {}
    for arm, of_arm in scores.items():
        of_seeds = {str(number): summary(own) for number, own in of_arm.items()}
        first = next(iter(of_seeds.values()))
        facts: dict[str, Any] = {
            "accuracy": {
                name: (
                    first["accuracy"][name]
                    if len(of_seeds) == 1
                    else {"items": len(mean), **_interval("value", mean, **resampling)}
                )
                | _over_seeds(right[name], {arm: 1.0}, least=0.0, most=1.0)
                for name, mean in means[arm].items()
            },
            "gold_bits_per_byte": _figure("value", bits, {arm: 1.0}),
        }
        if "perplexity" in first:
            facts["perplexity"] = _exponents(_figure("value", words, {arm: 1.0}))
        if arm != "repetition" and "repetition" in means:
            facts["gain"] = {
                name: _interval("gain", mean - means["repetition"][name], **resampling)
                | _over_seeds(right[name], {arm: 1.0, "repetition": -1.0})
                for name, mean in means[arm].items()
            }
            cost = {"repetition": 1.0, arm: -1.0}
            facts["gold_bits_per_byte"]["gain"] = _figure("gain", bits, cost)
            if "perplexity" in first:
                times = _figure("ratio", words, {arm: 1.0, "repetition": -1.0})
                facts["perplexity"]["of_repetition"] = _exponents(times)
        arms[arm] = facts | {"seeds": of_seeds}
    return {"items": len(everyone[0].ids), "chance": everyone[0].chance, "arms": arms}


def bootstrap_mean(
    values: npt.NDArray[np.float64], *, seed: int, num_resamples: int
) -> tuple[float, float]:
    """The 95% percentile interval of the mean of `values` over the choice of items.

    Few values are distinct, so that a resample is drawn as a multinomial number of each, which is
    the same distribution as that of resampled items.
    """
    distinct, counts = np.unique(values, return_counts=True)
    drawn = rng(seed, "bootstrap over items").multinomial(
        len(values), counts / len(values), size=num_resamples
    )
    means = np.sort(drawn @ distinct / len(values))
    cut = int(num_resamples * (1 - _LEVEL) / 2)
    return float(means[cut]), float(means[-1 - cut])


def _correct(name: str, scores: TaskScores) -> npt.NDArray[np.bool_]:
    return scores.correct[name]


def _losses(
    scores: Mapping[str, Mapping[int, TaskScores]],
    values: Callable[[TaskScores], npt.NDArray[Any]],
    metric: Metric,
    resampling: Mapping[str, int],
) -> Losses:
    """Values of every item as a document's nats; in nats_per_token an item counts as one token."""
    return Losses(
        {
            arm: [
                Scores(own.ids, np.ones_like(own.gold_bytes), own.gold_bytes,
                       values(own).astype(np.float64))
                for own in of_arm.values()
            ]
            for arm, of_arm in scores.items()
        },
        metric,
        **resampling,
    )  # fmt: skip


def _figure(name: str, losses: Losses, weights: Weights) -> dict[str, Any]:
    found = losses.interval(weights, "documents")
    low, high = (found.low, found.high) if isinstance(found, Interval) else (None, None)
    return {
        name: losses.value(weights),
        "low": low,
        "high": high,
        **_over_seeds(losses, weights),
    }


def _over_seeds(
    losses: Losses, weights: Weights, *, least: float = -math.inf, most: float = math.inf
) -> dict[str, Any]:
    """`seeds`, within `least` and `most`; nothing with one seed."""
    found = losses.interval(weights, "seeds")
    if not isinstance(found, Interval):
        return {}
    return {"seeds": {"low": max(found.low, least), "high": min(found.high, most)}}


def _exponents(figure: Mapping[str, Any]) -> dict[str, Any]:
    """exp of all values."""
    return {
        name: _exponents(value)
        if isinstance(value, Mapping)
        else None
        if value is None
        else _exp(value)
        for name, value in figure.items()
    }


def _interval(
    name: str, values: npt.NDArray[np.float64], *, seed: int, num_resamples: int
) -> dict[str, float | None]:
    mean = float(values.mean())
    if len(values) < MIN_ITEMS:
        return {name: mean, "low": None, "high": None}
    low, high = bootstrap_mean(values, seed=seed, num_resamples=num_resamples)
    return {name: mean, "low": low, "high": high}


def _proportion(correct: npt.NDArray[np.bool_]) -> dict[str, Any]:
    low, high = proportion_interval(int(correct.sum()), len(correct), _LEVEL)
    return {"items": len(correct), "value": float(correct.mean()), "low": low, "high": high}


def _bits_per_byte(scores: TaskScores) -> float:
    return float(scores.gold_nats.sum() / math.log(2) / scores.gold_bytes.sum())


def _perplexity(scores: TaskScores) -> float | None:
    return _exp(float(scores.gold_nats.mean()))


def _exp(nats: float) -> float | None:
    """None where JSON's numbers end."""
    return math.exp(nats) if nats < 700 else None
