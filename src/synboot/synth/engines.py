"""Which engine samples from a model: the fastest that understands it."""

from __future__ import annotations

import contextlib
from typing import Any

from synboot.core.errors import BadInput
from synboot.synth.engine import Engine, ReferenceEngine, SlotEngine
from synboot.synth.engine_transformers import TransformersEngine


def engine_for(model: Any, *, context: int, end_id: int, num_tokens: int, slots: int) -> Engine:
    """An engine that draws among the first `num_tokens` ids, the tokenizer's; its `name` says
    which: `slots`, else `transformers`, else `reference`. Raises BadInput if the tokenizer has
    more tokens than the model."""
    for kind in (SlotEngine, TransformersEngine):
        with contextlib.suppress(BadInput):
            return kind(model, context=context, end_id=end_id, num_tokens=num_tokens, slots=slots)
    return ReferenceEngine(model, context=context, end_id=end_id, num_tokens=num_tokens)
