"""Law 14, scoring: what a document's likelihood is, from its text to bits per byte."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from synboot.data.tokenizer import END, TextTokenizer, train_tokenizer
from synboot.eval.likelihood import Likelihoods, score_documents
from synboot.model.architecture import new_model
from synboot.model.settings import Shape

torch.set_num_threads(1)
CONTEXT = 24
TEXTS = [
    "Short.",
    "A longer document of several sentences. It does not fit into one window of the context, so "
    "that it is read in windows; and every token of it is scored exactly once.",
    f"Special strings such as {END} stay text, also {END}{END} twice.",
    "Straße, 你好, κόσμε: more bytes than characters.",
    "x",
]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return train_tokenizer([TEXTS[1]] * 3, 300)


@pytest.fixture(scope="module")
def model(tokenizer: TextTokenizer) -> Any:
    made = new_model(
        Shape(2, 16, 2, 2, 8, 32),
        vocab_size=tokenizer.vocab_size,
        context=CONTEXT,
        end_id=tokenizer.end_id,
        seed=4,
    )
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12.0)
    return made.eval()


def score(model: Any, tokenizer: TextTokenizer, texts: list[str]) -> Likelihoods:
    return score_documents(
        model,
        tokenizer.encode(texts),
        texts,
        context=CONTEXT,
        end_id=tokenizer.end_id,
        device=torch.device("cpu"),
    )


def test_bits_per_byte_equal_plain_transformers(model: Any, tokenizer: TextTokenizer) -> None:
    """The sliding window of transformers' own documentation: a stride of half a context, the
    targets of the window before masked."""
    nats, stride = 0.0, CONTEXT // 2
    for text in TEXTS:
        ids = torch.tensor([[tokenizer.end_id, *tokenizer.encode([text])[0]]])
        scored, last = 1, ids.shape[1] - 1  # the first END is given, not scored
        for begin in range(0, last, stride):
            end = min(begin + CONTEXT, last)
            with torch.no_grad():
                logits = model(ids[:, begin:end]).logits[0].double().log_softmax(-1)
            for target in range(scored, end + 1):
                nats -= float(logits[target - 1 - begin, ids[0, target]])
            scored = end + 1
            if end == last:
                break
    expected = nats / math.log(2) / sum(len(text.encode("utf-8")) for text in TEXTS)
    assert score(model, tokenizer, TEXTS).bits_per_byte == pytest.approx(expected, rel=1e-6)


def test_a_document_is_scored_alone(model: Any, tokenizer: TextTokenizer) -> None:
    together = score(model, tokenizer, TEXTS)
    for i, text in enumerate(TEXTS):
        alone = score(model, tokenizer, [text])
        assert alone.nats[0] == pytest.approx(together.nats[i], rel=1e-5)
    among_others = score(model, tokenizer, ["Something else.", *TEXTS[::-1], "And more."])
    np.testing.assert_allclose(among_others.nats[1:-1][::-1], together.nats, rtol=1e-5)


def test_every_token_counts_once_and_the_end_does_not(model: Any, tokenizer: TextTokenizer) -> None:
    found = score(model, tokenizer, TEXTS)
    assert found.num_tokens.tolist() == [len(ids) for ids in tokenizer.encode(TEXTS)]
    assert found.num_tokens[1] > 2 * CONTEXT
    # With every token equally likely, nats count tokens: neither END nor a window's overlap.
    flat = new_model(
        Shape(1, 8, 1, 1, 8, 16),
        vocab_size=tokenizer.vocab_size,
        context=CONTEXT,
        end_id=tokenizer.end_id,
        seed=0,
    )
    with torch.no_grad():
        flat.model.norm.weight.zero_()
    nats = score(flat, tokenizer, TEXTS).nats
    np.testing.assert_allclose(nats, found.num_tokens * math.log(tokenizer.vocab_size), rtol=1e-6)


def test_bytes_are_those_of_the_text(model: Any, tokenizer: TextTokenizer) -> None:
    found = score(model, tokenizer, TEXTS)
    assert found.num_bytes.tolist() == [len(text.encode("utf-8")) for text in TEXTS]
    assert found.num_bytes[3] > len(TEXTS[3])
    by_hand = found.nats.sum() / math.log(2) / sum(len(text.encode()) for text in TEXTS)
    assert found.bits_per_byte == pytest.approx(by_hand)


def test_the_name_of_a_special_token_stays_text(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode([TEXTS[2]])[0]
    assert tokenizer.end_id not in ids
    assert tokenizer.decode(ids) == TEXTS[2]


def test_the_document_start_token_is_end(model: Any, tokenizer: TextTokenizer) -> None:
    ids = int(tokenizer.encode(["x"])[0][0])
    with torch.no_grad():
        logits = model(torch.tensor([[tokenizer.end_id]])).logits[0, -1].double()
    expected = -float(logits.log_softmax(-1)[ids])
    assert score(model, tokenizer, ["x"]).nats[0] == pytest.approx(expected, rel=1e-5)
