"""C sources of this package, compiled for the machine at hand when they are first used.

A compiler is no requirement of synboot: who calls `load` has a slower way to the same result.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from synboot.core.errors import SynbootError

_FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math")
_NATIVE = ("-march=native", "-mcpu=native", "")  # what a compiler for this processor understands
_SECONDS = 120
_ADVICE = "set CC to another C compiler, or SYNBOOT_NATIVE=off to do without"


def find_compiler() -> str | None:
    """The first C compiler there is of $CC (by default cc), gcc and clang; none if
    $SYNBOOT_NATIVE is off."""
    if os.environ.get("SYNBOOT_NATIVE") == "off":
        return None
    names = (os.environ.get("CC") or "cc", "gcc", "clang")
    return next((path for name in names if (path := shutil.which(name))), None)


@functools.cache
def load(source: Path, macros: tuple[tuple[str, str], ...] = ()) -> ctypes.CDLL:
    """The library of a C file, compiled unless the cache has it.

    The cache is `synboot` below $XDG_CACHE_HOME or ~/.cache, if nobody but its owner may write to
    it, else a directory of this process; the name of a library is a hash of source, macros,
    compiler and processor. Raises SynbootError if there is no compiler, or if it fails.
    """
    compiler = find_compiler()
    if compiler is None:
        raise SynbootError("there is no C compiler (cc, gcc, clang, or what $CC names)")
    path = _cache() / f"{source.stem}-{_name(source, dict(macros), compiler)}.so"
    if not path.exists():
        _compile(source, dict(macros), compiler, path)
    return ctypes.CDLL(str(path))


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    try:
        path = Path(home) / "synboot"
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = path.stat()
        own = found.st_uid == os.getuid() and not found.st_mode & 0o022
        if own and os.access(path, os.W_OK):
            return path
    except OSError:
        pass
    return _own_directory()


@functools.cache
def _own_directory() -> Path:
    """A directory of this process, removed at its end."""
    path = Path(tempfile.mkdtemp(prefix="synboot-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def _name(source: Path, macros: Mapping[str, str], compiler: str) -> str:
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, check=False, timeout=_SECONDS
    ).stdout
    parts = [source.read_text(encoding="utf-8"), version, _processor(), *_FLAGS]
    parts += [f"{name}={value}" for name, value in sorted(macros.items())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What `native` means: a home directory may serve several kinds of machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.platform()
    return "\n".join(
        sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))})
    )


def _compile(source: Path, macros: Mapping[str, str], compiler: str, path: Path) -> None:
    defines = [f"-D{name}={value}" for name, value in macros.items()]
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".so")
    os.close(handle)
    try:
        for native in _NATIVE:
            flags = [*_FLAGS, *([native] if native else []), *defines]
            try:
                done = subprocess.run(
                    [compiler, *flags, str(source), "-o", temporary, "-lm"],
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=_SECONDS,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise SynbootError(f"{compiler}: {error}; {_ADVICE}") from error
            if done.returncode == 0:
                Path(temporary).replace(path)
                return
        said = done.stderr.strip().splitlines()
        raise SynbootError(f"{compiler} failed: {said[-1] if said else done.returncode}; {_ADVICE}")
    finally:
        Path(temporary).unlink(missing_ok=True)
