"""One loop for pretraining and synthesizer-tuning: only rows and loss masks differ (law 5)."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from synboot.core.errors import Incomplete, NotFinite
from synboot.core.events import ReportProgress, ignore_progress
from synboot.core.rng import seed_for
from synboot.core.storage import fsync_path
from synboot.data.batches import Batch, Batches, ReadAhead, Rows
from synboot.train.checkpoint import (
    TrainState,
    load_checkpoint,
    save_checkpoint,
    weights_of,
    write_tensors,
)
from synboot.train.compiled import compiled_blocks
from synboot.train.device import autocast
from synboot.train.dropout import Dropout
from synboot.train.loss import PlacedBatch, mean_loss, rows_at_once, summed_loss
from synboot.train.optim import learning_rate, new_optimizer
from synboot.train.replicas import Replicas, share_rows
from synboot.train.settings import LoopConfig
from synboot.train.step_graph import StepGraph


def train(
    model: torch.nn.Module,
    rows: Rows,
    validation_rows: Rows,
    config: LoopConfig,
    scratch: Path,
    *,
    seed: int,
    device: torch.device,
    precision: str = "float32",
    micro_rows: int | None = None,
    compiled_length: int | None = None,
    checkpoint_seconds: float = 60.0,
    progress: ReportProgress = ignore_progress,
    should_stop: Callable[[], bool] = lambda: False,
    emit: Callable[..., None] = lambda event, **fields: None,
) -> TrainState:
    """Train `model` in place on one pass over `rows`; resumes from `scratch` if it can.

    Gradients are accumulated over forward passes of at most `micro_rows` rows, and validation reads
    no more at once; on a CPU each of torch's threads takes passes of its own. With
    `compiled_length`, the usual length of a row, blocks are compiled for passes of that shape. The
    weights of lowest validation loss end up in `scratch/best.safetensors`. Returns the final state.
    Raises NotFinite at a loss or gradient that is not, with the step's number, SynbootError if the
    model cannot be compiled, and Incomplete after a checkpoint if `should_stop()` becomes true.
    """
    model.to(device)
    optimizer = new_optimizer(model, config)
    cast = autocast(device, precision)
    number, forward_rows = share_rows(model, device, config.batch_rows, micro_rows)
    validated_rows = micro_rows or rows_at_once(model, validation_rows, forward_rows, device)
    checkpoints, best = scratch / "checkpoints", scratch / "best.safetensors"
    state = load_checkpoint(checkpoints, model, optimizer, best) or TrainState()
    saved = time.monotonic()

    with _own_random_state(device), contextlib.ExitStack() as on_leaving:
        compiled_shape = (forward_rows, compiled_length) if compiled_length is not None else None
        replicas = Replicas(model, number, compiled_shape=compiled_shape)
        on_leaving.callback(replicas.close)
        on_leaving.callback(optimizer.zero_grad)
        on_leaving.callback(model.eval)
        dropout = {replica: Dropout(replica, config.dropout) for replica in replicas.models}
        graphs = {m: StepGraph(m, device, captures=not compiled_shape) for m in replicas.models}
        for masks in dropout.values():
            on_leaving.callback(masks.remove)
        if compiled_shape is not None:
            kind = (precision, config.dropout)
            on_leaving.enter_context(compiled_blocks(replicas.models, compiled_shape, kind))
        batches = ReadAhead(Batches(rows, config.batch_rows), forward_rows)
        on_leaving.callback(batches.close)
        validate_at = validation_steps(num_steps := batches.num_steps, config.num_validations)
        emit("training_from", step=state.step, num_steps=num_steps)
        while state.step < num_steps:
            micro_batches = batches.batch(state.step)
            torch.manual_seed(seed_for(seed, "step", state.step))  # for models that draw themselves

            def add_gradients(replica: Any, batch: Batch) -> tuple[torch.Tensor, int]:
                replica.train()
                dropout[replica].draw(seed, state.step, batch.rows)

                def work(batch: Batch | PlacedBatch) -> tuple[torch.Tensor, int]:
                    with cast():
                        loss_sum, targets = summed_loss(replica, batch, device)
                    torch.autograd.backward(loss_sum / batch.global_targets)
                    return loss_sum.detach(), targets

                return graphs[replica].run(work, batch)

            losses, targets = zip(*replicas.run(add_gradients, micro_batches), strict=True)
            replicas.sum_gradients()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
            step_loss = sum(loss.item() for loss in losses)
            if not (torch.isfinite(norm) and math.isfinite(step_loss)):
                raise NotFinite(_not_finite(state.step + 1, num_steps, "gradient or the loss"))
            state.loss_sum += step_loss
            state.loss_targets += sum(targets)
            state.tokens += sum(targets)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, state.step, num_steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            state.step += 1

            if state.step in validate_at:
                validation = mean_loss(replicas, validation_rows, validated_rows, device, precision)
                if not math.isfinite(validation):
                    raise NotFinite(_not_finite(state.step, num_steps, "validation loss"))
                _log(state, validation)
                emit("validation", **state.history[-1])
                _keep_if_best(state, validation, model, best)
            progress(state.step, num_steps, _note(state))
            ended = state.step == num_steps
            stopping = not ended and should_stop()
            if ended or stopping or time.monotonic() - saved >= checkpoint_seconds:
                save_checkpoint(checkpoints, state, model, optimizer, best)
                emit("checkpoint", step=state.step)
                saved = time.monotonic()
            if stopping:
                raise Incomplete(f"stopped after step {state.step} of {num_steps}")
    return state


def validation_steps(num_steps: int, num_validations: int) -> set[int]:
    """After which steps (1-based) to validate: evenly spread, the last one included."""
    count = min(max(num_validations, 1), num_steps)
    return {round((i + 1) * num_steps / count) for i in range(count)}


def _log(state: TrainState, validation_loss: float) -> None:
    state.history.append(
        {
            "step": state.step,
            "tokens": state.tokens,
            "train_loss": state.loss_sum / max(state.loss_targets, 1),
            "validation_loss": validation_loss,
        }
    )
    state.loss_sum, state.loss_targets = 0.0, 0


def _note(state: TrainState) -> str:
    return f"validation loss {state.history[-1]['validation_loss']:.3f}" if state.history else ""


def _keep_if_best(
    state: TrainState, validation_loss: float, model: torch.nn.Module, path: Path
) -> None:
    if state.best_loss is not None and validation_loss >= state.best_loss:
        return
    state.best_loss, state.best_step = validation_loss, state.step
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    write_tensors(temporary, weights_of(model))
    fsync_path(temporary)
    temporary.replace(path)


def _not_finite(step: int, num_steps: int, what: str) -> str:
    return (
        f"step {step} of {num_steps}: the {what} is not finite; nothing of this step was kept. "
        "A lower learning rate or a longer warmup is the usual remedy"
    )


def _own_random_state(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Inside it torch's global generators may be seeded; the caller's state comes back after."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
