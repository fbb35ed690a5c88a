"""Which engine samples from a model: the fastest that understands it."""

from __future__ import annotations

import contextlib
from typing import Any

from synboot.core.errors import BadInput
from synboot.core.native import no_native
from synboot.model.native import check_served, library_fingerprint
from synboot.model.settings import CacheType
from synboot.synth.engine import Engine, ReferenceEngine, drawable
from synboot.synth.engine_native import NativeEngine
from synboot.synth.engine_slots import SlotEngine
from synboot.synth.engine_transformers import TransformersEngine
from synboot.synth.settings import EngineName
from synboot.train.device import resolve_device
from synboot.train.settings import DeviceName

SHARES_PROMPTS = frozenset({NativeEngine.name, SlotEngine.name})
"""Names of the engines that compute a prompt once for all draws of it in one call."""


def resolve_engine(name: EngineName, device: str) -> str:
    """`native` or `torch`. Raises BadInput where `native` is asked for and cannot be."""
    missing = _missing(device)
    if name == "native" and missing:
        raise BadInput(f"field runtime.engine: expected auto or torch, as {missing}")
    return "torch" if name == "torch" or missing else "native"


def engine_numerics(
    name: EngineName, device: str, cache: CacheType, precision: CacheType
) -> dict[str, str]:
    """What of an engine can change last bits: `engine`, `cache`, of torch the `precision` of its
    products and of compiled code, which has one, the `library`, which stands for source, compiler
    and processor. Raises BadInput as `resolve_engine` does."""
    resolved = resolve_engine(name, device)
    if resolved == "native":
        return {"engine": resolved, "cache": cache, "library": library_fingerprint()}
    return {"engine": resolved, "cache": cache, "precision": precision}


def check_engine(name: EngineName, config: Any) -> None:
    """Raises BadInput where `native` is asked for by name and does not serve models of `config`."""
    try:
        if name == "native":
            check_served(config)
    except BadInput as error:
        raise BadInput(
            f"field runtime.engine: expected auto or torch for this model, as {error}"
        ) from error


def why_torch(name: EngineName, device: DeviceName) -> str | None:
    """One line for the start of work that would be faster with a C compiler."""
    kind = resolve_device(device).type
    if name != "auto" or kind != "cpu" or (missing := _missing(kind)) is None:
        return None
    return f"sampling runs on torch, several times slower than it could: {missing}"


def _missing(device: str) -> str | None:
    """Why `native` cannot be; None if it can."""
    return "the device is no CPU" if device != "cpu" else no_native()


def engine_for(
    model: Any,
    *,
    context: int,
    end_id: int,
    num_tokens: int,
    slots: int,
    engine: str = "torch",
    cache: CacheType = "float32",
    precision: CacheType = "float32",
) -> Engine:
    """An engine that draws among the first `num_tokens` ids, the tokenizer's: of those that
    understand the model, the fastest. Its `name` says which: `native` (if `engine` is), `slots`,
    `transformers` or `reference`.

    `cache` is the type of keys and values, which `native` and `slots` let choose, `precision` that
    of the matrix products of `slots`. Raises BadInput if the tokenizer has more tokens than the
    model, or if no engine has that `cache` for the model, and SynbootError if the C compiler fails.
    """
    drawable(model, end_id, num_tokens)
    shared: dict[str, Any] = {"context": context, "end_id": end_id, "num_tokens": num_tokens}
    if engine == "native":
        with contextlib.suppress(BadInput):
            return NativeEngine(model, slots=slots, cache=cache, **shared)
    with contextlib.suppress(BadInput):
        return SlotEngine(model, slots=slots, cache=cache, precision=precision, **shared)
    if cache != "float32":
        kind_of_model = type(model).__name__
        raise BadInput(f"field runtime.cache: expected float32 for {kind_of_model}, got {cache}")
    with contextlib.suppress(BadInput):
        return TransformersEngine(model, slots=slots, **shared)
    return ReferenceEngine(model, **shared)
