"""To show that test text has no part in a choice: rubbish in its place, and its files watched."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_WATCHING: list[list[str]] = []


def _note(event: str, arguments: Any) -> None:
    if event == "open":
        for opened in _WATCHING:
            opened.append(str(arguments[0]))


sys.addaudithook(_note)  # which cannot be taken away again


@contextmanager
def blind(runs: Path) -> Iterator[list[str]]:
    """Rubbish of the same length in place of the test text below `runs`; the paths below it that
    are opened meanwhile by Python itself (what Arrow opens only meets the rubbish)."""
    rubbish = [*runs.glob("artifacts/corpus/*/test.arrow"), *runs.glob("artifacts/tokens/*/test/*")]
    assert len(rubbish) > 2
    for path in rubbish:
        path.write_bytes(b"\xff" * path.stat().st_size)
    opened: list[str] = []
    below: list[str] = []
    _WATCHING.append(opened)
    try:
        yield below
    finally:
        _WATCHING.remove(opened)
        store = str(runs / "artifacts")
        below += [path.removeprefix(store) for path in opened if path.startswith(store)]


def assert_test_text_unread(read: list[str]) -> None:
    """Of files that were opened: validation text was read, and no test text."""
    assert any("/tokens/" in path and "/valid/" in path for path in read)
    assert not [path for path in read if "/test" in path]
