"""The comparison of models that were trained and scored one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synboot.core.errors import BadInput
from synboot.experiment.findings import ARM_SCORES, doubts, findings, metrics
from synboot.experiment.report_data import ReportData
from synboot.experiment.statistics.scores import mean_scores


def compare_scores(
    name: str,
    scores: ARM_SCORES,
    facts: Mapping[str, Mapping[str, Any]],
    *,
    seed: int,
    num_resamples: int,
) -> ReportData:
    """What the report shows of arms' scores: `scores[arm]`, one for each training seed, and
    `facts[arm]`, what is known of how the arm was trained (`trained_tokens`, `mixture`, `flops`).

    Raises BadInput if the arms were not scored on the same documents and tokens.
    """
    try:
        mean = {arm: mean_scores(of_seeds) for arm, of_seeds in scores.items()}
        found = findings(scores, seed=seed, num_resamples=num_resamples)
    except ValueError as error:
        raise BadInput(
            f"the scores cannot be compared: {error} (arms are compared on the same documents "
            "with one tokenizer)"
        ) from None
    count = len(next(iter(mean.values())).ids)
    result = {
        "schema": 1,
        "recipe": name,
        "seed": seed,
        "split": "test",
        "corpus": {"documents": {"test": count}},
        "arms": {
            arm: {
                **facts.get(arm, {}),
                "test": metrics(mean[arm]),
                "seeds": {str(i): {"test": metrics(own)} for i, own in enumerate(of_seeds)},
            }
            for arm, of_seeds in scores.items()
        },
        **found,
        "ledger": [],
        "caveats": _caveats(scores, facts) + doubts(found),
    }
    return ReportData(result=result, curves=[], pairs={}, synthetic={})


def _caveats(scores: ARM_SCORES, facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    caveats = [
        "These models were trained and scored one by one: that their settings match but for the "
        "arm is yours to see to; no ledger of their whole cost is kept."
    ]
    seeds = {len(own) for own in scores.values()}
    if len(seeds) > 1:
        caveats.append(
            "The arms have different numbers of training seeds: intervals cover the choice of test "
            "documents alone."
        )
    elif seeds != {1}:
        caveats.append("Training seeds are paired between arms in the order they were given in.")
    else:
        caveats.append(
            "1 training seed: intervals cover the choice of test documents, not of seeds."
        )
    trained = {arm: own.get("trained_tokens") for arm, own in facts.items()}
    known = {tokens for tokens in trained.values() if tokens is not None}
    if len(known) > 1:
        listed = ", ".join(f"{arm} {tokens:,}" for arm, tokens in trained.items() if tokens)
        caveats.append(f"The arms did not train on the same number of tokens: {listed}.")
    return caveats
