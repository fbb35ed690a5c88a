from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synboot.core.rng import rng
from synboot.data.tokenizer import END, TextTokenizer, train_tokenizer
from synboot.synth.engine import Completion, Request
from synboot.synth.filters import CorpusWindows, TextFilterConfig
from synboot.synth.generate import UNPROMPTED, Prefix, Row, SeedDocument, distinct, draw
from synboot.synth.order import DrawOrder
from synboot.synth.settings import SamplingConfig
from synboot.synth.template import prompt

sys.path.append(str(Path(__file__).parents[1] / "model"))

from tiny import byte_level

CONTEXT = 32
TEXTS = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "A quick dog jumps over the sleeping fox. Über den faulen Hund: 你好, κόσμε!",
    "Nobody knows what the brown dog dreams of; the fox does not say.",
]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return train_tokenizer(TEXTS, 320)


class ScriptedEngine:
    """Gives each request the completion that a script names for its seed document and draw."""

    def __init__(self, script: dict[tuple[str, int], Completion], default: Completion) -> None:
        self.asked: list[Request] = []
        self._script = script
        self._default = default

    def sample(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Completion]:
        self.asked += requests
        return [self._script.get((str(r.key[2]), int(r.key[3])), self._default) for r in requests]


class InTurn(DrawOrder):
    """Documents in their own order, so that tests can say which is drawn from."""

    def _round(self, number: int) -> np.ndarray:
        return np.arange(self.num_seeds)


def completion(tokenizer: TextTokenizer, text: str | bytes, reason: Any = "end") -> Completion:
    if isinstance(text, str):
        return Completion(tokenizer.encode([text])[0], reason)
    byte_ids = {tokenizer.decode_bytes([i]): i for i in range(tokenizer.vocab_size)}
    return Completion(np.array([byte_ids[bytes([b])] for b in text], dtype=np.int64), reason)


def seed_documents(tokenizer: TextTokenizer) -> list[SeedDocument]:
    licenses, sources = ["CC0", None, "MIT"], ["a.jsonl", "b.jsonl", None]
    return [
        SeedDocument(f"doc{i}", text, tokenizer.encode([text])[0], licenses[i], sources[i])
        for i, text in enumerate(TEXTS)
    ]


def draw_range(
    tokenizer: TextTokenizer,
    engine: ScriptedEngine,
    first: int,
    stop: int,
    filters: TextFilterConfig | None = None,
) -> list[Row]:
    return draw(
        first,
        stop,
        seed_documents(tokenizer).__getitem__,
        InTurn(len(TEXTS), 1, 0),
        engine=engine,
        tokenizer=tokenizer,
        corpus=CorpusWindows(TEXTS),
        sampling=SamplingConfig(),
        filters=filters or TextFilterConfig(min_tokens=2),
        context=CONTEXT,
        seed=11,
    )


def test_draws_from_nothing_have_the_start_alone_and_no_seed(tokenizer: TextTokenizer) -> None:
    engine = ScriptedEngine({}, completion(tokenizer, "the fox says what nobody wrote"))
    rows = draw(
        4,
        7,
        lambda place: UNPROMPTED,
        InTurn(1, 4, 0),
        engine=engine,
        tokenizer=tokenizer,
        corpus=CorpusWindows(TEXTS),
        sampling=SamplingConfig(),
        filters=TextFilterConfig(min_tokens=2),
        context=CONTEXT,
        seed=11,
    )
    assert [request.prompt.tolist() for request in engine.asked] == [[tokenizer.start_id]] * 3
    assert len({request.key for request in engine.asked}) == 3
    assert [row["id"] for row in rows] == ["unprompted#4", "unprompted#5", "unprompted#6"]
    for row in rows:
        assert (row["seed_id"], row["seed_overlap"], row["license"]) == (None, 0.0, None)
        assert row["verdict"] == "keep"


def test_rows_of_draws(tokenizer: TextTokenizer) -> None:
    new = "A wholly new sentence about a fox that nobody wrote."
    engine = ScriptedEngine(
        {
            ("doc0", 0): completion(tokenizer, new),
            ("doc1", 0): completion(tokenizer, b"broken \xff\xfe bytes here"),
            ("doc2", 0): completion(tokenizer, new, "length"),
            ("doc0", 1): completion(tokenizer, TEXTS[0].upper()),
            ("doc1", 1): completion(tokenizer, TEXTS[0]),
            ("doc2", 1): completion(tokenizer, "a"),
        },
        completion(tokenizer, "the " * 40),
    )
    rows = draw_range(tokenizer, engine, 0, 7)
    assert [row["id"] for row in rows] == [
        "doc0#0", "doc1#0", "doc2#0", "doc0#1", "doc1#1", "doc2#1", "doc0#2",
    ]  # fmt: skip
    assert [row["reason"] for row in rows] == [
        None, "invalid_utf8", "unfinished", "seed_copy", "corpus_duplicate", "too_short",
        "repetition",
    ]  # fmt: skip
    assert [row["verdict"] for row in rows] == ["keep"] + ["drop"] * 6
    assert rows[0] == {
        "id": "doc0#0",
        "text": new,
        "seed_id": "doc0",
        "draw": 0,
        "sampled_tokens": len(tokenizer.encode([new])[0]),
        "finish_reason": "end",
        "verdict": "keep",
        "reason": None,
        "score": None,
        "repetition": 0.0,
        "seed_overlap": 0.0,
        "corpus_overlap": 0.0,
        "license": "CC0",
        "source": "a.jsonl",
    }
    assert (rows[1]["license"], rows[1]["source"], rows[1]["score"]) == (None, "b.jsonl", 1.0)
    assert rows[1]["text"] == "broken \ufffd\ufffd bytes here"  # readable, and never kept
    assert 0.5 < rows[6]["score"] < 1.0
    json.dumps(rows, allow_nan=False)


def test_a_draw_is_asked_by_seed_document_and_number_alone(tokenizer: TextTokenizer) -> None:
    engine = ScriptedEngine({}, completion(tokenizer, TEXTS[2] + " Or so it seems to me today."))
    whole = draw_range(tokenizer, engine, 0, 9)
    asked = engine.asked
    assert [r.key for r in asked] == [(11, "synthesize", f"doc{i % 3}", i // 3) for i in range(9)]
    for request, document in zip(asked, seed_documents(tokenizer) * 3, strict=True):
        expected = prompt(document.tokens, CONTEXT, tokenizer.end_id)
        np.testing.assert_array_equal(request.prompt, expected)
    parts = [draw_range(tokenizer, engine, a, b) for a, b in ((4, 9), (0, 1), (1, 4), (4, 4))]
    assert parts[1] + parts[2] + parts[0] == whole
    assert parts[3] == []


def test_a_start_token_of_its_own_stands_in_the_prompt() -> None:
    words = TextTokenizer(byte_level(), end="</s>", start="<s>")
    engine = ScriptedEngine({}, completion(words, "some text that nobody wrote before"))
    draw_range(words, engine, 0, 2)
    for request, document in zip(engine.asked, seed_documents(words), strict=False):
        expected = [words.start_id, *document.tokens[: CONTEXT // 2 - 2], words.start_id]
        assert request.prompt.tolist() == expected
    assert words.start_id != words.end_id


# --- the prefix ----------------------------------------------------------------------------------


def kept_row(text: str, index: int = 0, *, verdict: str = "keep", finish: str = "end") -> Row:
    return {
        "id": f"s#{index}",
        "text": text,
        "seed_id": "s",
        "draw": index,
        "sampled_tokens": 5,
        "finish_reason": finish,
        "verdict": verdict,
        "reason": None if verdict == "keep" else "repetition",
        "score": None if verdict == "keep" else 0.75,
    }


def fill(prefix: Prefix, rows: Sequence[Row]) -> int:
    """Add rows until the need is met; how many were looked at."""
    for number, row in enumerate(rows):
        if prefix.full:
            return number
        prefix.add(row, "the seed")
    return len(rows)


def sentence(index: int) -> str:
    random = rng("sentence", index)
    words = [f"word{random.integers(1000)}" for _ in range(int(random.integers(1, 30)))]
    return " ".join(words) + f" number {index}" + (": 你好" if index % 3 == 0 else "")


@settings(max_examples=100, deadline=None)
@given(need=st.integers(0, 900), data=st.data())
def test_shortest_prefix_to_the_token(tokenizer: TextTokenizer, need: int, data: Any) -> None:
    number = data.draw(st.integers(0, 12))
    drops = data.draw(st.lists(st.booleans(), min_size=number, max_size=number))
    rows = [
        kept_row(sentence(i), i, verdict="drop" if drop else "keep") for i, drop in enumerate(drops)
    ]
    prefix = Prefix(need, tokenizer, TextFilterConfig())
    looked_at = fill(prefix, rows)

    encoded = [[*tokenizer.encode([r["text"]])[0].tolist(), tokenizer.end_id] for r in rows]
    kept = [i for i in range(number) if not drops[i]]
    expected, last = [], -1
    for i in kept:
        if sum(map(len, expected)) >= need:
            break
        expected.append(encoded[i][: need - sum(map(len, expected))])
        last = i
    assert [ids.tolist() for ids in prefix.documents] == expected
    assert prefix.num_tokens == sum(map(len, expected)) == sum(r["num_tokens"] for r in prefix.rows)
    assert prefix.num_tokens <= need
    assert prefix.full == (sum(len(encoded[i]) for i in kept) >= need)
    assert len(prefix.sampled) == looked_at
    if prefix.full:
        assert prefix.num_tokens == need
        assert looked_at == last + 1  # nothing after the document that met the need is looked at
        with pytest.raises(ValueError, match="met already"):
            prefix.add(kept_row("one more"), "the seed")
        assert prefix.num_tokens == need
    assert prefix.draws_per_seed() == looked_at
    counts = prefix.tally.counts()
    assert sum(counts.values()) == looked_at
    assert counts["kept"] == len(prefix.rows)


def test_only_the_last_document_may_be_cut(tokenizer: TextTokenizer) -> None:
    texts = [sentence(i) for i in range(3)]
    lengths = [len(tokenizer.encode([t])[0]) + 1 for t in texts]
    for missing in range(lengths[2]):
        prefix = Prefix(sum(lengths) - missing, tokenizer, TextFilterConfig())
        fill(prefix, [kept_row(t, i) for i, t in enumerate(texts)])
        assert [row["cut"] for row in prefix.rows] == [False, False, missing > 0]
        assert [ids[-1] == tokenizer.end_id for ids in prefix.documents] == [
            True, True, missing == 0,
        ]  # fmt: skip
        assert all(tokenizer.end_id not in ids[:-1] for ids in prefix.documents)
        last = prefix.rows[-1]
        assert last["num_tokens"] == len(prefix.documents[-1]) == lengths[2] - missing
        ids = prefix.documents[-1] if missing else prefix.documents[-1][:-1]
        assert last["text"] == tokenizer.decode_bytes(ids).decode(errors="replace")
        assert prefix.rows[0]["text"] == texts[0]


def test_text_is_counted_as_training_counts_it(tokenizer: TextTokenizer) -> None:
    """Law 14: encoded again from its characters, whatever tokens it was sampled as; a special
    token's name stays text."""
    text = f"the fox {END} the dog"
    single_bytes = completion(tokenizer, text.encode())
    again = tokenizer.encode([text])[0]
    assert len(again) < len(single_bytes.tokens)
    prefix = Prefix(10_000, tokenizer, TextFilterConfig())
    prefix.add(kept_row(text) | {"sampled_tokens": len(single_bytes.tokens)}, "the seed")
    assert prefix.documents[0].tolist() == [*again.tolist(), tokenizer.end_id]
    assert tokenizer.end_id not in again
    assert prefix.sampled == [len(single_bytes.tokens) + 1]


def test_sampled_tokens_count_end_where_it_was_sampled(tokenizer: TextTokenizer) -> None:
    prefix = Prefix(10_000, tokenizer, TextFilterConfig())
    prefix.add(kept_row("one text", 0), "the seed")
    prefix.add(kept_row("another text", 1, finish="length"), "the seed")
    prefix.add(kept_row("dropped", 2, verdict="drop"), "the seed")
    assert prefix.sampled == [6, 5, 6]
    assert prefix.draws_per_seed() == 3  # looked at, not kept


def test_an_earlier_draw_is_earlier_in_the_total_order(tokenizer: TextTokenizer) -> None:
    texts = ["a first text", "A FIRST TEXT!", "a second text", "a first text"]
    prefix = Prefix(10_000, tokenizer, TextFilterConfig())
    fill(prefix, [kept_row(text, i) for i, text in enumerate(texts)])
    assert [row["id"] for row in prefix.rows] == ["s#0", "s#2"]
    assert prefix.tally.counts() == {"kept": 2, "dropped_draw_duplicate": 2}
    # A draw that its own faults dropped is no earlier draw.
    prefix = Prefix(10_000, tokenizer, TextFilterConfig())
    rows = [kept_row("a first text", 0, verdict="drop"), kept_row("a first text", 1)]
    fill(prefix, rows)
    assert [row["id"] for row in prefix.rows] == ["s#1"]
    assert prefix.tally.samples["repetition"] == [
        {"reason": "repetition", "score": 0.75, "seed_id": "s", "seed_text": "the seed",
         "text": "a first text"}
    ]  # fmt: skip


def test_the_prefix_depends_on_the_order_alone(tokenizer: TextTokenizer) -> None:
    """A larger need has the smaller one's documents first; feeding in pieces changes nothing."""
    rows = [
        kept_row(sentence(i % 17), i, verdict="drop" if i % 5 == 4 else "keep") for i in range(30)
    ]
    prefixes = []
    for need in (150, 400, 401):
        prefix = Prefix(need, tokenizer, TextFilterConfig())
        fill(prefix, rows)
        assert prefix.full
        prefixes.append(np.concatenate(prefix.documents))
        assert len(prefixes[-1]) == need
    np.testing.assert_array_equal(prefixes[2][:400], prefixes[1])
    np.testing.assert_array_equal(prefixes[1][:150], prefixes[0])
    pieces = Prefix(400, tokenizer, TextFilterConfig())
    for start in range(0, 30, 4):
        fill(pieces, rows[start : start + 4])
    np.testing.assert_array_equal(np.concatenate(pieces.documents), prefixes[1])


def test_a_need_of_nothing_is_met(tokenizer: TextTokenizer) -> None:
    prefix = Prefix(0, tokenizer, TextFilterConfig())
    assert prefix.full
    assert prefix.draws_per_seed() == 0
    with pytest.raises(ValueError, match="met already"):
        prefix.add(kept_row("text"), "the seed")


def test_distinct() -> None:
    assert json.loads(distinct(["MIT", None, "CC0", "MIT", ""])) == ["CC0", "MIT", None]
    assert (distinct([]), distinct([None])) == ("[]", "[null]")
