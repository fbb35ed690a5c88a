"""Law 9: one conformance suite for each Protocol, run against every implementation."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from synboot.core.rng import rng
from synboot.pairs.encoders.encoder import Encoder
from synboot.pairs.encoders.lsa import LsaEncoder
from synboot.pairs.neighbours.device import DeviceIndex
from synboot.pairs.neighbours.exact import ExactIndex
from synboot.pairs.neighbours.index import Index, Neighbours, ReferenceIndex
from synboot.pairs.neighbours.lists import ListIndex, build_lists
from synboot.synth.engine import Completion, Engine, ReferenceEngine, Request
from synboot.synth.engine_native import NativeEngine
from synboot.synth.engine_slots import SlotEngine
from synboot.synth.engine_transformers import TransformersEngine
from synboot.synth.settings import SamplingConfig

sys.path.append(str(Path(__file__).parents[1] / "model"))

from tiny import tiny_model

torch.set_num_threads(1)

# --- Encoder -------------------------------------------------------------------------------------

TOPICS = [
    "planet star orbit moon comet telescope galaxy",
    "flour butter oven sugar dough yeast bread",
    "violin sonata orchestra melody rhythm chord tempo",
]


def related_texts() -> list[str]:
    """Four texts of each topic, topic by topic, and words that all share."""
    texts = []
    for number, topic in enumerate(TOPICS):
        for i in range(4):
            own = rng("words", number, i).choice(topic.split(), 12).tolist()
            texts.append(" ".join(own) + " and so it goes on")
    return texts


FitEncoder = Callable[[list[str]], Encoder]
LoadEncoder = Callable[[Path], Encoder]
ENCODERS: dict[str, tuple[FitEncoder, LoadEncoder]] = {
    "lsa": (lambda texts: LsaEncoder.fit(texts, dimensions=8, seed=0), LsaEncoder.load),
}


@pytest.fixture(params=list(ENCODERS))
def encoder_kind(request: pytest.FixtureRequest) -> tuple[FitEncoder, LoadEncoder]:
    return ENCODERS[request.param]


Kind = tuple[FitEncoder, LoadEncoder]


def test_encoder_gives_unit_float32_rows(encoder_kind: Kind) -> None:
    texts = related_texts()
    vectors = encoder_kind[0](texts).encode(texts)
    assert vectors.dtype == np.float32
    assert vectors.ndim == 2
    assert len(vectors) == len(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_encoder_survives_any_text(encoder_kind: Kind) -> None:
    encoder = encoder_kind[0](related_texts())
    strange = ["", " \n", "!?", "你好。", "\x00", "🦊", "planet " * 10_000, "Ελλάδα planet"]
    vectors = encoder.encode(strange)
    assert np.isfinite(vectors).all()
    norms = np.linalg.norm(vectors, axis=1)
    assert ((np.abs(norms - 1) < 1e-5) | (norms == 0)).all()
    assert encoder.encode([]).shape == (0, vectors.shape[1])


def test_encoder_encodes_each_text_alone(encoder_kind: Kind) -> None:
    texts = related_texts()
    encoder = encoder_kind[0](texts)
    whole = encoder.encode(texts)
    np.testing.assert_array_equal(np.concatenate([encoder.encode([t]) for t in texts]), whole)
    np.testing.assert_array_equal(encoder.encode(texts[::-1])[::-1], whole)


def test_encoder_saves_all_that_it_is(encoder_kind: Kind, tmp_path: Path) -> None:
    fit, load = encoder_kind
    texts = related_texts()
    encoder = fit(texts)
    encoder.save(tmp_path / "one")
    loaded = load(tmp_path / "one")
    unseen = [*texts, "an unseen planet", ""]
    np.testing.assert_array_equal(loaded.encode(unseen), encoder.encode(unseen))
    loaded.save(tmp_path / "two")
    for file in (tmp_path / "one").iterdir():
        assert file.suffix in {".json", ".npy", ".safetensors"}  # no pickle is ever written
        assert (tmp_path / "two" / file.name).read_bytes() == file.read_bytes()


def test_encoder_puts_related_texts_nearer(encoder_kind: Kind) -> None:
    texts = related_texts()
    vectors = encoder_kind[0](texts).encode(texts)
    similarities = vectors @ vectors.T
    topic = np.arange(len(texts)) // 4
    np.fill_diagonal(similarities, np.nan)
    same = similarities[topic[:, None] == topic[None]]
    other = similarities[topic[:, None] != topic[None]]
    assert np.nanmin(same) > np.nanmax(other)


def test_encoder_is_deterministic(encoder_kind: Kind) -> None:
    texts = related_texts()
    np.testing.assert_array_equal(
        encoder_kind[0](texts).encode(texts), encoder_kind[0](texts).encode(texts)
    )


# --- Index ---------------------------------------------------------------------------------------


def _every_list(vectors: np.ndarray) -> Index:
    lists = build_lists(vectors, len(vectors), seed=0)
    return ListIndex(lists, vectors[lists.order], len(vectors))


INDEXES: dict[str, Callable[[np.ndarray], Index]] = {
    "reference": ReferenceIndex,
    "exact": ExactIndex,
    "exact 1 x 1": lambda v: ExactIndex(v, query_block=1, document_block=1),
    "exact 7 x 5": lambda v: ExactIndex(v, query_block=7, document_block=5),
    "exact 4 x 64": lambda v: ExactIndex(v, query_block=4, document_block=64),
    "device": lambda v: DeviceIndex(v, "cpu"),
    "device 7 x 5": lambda v: DeviceIndex(v, "cpu", query_block=7, document_block=5),
    "lists, every one probed": _every_list,
}


@pytest.fixture(params=list(INDEXES))
def make_index(request: pytest.FixtureRequest) -> Callable[[np.ndarray], Index]:
    return INDEXES[request.param]


def unit_vectors(count: int, dimensions: int = 6) -> np.ndarray:
    vectors = rng("vectors", count).normal(size=(count, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def assert_valid(found: Neighbours, vectors: np.ndarray, first: int, k: int) -> None:
    """What the Protocol promises, from the vectors alone."""
    products = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    for row, (documents, similarities) in enumerate(
        zip(found.documents.tolist(), found.similarities, strict=True)
    ):
        query = first + row
        others = [d for d in documents if d >= 0]
        assert len(others) == min(k, len(vectors) - 1)
        assert documents[len(others) :] == [-1] * (k - len(others))
        assert np.isneginf(similarities[len(others) :]).all()
        assert query not in others
        assert len(set(others)) == len(others)
        np.testing.assert_allclose(similarities[: len(others)], products[query, others], atol=1e-6)
        order = [(-float(similarities[i]), d) for i, d in enumerate(others)]
        assert order == sorted(order)
        left_out = sorted(set(range(len(vectors))) - {query, *others})
        if left_out and others:
            assert products[query, left_out].max() <= similarities[len(others) - 1] + 1e-6


@pytest.mark.parametrize(("count", "k"), [(1, 3), (2, 1), (5, 9), (37, 4), (37, 36), (70, 1)])
def test_index_finds_the_nearest(
    make_index: Callable[[np.ndarray], Index], count: int, k: int
) -> None:
    vectors = unit_vectors(count)
    vectors[count // 2] = 0.0
    vectors[count - count // 3 :] = vectors[: count // 3]  # duplicates
    index = make_index(vectors)
    for first, stop in ((0, count), (count // 3, count - count // 4), (0, 0)):
        found = index.search(first, stop, k)
        assert found.documents.shape == found.similarities.shape == (stop - first, k)
        assert found.documents.dtype == np.int64
        assert found.similarities.dtype == np.float32
        assert_valid(found, vectors, first, k)
        expected = ReferenceIndex(vectors).search(first, stop, k)
        np.testing.assert_array_equal(found.documents, expected.documents)
        np.testing.assert_array_equal(found.similarities, expected.similarities)


# --- Engine --------------------------------------------------------------------------------------

END = 0
CONTEXT = 20
VOCABULARY = 24
EMBEDDING = 32
"""Rows: the last 8 belong to no token."""

MakeEngine = Callable[..., Engine]
FIXED: dict[str, Any] = {"context": CONTEXT, "end_id": END, "num_tokens": VOCABULARY}
ENGINES: dict[str, MakeEngine] = {
    "reference": ReferenceEngine,
    "1 slot": partial(SlotEngine, slots=1),
    "5 slots": partial(SlotEngine, slots=5),
    "native, 1 slot": partial(NativeEngine, slots=1),
    "native, 5 slots": partial(NativeEngine, slots=5),
    "transformers, 5 slots": partial(TransformersEngine, slots=5),
    "transformers, 16 slots": partial(TransformersEngine, slots=16),
}
LAYOUTS = ["qwen3", "llama", "gpt2", "mistral, sliding"]
CASES = [
    (layout, name)
    for layout in LAYOUTS
    for name in ENGINES
    if layout in ("qwen3", "llama")
    or not name.endswith(("1 slot", "5 slots"))
    or name.startswith("transformers")
]


@lru_cache
def model_of(layout: str) -> Any:
    return tiny_model(layout, vocab_size=EMBEDDING, context=CONTEXT, end_id=END)


@pytest.fixture(params=CASES, ids=", ".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def engine(case: tuple[str, str]) -> Engine:
    return ENGINES[case[1]](model_of(case[0]), **FIXED)


def requests() -> list[Request]:
    lengths = [1, CONTEXT, 3, CONTEXT - 1, 7, 2, 9, 5, 12, 4, 6, 8]
    return [
        Request(rng("prompt", i).integers(0, VOCABULARY, length), ("law 9", i))
        for i, length in enumerate(lengths)
    ]


@lru_cache
def of_reference(layout: str, sampling: SamplingConfig) -> list[Completion]:
    return ReferenceEngine(model_of(layout), **FIXED).sample(requests(), sampling)


SAMPLINGS = [
    SamplingConfig(),
    SamplingConfig(temperature=0, max_tokens=6),
    SamplingConfig(temperature=1.3, top_p=0.8, top_k=7),
    SamplingConfig(top_p=1.0, max_tokens=1),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_engine_samples_what_the_keys_say(
    case: tuple[str, str], engine: Engine, sampling: SamplingConfig
) -> None:
    """Equal to the reference token for token; logits agree to 1e-5, so that with other kernels
    than those this was written on one of some 60 tokens would differ with a chance below 1%."""
    asked = requests()
    found = engine.sample(asked, sampling)
    reference = of_reference(case[0], sampling)
    assert len(found) == len(asked)
    for request, completion, expected in zip(asked, found, reference, strict=True):
        assert completion.tokens.tolist() == expected.tokens.tolist()
        assert completion.finish_reason == expected.finish_reason
        assert completion.tokens.dtype == np.int64
        assert END not in completion.tokens
        assert (completion.tokens < VOCABULARY).all()
        most = min(sampling.max_tokens, CONTEXT + 1 - len(request.prompt))
        assert (len(completion.tokens) == most) == (completion.finish_reason == "length")
        assert len(completion.tokens) <= most


def test_engine_answers_in_the_order_of_requests(engine: Engine) -> None:
    asked = requests()
    expected = [c.tokens.tolist() for c in engine.sample(asked, SamplingConfig())]
    assert len({str(tokens) for tokens in expected}) > 4
    again = [c.tokens.tolist() for c in engine.sample(asked[::-1], SamplingConfig())]
    assert again[::-1] == expected
    assert engine.sample([], SamplingConfig()) == []


def test_engine_refuses_a_prompt_that_does_not_fit(engine: Engine) -> None:
    for length in (0, CONTEXT + 1):
        with pytest.raises(ValueError, match="does not fit"):
            engine.sample([Request(np.ones(length, np.int64), ("x",))], SamplingConfig())


def test_engine_refuses_a_limit_of_no_token(engine: Engine) -> None:
    for limit in (0, -1):
        with pytest.raises(ValueError, match="limit of 1 token at least"):
            engine.sample([Request(np.ones(3, np.int64), ("x",), limit)], SamplingConfig())


OTHERS = [name for name in ENGINES if name != "reference"]
LONG = {"context": 72, "end_id": END, "num_tokens": VOCABULARY}
MANY = {"context": 40, "end_id": END, "num_tokens": 700}


def plain(completions: list[Completion]) -> list[tuple[list[int], str]]:
    return [(c.tokens.tolist(), c.finish_reason) for c in completions]


def draws_of_three_prompts() -> list[Request]:
    """Five of each, in turn, with limits of their own."""
    prompts = [rng("shared", n).integers(0, VOCABULARY, n) for n in (16, 33, 49)]
    limits = [40, None, 1, 17, 3]
    return [
        Request(prompt.copy(), ("shared", place, number), limit)
        for number, limit in enumerate(limits)
        for place, prompt in enumerate(prompts)
    ]


@lru_cache
def long_model() -> Any:
    return tiny_model("qwen3", vocab_size=EMBEDDING, context=LONG["context"], end_id=END)


@lru_cache
def long_texts() -> list[tuple[list[int], str]]:
    return plain(ReferenceEngine(long_model(), **LONG).sample(draws_of_three_prompts(), FLAT))


FLAT = SamplingConfig(temperature=1.5, top_p=0.95)


@pytest.mark.parametrize("name", OTHERS)
def test_engine_draws_several_times_from_a_prompt(name: str) -> None:
    """Over several pages of a prompt and of what follows it; of some 130 tokens one would differ
    with a chance below 1%, see above."""
    expected = long_texts()
    assert {reason for _, reason in expected} == {"end", "length"}
    assert sum(len(tokens) > 16 for tokens, _ in expected) >= 3  # beyond a page
    engine = ENGINES[name](long_model(), **LONG)
    assert plain(engine.sample(draws_of_three_prompts(), FLAT)) == expected


@lru_cache
def wide_model() -> Any:
    return tiny_model("qwen3", vocab_size=720, context=MANY["context"], end_id=END)


@lru_cache
def wide_texts(sampling: SamplingConfig) -> list[tuple[list[int], str]]:
    return plain(ReferenceEngine(wide_model(), **MANY).sample(requests(), sampling))


@pytest.mark.parametrize("name", [name for name in OTHERS if "1" not in name])
@pytest.mark.parametrize(
    "sampling",
    [FLAT, SamplingConfig(top_p=0.7), SamplingConfig(temperature=1.5, top_p=0.9, top_k=90)],
    ids=str,
)
def test_engine_draws_among_many_tokens(name: str, sampling: SamplingConfig) -> None:
    """As many as no engine sorts or sums up by hand; logits agree to 1e-5 at each of 700, which
    some 400 draws feel with a chance of about 1%."""
    expected = wide_texts(sampling)
    assert len({token for tokens, _ in expected for token in tokens}) > 60
    assert plain(ENGINES[name](wide_model(), **MANY).sample(requests(), sampling)) == expected
