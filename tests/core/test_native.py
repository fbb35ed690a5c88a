"""C sources: compiled once, kept where nobody else can write, and plain words where it fails."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from synboot.core import native
from synboot.core.errors import SynbootError

SOURCE = "#include <stdint.h>\nint64_t answer(void) { return ANSWER; }\n"


NO_HEADERS = """
echo "probe.c:3:10: fatal error: math.h: No such file or directory" >&2
echo "compilation terminated." >&2
exit 1
"""


def forget() -> None:
    """What a process knows of compilers and libraries."""
    for cached in (native.load, native.no_native, native._version):
        cached.cache_clear()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()
    path = tmp_path / "small.c"
    path.write_text(SOURCE, encoding="ascii")
    yield path
    forget()


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "synboot").glob("*"))


def use_compiler(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of a few lines as $CC."""
    path = tmp_path / "mycc"
    path.write_text(script, encoding="ascii")
    path.chmod(0o700)
    monkeypatch.setenv("CC", str(path))


def answer(library: ctypes.CDLL) -> int:
    return int(library.answer())


def test_macros_make_libraries_of_their_own_and_each_is_compiled_once(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert answer(native.load(source, (("ANSWER", "41"),))) == 41
    assert answer(native.load(source, (("ANSWER", "42"),))) == 42
    assert len(kept(tmp_path)) == 2
    assert all(path.suffix == ".so" for path in kept(tmp_path))
    forget()

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
    assert not kept(tmp_path)


def test_a_name_stands_for_source_macros_compiler_and_processor(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [native.fingerprint(source), native.fingerprint(source, (("ANSWER", "1"),))]
    monkeypatch.setattr(native, "_processor", lambda: "another")
    names.append(native.fingerprint(source))
    use_compiler("#!/bin/sh\necho mycc 2.0\n", tmp_path, monkeypatch)
    names.append(native.fingerprint(source))
    source.write_text(SOURCE + "\n", encoding="ascii")
    names.append(native.fingerprint(source))
    assert len(set(names)) == 5
    assert native.fingerprint(source) == names[-1]


def test_a_compiler_that_works_is_known_by_trying_and_the_trial_is_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert native.no_native() is None
    assert [path.name[:6] for path in kept(tmp_path)] == ["probe-"]
    forget()
    monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("compiled again"))
    assert native.no_native() is None


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("#!/bin/sh" + NO_HEADERS, "mycc failed: .*fatal error: math.h: No such file or directory"),
        ("#!/bin/sh\nexit 3\n", "mycc failed: exit code 3"),
        ("no program", "mycc: .*Exec format error"),
        ("#!/bin/sh\nexec sleep 30\n", "mycc.* timed out"),
    ],
)
def test_a_compiler_that_does_not_work_is_known_by_trying(
    script: str, reason: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_SECONDS", 0.5 if "sleep" in script else 60)
    use_compiler(script, tmp_path, monkeypatch)
    found = native.no_native()
    assert found is not None
    assert "\n" not in found
    with pytest.raises(SynbootError, match=f"{reason}.*SYNBOOT_NATIVE=off"):
        native.load(source)
    assert not kept(tmp_path)


@pytest.mark.parametrize("length", [0, 1000])
def test_a_library_that_was_cut_short_is_made_again(
    length: int, source: Path, tmp_path: Path
) -> None:
    name = f"small-{native.fingerprint(source, (('ANSWER', '9'),))}.so"
    damaged = tmp_path / "cache" / "synboot" / name
    damaged.parent.mkdir(parents=True, mode=0o700)
    damaged.write_bytes(b"\x7fELF"[:length].ljust(length, b"\0"))
    assert answer(native.load(source, (("ANSWER", "9"),))) == 9
    assert [path.name for path in kept(tmp_path)] == [name]
    assert damaged.stat().st_size > 1000


def test_where_the_cache_cannot_be_loaded_from_another_directory_is(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As below a home that is mounted noexec."""
    (tmp_path / "own").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "own"))
    load, tried = ctypes.CDLL, []

    def refuse(path: str) -> ctypes.CDLL:
        tried.append(Path(path).parent)
        if "/cache/synboot/" in path:
            raise OSError("failed to map segment from shared object")
        return load(path)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert answer(native.load(source, (("ANSWER", "5"),))) == 5
    assert tried[0] == tmp_path / "cache" / "synboot"
    assert tried[-1].parent == tmp_path / "own"
    assert not list((tmp_path / "own").iterdir())  # nothing is left if the process is killed
    monkeypatch.setattr(ctypes, "CDLL", lambda path: load("/no/such.so"))
    with pytest.raises(SynbootError, match=r"small\.c can be loaded from no directory"):
        native.load(source, (("ANSWER", "6"),))


def test_without_a_home_each_process_compiles_for_itself(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(native.Path, "home", nobody)
    assert answer(native.load(source, (("ANSWER", "3"),))) == 3


def test_it_can_be_switched_off(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNBOOT_NATIVE", "off")
    assert native.find_compiler() is None
    with pytest.raises(SynbootError, match="there is no C compiler"):
        native.load(source)
