from __future__ import annotations

import mmap
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synboot.core.errors import BadInput, SynbootError
from synboot.core.native import load
from synboot.core.rng import rng
from synboot.model.architecture import new_model
from synboot.model.native import ROW, NativeDecoder
from synboot.model.settings import Shape
from synboot.synth.engine import choose
from synboot.synth.settings import SamplingConfig

sys.path.append(str(Path(__file__).parent))

from test_decode import CAPACITY, LAYOUTS, SHAPES, TOLERANCE, VOCAB_SIZE, model_of, sequences
from tiny import tiny_model

LONG = {
    "pages": Shape(2, 40, 5, 1, 16, 56),
    "wide heads": Shape(1, 48, 3, 3, 80, 24),
}


def long_model(name: str, context: int = 90) -> Any:
    model = new_model(LONG[name], vocab_size=VOCAB_SIZE, context=context, end_id=0, seed=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.ndim == 2 else 1)
    return model.eval()


def rows_of(ids: list[int], *, own_pages: int, first: int = 0, prefix: tuple[int, int] = (0, 0)):
    """Rows of tokens that follow each other from own position `first` on."""
    rows = np.zeros(len(ids), ROW)
    rows["id"] = ids
    rows["position"] = prefix[1] + first + np.arange(len(ids))
    rows["prefix_pages"], rows["prefix_length"] = prefix
    rows["own_pages"] = own_pages
    rows["own_length"] = first + 1 + np.arange(len(ids))
    return rows


def all_rows(rows: np.ndarray) -> np.ndarray:
    return np.arange(len(rows))


@pytest.mark.parametrize("name", [*SHAPES, *LAYOUTS])
def test_logits_are_those_of_a_full_forward_at_every_position(name: str) -> None:
    model = model_of(name)
    decoder = NativeDecoder(model, capacity=CAPACITY, num_pages=6)
    table = np.arange(6, dtype=np.int32)
    texts = sequences(3)
    rows = np.concatenate([rows_of(ids.tolist(), own_pages=2 * i) for i, ids in enumerate(texts)])
    logits = decoder.logits(decoder.forward(rows, table, all_rows(rows)))[:, :VOCAB_SIZE]
    with torch.inference_mode():
        full = model(input_ids=torch.stack(texts)).logits
    assert full.std().item() > 0.3  # else the tolerance would be wide
    torch.testing.assert_close(
        torch.from_numpy(logits).view_as(full), full, atol=TOLERANCE * 10, rtol=TOLERANCE
    )


@pytest.mark.parametrize("name", LONG)
def test_a_shared_prompt_gives_what_a_prompt_of_ones_own_gives(name: str) -> None:
    """Over several pages, in parts, and with the last layer computed where it is asked for."""
    model = long_model(name)
    prompt, ends = rng("prompt").integers(0, VOCAB_SIZE, 37), rng("ends").integers(0, 70, (3, 40))
    decoder = NativeDecoder(model, capacity=90, num_pages=40)
    table = np.random.default_rng(0).permutation(40).astype(np.int32)
    start = rows_of(prompt.tolist(), own_pages=0)
    decoder.forward(start[:20], table, np.array([], np.int64))
    hidden = [decoder.forward(start[20:], table, np.array([16]))]
    for step in range(40):
        rows = np.concatenate(
            [
                rows_of([end[step]], own_pages=5 + 5 * i, first=step, prefix=(0, 37))
                for i, end in enumerate(ends)
            ]
        )
        hidden.append(decoder.forward(rows, table, all_rows(rows)))
    found = torch.from_numpy(decoder.logits(np.concatenate(hidden))[:, :VOCAB_SIZE].copy())
    for i, end in enumerate(ends):
        with torch.inference_mode():
            ids = torch.from_numpy(np.concatenate([prompt, end]))
            full = model(input_ids=ids[None]).logits[0, 36:]
        mine = torch.cat([found[:1], found[1 + i :: 3]])
        torch.testing.assert_close(mine, full, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 13])
def test_a_rows_numbers_do_not_depend_on_the_other_rows(count: int) -> None:
    """Law 4, to the last bit, whatever tile of the products a row is in."""
    model = long_model("pages")
    ids = rng("rows").integers(0, VOCAB_SIZE, (13, 20))

    def logits(chosen: list[int], last: int) -> np.ndarray:
        decoder = NativeDecoder(model, capacity=90, num_pages=60)
        table = np.arange(60, dtype=np.int32)
        rows = [rows_of(ids[i].tolist(), own_pages=4 * p) for p, i in enumerate(chosen)]
        decoder.forward(np.concatenate(rows), table, np.array([], np.int64))
        step = np.concatenate([rows_of([3], own_pages=4 * p, first=20) for p in range(len(chosen))])
        return decoder.logits(decoder.forward(step, table, all_rows(step)))[last]

    alone = logits([4], 0)
    others = [i for i in range(13) if i != 4][: count - 1]
    for place in {0, count // 2, count - 1}:
        np.testing.assert_array_equal(logits([*others[:place], 4, *others[place:]], place), alone)


def test_bfloat16_keys_and_values_change_what_is_sampled_from_by_little() -> None:
    """Total variation of the next token's distribution, over 200 positions of models with weights
    as large as trained ones: about 2**-9 of a logit's terms."""
    model = long_model("pages", context=200)
    ids = rng("text").integers(0, VOCAB_SIZE, 200)
    found = []
    for cache in ("float32", "bfloat16"):
        decoder = NativeDecoder(model, capacity=200, num_pages=13, cache=cache)
        rows = rows_of(ids.tolist(), own_pages=0)
        hidden = decoder.forward(rows, np.arange(13, dtype=np.int32), all_rows(rows))
        logits = torch.from_numpy(decoder.logits(hidden)[:, :VOCAB_SIZE].copy())
        found.append(logits.double().softmax(-1))
    distances = (found[0] - found[1]).abs().sum(-1) / 2
    assert found[0].amax(-1).mean() > 0.1  # not a flat toy
    assert 0 < distances.mean() < 0.005
    assert distances.max() < 0.02


def native_choose(logits: np.ndarray, uniforms: np.ndarray, sampling: SamplingConfig) -> list[int]:
    return DECODER.choose(
        np.ascontiguousarray(logits, np.float32),
        np.arange(len(logits)),
        uniforms,
        num_tokens=logits.shape[1],
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
    ).tolist()


DECODER = NativeDecoder(tiny_model("qwen3", vocab_size=16), capacity=16, num_pages=1)


ROUNDING = 3e-6
"""Of a distribution function that float32 weights sum up to: some 1e-7 each, and logits divided by
a temperature, which round too."""


def tokens_within_rounding(
    logits: np.ndarray, uniform: float, sampling: SamplingConfig
) -> set[int]:
    """Slow, float64: what may be drawn where the edge of top-p and the uniform number are moved by
    `ROUNDING` at most."""
    if sampling.temperature == 0:
        return {int(logits.argmax())}
    weights = np.exp((logits - logits.max()).astype(np.float64) / sampling.temperature)
    weights /= weights.sum()
    ranked = np.sort(weights)[::-1][: sampling.top_k or None]
    reached, wanted = ranked.cumsum(), sampling.top_p * ranked.sum()
    if sampling.top_p == 1:
        fewest = most = len(ranked) - 1
    else:
        fewest, most = np.searchsorted(reached, [wanted - ROUNDING, wanted + ROUNDING])
    possible = set()
    for least in np.unique(ranked[fewest : most + 1]):
        passed = np.where(weights >= least, weights, 0).cumsum()
        ends = np.clip([uniform - ROUNDING, uniform + ROUNDING], 0, 1) * passed[-1]
        first, last = np.searchsorted(passed, ends, side="right")
        between = weights[first : last + 1]
        possible |= set((first + np.flatnonzero((between >= least) & (between > 0))).tolist())
    return possible


@settings(max_examples=200, deadline=None)
@given(
    number=st.integers(0, 10**6),
    size=st.sampled_from([1, 2, 7, 8, 9, 100, 700, 4096]),
    spread=st.sampled_from([0.1, 1.0, 3.0, 20.0]),
    temperature=st.sampled_from([0.0, 1e-30, 0.7, 1.0, 1.6]),
    top_p=st.sampled_from([1.0, 0.95, 0.9, 0.5, 1e-6]),
    top_k=st.sampled_from([0, 1, 5, 50, 9999]),
)
def test_a_token_is_drawn_as_the_reference_draws_it(
    number: int, size: int, spread: float, temperature: float, top_p: float, top_k: int
) -> None:
    """Each is one that exact arithmetic draws, up to rounding, and nearly all are torch's: with
    4,096 tokens a row differs with a chance below 1e-4 (none of 54,540 did), so that three of the
    20 rows of one of 200 examples do with one below 1e-6. Logits are multiples of 1/64, so that
    ties are."""
    random = rng("choose", number, size)
    logits = np.round(random.normal(size=(20, size)) * spread * 64).astype(np.float32) / 64
    uniforms = random.random(20, dtype=np.float32)
    sampling = SamplingConfig(temperature=temperature, top_p=top_p, top_k=top_k)
    expected = choose(torch.from_numpy(logits), torch.from_numpy(uniforms), sampling).tolist()
    found = native_choose(logits, uniforms, sampling)
    assert sum(a != b for a, b in zip(found, expected, strict=True)) <= 2
    for row, uniform, token in zip(logits, uniforms.tolist(), found, strict=True):
        assert token in tokens_within_rounding(row, uniform, sampling)


def test_what_comes_in_another_type_or_order_is_drawn_from_the_same() -> None:
    random = rng("other types")
    logits, uniforms = random.normal(size=(8, 50)).astype(np.float32), random.random(16)[::2]
    settings = {"num_tokens": 50, "temperature": 1.0, "top_p": 0.9, "top_k": 0}
    expected = native_choose(logits, uniforms.astype(np.float32), SamplingConfig())
    for other in (np.asfortranarray(logits), logits.astype(np.float64), np.tile(logits, 2)[:, :50]):
        found = DECODER.choose(other, np.arange(8, dtype=np.int32), uniforms, **settings)
        assert found.tolist() == expected
    hidden = random.normal(size=(6, 32)).astype(np.float32)
    np.testing.assert_array_equal(DECODER.logits(np.asfortranarray(hidden)), DECODER.logits(hidden))


def test_logits_that_are_minus_infinity_are_never_drawn() -> None:
    logits = np.full((3, 40), -np.inf, np.float32)
    logits[:, [3, 38]] = 0
    uniforms = np.array([0, 0.5, 1 - 2**-24], np.float32)
    for top_p in (1.0, 0.9):
        assert native_choose(logits, uniforms, SamplingConfig(top_p=top_p)) == [3, 38, 38]


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synboot.core.native.shutil.which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    model = long_model("wide heads")
    load.cache_clear()
    with pytest.raises(SynbootError, match="there is no C compiler"):
        NativeDecoder(model, capacity=16, num_pages=1)
    load.cache_clear()


def test_pages_that_no_memory_holds_are_refused_by_the_settings_name() -> None:
    with pytest.raises(SynbootError, match=r"no memory for [0-9,.]+ GB .*runtime\.slots"):
        NativeDecoder(long_model("pages"), capacity=16, num_pages=1 << 40)


def test_a_kernel_without_large_pages_is_no_hindrance(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(mmap.mmap):
        def madvise(self, *_: int) -> None:
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(mmap, "mmap", Plain)
    NativeDecoder(long_model("pages"), capacity=16, num_pages=1)


@pytest.mark.parametrize("layout", ["gpt2", "mistral, sliding"])
def test_another_kind_of_model_is_refused(layout: str) -> None:
    with pytest.raises(BadInput, match=r"reads no|not gpt2"):
        NativeDecoder(tiny_model(layout), capacity=4, num_pages=1)
