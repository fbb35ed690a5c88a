"""Sampling on SBP's workload: prompts of 200 tokens, 1 or 8 draws of each, T = 1, top-p 0.9, fp32.

Lengths are 20 to 200, or 200; there are four times as many requests as slots. A rate counts the
tokens that were sampled and that were asked for. All sides have the same weights, prompts, lengths
and cores, and take turns.

- Ours is the engine of the stage, as the stage has it: a process of one thread for every core.
- transformers' `generate` has the best of a dynamic, a static and a compiled static cache, and the
  better of batches of 64 and 128; no END, so that nothing looks for it. A turn is one batch, since
  batches know nothing of each other; it runs until its longest text ends. (Continuous batching has
  on a CPU one dense attention over all requests, and is slower.)
- vLLM's CPU build with prefix caching lives in an environment of its own, whose Python
  $SYNBOOT_BENCH_VLLM names: the better of its own blocks of 128 positions and of 32, of which more
  of a prompt can be shared. (`n=8` draws a prompt eight times to one length only.)

What is better is found by short runs of S, which do not count, and holds for M too. The limit is
the time of the matrix products alone, of all layers at 64 rows a core, without attention and
sampling.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Result, Setting, Workers, compare, in_turns, note
from benchmarks.models import END, SIZES, Size
from synboot.data.tokenizer import train_tokenizer
from synboot.model.architecture import save_model
from synboot.synth.engine import Engine, Request
from synboot.synth.engines import engine_for, resolve_engine
from synboot.synth.settings import SamplingConfig

PROMPT, LONGEST, SHORTEST, CONTEXT, SLOTS = 200, 200, 20, 512, 64
REQUESTS = 4 * SLOTS
SAMPLING = SamplingConfig(temperature=1.0, top_p=0.9, max_tokens=LONGEST)
BATCHES = (SLOTS, 2 * SLOTS)
BLOCKS = (0, 32)
"""Positions of a block of vLLM; 0: what it takes itself, 128."""
TRIED = 24
"""Tokens a request of the runs that do not count."""
VLLM = Path(__file__).with_name("generation_vllm.py")

PLAN: dict[str, Sequence[tuple[str, int, int]]] = {
    "S": [("random", 8, 3), ("random", 1, 2), ("fixed", 8, 1), ("fixed", 1, 1)],
    "M": [("random", 8, 2), ("random", 1, 1)],
}
"""Lengths, draws a prompt and rounds: what fits into a quarter of an hour on one core."""
QUICK: dict[str, Sequence[tuple[str, int, int]]] = {"S": [("random", 8, 1), ("random", 1, 1)]}


@dataclass(frozen=True)
class Case:
    """What is asked of a model; `lengths` and the rows of `prompts` are by request."""

    name: str
    prompts: np.ndarray
    lengths: np.ndarray
    draws: int

    def part(self, first: int, number: int) -> Case:
        """So many requests."""
        rows = slice(first, first + number)
        return replace(self, prompts=self.prompts[rows], lengths=self.lengths[rows])

    def requests(self, number: int) -> list[list[Request]]:
        """For our engines: `number` parts, of whole prompts."""
        requests = [
            Request(prompt, (self.name, index), max_tokens=int(length))
            for index, (prompt, length) in enumerate(zip(self.prompts, self.lengths, strict=True))
        ]
        groups = [requests[i : i + self.draws] for i in range(0, len(requests), self.draws)]
        return [[r for group in groups[i::number] for r in group] for i in range(number)]


def run(setting: Setting) -> list[Result]:
    """All cases; `quick`: S with random lengths, half of the requests, one round."""
    number = REQUESTS // 2 if setting.quick else REQUESTS
    results: list[Result] = []
    chosen = Chosen()
    for name, plan in (QUICK if setting.quick else PLAN).items():
        size = SIZES[name]
        cases = [
            (make_case(name, size, kind, draws, number), rounds) for kind, draws, rounds in plan
        ]
        results += measure(size, cases, setting.threads, chosen)
    return results


def make_case(title: str, size: Size, kind: str, draws: int, number: int) -> Case:
    """Prompts and lengths of our own making."""
    source = np.random.default_rng(0)
    prompts = source.integers(1, size.vocab_size, (number // draws, PROMPT)).repeat(draws, axis=0)
    lengths = np.full(number, LONGEST)
    if kind == "random":
        lengths = source.integers(SHORTEST, LONGEST + 1, number)
    name = f"{title}, {kind} lengths, {draws} draw{'s' * (draws > 1)} a prompt"
    return Case(name, prompts, lengths, draws)


def shortened(case: Case, most: int) -> Case:
    """The same requests for at most so many tokens each."""
    return replace(case, lengths=np.minimum(case.lengths, most))


@dataclass
class Chosen:
    """What peers were found to be best with; for vLLM, positions of a block by draws a prompt."""

    transformers: Generate | None = None
    blocks: dict[int, int] = field(default_factory=dict)


def measure(
    size: Size, cases: Sequence[tuple[Case, int]], threads: int, chosen: Chosen
) -> list[Result]:
    """Tokens a second of all sides; what is not `chosen` yet is."""
    model = size.model(CONTEXT).eval()
    first = cases[0][0]
    results: list[Result] = []
    with Workers(threads, open_engine, model) as workers, contextlib.ExitStack() as stack:
        ours(workers, shortened(first, TRIED), threads)
        if chosen.transformers is None:
            chosen.transformers = choose_transformers(model, first, BATCHES)
        peer = chosen.transformers
        generate(model, shortened(first, 2).part(0, peer.batch), peer)
        blocks = sorted(set(chosen.blocks.values())) or BLOCKS
        vllm = {p.block: stack.enter_context(p) for p in vllm_processes(model, blocks)}
        for process in vllm.values():
            process.rate(shortened(first, TRIED))
        limit = 1 / products_seconds(model, SLOTS * threads)
        for case, rounds in cases:
            sides: dict[str, Callable[[], float]] = {
                "ours": lambda case=case: ours(workers, case, threads),
                f"transformers, {peer}": transformers_side(model, case, peer),
            }
            if vllm:
                if case.draws not in chosen.blocks:
                    rates = {block: p.rate(case.part(0, SLOTS)) for block, p in vllm.items()}
                    chosen.blocks[case.draws] = max(rates, key=lambda block: rates[block])
                best = vllm[chosen.blocks[case.draws]]
                sides[f"vLLM, {best}"] = lambda case=case, best=best: best.rate(case)
            named = {name: _told(case.name, name, side) for name, side in sides.items()}
            rates = in_turns(named, rounds, warm=False) | {"limit": limit}
            results += compare("generation", case.name, rates, unit="tokens/s", limit="limit")
    return results


def _told(case: str, name: str, side: Callable[[], float]) -> Callable[[], float]:
    def call() -> float:
        rate = side()
        note(f"{case}: {name} {rate:.0f}/s")
        return rate

    return call


# --- Ours ----------------------------------------------------------------------------------------


def open_engine(model: Any) -> Engine:
    """The one that a run would take."""
    return engine_for(
        model,
        context=CONTEXT,
        end_id=END,
        num_tokens=model.config.vocab_size,
        slots=SLOTS,
        engine=resolve_engine("auto", "cpu"),
    )


def sampled_tokens(engine: Engine, requests: list[Request]) -> int:
    """How many tokens are drawn for them, END included."""
    done = engine.sample(requests, SAMPLING)
    return sum(len(each.tokens) + (each.finish_reason == "end") for each in done)


def ours(workers: Workers, case: Case, number: int) -> float:
    """Tokens a second of `number` workers."""
    parts = case.requests(number)
    start = time.perf_counter()
    tokens = sum(workers.map(sampled_tokens, parts))
    return float(tokens / (time.perf_counter() - start))


# --- transformers --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Generate:
    """How transformers is asked."""

    cache: str
    compiled: bool
    batch: int

    def __str__(self) -> str:
        return f"{'compiled ' * self.compiled}{self.cache} cache, batches of {self.batch}"


def choose_transformers(model: Any, case: Case, batches: Sequence[int]) -> Generate:
    """What adds tokens fastest: which cache in the smallest batch, then which batch."""
    caches = [("dynamic", False), ("static", False), ("static", True)]
    # As far as texts are on average.
    halfway = np.hstack([case.prompts, case.prompts[:, : LONGEST // 2]])

    def rate(how: Generate) -> float:
        steps: list[float] = []
        lengths = np.full(len(case.lengths), TRIED)
        try:
            asked = replace(case, prompts=halfway, lengths=lengths).part(0, how.batch)
            generate(model, asked, how, steps)
        except Exception as error:  # whatever a compiler may say
            note(f"transformers, {how}: {str(error).splitlines()[0][:200]}")
            return 0.0
        found = how.batch / float(np.median(np.diff(steps)))  # some of the first compile
        note(f"tried: transformers, {how}: {found:.0f}/s beside the prompts")
        return found

    sizes = sorted({min(batch, len(case.prompts)) for batch in batches})
    small = max((Generate(*cache, sizes[0]) for cache in caches), key=rate)
    return max((replace(small, batch=batch) for batch in sizes), key=rate) if sizes[1:] else small


def transformers_side(model: Any, case: Case, how: Generate) -> Callable[[], float]:
    """Useful tokens a second of the next batch of a case."""

    def batches() -> Iterator[Case]:
        while True:
            for first in range(0, len(case.prompts) - how.batch + 1, how.batch):
                yield case.part(first, how.batch)

    coming = batches()

    def side() -> float:
        batch = next(coming)
        return float(batch.lengths.sum() / generate(model, batch, how))

    return side


@torch.inference_mode()
def generate(model: Any, batch: Case, how: Generate, steps: list[float] | None = None) -> float:
    """Seconds of transformers' own sampling of one batch; `steps` is told when each step ended."""
    from transformers import CompileConfig, GenerationConfig

    def clock(ids: torch.Tensor, _: Any, **__: Any) -> torch.Tensor:
        if ids.device.type == "cuda":
            torch.cuda.synchronize()
        steps.append(time.perf_counter())
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    prompts = torch.from_numpy(batch.prompts[:: batch.draws]).to(model.device)
    longest = int(batch.lengths.max())
    options: dict[str, Any] = {"cache_implementation": how.cache, "disable_compile": True}
    if how.cache == "static":
        options["max_cache_len"] = PROMPT + LONGEST
    if how.compiled:
        options["disable_compile"] = False
        mode = "default" if model.device.type == "cpu" else "reduce-overhead"
        options["compile_config"] = CompileConfig(dynamic=False, mode=mode)
        options["compile_config"]._compile_all_devices = True  # a CPU too
    if steps is not None:
        options["stopping_criteria"] = [clock]
    model.generation_config = GenerationConfig(pad_token_id=END)  # has no END
    start = time.perf_counter()
    found = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=True,
        temperature=1.0,
        top_p=0.9,
        top_k=0,
        num_return_sequences=batch.draws,
        max_new_tokens=longest,
        **options,
    ).cpu()
    if tuple(found.shape) != (len(batch.prompts), prompts.shape[1] + longest):
        raise AssertionError(f"transformers sampled {tuple(found.shape)}")
    return time.perf_counter() - start


# --- vLLM ----------------------------------------------------------------------------------------


class Vllm(contextlib.AbstractContextManager["Vllm"]):
    """vLLM in a process of its own, which takes its turns from its standard input."""

    def __init__(self, python: str, directory: Path, block: int) -> None:
        self.block = block
        environment = {
            "VLLM_CPU_KVCACHE_SPACE": "4",
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
        }
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [python, str(VLLM), str(directory), str(CONTEXT), str(block)],
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._answer()

    def __str__(self) -> str:
        return f"blocks of {self.block or 'its own'}"

    def rate(self, case: Case) -> float:
        """Tokens a second."""
        assert self._process.stdin is not None
        asked = {"prompts": case.prompts.tolist(), "lengths": case.lengths.tolist()}
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        answer = self._answer()
        return float(answer["tokens"] / answer["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"vLLM failed:\n{self._errors.read()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._errors.close()


def vllm_processes(model: Any, blocks: Sequence[int]) -> Iterator[Vllm]:
    """One for each size of block; none without $SYNBOOT_BENCH_VLLM."""
    python = os.environ.get("SYNBOOT_BENCH_VLLM")
    if not python:
        note("vLLM: not timed; name its Python in SYNBOOT_BENCH_VLLM")
        return
    with tempfile.TemporaryDirectory() as directory:
        save_model(model, Path(directory))
        train_tokenizer(["a text " * 9], 258).save(Path(directory))
        for block in blocks:
            yield Vllm(python, Path(directory), block)


# --- Limit ---------------------------------------------------------------------------------------


@torch.inference_mode()
def products_seconds(model: Any, rows: int) -> float:
    """Of the matrix products of one token, as many `rows` at once: every layer's own weights."""
    maps = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    inputs = {m.in_features: torch.randn(rows, m.in_features) for m in maps}
    times = []
    for _ in range(9):
        start = time.perf_counter()
        for m in maps:
            m(inputs[m.in_features])
        times.append(time.perf_counter() - start)
    return statistics.median(times) / rows
