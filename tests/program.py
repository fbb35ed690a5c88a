"""The program in forks of a process that has imported it: all of it takes seconds to import, and a
test runs it dozens of times."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[1] / "src"
LIMIT_SECONDS = 300
Kill = tuple[str, str, int, int]
"""Event, stage, which stage of that name to start, which such event: the last thing before the
process kills itself with SIGKILL. No handler, no cleanup, as when the power fails."""


class Program:
    """`synboot ARGUMENTS`, each call in a process of its own."""

    def __init__(self) -> None:
        self._servers: dict[bool, subprocess.Popen[str]] = {}
        """Calls that are killed have a server of their own, so that they hash strings by another
        seed than those whose bytes theirs are compared with."""

    def __call__(
        self,
        *arguments: str,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        kill: Kill | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """What it says and its exit code (negative: the signal that ended it). `folder` is where it
        runs, `environment` is laid above that of the tests; what is read of it on import is that of
        the first call."""
        server = self._servers.get(kill is not None) or subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._servers[kill is not None] = server
        assert server.stdin is not None
        assert server.stdout is not None
        with tempfile.TemporaryDirectory() as name:
            said = [str(Path(name, stream)) for stream in ("stdout", "stderr")]
            job = {
                "arguments": arguments,
                "folder": str(folder or Path.cwd()),
                "environment": {**os.environ, **(environment or {})},
                "kill": kill,
                "said": said,
            }
            assert server.poll() is None, "the process that runs the program has ended"
            print(json.dumps(job), file=server.stdin, flush=True)
            code = server.stdout.readline()
            assert code, "the process that runs the program has ended; stderr says why"
            assert int(code) != -signal.SIGALRM, f"{arguments} ran past {LIMIT_SECONDS} s"
            stdout, stderr = (Path(path).read_text(encoding="utf-8") for path in said)
        return subprocess.CompletedProcess(arguments, int(code), stdout, stderr)

    def close(self) -> None:
        """End the processes that wait for calls."""
        for server in self._servers.values():
            server.communicate()


def serve() -> None:
    """Answer each line of stdin, a call, with its exit code."""
    sys.path.insert(0, str(SOURCE))
    for path in sorted((SOURCE / "synboot" / "verbs").glob("*.py")):
        importlib.import_module(f"synboot.verbs.{path.stem}")
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os._exit(_run(json.loads(line)))  # else what was imported is taken down: a second
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(job: Mapping[str, Any]) -> int:
    from synboot.cli import main

    signal.alarm(LIMIT_SECONDS)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, path in enumerate(job["said"], start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    code = 0
    try:
        os.chdir(job["folder"])
        sys.argv = ["synboot", *job["arguments"]]
        if job["kill"] is not None:
            _set_trap(*job["kill"])
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _set_trap(event: str, stage: str, index: int, nth: int) -> None:
    from synboot.core.events import EventLog

    started: list[object] = []
    seen = 0
    log = EventLog.emit

    def emit_and_die(self: EventLog, name: str, **fields: Any) -> None:
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


if __name__ == "__main__":
    serve()
