"""Sampling on SBP's workload: prompts of 200 tokens, 1 or 8 draws of each, T = 1, top-p 0.9, fp32.

Peers have the same weights, prompts, lengths and threads: transformers' `generate` in batches of 64
(the better of a dynamic and a static cache; the draws of a prompt by `num_return_sequences`), and
vLLM's CPU build with prefix caching, in an environment of its own whose Python $SYNBOOT_BENCH_VLLM
names. Lengths are 200, or drawn from 20 to 200; a rate counts the tokens that were asked for. The
limit is the time of the matrix products alone, at 64 rows, without attention and sampling.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Result, Setting, compare
from synboot.data.tokenizer import train_tokenizer
from synboot.model.architecture import new_model, save_model, shape_of
from synboot.synth.engine import Request, SamplingConfig
from synboot.synth.engine_native import NativeEngine
from synboot.synth.engine_slots import SlotEngine

PROMPT, LONGEST, SHORTEST, CONTEXT, BATCH = 200, 200, 20, 512, 64
SIZES = {"S": ("3m", 4096, 128), "M": ("14m", 8192, 64)}
"""Preset, vocabulary, requests."""
END = 0
SAMPLING = SamplingConfig(temperature=1.0, top_p=0.9, max_tokens=LONGEST)
VLLM = Path(__file__).with_name("generation_vllm.py")


@dataclass(frozen=True)
class Case:
    """A model and what is asked of it; `lengths` and the rows of `prompts` are by request."""

    name: str
    model: Any
    prompts: np.ndarray
    lengths: np.ndarray
    draws: int

    @property
    def tokens(self) -> int:
        """Useful tokens."""
        return int(self.lengths.sum())

    def requests(self) -> list[Request]:
        """For our engines."""
        return [
            Request(prompt, (self.name, index), max_tokens=int(length))
            for index, (prompt, length) in enumerate(zip(self.prompts, self.lengths, strict=True))
        ]


def run(setting: Setting) -> list[Result]:
    """All cases; `quick`: S with random lengths, half of the requests, one round."""
    results = []
    for size, (preset, vocabulary, number) in SIZES.items():
        if setting.quick and size != "S":
            continue
        shape = shape_of(preset)
        model = new_model(shape, vocab_size=vocabulary, context=CONTEXT, end_id=END, seed=1).eval()
        for kind in ("random",) if setting.quick else ("random", "fixed"):
            for draws in (8, 1):
                count = number // 2 if setting.quick else number
                results += _case(make_case(size, kind, draws, model, vocabulary, count), setting)
    return results


def make_case(size: str, kind: str, draws: int, model: Any, vocabulary: int, number: int) -> Case:
    """Prompts and lengths of our own making."""
    source = np.random.default_rng(0)
    prompts = source.integers(1, vocabulary, (number // draws, PROMPT)).repeat(draws, axis=0)
    lengths = np.full(number, LONGEST)
    if kind == "random":
        lengths = source.integers(SHORTEST, LONGEST + 1, number)
    name = f"{size}, {kind} lengths, {draws} draw{'s' * (draws > 1)} a prompt"
    return Case(name, model, prompts, lengths, draws)


def _case(case: Case, setting: Setting) -> list[Result]:
    options: dict[str, Any] = {"context": CONTEXT, "end_id": END, "slots": BATCH}
    native, slots = NativeEngine(case.model, **options), SlotEngine(case.model, **options)
    work: dict[str, Callable[[], object]] = {
        "ours": lambda: native.sample(case.requests(), SAMPLING),
        "our torch engine": lambda: slots.sample(case.requests(), SAMPLING),
        "transformers, dynamic cache": lambda: generate(case, "dynamic"),
        "transformers, static cache": lambda: generate(case, "static"),
    }
    rounds = 1 if setting.quick else 3
    seconds: dict[str, list[float]] = {name: [] for name in work}
    rates: dict[str, float] = {}
    for number in range(rounds):
        for name, job in work.items():
            if name not in ("ours", "transformers, dynamic cache") and number:
                continue  # the slower ones once
            start = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - start)
            print(f"{case.name}: {name} {case.tokens / seconds[name][-1]:.0f}/s", file=sys.stderr)
    rates |= {name: case.tokens / statistics.median(own) for name, own in seconds.items()}
    if python := os.environ.get("SYNBOOT_BENCH_VLLM"):
        rates["vLLM"] = vllm_rate(case, python, setting)
    else:
        print("vLLM: not timed; name its Python in SYNBOOT_BENCH_VLLM", file=sys.stderr)
    rates["limit"] = 1 / products_seconds(case.model)
    return compare("generation", case.name, rates, unit="tokens/s", limit="limit")


@torch.inference_mode()
def generate(case: Case, cache: str) -> None:
    """transformers' own sampling: batches run until their longest text ends."""
    for first in range(0, len(case.prompts), BATCH):
        prompts = torch.from_numpy(case.prompts[first : first + BATCH : case.draws])
        case.model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            temperature=1.0,
            top_p=0.9,
            top_k=0,
            num_return_sequences=case.draws,
            min_new_tokens=int(case.lengths[first : first + BATCH].max()),
            max_new_tokens=int(case.lengths[first : first + BATCH].max()),
            cache_implementation=cache,
            pad_token_id=END,
            disable_compile=True,
        )


def vllm_rate(case: Case, python: str, setting: Setting) -> float:
    """Useful tokens a second, median of three runs after one that does not count."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "model"
        save_model(case.model, directory)
        train_tokenizer(["a text " * 9], 258).save(directory)
        asked = {
            "prompts": case.prompts.tolist(),
            "lengths": case.lengths.tolist(),
            "context": CONTEXT,
            "rounds": 1 if setting.quick else 3,
        }
        (Path(scratch) / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
        environment = {
            "VLLM_CPU_KVCACHE_SPACE": "4",
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
        }
        done = subprocess.run(
            [python, str(VLLM), scratch],
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"vLLM failed:\n{done.stderr[-3000:]}")
        return case.tokens / float(done.stdout.strip().splitlines()[-1])


@torch.inference_mode()
def products_seconds(model: Any) -> float:
    """Of the matrix products of one token at 64 rows."""
    layer = model.model.layers[0]
    maps = [m for m in layer.modules() if isinstance(m, torch.nn.Linear)]
    inputs = {m.in_features: torch.randn(BATCH, m.in_features) for m in (*maps, model.lm_head)}
    times = []
    for _ in range(9):
        start = time.perf_counter()
        for _ in range(len(model.model.layers)):
            for m in maps:
                m(inputs[m.in_features])
        model.lm_head(inputs[model.lm_head.in_features])
        times.append(time.perf_counter() - start)
    return statistics.median(times) / BATCH
