"""The synthetic corpus: a fixed total order of draws, filters, and its shortest prefix that is
long enough (law 3).

The order is that of `DrawOrder`. Draw n of seed document s is keyed by (seed, s, n) and by nothing
else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from synboot.core.verdict import Drop, Keep, Tally, judge
from synboot.data.tokenizer import TextTokenizer
from synboot.synth.best import BestOf
from synboot.synth.engine import Completion, Engine, Request
from synboot.synth.filters import CorpusWindows, Draft, EarlierDraws, TextFilterConfig, text_filters
from synboot.synth.order import DrawOrder
from synboot.synth.settings import SamplingConfig
from synboot.synth.template import prompt

_SAMPLE_CHARACTERS = 2000


@dataclass(frozen=True)
class SeedDocument:
    """A document to draw from; `tokens` without END, None to draw from nothing."""

    id: str
    text: str
    tokens: np.ndarray | None
    license: str | None
    source: str | None


UNPROMPTED = SeedDocument("unprompted", "", None, None, None)
"""No document: what a model writes after the start token alone."""


Row = dict[str, Any]


def draw(
    first: int,
    stop: int,
    seeds: Callable[[int], SeedDocument],
    order: DrawOrder,
    *,
    engine: Engine,
    tokenizer: TextTokenizer,
    corpus: CorpusWindows,
    sampling: SamplingConfig,
    filters: TextFilterConfig,
    context: int,
    seed: int,
    best_of: BestOf | None = None,
) -> list[Row]:
    """Draws `first` to `stop` of the total order, each with its verdict.

    What a draw is does not depend on the range it is asked in (at a given number of slots). With
    `best_of` a range is of whole groups, and rows have a `log_ratio` where draws were scored.
    """
    places = [(number, seeds(place)) for place, number in map(order.place, range(first, stop))]
    requests = [
        Request(
            np.array([tokenizer.start_id], dtype=np.int64)
            if document.tokens is None
            else prompt(document.tokens, context, tokenizer.end_id, tokenizer.start_id),
            (seed, "synthesize", document.id, number),
        )
        for number, document in places
    ]
    checks = text_filters(filters, corpus)
    rows = []
    completions = engine.sample(requests, sampling)
    for (number, document), completion in zip(places, completions, strict=True):
        text = _valid_text(tokenizer, completion.tokens)
        draft = Draft(completion.tokens, text, completion.finish_reason, document.text)
        verdict = judge(draft, checks)
        rows.append(
            {
                "id": f"{document.id}#{number}",
                "text": text if text is not None else _readable(tokenizer, completion.tokens),
                "seed_id": None if document.tokens is None else document.id,
                "draw": number,
                "sampled_tokens": len(completion.tokens),
                "finish_reason": completion.finish_reason,
                "verdict": "keep" if isinstance(verdict, Keep) else "drop",
                "reason": verdict.reason if isinstance(verdict, Drop) else None,
                "score": verdict.score if isinstance(verdict, Drop) else None,
                "repetition": draft.repetition,
                "seed_overlap": draft.seed_overlap,
                "corpus_overlap": corpus.overlap(draft),
                "license": document.license,
                "source": document.source,
            }
        )
    if best_of is not None:
        for start in range(0, len(rows), best_of.size):
            kept = [i for i in range(start, start + best_of.size) if rows[i]["verdict"] == "keep"]
            drawn = [_with_end(completions[i], tokenizer.end_id) for i in kept]
            chosen = best_of.verdicts(requests[start].prompt, drawn) if kept else []
            for i, (score, drop) in zip(kept, chosen, strict=True):
                rows[i]["log_ratio"] = score
                if drop is not None:
                    rows[i] |= {"verdict": "drop", "reason": drop.reason, "score": drop.score}
    return rows


def _with_end(completion: Completion, end_id: int) -> np.ndarray:
    """All tokens that were drawn."""
    ended = completion.finish_reason == "end"
    return np.append(completion.tokens, end_id) if ended else completion.tokens


def _valid_text(tokenizer: TextTokenizer, tokens: np.ndarray) -> str | None:
    try:
        return tokenizer.decode(tokens)
    except UnicodeDecodeError:
        return None


def _readable(tokenizer: TextTokenizer, tokens: np.ndarray) -> str:
    return tokenizer.decode_bytes(tokens).decode("utf-8", errors="replace")


@dataclass
class Prefix:
    """The kept documents of a prefix of the total order, up to `need_tokens`, to the token.

    Feed it rows in order with `add` until it is `full`. Text counts as training will count it:
    encoded again from its characters, with END. The last document is cut to the token and then
    carries no END.
    """

    need_tokens: int
    tokenizer: TextTokenizer
    filters: TextFilterConfig
    rows: list[Row] = field(default_factory=list)
    documents: list[np.ndarray] = field(default_factory=list)
    num_tokens: int = 0
    sampled: list[int] = field(default_factory=list)
    """Tokens sampled for each candidate looked at, END included."""
    log_ratios: list[float | None] = field(default_factory=list)
    """The score of each where it was one of several to choose from."""
    tally: Tally = field(default_factory=Tally)
    _earlier: EarlierDraws | None = None
    _draws: int = 0

    @property
    def full(self) -> bool:
        """Whether the need is met."""
        return self.num_tokens >= self.need_tokens

    def add(self, row: Row, seed_text: str) -> None:
        """Take the next row of the order."""
        if self.full:
            raise ValueError("the need is met already")
        self._earlier = self._earlier or EarlierDraws(self.filters.max_draw_overlap)
        verdict = (
            self._earlier(row["text"])
            if row["verdict"] == "keep"
            else Drop(row["reason"], row["score"])
        )
        self._draws = max(self._draws, int(row["draw"]) + 1)
        self.sampled.append(int(row["sampled_tokens"]) + (row["finish_reason"] == "end"))
        self.log_ratios.append(row.get("log_ratio"))
        self.tally.add(
            verdict,
            lambda: {
                "seed_id": row["seed_id"],
                "seed_text": seed_text[:_SAMPLE_CHARACTERS],
                "text": row["text"][:_SAMPLE_CHARACTERS],
            },
        )
        if isinstance(verdict, Drop):
            return
        ids = np.append(self.tokenizer.encode([row["text"]])[0], self.tokenizer.end_id)
        left = self.need_tokens - self.num_tokens
        cut = len(ids) > left
        text = _readable(self.tokenizer, ids[:left]) if cut else row["text"]
        self.documents.append(ids[:left])
        self.rows.append(
            row
            | {
                "text": text,
                "num_tokens": min(len(ids), left),
                "cut": cut,
                "draw_overlap": self._earlier.last_overlap,
            }
        )
        self.num_tokens += min(len(ids), left)

    def draws_per_seed(self) -> int:
        """How many draws of a seed document were looked at, at most."""
        return self._draws


def distinct(names: Sequence[str | None]) -> str:
    """The distinct licences, or sources, of the documents a synthesizer saw, as a JSON list; null
    stands last where some document has none."""
    return json.dumps(sorted({name for name in names if name}) + [None] * (None in names))
