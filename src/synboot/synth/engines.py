"""Which engine samples from a model: the fastest that understands it."""

from __future__ import annotations

import contextlib
from typing import Any, Literal

from synboot.core.errors import BadInput
from synboot.core.native import find_compiler
from synboot.synth.engine import Engine, ReferenceEngine, SlotEngine, drawable
from synboot.synth.engine_native import NativeEngine
from synboot.synth.engine_transformers import TransformersEngine

EngineName = Literal["auto", "native", "torch"]
"""`native`: in C, on CPUs with a C compiler; `torch`: what torch and transformers bring."""
CacheType = Literal["float32", "bfloat16"]


def resolve_engine(name: EngineName, device: str) -> str:
    """`native` or `torch`. Raises BadInput where `native` is asked for and cannot be."""
    missing = "the device is no CPU" if device != "cpu" else None
    missing = missing or (None if find_compiler() else "there is no C compiler")
    if name == "native" and missing:
        raise BadInput(f"field runtime.engine: expected auto or torch, as {missing}")
    return "torch" if name == "torch" or missing else "native"


def engine_for(
    model: Any,
    *,
    context: int,
    end_id: int,
    num_tokens: int,
    slots: int,
    engine: str = "torch",
    cache: CacheType = "float32",
) -> Engine:
    """An engine that draws among the first `num_tokens` ids, the tokenizer's: of those that
    understand the model, the fastest. Its `name` says which: `native` (if `engine` is), `slots`,
    `transformers` or `reference`.

    `cache` is the type of keys and values, which `native` alone lets choose. Raises BadInput if the
    tokenizer has more tokens than the model, and SynbootError if the C compiler fails.
    """
    drawable(model, end_id, num_tokens)
    shared: dict[str, Any] = {"context": context, "end_id": end_id, "num_tokens": num_tokens}
    if engine == "native":
        with contextlib.suppress(BadInput):
            return NativeEngine(model, slots=slots, cache=cache, **shared)
    for kind in (SlotEngine, TransformersEngine):
        with contextlib.suppress(BadInput):
            return kind(model, slots=slots, **shared)
    return ReferenceEngine(model, **shared)
