"""What asks a run to end at a clean checkpoint: a signal, or time that is over."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class StopFlag:
    """Set by SIGINT or SIGTERM; a second signal kills the workers and ends the process. Set by
    itself once `seconds` have gone by since it was made."""

    signal_number: int = 0
    workers: list[int] = field(default_factory=list)
    seconds: float | None = None
    made: float = field(default_factory=time.monotonic)

    def __call__(self) -> bool:
        return self.signal_number != 0 or self.out_of_time

    @property
    def out_of_time(self) -> bool:
        """Whether the time that there was is over."""
        return self.seconds is not None and time.monotonic() - self.made >= self.seconds

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Listen to the signals; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.signal_number:
            for worker in self.workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
            if "ipykernel" in sys.modules or hasattr(sys, "ps1"):
                raise KeyboardInterrupt  # a person's session, which is not ours to end
            os._exit(128 + number)
        self.signal_number = number
