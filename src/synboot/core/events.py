"""What happened, as JSON lines, and how far the work is, for a person at a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

ReportProgress = Callable[[float, float, str], None]
"""`report(done, total, note)`; `total` 0 means that the end is not known."""


def ignore_progress(done: float, total: float, note: str) -> None:
    """A `ReportProgress` for callers without a screen."""


class EventLog:
    """Appends events to a JSONL file, one line in one write, readable while it grows."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            _end_torn_line(path)

    def emit(self, event: str, **fields: Any) -> None:
        """Append `{"time", "event", ...fields}`; `time` is seconds since the epoch."""
        if self._path is None:
            return
        line = json.dumps({"time": round(time.time(), 3), "event": event} | fields)
        _append(self._path, line)


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a log in order; a line that a crash cut short is passed over."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(event, dict):
                yield event


def _append(path: Path, line: str) -> None:
    with path.open("ab", buffering=0) as file:  # lines of several processes stay apart
        file.write(line.encode() + b"\n")


def _end_torn_line(path: Path) -> None:
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            file.seek(-1, 2)
            torn = file.read(1) != b"\n"
        if torn:
            _append(path, "")


class Display(Protocol):
    """Where progress goes."""

    def message(self, text: str) -> None:
        """Show one line that stays."""

    def task(self, name: str) -> Any:
        """A context manager that yields a `ReportProgress` for the task `name`."""


class QuietDisplay:
    """Shows nothing."""

    def message(self, text: str) -> None:
        """Show nothing."""

    @contextmanager
    def task(self, name: str) -> Iterator[ReportProgress]:
        """Yield a `ReportProgress` that shows nothing."""
        yield ignore_progress


class PlainDisplay:
    """Plain lines with the time left, at most one every `interval_seconds`."""

    def __init__(self, stream: TextIO | None = None, interval_seconds: float = 10.0) -> None:
        self._stream = stream or sys.stderr
        self._interval = interval_seconds

    def message(self, text: str) -> None:
        """Print one line."""
        print(text, file=self._stream, flush=True)

    @contextmanager
    def task(self, name: str) -> Iterator[ReportProgress]:
        """Yield a `ReportProgress` that prints `name`, share done, note and time left."""
        first: tuple[float, float] | None = None
        last_shown = time.monotonic()

        def report(done: float, total: float, note: str) -> None:
            nonlocal first, last_shown
            now = time.monotonic()
            first = first or (now, done)
            if now - last_shown < self._interval:
                return
            last_shown = now
            share = f"{100 * done / total:3.0f}%" if total else f"{done:.0f}"
            rate = (done - first[1]) / (now - first[0]) if now > first[0] else 0.0
            known = rate > 0 and done < total
            left = f", {format_seconds((total - done) / rate)} left" if known else ""
            self.message(f"  {name}: {share}{left}{'  ' + note if note else ''}")

        yield report


class TerminalDisplay:
    """A live bar with rich on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console  # only where there is a terminal to draw on

        self._console = Console(stderr=True, highlight=False)

    def message(self, text: str) -> None:
        """Print one line above the bar."""
        self._console.print(text, markup=False)

    @contextmanager
    def task(self, name: str) -> Iterator[ReportProgress]:
        """Yield a `ReportProgress` that moves a bar; the bar goes when the task ends."""
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(name, total=None, note="")

            def report(done: float, total: float, note: str) -> None:
                progress.update(task, completed=done, total=total or None, note=note)

            yield report


def display_for(stream: TextIO) -> Display:
    """A live bar if `stream` is a terminal, plain lines elsewhere."""
    return TerminalDisplay() if stream.isatty() else PlainDisplay(stream)


def format_seconds(seconds: float) -> str:
    """`85 -> "1:25"`, `4000 -> "1:06:40"`."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, seconds_left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds_left:02}" if hours else f"{minutes}:{seconds_left:02}"
