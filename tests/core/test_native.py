"""C sources: compiled once, kept where nobody else can write, and plain words where it fails."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

from synboot.core import native
from synboot.core.errors import SynbootError

SOURCE = "#include <stdint.h>\nint64_t answer(void) { return ANSWER; }\n"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native.load.cache_clear()
    path = tmp_path / "small.c"
    path.write_text(SOURCE, encoding="ascii")
    yield path
    native.load.cache_clear()


def answer(library: ctypes.CDLL) -> int:
    return int(library.answer())


def test_macros_make_libraries_of_their_own_and_each_is_compiled_once(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert answer(native.load(source, (("ANSWER", "41"),))) == 41
    assert answer(native.load(source, (("ANSWER", "42"),))) == 42
    kept = sorted((tmp_path / "cache" / "synboot").iterdir())
    assert len(kept) == 2
    assert all(path.suffix == ".so" for path in kept)
    native.load.cache_clear()

    def never(*_: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(native, "_compile", never)
    assert answer(native.load(source, (("ANSWER", "42"),))) == 42


def test_a_cache_that_others_may_write_to_is_not_used(source: Path, tmp_path: Path) -> None:
    open_to_all = tmp_path / "cache" / "synboot"
    open_to_all.mkdir(parents=True)
    open_to_all.chmod(0o777)
    assert answer(native.load(source, (("ANSWER", "7"),))) == 7
    assert not list(open_to_all.iterdir())


def test_a_failure_is_one_line_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    source.write_text("this is no C\n", encoding="ascii")
    with pytest.raises(SynbootError, match=r"failed: .*SYNBOOT_NATIVE=off") as caught:
        native.load(source)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache" / "synboot").iterdir())


def test_it_can_be_switched_off(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNBOOT_NATIVE", "off")
    assert native.find_compiler() is None
    with pytest.raises(SynbootError, match="there is no C compiler"):
        native.load(source)
