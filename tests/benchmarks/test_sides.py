"""What the benchmarks do on each side, on tiny cases: the same work, and all of it counted."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.harness import Setting, Workers
from benchmarks.models import SIZES, Size
from benchmarks.neighbour_peers import K, Peer
from benchmarks.texts import topics

from benchmarks import cuda, embedding, generation, near_duplicates, neighbours, training, tuning
from synboot.data.batches import Batches
from synboot.data.ngrams import reference_windows
from synboot.model.settings import Shape, num_parameters
from synboot.pairs.encoders.lsa import LsaEncoder
from synboot.pairs.neighbours.exact import ExactIndex

TINY = Size(Shape(2, 32, 2, 2, 16, 64), vocab_size=300, context=64, rows=2)


def test_models_have_the_size_that_is_stated() -> None:
    """Every head has its own keys and values."""
    for name, millions in (("S", 2.65), ("M", 14.2)):
        shape = SIZES[name].shape
        assert shape.query_heads == shape.key_value_heads
        assert num_parameters(shape, 0)[1] / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> generation.Case:
    """16 requests, 4 draws of each prompt."""
    sizes = {"PROMPT": 12, "LONGEST": 10, "SHORTEST": 2, "CONTEXT": 32, "SLOTS": 4}
    for name, value in sizes.items():
        monkeypatch.setattr(generation, name, value)
    return generation.make_case("tiny", TINY, "random", 4, 16)


def test_draws_of_a_prompt_stay_together(small: generation.Case) -> None:
    parts = small.requests(2)
    assert sorted(r.key[1] for part in parts for r in part) == list(range(16))
    for part in parts:
        prompts = {r.prompt.tobytes() for r in part}
        assert len(part) == 8
        assert len(prompts) == 2


def test_tokens_are_those_that_were_drawn(small: generation.Case) -> None:
    """END ends a text early, and counts as a draw."""
    model = TINY.model(32).eval()
    engine = generation.open_engine(model)
    [requests] = small.requests(1)
    done = engine.sample(requests, generation.SAMPLING)
    drawn = sum(len(each.tokens) + (each.finish_reason == "end") for each in done)
    assert generation.sampled_tokens(engine, requests) == drawn <= small.lengths.sum()
    with Workers(1, generation.open_engine, model) as workers:
        assert generation.ours(workers, small, 1) > 0


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_transformers_samples_all_that_is_asked_for(small: generation.Case, cache: str) -> None:
    model = TINY.model(32).eval()
    how = generation.Generate(cache, False, 8)
    steps: list[float] = []
    assert generation.generate(model, small.part(0, 8), how, steps) > 0
    assert len(steps) == small.lengths[:8].max()
    assert generation.transformers_side(model, small, how)() > 0
    assert str(how) == f"{cache} cache, batches of 8"


def test_the_limit_goes_through_every_layer() -> None:
    model = TINY.model(32).eval()
    called: list[Any] = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda m, *_: called.append(m))
    assert generation.products_seconds(model, 4) > 0
    assert len(set(called)) == 2 * 7 + 1


def test_short_cases_ask_the_same(small: generation.Case) -> None:
    short = generation.shortened(small, 3)
    assert short.lengths.tolist() == [min(length, 3) for length in small.lengths]
    assert np.array_equal(short.prompts, small.prompts)


def held(made: list[int], part: int) -> list[int]:
    made.append(part)
    return made


def test_workers_make_their_own_and_keep_it() -> None:
    with Workers(1, list, (7,)) as one:
        assert one.map(held, [1, 2])[-1] == [7, 1, 2]


@pytest.mark.slow
def test_workers_are_processes() -> None:
    with Workers(2, np.zeros, 3) as two:
        assert [found.tolist() for found in two.map(np.add, [1, 2, 3])] == [
            [i] * 3 for i in (1, 2, 3)
        ]
        assert two.seconds >= 0


# --- Neighbours ----------------------------------------------------------------------------------


@pytest.fixture
def vectors() -> np.ndarray:
    """300 of 16 dimensions, of which the first three are equal."""
    made = np.random.default_rng(0).standard_normal((300, 16), dtype=np.float32)
    made[1:3] = made[0]
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def test_itself_is_left_out() -> None:
    found = np.array([[0, 4, 5], [4, 1, 5], [4, 5, 6]])
    assert neighbours.without_itself(found, np.arange(3)).tolist() == [[4, 5], [4, 5], [4, 5]]


def test_torch_finds_what_exact_search_finds(
    vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", 24)
    ours = ExactIndex(vectors).search(0, 300, K)
    theirs = neighbours.torch_blocks(vectors, 300)
    neighbours.check_equal(vectors, ours, theirs, "torch")
    theirs[7, 3] = (theirs[7].max() + 1) % 300
    with pytest.raises(AssertionError, match="torch: 1 of our neighbours"):
        neighbours.check_equal(vectors, ours, theirs, "torch")


def test_recall_counts_equals_and_nothing_twice(vectors: np.ndarray) -> None:
    queries = np.arange(5)
    truth = ExactIndex(vectors).search_documents(queries, 1)
    assert truth.documents[:3, 0].tolist() == [1, 0, 0]

    def recall(found: list[int]) -> float:
        column = np.array(found)[:, None]
        return neighbours.recall(vectors, queries, column, truth)

    best = truth.documents[:, 0].tolist()
    assert recall(best) == 1
    assert recall([2, *best[1:]]) == 1  # as near as 1
    assert recall([0, *best[1:]]) == 0.8  # itself
    assert recall([-1, *best[1:]]) == 0.8
    two = ExactIndex(vectors).search_documents(queries, 2)
    twice = np.stack([two.documents[:, 0]] * 2, axis=1)
    assert neighbours.recall(vectors, queries, twice, two) == 0.5


def test_a_peer_gets_the_least_effort_that_is_enough(vectors: np.ndarray) -> None:
    """And of several the fastest one, without those that only take longer to build."""
    queries = np.arange(50)
    exact = ExactIndex(vectors)
    truth = exact.search_documents(queries, K)
    built: list[str] = []

    def peer(name: str, seconds: float) -> Peer:
        def build() -> None:
            built.append(name)
            time.sleep(seconds)

        def ask(_: None, asked: np.ndarray, effort: int) -> np.ndarray:
            found = exact.search_documents(queries, K + 1).documents
            found[:, effort:] = -1
            return found

        return Peer("library", name, build, ask, (1, 10, 20, 30))

    found = neighbours.tuned(peer("alone", 0), vectors, queries, truth)
    assert (found.effort, found.recall) == (20, 1)
    assert found.seconds == found.building + found.asking
    ladders = [[peer("a", 0), peer("b", 1), peer("c", 9)], [peer("d", 1)]]
    best = neighbours.climbed(iter(ladders), vectors, queries, truth)
    assert best is not None
    assert best.peer.structure == "a"
    assert built == ["alone", "a", "b", "d"]


@pytest.mark.slow
def test_both_searches_on_a_tiny_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """With whatever peers there are."""
    monkeypatch.setattr(neighbours, "SAMPLE", 100)
    source = np.random.default_rng(0)
    made = source.standard_normal((20, 16)).repeat(100, axis=0) + source.standard_normal((2000, 16))
    vectors = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    results = neighbours.exact(vectors, queries=1000, rounds=1, threads=1)
    assert "exact, 2,000 x 16, k=20 (1,000 queries, scaled)" in {r.case for r in results}
    neighbours.approximate(vectors, rounds=1, threads=1)


# --- Training and tuning -------------------------------------------------------------------------


def test_both_ways_of_tuning_read_the_same_pairs(tmp_path: Path) -> None:
    size = replace(TINY, context=256)
    rows = tuning.make_rows(tmp_path / "tokens", size)
    number = tuning.counted_pairs(rows[True], size.rows)
    assert number >= tuning.STEPS * size.rows
    batches = tuning.by_length(rows[False], 0, number)
    read = [batch for own in batches for batch in own.batch(0)]
    assert sum(len(batch.inputs) for batch in read) == number
    assert [b.inputs.shape[1] for b in read] == sorted(b.inputs.shape[1] for b in read)
    assert tuning.OnePairARow(size, rows[False], number, compiled=False)() > 0
    plain = tuning.real_share(rows[False], [Batches(rows[False], 8)])
    assert 0 < plain < tuning.real_share(rows[True], [Batches(rows[True], 2)]) <= 1


def test_the_sides_of_training_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "STEPS", 1)
    case = training.Case(TINY)
    assert case.bare(False) > 0
    assert case.products() > 0


# --- Texts ---------------------------------------------------------------------------------------


def test_encoding_in_parts_is_encoding_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "PART", 30)
    texts = topics(100)
    with Workers(1, dict) as workers:
        parts = embedding.encoded(texts, texts[:50], workers)
    whole = LsaEncoder.fit(texts[:50], dimensions=embedding.DIMENSIONS, seed=0).encode(texts)
    assert np.array_equal(parts, whole)


def test_our_estimates_are_near_the_truth() -> None:
    texts = topics(40, mean_words=80)
    texts += [text + " and a few words more than before in this copy" for text in texts[:10]]
    first, second = np.arange(10), np.arange(10) + 40
    sets = [reference_windows(text) for text in texts]
    true = np.array(
        [near_duplicates.jaccard(sets[a], sets[b]) for a, b in zip(first, second, strict=True)]
    )
    found = near_duplicates.by_our_signatures(texts, first, second)
    near_duplicates.check_estimates({"ours": found}, true)
    with pytest.raises(AssertionError, match="ours: estimates are off"):
        near_duplicates.check_estimates({"ours": 1 - found}, true)


# --- CUDA ----------------------------------------------------------------------------------------


def test_without_a_device_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda.run(Setting(True, 1, tmp_path)) == []
    assert "no CUDA device: not measured" in capsys.readouterr().err


def test_what_a_device_is_measured_with_runs_on_a_cpu(
    small: generation.Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = generation.Generate("dynamic", False, 8)
    monkeypatch.setattr(generation, "choose_transformers", lambda *_: how)  # which compiles
    device = torch.device("cpu")
    results = cuda.training("tiny", TINY, device, steps=1, peak=1e12, compiled=False)
    assert [r.peer_name for r in results] == ["bare loop", "stated peak (ratio: MFU)"]
    assert results[1].ratio == pytest.approx(results[1].ours)  # the peak is 1 TFLOP/s
    [sampled] = cuda.sampling(replace(TINY, context=32), device, slots=8)
    assert sampled.ours > 0
    vectors = np.random.default_rng(0).standard_normal((300, 16), dtype=np.float32)
    [found] = cuda.exact(vectors, device, queries=100)
    assert found.case == "exact, 300 x 16, k=20 (100 queries, scaled)"
