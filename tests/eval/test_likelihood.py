from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synboot.core.rng import rng
from synboot.eval.likelihood import Likelihoods, score_documents, windows_of
from synboot.model.architecture import new_model
from synboot.model.settings import Shape

sys.path.append(str(Path(__file__).parents[1] / "model"))

from tiny import tiny_model as other_model

torch.set_num_threads(1)
END = 0
CONTEXT = 16
VOCABULARY = 50
CPU = torch.device("cpu")


def tiny_model() -> Any:
    model = new_model(
        Shape(2, 16, 2, 1, 8, 32), vocab_size=VOCABULARY, context=64, end_id=END, seed=1
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12.0)
    return model.eval()


MODEL = tiny_model()


def document(length: int) -> np.ndarray:
    return rng("document", length).integers(1, VOCABULARY, length).astype(np.uint16)


LENGTHS = [5, 1, 16, 17, 40, 15, 24, 25, 2, 33, 8, 16]
DOCUMENTS = [document(length) for length in LENGTHS]
TEXTS = ["x" * (3 * length) for length in LENGTHS]


def score(documents: list[np.ndarray], texts: list[str] | None = None, **more: Any) -> Likelihoods:
    arguments = {"context": CONTEXT, "end_id": END, "device": CPU} | more
    texts = texts if texts is not None else ["x" * len(ids) for ids in documents]
    return score_documents(MODEL, documents, texts, **arguments)


@torch.no_grad()
def plain_nats(ids: np.ndarray, context: int, model: Any = MODEL, first: int = END) -> float:
    """Token by token with transformers: END and what stands before a token go in, from the
    latest window start (a multiple of half a context) that still has the token in reach."""
    sequence = torch.tensor([first, *ids.tolist()])
    nats = 0.0
    for place in range(1, len(sequence)):
        start = 0
        while place - start > context:
            start += context // 2
        logits = model(input_ids=sequence[None, start:place]).logits[0, -1].double()
        nats -= float(logits.log_softmax(-1)[sequence[place]])
    return nats


@pytest.mark.parametrize("context", [CONTEXT, 7, 64])
def test_equals_plain_transformers_for_every_document(context: int) -> None:
    found = score(DOCUMENTS, context=context)
    expected = [plain_nats(ids, context) for ids in DOCUMENTS]
    # float32 logits: sums of up to 40 terms agree to a few units in the seventh digit.
    np.testing.assert_allclose(found.nats, expected, rtol=1e-5)
    assert found.num_tokens.tolist() == LENGTHS


@pytest.mark.parametrize("layout", ["llama", "gpt2", "mistral, sliding"])
@pytest.mark.parametrize("first", [END, 49])
def test_other_models_and_start_tokens_equal_plain_transformers(layout: str, first: int) -> None:
    model = other_model(layout, vocab_size=VOCABULARY)
    found = score_documents(
        model, DOCUMENTS, TEXTS, context=CONTEXT, end_id=END, start_id=first, device=CPU
    )
    expected = [plain_nats(ids, CONTEXT, model, first) for ids in DOCUMENTS]
    np.testing.assert_allclose(found.nats, expected, rtol=1e-5)
    if first == END:
        same = score_documents(model, DOCUMENTS, TEXTS, context=CONTEXT, end_id=END, device=CPU)
        np.testing.assert_array_equal(found.nats, same.nats)


@settings(max_examples=300, deadline=None)
@given(num_tokens=st.integers(0, 400), context=st.integers(1, 70))
def test_windows_score_every_token_once(num_tokens: int, context: int) -> None:
    windows = windows_of(3, num_tokens, context)
    targets = [t for w in windows for t in range(w.scored_from + 1, w.stop + 1)]
    assert targets == list(range(1, num_tokens + 1))
    for window in windows:
        assert window.document == 3
        assert 0 <= window.start <= window.scored_from < window.stop <= num_tokens
        assert window.stop - window.start <= context
        # Half a context to look back on at least, or everything there is.
        for target in range(window.scored_from + 1, window.stop + 1):
            assert target - window.start >= min(target, (context + 1) // 2)
    # No other window has more to look back on for a token.
    for window in windows:
        earlier = [w for w in windows if w.start < window.start]
        assert all(w.stop <= window.scored_from for w in earlier)


@pytest.mark.parametrize("batch_tokens", [1, 16, 40, 100, 100_000])
def test_independent_of_batches_and_of_the_order_of_documents(batch_tokens: int) -> None:
    expected = score(DOCUMENTS, TEXTS)
    order = rng("order", batch_tokens).permutation(len(DOCUMENTS)).tolist()
    found = score(
        [DOCUMENTS[i] for i in order], [TEXTS[i] for i in order], batch_tokens=batch_tokens
    )
    np.testing.assert_allclose(found.nats, expected.nats[order], rtol=1e-5)
    np.testing.assert_array_equal(found.num_tokens, expected.num_tokens[order])
    np.testing.assert_array_equal(found.num_bytes, expected.num_bytes[order])
    assert found.bits_per_byte == pytest.approx(expected.bits_per_byte, rel=1e-6)


def test_batches_stay_within_their_tokens() -> None:
    seen: list[tuple[int, int]] = []

    def watch(module: Any, args: Any, kwargs: Any) -> None:
        seen.append(tuple(kwargs["input_ids"].shape))

    handle = MODEL.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        score(DOCUMENTS, batch_tokens=40)
    finally:
        handle.remove()
    assert sum(rows for rows, _ in seen) == sum(len(windows_of(0, n, CONTEXT)) for n in LENGTHS)
    assert all(rows * length <= 40 and length <= CONTEXT for rows, length in seen)
    assert any(rows > 1 for rows, _ in seen)


def test_one_token_documents() -> None:
    tokens = [3, 7, 3]
    found = score([np.array([t]) for t in tokens])
    with torch.no_grad():
        first = MODEL(input_ids=torch.tensor([[END]])).logits[0, -1].double().log_softmax(-1)
    np.testing.assert_allclose(found.nats, [-float(first[t]) for t in tokens], rtol=1e-5)


def test_an_empty_document_has_nothing_to_score() -> None:
    found = score([document(5), np.array([], dtype=np.int64)], ["five!", ""])
    assert found.nats[1] == found.num_tokens[1] == found.num_bytes[1] == 0
    assert found.bits_per_byte == pytest.approx(plain_nats(document(5), CONTEXT) / math.log(2) / 5)


def test_bits_per_byte_by_hand() -> None:
    found = Likelihoods(
        np.array([2, 1]), np.array([3, 5]), np.array([4 * math.log(2), 12 * math.log(2)])
    )
    assert found.bits_per_byte == pytest.approx(2.0)
    assert isinstance(found.bits_per_byte, float)


def test_bytes_are_those_of_utf8() -> None:
    texts = ["abc", "äöü", "你好", "🦊", "e\u0301"]
    found = score([document(3)] * 5, texts)
    assert found.num_bytes.tolist() == [3, 6, 6, 4, 3]
    assert found.num_bytes.dtype == found.num_tokens.dtype == np.int64
    assert found.nats.dtype == np.float64


def test_a_uniform_model_has_the_entropy_of_its_vocabulary() -> None:
    model = new_model(
        Shape(1, 8, 1, 1, 8, 16), vocab_size=VOCABULARY, context=CONTEXT, end_id=END, seed=0
    )
    with torch.no_grad():
        model.model.norm.weight.zero_()
    found = score_documents(model, DOCUMENTS, TEXTS, context=CONTEXT, end_id=END, device=CPU)
    np.testing.assert_allclose(found.nats, np.array(LENGTHS) * math.log(VOCABULARY), rtol=1e-6)
    assert found.bits_per_byte == pytest.approx(math.log2(VOCABULARY) / 3)


def test_dropout_is_off_and_progress_and_stop_are_heard() -> None:
    model = tiny_model()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    model.train()
    reports: list[tuple[float, float]] = []
    found = score_documents(
        model, DOCUMENTS, TEXTS, context=CONTEXT, end_id=END, device=CPU, batch_tokens=40,
        progress=lambda done, total, note: reports.append((done, total)),
    )  # fmt: skip
    np.testing.assert_allclose(found.nats, score(DOCUMENTS).nats, rtol=1e-5)
    assert [done for done, _ in reports] == sorted({done for done, _ in reports})
    assert reports[-1][0] == reports[-1][1]

    class Stopped(Exception):
        pass

    def stop(done: float, total: float, note: str) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        score(DOCUMENTS, progress=stop)


def test_bfloat16_is_near_float32() -> None:
    found = score(DOCUMENTS, precision="bfloat16")
    np.testing.assert_allclose(found.nats.sum(), score(DOCUMENTS).nats.sum(), rtol=0.02)
    assert not np.array_equal(found.nats, score(DOCUMENTS).nats)


def test_several_models_have_the_mean_of_their_probabilities() -> None:
    """Token by token, whatever is beside a document in its batch; one alone is what it was."""
    others = [MODEL, other_model("qwen3", vocab_size=VOCABULARY), other_model("gpt2")]
    documents = [document(5), document(1), document(12)]
    texts = ["x"] * 3
    arguments: Any = {"context": CONTEXT, "end_id": END, "device": CPU}
    found = score_documents(others, documents, texts, **arguments).nats
    for ids, nats in zip(documents, found.tolist(), strict=True):
        of_models = [token_probabilities(model, ids) for model in others]
        mean = np.mean(of_models, axis=0)
        assert nats == pytest.approx(-np.log(mean).sum(), rel=1e-5)
    alone = score_documents([MODEL], documents, texts, **arguments).nats
    assert alone.tolist() == score(documents, texts).nats.tolist()
    single = [score_documents(others, [ids], ["x"], **arguments).nats[0] for ids in documents]
    assert found == pytest.approx(single, rel=1e-6)


@torch.no_grad()
def token_probabilities(model: Any, ids: np.ndarray) -> np.ndarray:
    inputs = torch.tensor([[END, *ids[:-1].tolist()]])
    logits = model(input_ids=inputs, use_cache=False).logits[0].double()
    chosen = logits.softmax(-1)[torch.arange(len(ids)), torch.from_numpy(ids.astype(np.int64))]
    return np.asarray(chosen)
