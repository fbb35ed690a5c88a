"""What the native engine computes, and that all of its memory is free again at the end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from synboot.core.rng import rng
from synboot.synth import engine_native
from synboot.synth.engine import ReferenceEngine, Request
from synboot.synth.engine_native import NativeEngine
from synboot.synth.settings import SamplingConfig

sys.path.append(str(Path(__file__).parents[1] / "model"))

from tiny import tiny_model

torch.set_num_threads(1)
FIXED: dict[str, Any] = {"context": 75, "end_id": 0, "num_tokens": 24}
LENGTHS = (16, 33, 49)


def requests() -> list[Request]:
    """Five draws of each of three prompts, in turn, with limits of their own."""
    prompts = [rng("shared", n).integers(0, 24, n) for n in LENGTHS]
    return [
        Request(prompt.copy(), ("draw", place, number), limit)
        for number, limit in enumerate([40, None, 1, 17, 3])
        for place, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize("slots", [1, 4, 15])
def test_a_prompt_is_computed_once_and_everything_is_free_again(
    slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With prompts computed in pieces of seven rows, which end in the middle of a page."""
    monkeypatch.setattr(engine_native, "_PREFILL_ROWS", 7)
    model = tiny_model("qwen3", vocab_size=32, context=75)
    sampling = SamplingConfig(temperature=1.5, top_p=0.95)
    engine = NativeEngine(model, slots=slots, **FIXED)
    forward, calls = engine.decoder.forward, []

    def counted(rows: np.ndarray, table: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        calls.append(rows.copy())
        return forward(rows, table, wanted)

    monkeypatch.setattr(engine.decoder, "forward", counted)
    run = engine_native._Run(engine, requests(), sampling)
    pages, places = sorted(run._free_pages), sorted(run._free_places)
    found = run.complete()
    assert (sorted(run._free_pages), sorted(run._free_places)) == (pages, places)
    assert pages == list(range(engine.decoder.num_pages))
    assert not run._prompts

    expected = ReferenceEngine(model, **FIXED).sample(requests(), sampling)
    assert [c.tokens.tolist() for c in found] == [c.tokens.tolist() for c in expected]
    of_prompts = [rows for rows in calls if (rows["prefix_length"] == 0).all()]
    assert sum(map(len, of_prompts)) == sum(LENGTHS)
    assert len(of_prompts) <= sum(-(-length // 7) for length in LENGTHS)
    assert max(map(len, of_prompts)) == 7
    of_draws = [rows for rows in calls if (rows["prefix_length"] > 0).all()]
    assert len(of_prompts) + len(of_draws) == len(calls)
    fed = [len(c.tokens) - (c.finish_reason == "length") for c in found]  # not the last of a text
    assert sum(map(len, of_draws)) == sum(fed)
    assert max(fed) > 30  # over several pages


def test_an_engine_can_be_used_again() -> None:
    engine = NativeEngine(tiny_model("llama", vocab_size=32, context=75), slots=3, **FIXED)
    sampling = SamplingConfig(temperature=1.5)
    first = [c.tokens.tolist() for c in engine.sample(requests(), sampling)]
    assert [c.tokens.tolist() for c in engine.sample(requests(), sampling)] == first
