"""How fast this machine trains and samples at a recipe's shape, measured in a few seconds."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synboot.core.errors import Incomplete
from synboot.core.rng import rng
from synboot.core.storage import digest, read_json, write_json
from synboot.data.mixture import Mixture, Source
from synboot.data.tokens import TokenStore, write_token_store
from synboot.experiment.numerics import numerics_of
from synboot.experiment.recipe import Recipe
from synboot.experiment.stages.process import own_threads, set_threads
from synboot.model.architecture import new_model
from synboot.model.flops import cost_of_shape, training_flops
from synboot.model.settings import shape_of
from synboot.synth.engine import Request
from synboot.synth.engines import engine_for
from synboot.train.loop import train

_VERSION = 1
"""Of what is measured: higher once training or sampling have become faster."""
_SECONDS = 3.0
"""Of measuring, for training and for sampling each; one step and one call at least come first."""
_END = 0


@dataclass(frozen=True)
class Speed:
    """What was measured, on a machine as busy as it was."""

    training_flops_per_second: float
    """Of whole steps, as the ledger counts them."""
    sampled_tokens_per_second: float
    """Of one process."""
    training_bytes: int
    """Peak of the training process: on a GPU of its memory, else resident."""
    sampling_bytes: int
    """Peak of a sampling process."""
    machine: dict[str, Any]


def speed_of(recipe: Recipe, runs: Path, prompt: int, written: int) -> Speed:
    """Measured, or read from `runs / "machine"`, where it was measured before for this machine and
    shape; draws are `written` tokens after `prompt` ones."""
    numerics = numerics_of(recipe.runtime)
    machine = {
        "processor": _processor(),
        "processors": recipe.runtime.workers,
        "device": _device(numerics.training["device"]),
        "training": numerics.training,
        "draws": {k: v for k, v in numerics.draws.items() if k != "part_draws"},
    }
    key = {
        **machine,
        "version": _VERSION,
        "model": recipe.model.model_dump(mode="json"),
        "vocab_size": recipe.tokenizer.vocab_size,
        "batch_rows": recipe.pretrain.batch_rows,
        "dropout": recipe.pretrain.dropout > 0,
    }
    file = runs / "machine" / f"{digest(key)}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):  # missing or damaged
        return Speed(**read_json(file))
    with own_threads():
        training, training_bytes = _training(recipe, numerics.training)
        sampling, sampling_bytes = _sampling(recipe, numerics.draws, prompt, written)
    found = Speed(training, sampling, training_bytes, sampling_bytes, machine)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, asdict(found))
    return found


def _training(recipe: Recipe, numerics: dict[str, Any]) -> tuple[float, int]:
    """FLOPs a second of steps of the loop, eager, on random tokens; peak bytes."""
    set_threads(numerics["threads"])
    device, rows = torch.device(numerics["device"]), recipe.pretrain.batch_rows
    context, vocab_size = recipe.model.context, recipe.tokenizer.vocab_size
    stamps: list[float] = []
    begun = time.monotonic()

    def enough() -> bool:
        return len(stamps) > 2 and time.monotonic() - begun > _SECONDS

    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        ids = rng(0, "tokens to measure with").integers(1, vocab_size, 64 * context)
        write_token_store(directory / "tokens", [np.append(ids, _END)], vocab_size)
        store = TokenStore(directory / "tokens")
        mixture = Mixture([Source("real", store, 1, 1000 * rows * context)], context, _END, seed=0)
        one_row = Mixture([Source("valid", store, 1, context)], context, _END, seed=0)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with contextlib.suppress(Incomplete):
            train(
                _model(recipe),
                mixture,
                one_row,
                recipe.pretrain.model_copy(update={"num_validations": 1}),
                directory / "scratch",
                seed=0,
                device=device,
                precision=numerics["precision"],
                micro_rows=numerics["micro_rows"],
                checkpoint_seconds=1e9,
                progress=lambda done, total, note: stamps.append(time.monotonic()),
                should_stop=enough,
            )
    step = statistics.median(np.diff(stamps))
    flops = training_flops(
        cost_of_shape(shape_of(recipe.model.preset), vocab_size), {context: rows}
    )
    return flops / step, _peak(device)


def _sampling(
    recipe: Recipe, numerics: dict[str, Any], prompt: int, written: int
) -> tuple[float, int]:
    """Tokens a second of one process, with prompts and texts of mean length; peak bytes."""
    set_threads(numerics["threads"])
    device = torch.device(numerics["device"])
    settings = recipe.synthesize
    engine = engine_for(
        _model(recipe).eval().to(device),
        context=recipe.model.context,
        end_id=_END,
        num_tokens=recipe.tokenizer.vocab_size,
        slots=numerics["slots"],
        engine=numerics["engine"],
        cache=numerics["cache"],
        precision=numerics.get("precision", "float32"),
    )
    source = rng(0, "prompts to measure with")

    def requests(number: int, most: int) -> list[Request]:
        """Draws that share a prompt follow each other."""
        found = []
        for index in range(number):
            if index % settings.draws_per_prompt == 0:
                ids = source.integers(1, recipe.tokenizer.vocab_size, prompt)
            found.append(Request(ids.astype(np.int64), (0, "measure", index), most))
        return found

    engine.sample(requests(settings.draws_per_prompt, 4), settings)
    tokens, begun = 0, time.monotonic()
    while not tokens or time.monotonic() - begun < _SECONDS:
        drawn = engine.sample(requests(numerics["slots"], written), settings)
        tokens += sum(len(completion.tokens) for completion in drawn)
    return tokens / (time.monotonic() - begun), _peak(device)


def _model(recipe: Recipe) -> Any:
    return new_model(
        shape_of(recipe.model.preset),
        vocab_size=recipe.tokenizer.vocab_size,
        context=recipe.model.context,
        end_id=_END,
        seed=0,
    )


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024  # kilobytes elsewhere


def _device(kind: str) -> str:
    return torch.cuda.get_device_name() if kind == "cuda" else kind


def _processor() -> str:
    """Its name, as Linux tells it, and how many there are."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else platform.machine()} x{os.cpu_count()}"
