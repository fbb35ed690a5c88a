from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import chisquare

from synboot.core.rng import rng
from synboot.model.architecture import Shape, new_model
from synboot.synth.engine import (
    Completion,
    Engine,
    ReferenceEngine,
    Request,
    SamplingConfig,
    SlotEngine,
    choose,
)

torch.set_num_threads(1)
END = 0
CONTEXT = 24
VOCABULARY = 20
SHAPE = Shape(2, 16, 2, 1, 8, 32)


def tiny_model(
    shape: Shape = SHAPE, vocab_size: int = VOCABULARY, context: int = CONTEXT, scale: float = 12.0
) -> Any:
    """A model whose fresh weights are scaled up, so that its predictions are far from uniform."""
    model = new_model(shape, vocab_size=vocab_size, context=context, end_id=END, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    return model.eval()


MODEL = tiny_model()


def requests(count: int, *, longest: int = 9, vocab_size: int = VOCABULARY) -> list[Request]:
    made = []
    for index in range(count):
        random = rng("prompt", index)
        length = int(random.integers(1, longest + 1))
        made.append(Request(random.integers(0, vocab_size, length), (5, "sample", index)))
    return made


def slot_engine(slots: int, model: Any = MODEL, context: int = CONTEXT) -> SlotEngine:
    return SlotEngine(model, context=context, end_id=END, slots=slots)


def reference_engine(model: Any = MODEL, context: int = CONTEXT) -> ReferenceEngine:
    return ReferenceEngine(model, context=context, end_id=END)


def plain(completions: list[Completion]) -> list[tuple[list[int], str]]:
    return [(c.tokens.tolist(), c.finish_reason) for c in completions]


# --- choose --------------------------------------------------------------------------------------


def allowed_probabilities(
    logits: np.ndarray, sampling: SamplingConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Slow and obvious, float64: (probabilities of what is kept, distances to the top-p edge)."""
    powers = np.exp((logits - logits.max()).astype(np.float64) / sampling.temperature)
    probabilities = powers / powers.sum()
    ranked = sorted(probabilities.tolist(), reverse=True)
    if sampling.top_k:
        ranked = ranked[: sampling.top_k]
        wanted = sampling.top_p * sum(ranked)
    else:
        wanted = sampling.top_p
    edges = np.abs(np.cumsum(ranked) - wanted)
    number = len(ranked)
    if sampling.top_p < 1:
        number = next(n for n in range(1, len(ranked) + 1) if sum(ranked[:n]) >= wanted - 1e-12)
    return np.where(probabilities >= ranked[number - 1], probabilities, 0.0), edges


def chosen_token(allowed: np.ndarray, uniform: float) -> tuple[int, float]:
    """The first id whose distribution function passes `uniform`, and how near a step is."""
    cumulative = np.cumsum(allowed) / allowed.sum()
    passed = [token for token in range(len(allowed)) if cumulative[token] > uniform]
    return passed[0], float(np.abs(cumulative - uniform).min())


# Multiples of 1/8: ties are exact, and no two logits are so near that float32 makes them tie.
logit_rows = st.lists(st.integers(-48, 48).map(lambda i: i / 8), min_size=1, max_size=12)


@settings(max_examples=300, deadline=None)
@given(
    row=logit_rows,
    uniform=st.integers(0, 2**24 - 1).map(lambda i: i / 2**24),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    top_p=st.sampled_from([1.0, 0.95, 0.9, 0.5, 0.123, 1e-6]),
    top_k=st.integers(0, 14),
)
def test_choose_equals_a_slow_reference(
    row: list[float], uniform: float, temperature: float, top_p: float, top_k: int
) -> None:
    sampling = SamplingConfig(temperature=temperature, top_p=top_p, top_k=top_k)
    logits = np.array(row, dtype=np.float32)
    allowed, edges = allowed_probabilities(logits, sampling)
    # float32 decides what is within 1e-6 of an edge; everything else must agree exactly.
    assume(top_p == 1 or edges.min() > 1e-5)
    expected, distance = chosen_token(allowed, uniform)
    assume(distance > 1e-5 or len(row) == 1)
    found = choose(torch.from_numpy(logits)[None], torch.tensor([uniform]), sampling)
    assert found.dtype == torch.int64
    assert found.tolist() == [expected]


def test_top_p_and_top_k_keep_those_that_tie_with_the_last() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.25, 0.25, 0.25, 0.15]])).repeat(2000, 1)
    uniforms = torch.from_numpy(rng("uniforms").random(2000, dtype=np.float32))

    def tokens(**values: float) -> set[int]:
        return set(choose(logits, uniforms, SamplingConfig.model_validate(values)).tolist())

    assert tokens(top_p=0.4) == {1, 2, 3}
    assert tokens(top_p=1.0, top_k=1) == {1, 2, 3}
    assert tokens(top_p=0.8) == {1, 2, 3, 4}
    assert tokens(top_p=1.0, top_k=4) == {1, 2, 3, 4}
    assert tokens(top_p=1.0) == {0, 1, 2, 3, 4}
    assert tokens(top_p=1.0, top_k=99) == {0, 1, 2, 3, 4}
    assert tokens(top_p=0.5, top_k=4) == {1, 2, 3}


def test_top_p_is_the_share_of_what_top_k_left() -> None:
    probabilities = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    uniforms = torch.arange(100) / 100
    logits = probabilities.log().repeat(100, 1)
    # Two are left with 0.7; 0.55 of that is 0.385, which the first reaches alone.
    sampling = SamplingConfig(top_k=2, top_p=0.55)
    assert set(choose(logits, uniforms, sampling).tolist()) == {0}
    assert set(choose(logits, uniforms, SamplingConfig(top_p=0.55)).tolist()) == {0, 1}


@pytest.mark.parametrize("top_p", [1.0, 0.9, 1e-9])
@pytest.mark.parametrize("top_k", [0, 1, 3])
def test_one_hot_logits(top_p: float, top_k: int) -> None:
    for scale in (1e4, 1e30, torch.inf):
        logits = torch.full((3, 7), -scale)
        logits[torch.arange(3), torch.tensor([0, 4, 6])] = 0.0
        uniforms = torch.tensor([0.0, 0.5, 1 - 2**-24])
        found = choose(logits, uniforms, SamplingConfig(top_p=top_p, top_k=top_k))
        assert found.tolist() == [0, 4, 6]


def test_a_token_without_mass_is_never_chosen_at_the_ends_of_the_unit_interval() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).repeat(2, 1)
    uniforms = torch.tensor([0.0, 1 - 2**-24])
    for top_p in (1.0, 0.9):
        assert choose(logits, uniforms, SamplingConfig(top_p=top_p)).tolist() == [1, 3]


@pytest.mark.parametrize("temperature", [0.0, 1e-38, 1e-30, 1e-5])
def test_temperature_zero_and_nearly_zero_take_the_most_likely(temperature: float) -> None:
    logits = torch.from_numpy(rng("logits").normal(size=(50, 30)).astype(np.float32)) * 20
    uniforms = torch.from_numpy(rng("uniforms").random(50, dtype=np.float32))
    for top_p in (1.0, 0.9):
        found = choose(logits, uniforms, SamplingConfig(temperature=temperature, top_p=top_p))
        assert found.tolist() == logits.argmax(-1).tolist()


def test_a_row_is_chosen_without_regard_to_the_others() -> None:
    logits = torch.from_numpy(rng("logits").normal(size=(40, 64)).astype(np.float32)) * 3
    uniforms = torch.from_numpy(rng("uniforms").random(40, dtype=np.float32))
    sampling = SamplingConfig(top_p=0.7, top_k=20)
    whole = choose(logits, uniforms, sampling).tolist()
    assert whole == [int(choose(logits[i, None], uniforms[i, None], sampling)) for i in range(40)]


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(top_p=1.0),
        SamplingConfig(temperature=0.7, top_p=0.8),
        SamplingConfig(temperature=1.5, top_p=0.95, top_k=6),
    ],
)
def test_choose_draws_from_the_distribution(sampling: SamplingConfig) -> None:
    """Chi-square over 40,000 draws; would the uniform numbers not be keyed, it would fail a right
    implementation once in 1e6 runs."""
    logits = rng("distribution").normal(size=12).astype(np.float32) * 1.5
    allowed, _ = allowed_probabilities(logits, sampling)
    count = 40_000
    uniforms = torch.from_numpy(rng("chi-square").random(count, dtype=np.float32))
    found = choose(torch.from_numpy(logits).repeat(count, 1), uniforms, sampling)
    observed = np.bincount(found.numpy(), minlength=12)
    kept = allowed > 0
    assert observed[~kept].sum() == 0
    expected = allowed[kept] / allowed.sum() * count
    assert chisquare(observed[kept], expected).pvalue > 1e-6


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -0.1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"max_tokens": 0},
        {"temperature": float("nan")},
        {"temprature": 1.0},
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SamplingConfig.model_validate(values)


# --- engines -------------------------------------------------------------------------------------


def test_two_tokens_have_the_models_joint_distribution() -> None:
    """Of the whole engine, against transformers' own probabilities: first and second token of
    3,000 keys, chi-square, false-failure probability 1e-6 as above."""
    model = tiny_model(Shape(1, 16, 2, 1, 8, 32), vocab_size=5)
    prompt = np.array([0, 3, 1, 0])
    count = 3000
    sampling = SamplingConfig(top_p=1.0, max_tokens=2)
    found = slot_engine(32, model).sample(
        [Request(prompt, ("joint", i)) for i in range(count)], sampling
    )
    observed = Counter(
        (*c.tokens.tolist(), END)[:2] if c.finish_reason == "end" else tuple(c.tokens.tolist())
        for c in found
    )
    with torch.no_grad():
        first = model(torch.from_numpy(prompt)[None]).logits[0, -1].double().softmax(-1)
        expected = {(END,): float(first[END])}
        for token in range(1, 5):
            ids = torch.from_numpy(np.append(prompt, token))[None]
            second = model(ids).logits[0, -1].double().softmax(-1)
            expected |= {(token, b): float(first[token] * second[b]) for b in range(5)}
    assert set(observed) <= set(expected)
    assert max(expected.values()) > 3 * min(expected.values())  # not a uniform toy
    cells = list(expected)
    frequencies = np.array([expected[cell] for cell in cells]) * count
    assert frequencies.min() > 5
    assert chisquare([observed[cell] for cell in cells], frequencies).pvalue > 1e-6


SHAPES = [Shape(1, 16, 2, 2, 8, 32), Shape(3, 24, 3, 1, 8, 40), Shape(2, 32, 4, 2, 16, 48)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("slots", [1, 3, 16])
def test_slots_equal_the_reference(shape: Shape, slots: int) -> None:
    """Token for token. Logits agree to about 1e-5, and a draw feels that only where its uniform
    number is as near to a step of the distribution function: with other kernels than those this
    was written on, one of the some 150 tokens here would differ with a chance below 1%."""
    model = tiny_model(shape, scale=10.0)
    asked = requests(12)
    sampling = SamplingConfig(top_p=0.95)
    expected = reference_engine(model).sample(asked, sampling)
    assert plain(slot_engine(slots, model).sample(asked, sampling)) == plain(expected)
    assert {c.finish_reason for c in expected} == {"end", "length"}


@pytest.mark.parametrize("slots", [1, 4])
def test_a_completion_is_its_requests_own(slots: int) -> None:
    """Not of the order of requests, of what is sampled beside it, or of how many there are."""
    engine = slot_engine(slots)
    asked = requests(20)
    sampling = SamplingConfig()
    whole = plain(engine.sample(asked, sampling))
    order = rng("order").permutation(20).tolist()
    shuffled = plain(engine.sample([asked[i] for i in order], sampling))
    assert [shuffled[order.index(i)] for i in range(20)] == whole
    assert [plain(engine.sample([request], sampling))[0] for request in asked] == whole
    assert (
        plain(engine.sample(asked[:7], sampling)) + plain(engine.sample(asked[7:], sampling))
        == whole
    )
    assert plain(slot_engine(slots).sample(asked[::-1], sampling))[::-1] == whole
    strangers = [Request(r.prompt[::-1].copy(), ("stranger", *r.key)) for r in asked]
    mixed = [request for both in zip(strangers, asked, strict=True) for request in both]
    assert plain(engine.sample(mixed, sampling))[1::2] == whole


def test_the_key_and_the_prompt_decide() -> None:
    engine = slot_engine(4)
    prompt = np.array([0, 5, 6, 0])
    same = [Request(prompt, (1, "a")), Request(prompt.copy(), (1, "a"))]
    found = plain(engine.sample(same, SamplingConfig()))
    assert found[0] == found[1]
    keys = [(1, "b"), (2, "a"), (1, "a", 0), ("1", "a")]
    others = plain(engine.sample([Request(prompt, key) for key in keys], SamplingConfig()))
    assert len({str(one) for one in [found[0], *others]}) == 5


def test_a_longer_limit_goes_on_with_the_same_text() -> None:
    asked = requests(10)
    short = slot_engine(3).sample(asked, SamplingConfig(max_tokens=5))
    longer = slot_engine(3).sample(asked, SamplingConfig(max_tokens=11))
    for a, b in zip(short, longer, strict=True):
        assert b.tokens[: len(a.tokens)].tolist() == a.tokens.tolist()
        assert a.finish_reason == ("end" if len(b.tokens) < 5 else "length")


def engines(model: Any = MODEL) -> dict[str, Engine]:
    return {"reference": reference_engine(model), "slots": slot_engine(3, model)}


@pytest.mark.parametrize("name", ["reference", "slots"])
def test_limits(name: str) -> None:
    engine = engines()[name]
    asked = requests(15)
    assert engine.sample([], SamplingConfig()) == []
    for max_tokens in (1, 2, 7):
        for found in engine.sample(asked, SamplingConfig(max_tokens=max_tokens, top_p=1.0)):
            assert found.tokens.dtype == np.int64
            assert END not in found.tokens
            if found.finish_reason == "length":
                assert len(found.tokens) == max_tokens
            else:
                assert len(found.tokens) < max_tokens  # END is one of them


@pytest.mark.parametrize("name", ["reference", "slots"])
def test_the_context_is_filled_to_its_edge(name: str) -> None:
    engine = engines()[name]
    sampling = SamplingConfig(top_p=1.0, temperature=1.0)
    for length in (CONTEXT, CONTEXT - 1, CONTEXT // 2, 1):
        prompts = [
            Request(rng("full", length, i).integers(1, VOCABULARY, length), ("full", length, i))
            for i in range(12)
        ]
        found = engine.sample(prompts, sampling)
        most = CONTEXT + 1 - length  # the last token needs no position
        assert all(len(c.tokens) <= most for c in found)
        assert all((len(c.tokens) == most) == (c.finish_reason == "length") for c in found)
        if length >= CONTEXT - 1:
            assert any(c.finish_reason == "length" for c in found)


@pytest.mark.parametrize("name", ["reference", "slots"])
@pytest.mark.parametrize("length", [0, CONTEXT + 1, CONTEXT + 2])
def test_a_prompt_that_cannot_be_continued_is_refused(name: str, length: int) -> None:
    request = Request(np.ones(length, dtype=np.int64), ("long",))
    with pytest.raises(ValueError, match=f"prompt of {length} tokens does not fit"):
        engines()[name].sample([request], SamplingConfig())


def end_first(prompt: np.ndarray) -> tuple[int, str]:
    """A key whose first token after `prompt` is END, found by asking the reference."""
    for number in range(500):
        request = Request(prompt, (number, "end first"))
        found = reference_engine().sample([request], SamplingConfig(max_tokens=1, top_p=1.0))[0]
        if found.finish_reason == "end":
            return (number, "end first")
    raise AssertionError("END is never drawn first")


@pytest.mark.parametrize("name", ["reference", "slots"])
def test_end_as_the_first_token(name: str) -> None:
    prompt = np.array([0, 4, 7])
    asked = [Request(prompt, end_first(prompt)), *requests(4), Request(prompt, end_first(prompt))]
    found = engines()[name].sample(asked, SamplingConfig(top_p=1.0))
    for completion in (found[0], found[-1]):
        assert completion.tokens.tolist() == []
        assert completion.tokens.dtype == np.int64
        assert completion.finish_reason == "end"
    assert plain(found[1:-1]) == plain(
        engines()[name].sample(asked[1:-1], SamplingConfig(top_p=1.0))
    )


def test_greedy_sampling_is_transformers_own() -> None:
    """Law 10: `generate` without sampling, token for token."""
    for request in requests(6):
        found = slot_engine(2).sample([request], SamplingConfig(temperature=0, max_tokens=10))[0]
        ids = torch.from_numpy(request.prompt)[None]
        expected = MODEL.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=10,
            pad_token_id=END,
        )[0, ids.shape[1] :].tolist()
        assert found.tokens.tolist() == [token for token in expected if token != END]


Make = Callable[[Any], Engine]


@pytest.mark.parametrize("make", [reference_engine, lambda model: slot_engine(2, model)])
def test_global_random_state_is_neither_read_nor_changed(make: Make) -> None:
    engine, asked = make(MODEL), requests(3)
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = plain(engine.sample(asked, SamplingConfig()))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    torch.manual_seed(2)
    np.random.seed(2)
    assert plain(engine.sample(asked, SamplingConfig())) == first
