"""Which engine samples: by setting, device, compiler and model, and never silently another."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from synboot.core.errors import BadInput
from synboot.synth import engines
from synboot.synth.engines import engine_for, resolve_engine, why_torch

sys.path.append(str(Path(__file__).parents[1] / "model"))

from tiny import tiny_model

FIXED: dict[str, Any] = {"context": 16, "end_id": 0, "num_tokens": 24, "slots": 2}


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_compiler", lambda: None)


def test_native_is_for_a_cpu_with_a_compiler() -> None:
    assert resolve_engine("auto", "cpu") == resolve_engine("native", "cpu") == "native"
    assert resolve_engine("auto", "cuda") == resolve_engine("torch", "cpu") == "torch"
    assert why_torch("auto", "cpu") is None
    with pytest.raises(BadInput, match=r"runtime\.engine.*the device is no CPU"):
        resolve_engine("native", "cuda")


def test_without_a_compiler_torch_samples_and_that_is_said(no_compiler: None) -> None:
    assert resolve_engine("auto", "cpu") == "torch"
    assert "there is no C compiler" in (why_torch("auto", "cpu") or "")
    assert why_torch("torch", "cpu") is None  # as asked
    with pytest.raises(BadInput, match=r"runtime\.engine.*there is no C compiler"):
        resolve_engine("native", "cpu")


def test_a_cache_that_torch_does_not_have_is_refused(no_compiler: None) -> None:
    for name, device in (("torch", "cpu"), ("auto", "cuda"), ("auto", "cpu")):
        with pytest.raises(BadInput, match=r"runtime\.cache"):
            resolve_engine(name, device, "bfloat16")


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


def test_a_model_without_the_native_engine_has_no_choice_of_cache() -> None:
    model = tiny_model("gpt2", vocab_size=24, context=16)
    with pytest.raises(BadInput, match=r"runtime\.cache: expected float32 for GPT2"):
        engine_for(model, engine="native", cache="bfloat16", **FIXED)
