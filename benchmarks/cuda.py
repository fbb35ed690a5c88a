"""What a GPU is used for: training, sampling, neighbours, on a CUDA device where there is one.

Training of presets in bfloat16, compiled, stands beside the peak that the card's maker states, so
that the ratio is the share of it that is used (MFU), and beside a bare loop, compiled, with its
loss over all logits at once; its limit is a large product. Sampling, in float32, stands beside
transformers in bfloat16 with the best of its caches. Exact neighbours, by the stage's parts and
scaled to all queries, stand beside torch blocks and topk in float32.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import generation, neighbours
from benchmarks.harness import Result, Setting, compare, in_turns, note, paired
from benchmarks.models import END, Size
from benchmarks.neighbour_peers import K
from benchmarks.training import RandomRows, bare_step
from synboot.experiment.stages.process import ranges
from synboot.model.flops import cost_of_shape, training_flops
from synboot.model.settings import shape_of
from synboot.pairs.neighbours.device import DeviceIndex
from synboot.synth.engine_slots import SlotEngine
from synboot.train.device import autocast, resolve_precision
from synboot.train.loop import train
from synboot.train.settings import LoopConfig

CONTEXT = 1024
PRESETS = {"5m": (2048, 128), "20m": (8192, 64), "100m": (16_384, 32)}
"""Vocabulary, and rows of a step."""
STEPS = 20
PEAKS = {"A100": 312e12, "L4": 121e12, "L40S": 362e12, "H100": 989e12, "H200": 989e12}
"""FLOP/s of dense bfloat16 products, by a part of the card's name."""


def run(setting: Setting) -> list[Result]:
    """Everything; nothing without a device."""
    if not torch.cuda.is_available():
        note("no CUDA device: not measured")
        return []
    device = torch.device("cuda")
    name = torch.cuda.get_device_name(device)
    note(f"cuda: {name}")
    words = name.replace("-", " ").split()
    peak = next((flops for card, flops in PEAKS.items() if card in words), None)
    results = []
    for preset in ("5m",) if setting.quick else PRESETS:
        vocab_size, rows = PRESETS[preset]
        size = Size(shape_of(preset), vocab_size, CONTEXT, rows)
        results += training(preset, size, device, steps=STEPS, peak=peak)
    size = Size(shape_of("20m"), 8192, generation.CONTEXT, 1)
    results += sampling(size, device, slots=256 if setting.quick else 2048)
    count = 100_000 if setting.quick else 1_000_000
    vectors = neighbours.unit_vectors(count)
    return results + exact(vectors, device, queries=count // 10)


# --- Training ------------------------------------------------------------------------------------


def training(
    title: str,
    size: Size,
    device: torch.device,
    *,
    steps: int,
    peak: float | None,
    compiled: bool = True,
) -> list[Result]:
    """TFLOP/s of matrix products and attention."""
    rows = RandomRows(size.rows * (steps + 2), size.context, size.vocab_size)
    flops = training_flops(cost_of_shape(size.shape, size.vocab_size), {size.context: size.rows})
    work: dict[str, Callable[[], float]] = {
        "ours": partial(train_seconds, size, rows, device, steps, compiled),
        "bare loop": BareLoop(size, rows, device, steps, compiled).seconds,
    }
    seconds = in_turns(work, 3)
    rates = {name: flops / value / 1e12 for name, value in seconds.items()}
    rates["product"] = product_flops(device, 8192 if device.type == "cuda" else 256) / 1e12
    if peak is not None:
        rates["stated peak (ratio: MFU)"] = peak / 1e12
    case = f"training {title}, context {size.context}, {size.rows} rows, bfloat16"
    return compare("cuda", case, rates, unit="TFLOP/s", limit="product")


def train_seconds(
    size: Size, rows: RandomRows, device: torch.device, steps: int, compiled: bool
) -> float:
    """A step of `train`, without its first one and its last one."""
    times: list[float] = []
    config = LoopConfig(learning_rate=1e-4, batch_rows=size.rows, num_validations=1)
    with tempfile.TemporaryDirectory() as scratch:
        train(
            size.model(),
            rows,
            RandomRows(size.rows, size.context, size.vocab_size),
            config,
            Path(scratch),
            seed=0,
            device=device,
            precision="bfloat16",
            compiled_length=size.context if compiled else None,
            checkpoint_seconds=1e9,
            progress=lambda *_: times.append(time.perf_counter()),  # after the loss was read
        )
    return (times[steps] - times[0]) / steps


class BareLoop:
    """A few lines around the same model, which stays from round to round."""

    def __init__(
        self, size: Size, rows: RandomRows, device: torch.device, steps: int, compiled: bool
    ) -> None:
        model = size.model().to(device)
        cast = autocast(device, "bfloat16")

        def forward(**inputs: torch.Tensor) -> object:
            with cast():
                return called(**inputs)

        called = torch.compile(model, dynamic=False) if compiled else model
        self._step = bare_step(model, forward)
        self._device, self._steps = device, steps
        pairs = [rows.row(i) for i in range(size.rows)]
        halves = zip(*pairs, strict=True)
        self._batch = [torch.from_numpy(np.stack(half)).to(device) for half in halves]

    def seconds(self) -> float:
        """A step of them."""
        self._step(*self._batch)
        settled(self._device)
        start = time.perf_counter()
        for _ in range(self._steps):
            self._step(*self._batch)
        settled(self._device)
        return (time.perf_counter() - start) / self._steps


def settled(device: torch.device) -> None:
    """Wait for what was asked of a device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def product_flops(device: torch.device, width: int) -> float:
    """FLOP/s of a large product of bfloat16 matrices."""
    matrix = torch.randn(width, width, device=device, dtype=torch.bfloat16)

    def product() -> None:
        for _ in range(10):
            matrix @ matrix
        settled(device)

    return 10 * 2 * width**3 / paired({"product": product}, 5)["product"]


# --- Sampling ------------------------------------------------------------------------------------


def sampling(size: Size, device: torch.device, *, slots: int) -> list[Result]:
    """Tokens a second of SBP's workload, with random lengths and 8 draws a prompt."""
    model = size.model().to(device).eval()
    precision = resolve_precision("auto", device)
    engine = SlotEngine(model, context=size.context, end_id=END, slots=slots, precision=precision)
    case = generation.make_case("generation 20m", size, "random", 8, 2 * slots)
    peer = size.model().bfloat16().to(device).eval()
    how = generation.choose_transformers(peer, case, [slots])

    def ours() -> float:
        [requests] = case.requests(1)
        start = time.perf_counter()
        tokens = generation.sampled_tokens(engine, requests)
        return tokens / (time.perf_counter() - start)

    work: dict[str, Callable[[], float]] = {
        "ours": ours,
        f"transformers, bfloat16, {how}": generation.transformers_side(peer, case, how),
    }
    rates = in_turns(work, 1)
    return compare("cuda", f"{case.name}, {slots} slots", rates, unit="tokens/s")


# --- Neighbours ----------------------------------------------------------------------------------


def exact(vectors: np.ndarray, device: torch.device, *, queries: int) -> list[Result]:
    """Seconds of an index and of a self-join, from `queries` of it."""
    count = len(vectors)
    start = time.perf_counter()
    index = DeviceIndex(vectors, str(device))
    settled(device)
    building = time.perf_counter() - start

    def ours() -> None:
        for first, stop in ranges(queries, neighbours.BLOCK):
            index.search(first, stop, K)

    work: dict[str, Callable[[], object]] = {
        "torch blocks + topk": lambda: neighbours.torch_blocks(vectors, queries, device),
        "ours": ours,
    }
    scale = count / queries
    seconds = {name: scale * value for name, value in paired(work, 1).items()}
    seconds["ours"] += building
    scaled = f" ({queries:,} queries, scaled)" if scale > 1 else ""
    case = f"exact, {count:,} x {vectors.shape[1]}, k={K}{scaled}"
    return compare("cuda", case, seconds, unit="s")
