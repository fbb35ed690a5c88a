"""What a recipe can say of sampling: the engine, and how a token is drawn."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from synboot.core.config import Config

EngineName = Literal["auto", "native", "torch"]
"""`native`: in C, on CPUs with a C compiler that works; `torch`: what torch and transformers
bring."""


class SamplingConfig(Config):
    """How a token is drawn. Temperature 1 and top-p 0.9 are recalled of the paper."""

    temperature: float = Field(default=1.0, ge=0)
    """Divides the logits; 0 takes the likeliest token."""
    top_p: float = Field(default=0.9, gt=0, le=1)
    """The likeliest tokens that together have this probability; 1 for all."""
    top_k: int = Field(default=0, ge=0)
    """Only the k most likely tokens; 0 for all."""
    max_tokens: int = Field(default=4096, ge=1)
    """Tokens of one document, END included; the context may allow fewer."""
