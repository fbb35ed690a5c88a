"""Arms: ways to spend a budget of training tokens, each named by the text it trains on.

| arm | real text | synthetic text |
|---|---|---|
| repetition | the unique budget, repeated | |
| sbp | the unique budget, repeated | of the synthesizer, each document once |
| self_distillation | the unique budget, repeated | the base model's own, without any prompt, once |
| random_pairs | the unique budget, repeated | of a synthesizer tuned on random pairs, once |
| real_context | the unique budget, repeated, and its pairs, d2 after d1, repeated | |
| oracle | `budget.oracle_multiple` times the unique budget | |
| repetition_Mx | M times the unique budget | |
| repetition_same_cost | the unique budget, repeated for longer | |

A variant is one of them with other settings (`arm_settings`). All but the last train on the same
number of tokens. The last gets on top what SBP's embedding,
neighbours, tuning, synthesis and base models that no arm has took, in FLOPs, as training tokens of
its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from synboot.experiment.arm_settings import (
    REFERENCE,
    SAME_COST,
    ExperimentConfig,
    VariantConfig,
    arm_of_multiple,
    settings_for,
)
from synboot.experiment.recipe import BudgetConfig

WITH_SYNTHETIC = ("sbp", "self_distillation", "random_pairs")
WITH_PAIRED = "real_context"
CONTROLS = ("self_distillation", "random_pairs", WITH_PAIRED)
PAID_STAGES = ("embed", "neighbours", "tune", "synthesize")
"""What SBP pays beside its base models (of which those that are arms cost nothing more) and the
text's comparisons, which are no matrix products."""


def arm_names(experiment: ExperimentConfig) -> list[str]:
    """The arms of a recipe: those that are named, variants, those of settings."""
    multiples = [arm_of_multiple(multiple) for multiple in experiment.repetition_multiples]
    same_cost = [SAME_COST] if experiment.cost_inclusive else []
    return [*experiment.arms, *experiment.variants, *multiples, *same_cost]


def rivals_of_variants(experiment: ExperimentConfig) -> dict[str, list[str]]:
    """Of each variant of SBP, the controls, and the variants of controls that are as it is: with
    as many rounds and those of its settings that a control of that kind can have. Repetition at
    the same cost is none of them: it pays for plain SBP."""
    variants = experiment.variants
    controls = [arm for arm in experiment.arms if arm in CONTROLS]

    def is_alike(control: VariantConfig, variant: VariantConfig) -> bool:
        own = settings_for(control.of, variant.set)
        return control.of in CONTROLS and (control.set, control.rounds) == (own, variant.rounds)

    return {
        arm: controls + [name for name, other in variants.items() if is_alike(other, variant)]
        for arm, variant in variants.items()
        if variant.of == "sbp"
    }


def arm_sources(
    arm: str,
    budget: BudgetConfig,
    experiment: ExperimentConfig | None = None,
    paid: Sequence[str] = PAID_STAGES,
) -> list[dict[str, Any]]:
    """What an arm trains on, in tokens that sum to the training budget exactly; beside them
    `and_flops_of`, the stages `paid`, whose FLOPs are trained on top. Raises ValueError for other
    arms."""
    total = budget.training_tokens
    multiples = experiment.repetition_multiples if experiment else ()
    more = {arm_of_multiple(multiple): multiple for multiple in multiples}
    sources: list[dict[str, Any]]
    if arm == REFERENCE:
        sources = [{"documents": "unique", "tokens": total}]
    elif arm == SAME_COST:
        sources = [{"documents": "unique", "tokens": total, "and_flops_of": [*paid]}]
    elif arm == "oracle":
        multiple = budget.oracle_multiple
        sources = [{"documents": "oracle", "multiple": multiple, "tokens": total}]
    elif arm in more:
        sources = [{"documents": "oracle", "multiple": more[arm], "tokens": total}]
    elif arm in (*WITH_SYNTHETIC, WITH_PAIRED):
        other = budget.synthetic_tokens
        sources = [
            {"documents": "unique", "tokens": total - other},
            {"documents": "paired" if arm == WITH_PAIRED else "synthetic", "tokens": other},
        ]
    else:
        raise ValueError(f"no arm is called {arm}")
    if sum(source["tokens"] for source in sources) != total:
        raise AssertionError(f"the sources of {arm} do not sum to {total}")
    return sources
