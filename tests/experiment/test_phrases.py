"""Figures in words."""

from __future__ import annotations

from synboot.experiment.phrases import of_own_samples, run_id


def test_a_run_is_told_by_the_ids_of_its_stages() -> None:
    one = run_id({"stages": {"corpus": "a", "evaluate sbp, seed 0": "b"}})
    assert one == run_id({"recipe": "other", "stages": {"evaluate": "b", "tokens": "a"}})
    assert one != run_id({"stages": {"corpus": "a", "evaluate sbp, seed 0": "c"}})
    assert run_id({"stages": {}}) is run_id({}) is None


def test_self_distillation_is_asked_where_the_run_has_it() -> None:
    def found(low: float, high: float) -> dict[str, object]:
        over = {"self_distillation": {"bits_per_byte": {"gain": 0.1, "low": low, "high": high}}}
        return {"arms": {"self_distillation": {}}, "statistics": {"sbp_over": over}}

    assert of_own_samples({}) == "The self-distillation control would tell."
    assert of_own_samples(found(-0.1, 0.3)) == "SBP is not clearly ahead of self-distillation here."
    assert of_own_samples(found(0.05, 0.2)) == "SBP is ahead of self-distillation here."
