"""Runs of the toy pipeline in processes of their own, seen from a test."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toy_run import results
from toy_stages import Bench, pipeline

from synboot.core.events import read_events
from synboot.pipeline.stage import Stage

_DRIVER = str(Path(__file__).with_name("toy_run.py"))


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Ends with the test session, whose end closes its stdin."""
    return subprocess.Popen(
        [sys.executable, _DRIVER, "serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@dataclass(frozen=True)
class Toy:
    """A home for toy runs, and what they left in it.

    A job's keys: `workers`, `faults`, `waits`, `max_file_bytes`, `share`, and the options of
    `toy_stages.pipeline`.
    """

    home: Path

    @property
    def store(self) -> Path:
        return self.home / "store"

    def run(self, **job: Any) -> tuple[int, str]:
        """The exit code of a run (negative: the signal that killed it), and what it and its
        workers said on stderr. None of them lives any more."""
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps({"home": str(self.home)} | job) + "\n")
        server.stdin.flush()
        code, errors = json.loads(server.stdout.readline())
        return code, errors

    @contextmanager
    def start(
        self, verb: str = "run", environment: dict[str, str] | None = None, **job: Any
    ) -> Iterator[subprocess.Popen[str]]:
        """A run that the test goes on beside, in a process group of its own that ends with the
        test at the latest."""
        process = subprocess.Popen(
            [sys.executable, _DRIVER, verb, json.dumps({"home": str(self.home)} | job)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def stages(self, **options: Any) -> list[Stage]:
        """The stages that `run` runs with the same options."""
        return pipeline(Bench(self.home / "side"), **options)

    def directory(self, **options: Any) -> Path:
        """Where the artifact with parts lies."""
        return self.stages(**options)[0].directory(self.store)

    def committed(self, **options: Any) -> list[int]:
        """The parts that lie committed in the scratch directory."""
        folder = self.directory(**options) / "scratch" / "parts"
        return sorted(int(path.name) for path in folder.glob("[0-9]*"))

    def executions(self) -> list[str]:
        """The pieces of work that really began, over all runs."""
        return [name for name, _ in self._executions()]

    def workers(self) -> set[int]:
        """The ids of the processes that really ran parts."""
        return {pid for name, pid in self._executions() if name.startswith("part ")}

    def _executions(self) -> list[tuple[str, int]]:
        path = self.home / "side" / "executions"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(name, int(pid)) for name, pid in (line.rsplit(" ", 1) for line in lines)]

    def parts_run(self) -> list[int]:
        """The parts among `executions`."""
        names = [name for name in self.executions() if name.startswith("part ")]
        return [int(name.removeprefix("part ")) for name in names]

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events called `name`, over all runs."""
        log = read_events(self.home / "events.jsonl")
        return [event for event in log if event["event"] == name]

    def results(self) -> dict[str, bytes]:
        """The bytes of every file of every finished artifact but its manifest."""
        return results(self.store)
