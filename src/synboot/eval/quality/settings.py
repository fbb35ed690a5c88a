"""What the measures of synthetic text depend on, and what judges it."""

from __future__ import annotations

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from synboot.core.config import Config

ENDPOINT, LOCAL = "endpoint:", "model:"
_EXPECTED = f"expected {ENDPOINT}MODEL (and a url) or {LOCAL}DIRECTORY"


def _known_judge(name: str) -> str:
    if not any(name.startswith(kind) and name.removeprefix(kind) for kind in (ENDPOINT, LOCAL)):
        raise ValueError(_EXPECTED)
    return name


def _has_more_than_a_path(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return True
    return "@" in parts.netloc or bool(parts.query or parts.fragment)


class JudgeConfig(Config):
    """A judge that reads: a model behind an OpenAI-compatible endpoint, or one on this disk."""

    name: Annotated[str, AfterValidator(_known_judge)]
    """endpoint:MODEL, or model:DIRECTORY of a causal LM."""
    url: str | None = None
    """Of an endpoint, up to and with its version: http://localhost:8000/v1."""
    key_variable: str | None = None
    """The environment variable that holds the API key. The key itself is never written down."""
    max_requests: int | None = Field(default=None, ge=1)
    """Requests to an endpoint, retries among them; then judging ends and says so. null: no
    limit."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens of prompts and answers, as the endpoint counts them. null: no limit."""
    answer_tokens: int = Field(default=16, ge=1)
    """Of one answer: more for models that think aloud first."""
    max_characters: int = Field(default=8000, ge=100)
    """Of a text that is shown to an endpoint; the rest is cut off and such texts are counted."""
    concurrency: int = Field(default=8, ge=1, le=256)
    """Requests at a time."""
    timeout_seconds: float = Field(default=60.0, gt=0)
    """Of one request."""
    attempts: int = Field(default=6, ge=1)
    """Of one question, where the endpoint is busy, broken or silent."""

    @model_validator(mode="after")
    def _fits_the_kind(self) -> Self:
        endpoint = self.name.startswith(ENDPOINT)
        if endpoint and not (self.url or "").startswith(("http://", "https://")):
            raise ValueError(f"url: expected that of the endpoint, http(s)://..., got {self.url!r}")
        if endpoint and _has_more_than_a_path(self.url or ""):
            raise ValueError(
                "url: expected no user, password, query or fragment: a key is named by key_variable"
            )
        own = ("url", "key_variable", "max_requests", "max_tokens")
        given = [name for name in own if getattr(self, name) is not None]
        if not endpoint and given:
            raise ValueError(f"{given[0]}: a model on this disk takes none")
        return self


class QualityConfig(Config):
    """The measures of synthetic text; of a run, of the text of sbp's first seed."""

    sample_documents: int = Field(default=100_000, ge=1)
    """At most so many synthetic documents, and real ones, and pairs, are looked at: keyed
    samples."""
    max_repetition: float = Field(default=0.2, ge=0, le=1)
    """A text is repetitive if more of its 4-word windows stood in it before."""
    duplicate_similarity: float = Field(default=0.6, gt=0, le=1)
    """Jaccard similarity from which on two texts are near duplicates (the paper's, from memory)."""
    duplicate_words: int = Field(default=5, ge=1)
    """Words of the windows that are compared for it."""
    relevance: bool = True
    """Similarity to the seed document by lsa: the run's own, or one with default settings where its
    encoder is another."""
    judge: JudgeConfig | None = None
    """Who says what is false and what is beside the point; a world has its own exact one."""
    judge_documents: int = Field(default=500, ge=1)
    """Synthetic documents that are judged, and as many real ones; an exact judge has all that are
    looked at."""
