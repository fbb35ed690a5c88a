"""Work of fixed shape on a GPU, captured once as a CUDA graph and then replayed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from typing import Any

import torch


class Replay:
    """Calls functions of tensors that stay where they are. On CUDA the first call for a key is a
    call, the second is captured, and from then on its graph is replayed: a launch for all of it.
    On other devices, and after a capture that failed, every call is a call; `reason` says why,
    and of a failure a warning does.

    A function must not wait for the device, and must leave its results in its tensors.
    """

    def __init__(self, device: torch.device) -> None:
        self.reason = None if device.type == "cuda" else f"there are no graphs on a {device.type}"
        self._graphs: dict[Hashable, Any] = {}
        self._stream: Any = None
        self._pool: Any = None  # memory for what lives within a graph; one runs at a time

    def __call__(self, key: Hashable, function: Callable[[], None]) -> None:
        """`function()`, which is the same for equal keys."""
        if self.reason is None and key in self._graphs:
            graph = self._graphs[key] or self._captured(key, function)
            if graph is not None:
                graph.replay()
                return
        if self.reason is not None:
            function()
            return
        self._warm_up(function)
        self._graphs[key] = None

    def _captured(self, key: Hashable, function: Callable[[], None]) -> Any:
        """The graph of a function, which is not run; None if there can be none."""
        try:
            self._graphs[key] = self._capture(function)
        except RuntimeError as error:
            self.reason = f"a CUDA graph could not be captured: {error}"
            self._graphs.clear()
            warnings.warn(f"every step is launched in pieces: {self.reason}", stacklevel=4)
            return None
        return self._graphs[key]

    def _warm_up(self, function: Callable[[], None]) -> None:
        """A call on another stream, as capturing asks: libraries make there what they need."""
        current = torch.cuda.current_stream()
        self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            function()
        current.wait_stream(self._stream)

    def _capture(self, function: Callable[[], None]) -> Any:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            function()
        self._pool = graph.pool()
        return graph
