"""Arms: ways to spend the same budget of training tokens."""

from __future__ import annotations

from typing import Any

from synboot.experiment.recipe import ArmName, BudgetConfig


def arm_sources(arm: ArmName, budget: BudgetConfig) -> list[dict[str, Any]]:
    """What an arm trains on, in tokens that sum to the training budget exactly.

    repetition: the unique budget, repeated. sbp: the synthetic corpus once, and the unique budget
    repeated for the rest (paper, joint training). oracle: more unique text, repeated if need be.
    """
    total = budget.training_tokens
    if arm == "repetition":
        sources: list[dict[str, Any]] = [{"documents": "unique", "tokens": total}]
    elif arm == "oracle":
        multiple = budget.oracle_multiple
        sources = [{"documents": "oracle", "multiple": multiple, "tokens": total}]
    else:
        synthetic = budget.synthetic_tokens
        sources = [
            {"documents": "unique", "tokens": total - synthetic},
            {"documents": "synthetic", "tokens": synthetic},
        ]
    if sum(source["tokens"] for source in sources) != total:
        raise AssertionError(f"the sources of {arm} do not sum to {total}")
    return sources
