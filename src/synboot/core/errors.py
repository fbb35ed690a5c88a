"""The errors a user can meet. Each carries its exit code; anything else that escapes is a bug."""

from __future__ import annotations


class SynbootError(Exception):
    """A failure that a user can understand and act on. `str(error)` is one clear line."""

    exit_code = 1


class BadInput(SynbootError):
    """What the user gave cannot be used: names file, line, field and what was expected."""

    exit_code = 2


class GateFellShort(SynbootError):
    """The work ran but a stated need was not met; nothing was padded to hide it."""

    exit_code = 3


class Incomplete(SynbootError):
    """The work stopped before its end and can be resumed with the same command."""

    exit_code = 4


class Busy(Incomplete):
    """Another process is at this work."""


class NotFinite(SynbootError):
    """A loss or a gradient of training is not a finite number."""

    stage_id: str | None = None
    """The stage in which it came up, if it is known."""


class OutOfTime(Incomplete):
    """The time that the user gave is over and the work stopped at a clean checkpoint."""


class Interrupted(SynbootError):
    """SIGINT or SIGTERM arrived and the work stopped at a clean checkpoint."""

    def __init__(self, signal_number: int) -> None:
        super().__init__("stopped at a clean checkpoint; the same command resumes")
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int]]:
        return type(self), (self.signal_number,)  # errors cross processes
