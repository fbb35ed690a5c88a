"""Law 7: budgets are counted in tokens and add up or raise."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synboot.core.errors import BadInput
from synboot.data.batches import Batches
from synboot.data.mixture import Mixture, Source
from synboot.data.tokenizer import train_tokenizer
from synboot.data.tokens import TokenStore, write_token_store
from synboot.experiment.arms import arm_sources
from synboot.experiment.recipe import BudgetConfig
from synboot.synth.filters import TextFilterConfig
from synboot.synth.generate import Prefix

shares = st.floats(0.001, 0.999)
ARMS = ("repetition", "sbp", "oracle")


@settings(deadline=None)
@given(st.integers(1, 10**13), shares)
def test_every_arm_spends_the_same_tokens(training_tokens: int, share: float) -> None:
    budget = BudgetConfig(
        unique_tokens=1000, training_tokens=training_tokens, synthetic_share=share
    )
    for arm in ARMS:
        sources = arm_sources(arm, budget)  # type: ignore[arg-type]
        assert all(type(source["tokens"]) is int for source in sources)
        assert all(source["tokens"] >= 0 for source in sources)
        assert sum(source["tokens"] for source in sources) == training_tokens
    # The realised share is the requested one up to half a token.
    assert abs(budget.synthetic_tokens - share * training_tokens) <= 0.5 + 1e-3


def store_of(directory: Path, lengths: list[int]) -> TokenStore:
    write_token_store(directory, [np.array([1] * n + [0]) for n in lengths], 300)
    return TokenStore(directory)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=8),
    st.integers(1, 500),
    shares,
    st.integers(1, 20),
    st.integers(1, 7),
)
def test_what_is_planned_is_what_the_batches_hold(
    lengths: list[int], training_tokens: int, share: float, context: int, batch_rows: int
) -> None:
    """Real and synthetic parts, cut into rows and batches, sum to the budget to the token."""
    synthetic_tokens = round(share * training_tokens)
    with tempfile.TemporaryDirectory() as name:
        real = store_of(Path(name) / "real", lengths)
        synthetic = store_of(Path(name) / "synthetic", [max(synthetic_tokens - 1, 0)])
        mixture = Mixture(
            [
                Source("real", real, len(real), training_tokens - synthetic_tokens),
                Source("synthetic", synthetic, 1, synthetic_tokens, max_passes=1),
            ],
            context,
            end_id=0,
            seed=0,
        )
        batches = Batches(mixture, batch_rows)
        held = [batches.batch(step)[0] for step in range(batches.num_steps)]
        assert sum(int((batch.targets >= 0).sum()) for batch in held) == training_tokens
        assert sum(batch.global_targets for batch in held) == training_tokens
        assert sum(int(entry["tokens"]) for entry in mixture.plan()) == training_tokens
        assert {entry["source"]: entry["tokens"] for entry in mixture.plan()} == {
            name: tokens
            for name, tokens in (
                ("real", training_tokens - synthetic_tokens),
                ("synthetic", synthetic_tokens),
            )
            if tokens
        }


@pytest.mark.parametrize("short_by", [1, 5])
def test_a_source_that_falls_short_raises(tmp_path: Path, short_by: int) -> None:
    store = store_of(tmp_path, [9])
    Mixture([Source("synthetic", store, 1, 10, max_passes=1)], 4, 0, seed=0)
    with pytest.raises(BadInput, match=f"{10 + short_by} tokens asked of 10"):
        Mixture([Source("synthetic", store, 1, 10 + short_by, max_passes=1)], 4, 0, seed=0)


SENTENCES = [
    "a river runs past the old mill and turns its wheel",
    "seven ships left the harbour before the storm had come",
    "bread is made of flour and water and a little salt",
    "no two snowflakes that were ever photographed looked alike",
]
TOKENIZER = train_tokenizer(SENTENCES, 300)


def drawn(number: int) -> dict[str, object]:
    text = SENTENCES[number % len(SENTENCES)] + f", number {number}"
    return {
        "id": f"d{number}#0",
        "text": text,
        "seed_id": f"d{number}",
        "draw": 0,
        "sampled_tokens": len(TOKENIZER.encode([text])[0]),
        "finish_reason": "end",
        "verdict": "keep",
        "reason": None,
        "score": None,
        "license": None,
        "source": None,
    }


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 150))
def test_the_synthetic_corpus_is_cut_to_the_token(need: int) -> None:
    """The shortest prefix that meets the need; only its last document is cut."""
    prefix = Prefix(need, TOKENIZER, TextFilterConfig())
    number = 0
    while not prefix.full:
        prefix.add(drawn(number), "")
        number += 1
    assert prefix.num_tokens == need == sum(map(len, prefix.documents))
    assert [row["num_tokens"] for row in prefix.rows] == [len(ids) for ids in prefix.documents]
    assert all(ids[-1] == TOKENIZER.end_id for ids in prefix.documents[:-1])
    assert not any(row["cut"] for row in prefix.rows[:-1])
    assert prefix.rows[-1]["cut"] == (prefix.documents[-1][-1] != TOKENIZER.end_id)
    with pytest.raises(ValueError, match="met already"):
        prefix.add(drawn(number), "")
