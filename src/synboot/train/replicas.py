"""A model as several that share its weights and work at once, each in a thread of its own.

Threads inside a matrix product meet at the end of every operation, and wait there for the one
whose core another program has taken; replicas meet once a step. Each has gradients of its own,
which are summed in their order: as bits go, a number of replicas is like a number of threads.
"""

from __future__ import annotations

import contextvars
import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

from synboot.data.batches import Batch

_Result = TypeVar("_Result")
_GRADIENT_BYTES = 2**30
"""What the gradients of all replicas but the first may take."""


def share_rows(
    model: torch.nn.Module, device: torch.device, batch_rows: int, micro_rows: int | None = None
) -> tuple[int, int]:
    """(replicas, rows of a forward pass) for steps of `batch_rows`: on a CPU a replica for each of
    torch's threads, as long as all have something to do, their gradients are a small matter and the
    model draws no random numbers, which threads would race for; passes of `micro_rows`, by default
    as many as there are replicas."""
    number = 1
    if device.type == "cpu" and not _draws(model):
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        number = max(1, min(torch.get_num_threads(), batch_rows, 1 + _GRADIENT_BYTES // size))
    rows = micro_rows or -(-batch_rows // number)
    return min(number, -(-batch_rows // rows)), rows


@torch.no_grad()
def _draws(model: Any) -> bool:
    """Whether training takes numbers from torch's generator (noise in a router, say), tried on two
    tokens. The generator stays as it was."""
    before, was_training = torch.get_rng_state(), model.training
    model.train()
    model(input_ids=torch.zeros((1, 2), dtype=torch.int64), use_cache=False)
    found = not torch.equal(torch.get_rng_state(), before)
    model.train(was_training)
    torch.set_rng_state(before)
    return found


class Replicas:
    """`number` models, the first of them the given one, on `threads` threads in all (by default
    those that torch has in this thread). `close` ends the threads.

    `compiled_shape`: batches of this shape run compiled. While torch compiles in one thread, code
    in all others takes itself for compiled (transformers then makes masks that it leaves out
    otherwise), so that what they compute would depend on time. So work that is new is done by one
    replica after the other; a single batch has nothing beside it anyway.
    """

    def __init__(
        self,
        model: Any,
        number: int = 1,
        threads: int | None = None,
        *,
        compiled_shape: tuple[int, int] | None = None,
    ) -> None:
        self.models = [model, *(_sharing_weights(model) for _ in range(number - 1))]
        self._compiled_shape = compiled_shape
        self._compiled: set[object] = set()
        self._threads = threads or torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None
        if number > 1:
            self._pool = ThreadPoolExecutor(
                number,
                thread_name_prefix="replica",
                initializer=torch.set_num_threads,  # of the thread that calls it
                initargs=(max(1, self._threads // number),),
            )

    def run(self, work: Callable[[Any, Batch], _Result], batches: Sequence[Batch]) -> list[_Result]:
        """`work(model, batch)` for each batch, in their order. Replica i has the batches i,
        i + number and so on, whatever time they take, so that sums of gradients are the same."""
        number = len(self.models)
        if self._pool is None or len(batches) == 1:
            return [work(self.models[0], batch) for batch in batches]

        def share(index: int) -> list[_Result]:
            return [work(self.models[index], batch) for batch in batches[index::number]]

        # What is compiled depends on the work (training or not) and on whether texts share rows.
        new = {
            (work.__qualname__, batch.positions is None)
            for batch in batches
            if batch.inputs.shape == self._compiled_shape
        } - self._compiled
        futures = []
        for index in range(number):
            # Settings of torch's compiler are of a context; those of a new thread are the defaults.
            futures.append(self._pool.submit(contextvars.copy_context().run, share, index))
            if new:
                futures[-1].result()
        wait(futures)  # nothing goes on behind an error
        shares = [future.result() for future in futures]
        self._compiled |= new
        return [shares[i % number][i // number] for i in range(len(batches))]

    def sum_gradients(self) -> None:
        """Move the gradients of all replicas to the first, in their order."""
        parameters = list(self.models[0].parameters())
        for model in self.models[1:]:
            for own, other in zip(parameters, model.parameters(), strict=True):
                if own.grad is None:  # an expert, say, that no token of the first went to
                    own.grad = other.grad
                elif other.grad is not None:
                    own.grad += other.grad
                other.grad = None

    def close(self) -> None:
        """Wait for the threads, which are not used any more."""
        if self._pool is not None:
            self._pool.shutdown()
            # It also set what threads to come begin with.
            torch.set_num_threads(self._threads)


def _sharing_weights(model: Any) -> Any:
    """A copy whose parameters are the same memory, with gradients of its own."""
    shared: dict[int, Any] = {
        id(p): torch.nn.Parameter(p.detach(), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, shared)
