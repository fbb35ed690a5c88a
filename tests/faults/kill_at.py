"""Runs synboot and kills its own process with SIGKILL right after an event was logged.

    python kill_at.py EVENT STAGE INDEX NTH synboot-arguments...

The NTH event EVENT of the INDEX-th stage called STAGE to start (both from 1) is the last thing
that the process does: no handler, no cleanup, as when the power fails.
"""

import os
import signal
import sys

from synboot import cli
from synboot.core.events import EventLog


def main() -> None:
    """Set the trap and run the program."""
    event, stage, index, nth = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    sys.argv = ["synboot", *sys.argv[5:]]
    started: list[object] = []
    seen = 0
    log = EventLog.emit

    def emit_and_die(self, name, **fields):
        nonlocal seen
        log(self, name, **fields)
        if fields.get("stage") != stage:
            return
        if fields["id"] not in started and name in ("stage_start", "stage_cached"):
            started.append(fields["id"])
        if name == event and started.index(fields["id"]) + 1 == index:
            seen += 1
            if seen == nth:
                os.kill(os.getpid(), signal.SIGKILL)

    EventLog.emit = emit_and_die
    cli.main()


if __name__ == "__main__":  # workers import this file
    main()
