"""Which engine samples: by setting, device, compiler and model; its name says which it is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from synboot.core import native
from synboot.core.errors import BadInput
from synboot.synth import engines
from synboot.synth.engine import Request
from synboot.synth.engines import (
    check_engine,
    engine_for,
    engine_numerics,
    resolve_engine,
    why_torch,
)
from synboot.synth.settings import SamplingConfig

sys.path.append(str(Path(__file__).parents[1] / "model"))

from tiny import tiny_model

FIXED: dict[str, Any] = {"context": 16, "end_id": 0, "num_tokens": 24, "slots": 2}


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "no_native", lambda: "cc failed: no math.h")


def test_native_is_for_a_cpu_with_a_compiler_that_works() -> None:
    assert resolve_engine("auto", "cpu") == resolve_engine("native", "cpu") == "native"
    assert resolve_engine("auto", "cuda") == resolve_engine("torch", "cpu") == "torch"
    assert why_torch("auto", "cpu") is None
    with pytest.raises(BadInput, match=r"runtime\.engine.*the device is no CPU"):
        resolve_engine("native", "cuda")


def test_without_one_torch_samples_and_that_is_said(no_compiler: None) -> None:
    assert resolve_engine("auto", "cpu") == "torch"
    assert "cc failed: no math.h" in (why_torch("auto", "cpu") or "")
    assert why_torch("torch", "cpu") is None  # as asked
    with pytest.raises(BadInput, match=r"runtime\.engine.*cc failed: no math"):
        resolve_engine("native", "cpu")


def test_numerics_of_compiled_code_say_what_was_compiled_by_what(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that a stage that is resumed with another compiler, or on another processor, stops."""
    found = engine_numerics("auto", "cpu", "float32", "bfloat16")
    assert (found["engine"], found["cache"]) == ("native", "float32")
    assert found == engine_numerics("native", "cpu", "float32", "float32")
    monkeypatch.setattr(native, "_processor", lambda: "another")
    other = engine_numerics("auto", "cpu", "float32", "bfloat16")
    assert {key for key in found if found[key] != other[key]} == {"library"}


def test_numerics_of_torch_say_in_which_precision() -> None:
    expected = {"engine": "torch", "cache": "float32", "precision": "bfloat16"}
    assert engine_numerics("auto", "cuda", "float32", "bfloat16") == expected
    assert engine_numerics("torch", "cpu", "float32", "bfloat16") == expected


def test_native_by_name_is_refused_for_a_model_that_it_does_not_serve() -> None:
    gpt2 = tiny_model("gpt2").config
    for name in ("auto", "torch"):
        check_engine(name, gpt2)
    check_engine("native", tiny_model("qwen3").config)
    with pytest.raises(BadInput, match=r"runtime\.engine: expected auto or torch .* not gpt2"):
        check_engine("native", gpt2)
    odd = tiny_model("qwen3", head_dim=6).config
    with pytest.raises(BadInput, match=r"heads of a multiple of 4, not 6"):
        check_engine("native", odd)


@pytest.mark.parametrize(
    ("layout", "engine", "name"),
    [
        ("qwen3", "native", "native"),
        ("llama", "native", "native"),
        ("qwen3", "torch", "slots"),
        ("gpt2", "native", "transformers"),
    ],
)
def test_the_fastest_that_understands_the_model(layout: str, engine: str, name: str) -> None:
    model = tiny_model(layout, vocab_size=24, context=16)
    assert engine_for(model, engine=engine, **FIXED).name == name


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_a_model_that_transformers_samples_from_has_no_choice_of_cache(engine: str) -> None:
    model = tiny_model("gpt2", vocab_size=24, context=16)
    with pytest.raises(BadInput, match=r"runtime\.cache: expected float32 for GPT2"):
        engine_for(model, engine=engine, cache="bfloat16", **FIXED)
    assert engine_for(model, engine=engine, precision="bfloat16", **FIXED).name == "transformers"


@pytest.mark.parametrize(
    ("precision", "cache"),
    [("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "float32")],
)
def test_either_setting_gives_keys_and_values_in_bfloat16(precision: str, cache: str) -> None:
    model = tiny_model("qwen3", vocab_size=24, context=16)
    made = engine_for(model, cache=cache, precision=precision, **FIXED)
    asked = [Request(np.arange(5), (n,)) for n in range(4)]
    assert len(made.sample(asked, SamplingConfig())) == 4
    half = "bfloat16" in (precision, cache)
    assert made._desk.cache.keys.dtype == (torch.bfloat16 if half else torch.float32)
    assert made.decoder._layers[0].up.weight.dtype == getattr(torch, precision)
