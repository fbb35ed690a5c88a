from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoTokenizer,
    GraniteConfig,
    GraniteForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from synboot.core.rng import rng
from synboot.data.tokenizer import TextTokenizer, train_tokenizer
from synboot.eval.choices import (
    MIN_SHARED_TOKENS,
    Answers,
    Request,
    encode_requests,
    pieces_of,
    score_requests,
)
from synboot.train.loss import has_plain_head

sys.path.append(str(Path(__file__).parents[1] / "model"))

from tiny import byte_level, save_tokenizer, sentencepiece_like, tiny_model, words

torch.set_num_threads(1)
CPU = torch.device("cpu")
VOCABULARY = 60
CONTEXT = 24


def ids(length: int, *key: int | str) -> np.ndarray:
    return rng("ids", length, *key).integers(1, VOCABULARY, length)


def group(context: int, *lengths: int) -> list[Request]:
    first = ids(context, "context")
    return [Request(first, ids(length, number)) for number, length in enumerate(lengths)]


GROUPS = [
    group(12, 3, 1, 5),  # shares its context
    group(12, 2, 2),
    group(MIN_SHARED_TOKENS, 1, 1, 1),  # nothing is left to read behind the context
    group(1, 4, 7),  # too short to share
    group(20, 2, 9),  # one of them does not fit
    group(40, 3),  # loses tokens from the left
    group(30, 30, 25),  # continuations longer than the context are read in pieces
    [Request(ids(10, "a"), ids(3)), Request(ids(10, "b"), ids(3))],  # no common context
    group(9, 24),
    group(3, 25),
]


@torch.no_grad()
def slow(model: Any, request: Request, context: int = CONTEXT) -> tuple[float, bool]:
    """One token at a time, alone, with plain transformers; a continuation longer than the context
    has what is left of `context` before each piece of half of it."""
    whole = [*request.context.tolist(), *request.continuation.tolist()]
    first, length = len(request.context), len(whole)
    half = context if length - first <= context else context // 2
    nats, greedy = 0.0, True
    for place in range(first, length):
        piece_end = min(first + ((place - first) // half + 1) * half, length)
        start = max(0, piece_end - 1 - context)
        logits = model(input_ids=torch.tensor([whole[start:place]])).logits[0, -1].double()
        nats -= float(logits.log_softmax(-1)[whole[place]])
        greedy &= int(logits.argmax()) == whole[place]
    return nats, greedy


def check(model: Any, found: Answers, groups: list[list[Request]]) -> None:
    requests = [request for own in groups for request in own]
    expected = [slow(model, request) for request in requests]
    # float32 logits: sums of up to 30 terms agree to a few units in the seventh digit.
    np.testing.assert_allclose(found.nats, [nats for nats, _ in expected], rtol=2e-5)
    assert found.greedy.tolist() == [greedy for _, greedy in expected]
    assert found.num_tokens.tolist() == [len(request.continuation) for request in requests]


@pytest.mark.parametrize(
    "layout", ["qwen3", "llama with biases", "gpt2", "mistral, sliding", "gpt_neox"]
)
def test_equals_plain_transformers_one_sequence_at_a_time(layout: str) -> None:
    model = tiny_model(layout, vocab_size=VOCABULARY, context=64)
    check(model, score_requests(model, GROUPS, context=CONTEXT, device=CPU), GROUPS)


def test_a_model_with_a_state_is_read_whole() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2)
        model = MambaForCausalLM(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    groups = GROUPS[:4]
    found = score_requests(model, groups, context=CONTEXT, device=CPU)
    check(model, found, groups)
    assert {first for first, _ in found.spans} == {0}


def test_a_model_that_scales_its_logits() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = GraniteForCausalLM(
            GraniteConfig(
                vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                num_attention_heads=2, num_key_value_heads=1, logits_scaling=0.1,
            )
        ).eval()  # fmt: skip
    assert not has_plain_head(model)
    check(model, score_requests(model, GROUPS, context=CONTEXT, device=CPU), GROUPS)


def test_a_greedy_continuation_is_known_as_such() -> None:
    model = tiny_model("qwen3", vocab_size=VOCABULARY, context=64)
    context = ids(12)
    sequence = context.tolist()
    with torch.no_grad():
        for _ in range(4):
            logits = model(input_ids=torch.tensor([sequence])).logits[0, -1]
            sequence.append(int(logits.argmax()))
    best = np.array(sequence[12:])
    other = best.copy()
    other[-1] = (other[-1] + 1) % VOCABULARY
    found = score_requests(
        model, [[Request(context, best), Request(context, other)]], context=CONTEXT, device=CPU
    )
    assert found.greedy.tolist() == [True, False]
    assert found.nats[0] < found.nats[1]


@pytest.mark.parametrize("batch_tokens", [1, 30, 100, 10_000])
def test_independent_of_batches_and_of_order(batch_tokens: int) -> None:
    model = tiny_model("qwen3", vocab_size=VOCABULARY, context=64)
    expected = score_requests(model, GROUPS, context=CONTEXT, device=CPU)
    backwards = score_requests(
        model, GROUPS[::-1], context=CONTEXT, device=CPU, batch_tokens=batch_tokens
    )
    starts = np.cumsum([0, *map(len, GROUPS)])
    order = [i for g in reversed(range(len(GROUPS))) for i in range(starts[g], starts[g + 1])]
    np.testing.assert_allclose(backwards.nats, expected.nats[order], rtol=1e-5)
    assert sorted(backwards.spans) == sorted(expected.spans)


def test_a_context_is_computed_once_for_its_choices() -> None:
    model = tiny_model("llama", vocab_size=VOCABULARY, context=64)
    found = score_requests(model, GROUPS[:2], context=CONTEXT, device=CPU)
    assert sorted(found.spans) == [(0, 12), (0, 12), (12, 13), (12, 13), (12, 14), (12, 16)]
    seen: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    base = model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        score_requests(model, GROUPS[:2], context=CONTEXT, device=CPU)
    finally:
        hook.remove()
        base.remove()
    assert sum(seen) == 2 * 12 + 4 * 4  # contexts, and four rows of up to four tokens


def test_nothing_to_score() -> None:
    model = tiny_model("qwen3", vocab_size=VOCABULARY)
    found = score_requests(model, [], context=CONTEXT, device=CPU)
    assert found.nats.shape == found.greedy.shape == (0,)


@given(
    before=st.integers(1, 60), size=st.integers(1, 60), context=st.integers(1, 20)
)  # fmt: skip
def test_pieces_score_every_token_once(before: int, size: int, context: int) -> None:
    request = Request(np.zeros(before, np.int64), np.zeros(size, np.int64))
    pieces = pieces_of(7, request, context)
    scored = [place for p in pieces for place in range(p.scored_from, p.stop)]
    assert scored == list(range(before, before + size))
    for piece in pieces:
        assert piece.request == 7
        assert 0 < piece.stop - 1 - piece.start <= context
        assert piece.start < piece.scored_from  # something to look back on
        assert piece.start == max(0, piece.stop - 1 - context)
    if size <= context:
        assert len(pieces) == 1


# The boundary of context and continuation.

TOKENIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "byte-level": (byte_level, {"bos_token": None}),
    "byte-level with <s>": (byte_level, {}),
    "byte-level that adds <s>": (byte_level, {"add_bos_token": True}),
    "Llama 2": (sentencepiece_like, {}),
    "Gemma": (lambda: sentencepiece_like(strip=False), {}),
}


@pytest.fixture(scope="module", params=[*TOKENIZERS, "ours"])
def tokenizers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TextTokenizer, Any]:
    """Ours and transformers' view of one directory."""
    directory = tmp_path_factory.mktemp("tokenizer")
    if request.param == "ours":
        train_tokenizer(words(40), 400).save(directory)
    else:
        make, config = TOKENIZERS[request.param]
        save_tokenizer(make(), directory, **config)
    return TextTokenizer.load(directory), AutoTokenizer.from_pretrained(directory)


def as_the_harness(tokenizer: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """What lm-evaluation-harness documents, with transformers' tokenizer and no batch."""
    start = tokenizer.bos_token_id
    if context == "":
        first = tokenizer.eos_token_id if start is None else start
        return [first], tokenizer.encode(continuation, add_special_tokens=False)
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    whole, alone = tokenizer.encode(context + continuation), tokenizer.encode(context)
    return alone, whole[len(alone) :]


PARTS = ["ba", "fü", " ", "  ", "\n", "na.", "Question:", "Answer:", "é", "1", ",", " bafe"]
pieces_of_text = st.lists(st.sampled_from(PARTS), max_size=8).map("".join)


@settings(max_examples=150, deadline=None)
@given(context=pieces_of_text, continuation=pieces_of_text.filter(str.strip))
def test_the_boundary_is_that_of_the_harness(
    tokenizers: tuple[TextTokenizer, Any], context: str, continuation: str
) -> None:
    ours, theirs = tokenizers
    [found] = encode_requests(ours, [(context, continuation)])
    assert len(found.context)
    assert len(found.continuation)
    if context and not context.strip():
        return  # the harness stops at a context of white space
    first, rest = as_the_harness(theirs, context, continuation)
    if rest:  # it stops where the boundary lies within a token
        assert (found.context.tolist(), found.continuation.tolist()) == (first, rest)


def test_special_tokens_before_a_text(tmp_path: Path) -> None:
    for name, make, expected in (("none", byte_level, []), ("<s>", sentencepiece_like, [1])):
        save_tokenizer(make(), tmp_path / name)
        assert TextTokenizer.load(tmp_path / name).ids_before_text.tolist() == expected


def test_a_context_of_white_space_is_no_context() -> None:
    tokenizer = train_tokenizer(words(40), 400)
    [found] = encode_requests(tokenizer, [(" \n", "ba")])
    assert found.context.tolist() == [tokenizer.start_id]
    assert tokenizer.decode(found.continuation) == " \nba"
