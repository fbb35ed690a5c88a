"""Does the facts world's judge find the truth, and do measures of relevance follow it?

On corpora with known faults (15% of texts state something false, 25% are about somebody else than
their seed, each text by itself): how well similarity to the seed tells the foreign texts from the
others, how far the relevance that quality reports falls with them, and how often the judge's 95%
intervals hold the two rates.

A judge without error is one draw of those corpora: at 95% an interval misses in five of a hundred,
and the number that hold varies. `chance_of_it` is that of so many or more, and what is asked for
beside it is what no draw decides: no wrong judgement, and an exact coverage of 93% at least.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from scipy.stats import binom, rankdata

from synboot.core.intervals import proportion_interval
from synboot.core.rng import rng
from synboot.eval.quality.relevance import cosines
from synboot.eval.quality.summary import relevance_figures
from synboot.pairs.encoders.encoder import fit_encoder
from synboot.worlds.facts.corruption import Sample, corrupted_corpus
from synboot.worlds.facts.judge import FactsJudge
from synboot.worlds.facts.world import FactsConfig, FactsWorld

RATES = {"non_factual": 0.15, "irrelevant": 0.25}
PERSONS = 120
"""As many as the unique budget of recipes/facts.yaml has; lsa is fitted on their documents."""
DIMENSIONS = 256
"""Those of its encoder."""
MIN_COVERAGE = 0.93
MIN_AUC = 0.95
MIN_STANDARD_ERRORS = 5.0
SEED = 0


def run(quick: bool) -> dict[str, Any]:
    """Both questions. Full: 100 corpora of 1,000 texts, of which 93 are asked to hold each rate;
    quick: 20 of 500, of which 16. `exact_coverage` is the binomial sum over all outcomes that a
    judge without error has at that size: how many of the corpora are to be expected."""
    return outcome(20, 500, least=16) if quick else outcome(100, 1000, least=93)


def outcome(resamplings: int, texts: int, *, least: int) -> dict[str, Any]:
    """The same for so many corpora of so many texts, of which `least` must hold each rate."""
    world = FactsWorld(FactsConfig(persons=PERSONS, seed=SEED))
    judge = FactsJudge(world)
    held = dict.fromkeys(RATES, 0)
    errors = 0
    for number in range(resamplings):
        corpus = _corpus(world, texts, number)
        found = judge.judge([s.text for s in corpus], [s.seed for s in corpus])
        errors += sum(
            (j.non_factual, j.irrelevant) != (s.truth.non_factual, s.truth.irrelevant)
            for j, s in zip(found, corpus, strict=True)
        )
        for name, rate in RATES.items():
            low, high = proportion_interval(sum(getattr(j, name) is True for j in found), texts)
            held[name] += low <= rate <= high
    sound = corrupted_corpus(world, texts, seed=SEED + resamplings + 1, **RATES | {"irrelevant": 0})
    corpus = _corpus(world, texts, resamplings)
    relevance = _relevance(world, corpus, sound)
    instrument = _instrument(world, corpus, sound)
    coverage = {}
    for name, rate in RATES.items():
        exact = _exact_coverage(texts, rate)
        coverage[name] = {
            "rate": rate,
            "held": held[name],
            "of": resamplings,
            "at_least": least,
            "exact_coverage": exact,
            "chance_of_it": float(binom.sf(least - 1, resamplings, exact)),
        }
    return {
        "held": errors == 0
        and all(
            each["held"] >= each["at_least"] and each["exact_coverage"] >= MIN_COVERAGE
            for each in coverage.values()
        )
        and relevance["lsa"]["auc"] >= MIN_AUC
        and relevance["lsa"]["standard_errors"] >= MIN_STANDARD_ERRORS
        and instrument["separated"],
        "texts_of_a_corpus": texts,
        "errors_of_the_judge": errors,
        "coverage": coverage,
        "relevance": relevance,
        "instrument": instrument,
        "least_of_lsa": {"auc": MIN_AUC, "standard_errors": MIN_STANDARD_ERRORS},
    }


def summary(found: dict[str, Any]) -> str:
    """What was found, with the bounds."""
    size = found["texts_of_a_corpus"]
    lines = [
        f"{found['errors_of_the_judge']} wrong judgements of the exact judge (bound: 0)",
        *(
            f"{name}: {c['held']} of {c['of']} intervals hold {c['rate']:.0%} (bound: "
            f"{c['at_least']}, which a judge without error reaches in {c['chance_of_it']:.0%} of "
            f"such series; a Wilson interval at {size} texts covers {c['exact_coverage']:.1%}, "
            f"bound {MIN_COVERAGE:.0%})"
            for name, c in found["coverage"].items()
        ),
        *(
            f"relevance by {name}: area under the curve {r['auc']:.4f}; 25% foreign texts lower "
            f"the mean by {r['standard_errors']:.1f} standard errors"
            for name, r in found["relevance"].items()
        ),
        *(
            f"quality's relevance of {name} texts: similarity {_ends(r['similarity'], 'mean')}, "
            f"auc against random pairs {_ends(r['auc'], 'auc')}, below their 95% quantile "
            f"{_ends(r['below_random_quantile'], 'rate')}"
            for name, r in found["instrument"]["figures"].items()
        ),
        f"intervals of the two lie apart in each: {found['instrument']['separated']}",
        "bounds of lsa: {auc}, {standard_errors}".format(**found["least_of_lsa"]),
        "held" if found["held"] else "FELL SHORT",
    ]
    return "\n".join(lines)


def _corpus(world: FactsWorld, texts: int, number: int) -> list[Sample]:
    return corrupted_corpus(world, texts, seed=SEED + number, **RATES)


def _exact_coverage(total: int, rate: float) -> float:
    """The chance that the interval of a binomial count holds `rate`."""
    counts = np.arange(total + 1)
    ends = np.array([proportion_interval(count, total) for count in counts.tolist()])
    inside = (ends[:, 0] <= rate) & (rate <= ends[:, 1])
    return float(binom.pmf(counts, total, rate)[inside].sum())


def _relevance(
    world: FactsWorld, corpus: list[Sample], sound: list[Sample]
) -> dict[str, dict[str, float]]:
    """Of each measure: how well it ranks the texts that belong to their seeds above those that do
    not, and how far its mean is below that of a corpus in which all belong."""
    measures = _measures(world)
    foreign = np.array([s.truth.irrelevant is True for s in corpus])
    return {
        name: {
            "auc": _area(measure(corpus), foreign),
            "standard_errors": _distance(measure(sound), measure(corpus)),
        }
        for name, measure in measures.items()
    }


def _instrument(world: FactsWorld, corpus: list[Sample], sound: list[Sample]) -> dict[str, Any]:
    """What quality says of relevance, by its own functions and the facts recipe's encoder, of the
    corpus with foreign texts and of the one without; `separated`: no figure's intervals overlap."""
    encoder = _encoder(world)
    documents = [document["text"] for document in world.documents()]
    order = rng(SEED, "calibration of relevance").permutation(len(documents))
    vectors = encoder.encode(documents)
    random = cosines(vectors[order], vectors[np.roll(order, 1)])
    figures = {}
    for name, samples in (("corrupted", corpus), ("sound", sound)):
        texts, seeds = (
            encoder.encode([getattr(s, of) for s in samples]) for of in ("text", "seed")
        )
        figures[name], _ = relevance_figures(cosines(texts, seeds), None, random)
    low, high = figures["corrupted"], figures["sound"]
    separated = (
        low["similarity"]["high"] < high["similarity"]["low"]
        and low["auc"]["high"] < high["auc"]["low"]
        and low["below_random_quantile"]["low"] > high["below_random_quantile"]["high"]
    )
    return {"dimensions": DIMENSIONS, "figures": figures, "separated": bool(separated)}


def _ends(figure: dict[str, Any], name: str) -> str:
    return f"{figure[name]:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


@cache
def _encoder(world: FactsWorld) -> Any:
    documents = [document["text"] for document in world.documents()]
    return fit_encoder("lsa", documents, dimensions=DIMENSIONS, seed=SEED)


def _measures(world: FactsWorld) -> dict[str, Callable[[list[Sample]], np.ndarray]]:
    """What gives each sample a value, high where text and seed belong together."""
    encoder = _encoder(world)

    def similarity(corpus: list[Sample]) -> np.ndarray:
        texts, seeds = ([getattr(s, side) for s in corpus] for side in ("text", "seed"))
        return cosines(encoder.encode(texts), encoder.encode(seeds))

    def judged(corpus: list[Sample]) -> np.ndarray:
        found = FactsJudge(world).judge([s.text for s in corpus], [s.seed for s in corpus])
        return np.array([float(judgement.irrelevant is not True) for judgement in found])

    def shared_words(corpus: list[Sample]) -> np.ndarray:
        return np.array([_shared_words(s.text, s.seed) for s in corpus])

    return {"lsa": similarity, "shared_words": shared_words, "judge": judged}


def _distance(sound: np.ndarray, corrupted: np.ndarray) -> float:
    """By how many standard errors the mean of the corrupted corpus is below that of the sound."""
    error = np.sqrt(sound.var() / len(sound) + corrupted.var() / len(corrupted))
    return float((sound.mean() - corrupted.mean()) / error)


def _shared_words(a: str, b: str) -> float:
    """Words in common over all words of both."""
    first, second = (set(re.findall(r"\w+", text.lower())) for text in (a, b))
    return len(first & second) / len(first | second)


def _area(values: np.ndarray, foreign: np.ndarray) -> float:
    """The chance that a foreign text has the lower value of two, ties half (Mann-Whitney)."""
    ranks = rankdata(values)
    num_foreign, num_own = int(foreign.sum()), int((~foreign).sum())
    above = ranks[~foreign].sum() - num_own * (num_own + 1) / 2
    return float(above / (num_foreign * num_own))
