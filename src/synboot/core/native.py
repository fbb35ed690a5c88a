"""C sources of this package, compiled for the machine at hand when they are first used.

A compiler is no requirement of synboot: where `no_native` gives a reason there is a slower way to
the same result.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from synboot.core.errors import SynbootError
from synboot.core.storage import fsync_path

_FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math")
_NATIVE = ("-march=native", "-mcpu=native", "")  # what a compiler for this processor understands
_SECONDS = 120
_ADVICE = "set CC to another C compiler, or SYNBOOT_NATIVE=off to do without"
_PROBE = Path(__file__).with_name("probe.c")

Macros = tuple[tuple[str, str], ...]


def find_compiler() -> str | None:
    """The first C compiler there is of $CC (by default cc), gcc and clang; none if
    $SYNBOOT_NATIVE is off."""
    if os.environ.get("SYNBOOT_NATIVE") == "off":
        return None
    names = (os.environ.get("CC") or "cc", "gcc", "clang")
    return next((path for name in names if (path := shutil.which(name))), None)


@functools.cache
def no_native() -> str | None:
    """Why no C can be compiled and loaded here, in one line; None if it can. It is tried with a few
    lines, which takes milliseconds where the cache has them."""
    try:
        load(_PROBE)
    except SynbootError as error:
        return str(error)
    return None


@functools.cache
def load(source: Path, macros: Macros = ()) -> ctypes.CDLL:
    """The library of a C file, compiled unless the cache has it.

    The cache is `synboot` below $XDG_CACHE_HOME or ~/.cache, if nobody but its owner may write to
    it and what lies there can be loaded; else each process compiles for itself. The name of a
    library has its `fingerprint`. Raises SynbootError if there is no compiler, or if it fails.
    """
    name = f"{source.stem}-{fingerprint(source, macros)}.so"
    if (cache := _cache()) and (library := _load_kept(source, macros, cache / name)):
        return library
    try:
        with tempfile.TemporaryDirectory(prefix="synboot-") as directory:
            path = Path(directory) / name
            _compile(source, macros, path)
            return ctypes.CDLL(str(path))  # which needs no file once it is loaded
    except OSError as error:
        raise SynbootError(f"{source.name} can be loaded from no directory: {error}") from error


def fingerprint(source: Path, macros: Macros = ()) -> str:
    """16 hexadecimal digits that stand for all that the library of a C file is made of: source,
    macros, flags, compiler and processor. Raises SynbootError if there is no compiler."""
    parts = [source.read_text(encoding="utf-8"), _version(_compiler()), _processor(), *_FLAGS]
    parts += [f"{name}={value}" for name, value in sorted(macros)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _compiler() -> str:
    if compiler := find_compiler():
        return compiler
    raise SynbootError("there is no C compiler (cc, gcc, clang, or what $CC names)")


def _cache() -> Path | None:
    """The directory that libraries are kept in, if it is its owner's alone."""
    try:
        path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "synboot"
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = path.stat()
    except (OSError, RuntimeError):  # RuntimeError: nobody knows where home is
        return None
    own = found.st_uid == os.getuid() and not found.st_mode & 0o022
    return path if own and os.access(path, os.W_OK) else None


def _load_kept(source: Path, macros: Macros, path: Path) -> ctypes.CDLL | None:
    """The library at `path`, compiled if it is not there or damaged; None if nothing there can be
    loaded (a disk that is full, or mounted noexec)."""
    with contextlib.suppress(OSError):
        return ctypes.CDLL(str(path))
    try:
        _compile(source, macros, path)
        return ctypes.CDLL(str(path))
    except OSError:
        return None


@functools.cache
def _version(compiler: str) -> str:
    return _run(compiler, "--version").stdout


@functools.cache
def _processor() -> str:
    """What `native` means: a home directory may serve several kinds of machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.platform()
    return "\n".join(
        sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))})
    )


def _compile(source: Path, macros: Macros, path: Path) -> None:
    """Compile to `path`, which appears whole. Raises SynbootError if the compiler fails, OSError if
    the directory takes no file."""
    compiler = _compiler()
    defines = [f"-D{name}={value}" for name, value in macros]
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".so")
    os.close(handle)
    temporary = Path(name)
    try:
        for native in _NATIVE:
            flags = [*_FLAGS, *([native] if native else []), *defines]
            done = _run(compiler, *flags, str(source), "-o", name, "-lm")
            if done.returncode == 0:
                fsync_path(temporary)
                temporary.replace(path)
                return
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        reason = next((line for line in said if "error" in line), said[-1])
        raise SynbootError(f"{compiler} failed: {reason}; {_ADVICE}")
    finally:
        temporary.unlink(missing_ok=True)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=os.environ | {"LC_ALL": "C"},  # errors are looked for by their English name
            check=False,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SynbootError(f"{command[0]}: {error}; {_ADVICE}") from error
