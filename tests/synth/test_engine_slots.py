"""What the torch engine computes, how often, and in which shapes; on a GPU, by graphs too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from synboot.core.errors import SynbootError
from synboot.core.rng import rng
from synboot.model.replay import Replay
from synboot.synth import engine, engine_slots
from synboot.synth.engine import Completion, ReferenceEngine, Request
from synboot.synth.engine_slots import SlotEngine
from synboot.synth.settings import SamplingConfig

sys.path.append(str(Path(__file__).parents[1] / "model"))

from tiny import tiny_model

torch.set_num_threads(1)
FIXED: dict[str, Any] = {"context": 150, "end_id": 0, "num_tokens": 24}
LENGTHS = (3, 16, 33, 49, 66, 70, 149)
FLAT = SamplingConfig(temperature=1.5, top_p=0.95)
MODEL = tiny_model("qwen3", vocab_size=32, context=150)


def requests() -> list[Request]:
    """Five draws of each of seven prompts, in turn, with limits of their own."""
    prompts = [rng("shared", n).integers(0, 24, n) for n in LENGTHS]
    return [
        Request(prompt.copy(), ("draw", place, number), limit)
        for number, limit in enumerate([40, None, 1, 17, 3])
        for place, prompt in enumerate(prompts)
    ]


def plain(completions: list[Completion]) -> list[tuple[list[int], str]]:
    return [(c.tokens.tolist(), c.finish_reason) for c in completions]


@pytest.fixture(scope="module")
def expected() -> list[tuple[list[int], str]]:
    return plain(ReferenceEngine(MODEL, **FIXED).sample(requests(), FLAT))


@pytest.mark.parametrize("slots", [1, 4, 35, 50])
@pytest.mark.parametrize("prefill_tokens", [None, 100, 10_000])
def test_a_prompt_is_computed_once_with_those_of_like_length(
    slots: int,
    prefill_tokens: int | None,
    expected: list[tuple[list[int], str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the some 600 tokens one would differ with a chance below 1% (logits agree to 1e-5)."""
    made = SlotEngine(MODEL, slots=slots, prefill_tokens=prefill_tokens, **FIXED)
    prefill, steps = made.decoder.prefill, []
    computed: list[tuple[int, ...]] = []

    def counted(cache: Any, places: Any, ids: torch.Tensor, lengths: torch.Tensor) -> Any:
        computed.append(tuple(lengths.tolist()))
        assert ids.shape == (len(lengths), lengths.max())
        assert len(lengths) == 1 or ids.numel() <= (prefill_tokens or 0)
        return prefill(cache, places, ids, lengths)

    step = made.decoder.step

    def seen(cache: Any, prompt_room: int, own_room: int) -> torch.Tensor:
        steps.append((prompt_room, own_room))
        assert cache.prompt_keys.shape[1:4:2] == (len(cache.lengths), 150)
        assert cache.keys.shape[1:4:2] == (slots, 150)
        return step(cache, prompt_room, own_room)

    monkeypatch.setattr(made.decoder, "prefill", counted)
    monkeypatch.setattr(made.decoder, "step", seen)
    assert plain(made.sample(requests(), FLAT)) == expected
    shared = min(slots, 5)  # a prompt's draws that go on from one copy of it
    assert sorted(n for part in computed for n in part) == sorted(
        np.repeat(LENGTHS, -(-5 // shared))
    )
    if prefill_tokens == 10_000 and slots >= 35:
        assert computed == [LENGTHS]
    assert {room for rooms in steps for room in rooms} <= {64, 96, 128, 150}
    assert len(set(steps)) > 2


def test_what_is_at_hand_says_how_far_attention_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    made = SlotEngine(MODEL, slots=4, **FIXED)
    rooms = []
    step = made.decoder.step

    def seen(cache: Any, *room: int) -> torch.Tensor:
        rooms.append(room)
        return step(cache, *room)

    monkeypatch.setattr(made.decoder, "step", seen)
    short = [Request(rng("short", n).integers(0, 24, 9), ("short", n), 20) for n in range(8)]
    made.sample(short, FLAT)
    assert set(rooms) == {(64, 64)}


def test_a_slot_waits_where_no_prompt_has_a_place(expected: list[tuple[list[int], str]]) -> None:
    """Many prompts with a draw of each, and one with so many that places are few."""
    alone = requests()[::5]
    many = [Request(requests()[2].prompt, ("many", n)) for n in range(60)]
    asked = many[:30] + alone + many[30:]
    made = SlotEngine(MODEL, slots=8, **FIXED)
    assert engine_slots._shared([60, *[1] * len(alone)], 8) == 8
    found = plain(made.sample(asked, FLAT))
    assert found[30:-30] == expected[::5]
    assert found[:30] + found[-30:] == plain(ReferenceEngine(MODEL, **FIXED).sample(many, FLAT))
    assert made._desk is not None
    assert made._desk.sizes.places == 2


def test_free_slots_can_wait_for_each_other(
    expected: list[tuple[list[int], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer and larger admissions; a slot that finds no place for its prompt waits in any case."""
    started: dict[int, list[int]] = {}
    first = engine_slots._Desk.first

    def counted(self: Any, places: np.ndarray, *given: Any) -> np.ndarray:
        started[least].append(len(places))
        return first(self, places, *given)

    monkeypatch.setattr(engine_slots._Desk, "first", counted)
    for least in (1, 3, 8, 100):
        started[least] = []
        made = SlotEngine(MODEL, slots=8, least=least, prefill_tokens=10_000, **FIXED)
        assert plain(made.sample(requests(), FLAT)) == expected
        assert sum(started[least]) == len(requests())
    assert len(started[1]) > len(started[3]) > len(started[8]) == 5
    assert started[8] == started[100] == [8, 8, 8, 8, 3]


def test_slots_that_a_gpu_has_no_memory_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer than are recorded would be other numerics."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10_000, 20_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1_000)
    gpu = torch.device("cuda")
    engine_slots._check_memory(96, 100, gpu)
    with pytest.raises(SynbootError, match=r"room for 96 sequences, not for 97: .*runtime\.slots"):
        engine_slots._check_memory(97, 100, gpu)
    engine_slots._check_memory(1024, 10_000, torch.device("cpu"))


def test_draws_share_a_prompt_where_most_prompts_have_as_many() -> None:
    assert engine_slots._shared([], 8) == 1
    assert engine_slots._shared([4, 4, 4, 1], 8) == 4
    assert engine_slots._shared([4, 4, 4, 1], 3) == 3
    assert engine_slots._shared([100, *[1] * 99], 64) == 2
    assert engine_slots._shared([300, 212], 1000) == 300


def test_an_engine_can_be_used_again_for_other_sizes() -> None:
    made = SlotEngine(MODEL, slots=3, **FIXED)
    other = [Request(r.prompt[:20], ("other", *r.key), 4) for r in requests()[::3]]
    texts = [
        plain(SlotEngine(MODEL, slots=3, **FIXED).sample(a, FLAT)) for a in (requests(), other)
    ]
    for turn in (0, 1, 0, 0, 1):
        assert plain(made.sample((requests(), other)[turn], FLAT)) == texts[turn]


def test_a_run_that_was_broken_off_leaves_nothing_behind(
    expected: list[tuple[list[int], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = SlotEngine(MODEL, slots=9, **FIXED)
    step, steps = made.decoder.step, []

    def broken(*given: Any) -> torch.Tensor:
        steps.append(given)
        if len(steps) == 30:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(*given)

    monkeypatch.setattr(made.decoder, "step", broken)
    with pytest.raises(SynbootError, match=r"out of memory; .*runtime\.slots"):
        made.sample(requests(), FLAT)
    assert plain(made.sample(requests(), FLAT)) == expected


@pytest.mark.parametrize("near", [1, 3, 24])
def test_what_a_step_leaves_open_is_settled(
    near: int, expected: list[tuple[list[int], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With so few likely tokens looked at that many draws are made by the sort."""
    monkeypatch.setattr(
        engine_slots, "choose_near", lambda *given: engine.choose_near(*given, near)
    )
    made = SlotEngine(MODEL, slots=6, **FIXED)
    counts = []
    settle = engine_slots._Desk.settle

    def counted(self: Any, slots: np.ndarray, sampling: SamplingConfig) -> np.ndarray:
        counts.append(len(slots))
        return settle(self, slots, sampling)

    monkeypatch.setattr(engine_slots._Desk, "settle", counted)
    assert plain(made.sample(requests(), FLAT)) == expected
    assert bool(counts) == (near < 24)


def test_memory_that_is_not_there_is_refused_by_the_settings_name() -> None:
    made = SlotEngine(MODEL, slots=1 << 40, **FIXED)
    with pytest.raises(SynbootError, match=r"no memory for [0-9,.]+ GB .*runtime\.slots"):
        made.desk(engine_slots._Sizes(1, 1, 64, 64))


class Recorded(Replay):
    """Graphs without a GPU: what is captured is the function of that one call, which later calls
    run in place of theirs, as a graph would."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(torch.device("cuda"))
        self.replays = 0

    def _warm_up(self, function: Callable[[], None]) -> None:
        function()

    def _capture(self, function: Callable[[], None]) -> Any:
        def replay() -> None:
            self.replays += 1
            function()

        return SimpleNamespace(replay=replay)


def test_a_step_that_was_captured_is_the_step_of_any_later_call(
    expected: list[tuple[list[int], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_slots, "Replay", Recorded)
    made = SlotEngine(MODEL, slots=6, **FIXED)
    for sampling in (FLAT, SamplingConfig(top_k=3), FLAT):
        texts = plain(made.sample(requests(), sampling))
        if sampling == FLAT:
            assert texts == expected
        else:
            assert texts == plain(SlotEngine(MODEL, slots=6, **FIXED).sample(requests(), sampling))
    assert made._desk is not None
    assert isinstance(made._desk.replay, Recorded)
    assert made._desk.replay.replays > 100


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "sampling",
    [FLAT, SamplingConfig(top_p=1.0), SamplingConfig(top_k=9), SamplingConfig(temperature=0)],
)
def test_no_step_needs_to_know_a_number(
    precision: Any, sampling: SamplingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it can be captured: it runs on tensors that have shapes and nothing else. And all
    that is not given by the host is on the device."""
    model = tiny_model("qwen3", vocab_size=700, context=150).to("meta")
    fixed = FIXED | {"num_tokens": 690}
    made = SlotEngine(model, slots=6, precision=precision, **fixed)
    desk = made.desk(engine_slots._Sizes(4, 3, 64, 64))
    monkeypatch.setattr(engine_slots, "_array", lambda tensor: tensor)
    slots = np.arange(3)
    desk.prefill([2, 0], [np.arange(20), np.arange(9)])
    found: list[Any] = [desk.first(slots, np.zeros(3, np.float32), sampling)]
    desk.start(np.stack([slots] * 5), np.zeros((3, 12), np.float32))
    found += [desk.step(64, 32, sampling), desk.settle(slots, sampling)]
    assert [tensor.shape for tensor in found] == [(3,), (2, 6), (3,)]
    assert {tensor.device.type for tensor in found} == {"meta"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("slots", [4, 50])
def test_graphs_draw_what_steps_and_the_reference_draw(
    slots: int, expected: list[tuple[list[int], str]]
) -> None:
    """In float32 without TF32; logits agree to about 1e-5 as on a CPU."""
    model = tiny_model("qwen3", vocab_size=32, context=150).cuda()
    graphs = SlotEngine(model, slots=slots, **FIXED)
    assert plain(graphs.sample(requests(), FLAT)) == expected
    assert graphs._desk is not None
    replay = graphs._desk.replay
    assert replay.reason is None
    assert sum(graph is not None for graph in replay._graphs.values()) >= 2
    assert plain(graphs.sample(requests(), FLAT)) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_slots, "Replay", lambda device: lambda key, function: function())
        assert plain(SlotEngine(model, slots=slots, **FIXED).sample(requests(), FLAT)) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_in_bfloat16_draw_what_steps_draw() -> None:
    model = tiny_model("qwen3", vocab_size=32, context=150).cuda()

    def texts() -> list[tuple[list[int], str]]:
        made = SlotEngine(model, slots=16, precision="bfloat16", **FIXED)
        return plain(made.sample(requests(), FLAT))

    graphs = texts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_slots, "Replay", lambda device: lambda key, function: function())
        assert texts() == graphs
