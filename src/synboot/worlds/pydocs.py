"""The documentation that the running Python carries: real text that every user already has."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import inspect
import io
import json
import os
import pkgutil
import platform
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from synboot.core.errors import BadInput, SynbootError
from synboot.core.storage import atomic_file, digest

WORLD_VERSION = 1
"""Raised by hand whenever the same interpreter would give other documents."""

MIN_DOCSTRING_CHARACTERS = 150
_CHILD_TIMEOUT_SECONDS = 300

_STDLIB = Path(os.__file__).resolve().parent
# These open a browser, print, or are programs and tests rather than libraries.
_PASSED_OVER = {
    "__main__",
    "antigravity",
    "idle_test",
    "idlelib",
    "test",
    "tests",
    "this",
    "turtledemo",
}

# Modules that carry (near-)copies of each other's documentation, beside those that a leading
# underscore or `_py` tells (`_json`, `_pyio`).
_TWINS = {
    "bz2": ("_compression", "compression", "gzip", "lzma"),
    "codecs": ("_multibytecodec",),
    "collections": ("_collections_abc",),
    "curses": ("_curses_panel",),
    "dbm": ("_gdbm",),
    "hashlib": ("_blake2", "_md5", "_sha1", "_sha2", "_sha256", "_sha3", "_sha512"),
    "importlib": ("_frozen_importlib", "_frozen_importlib_external", "_imp", "imp"),
    "math": ("cmath",),
    "os": ("genericpath", "nt", "ntpath", "posix", "posixpath"),
    "pickle": ("_compat_pickle",),
    "profile": ("_lsprof", "cProfile"),
    "pwd": ("grp", "spwd"),
    "re": ("_sre", "sre_compile", "sre_constants", "sre_parse"),
    "threading": ("_thread", "_threading_local"),
    "tokenize": ("lib2to3",),
    "wave": ("aifc", "sunau"),
    "weakref": ("_weakrefset",),
    "xml": ("_elementtree", "pyexpat"),
}
_GROUP = {twin: group for group, twins in _TWINS.items() for twin in twins}

_CHILD = """\
import sys
sys.path.append(sys.argv[1])
from synboot.worlds.pydocs import _print_documents
sys.path.remove(sys.argv[1])
_print_documents()
"""


def write_pydocs(path: Path) -> int:
    """Write the documents of `python_documents` as JSON lines; returns how many there are.

    Fields: id, text, group, source, license; UTF-8, sorted by id. A child process collects them,
    because that imports hundreds of modules; it sees neither site-packages nor PYTHON* variables,
    and it carries docstrings even where this process was started with -OO. The file appears whole
    or not at all. Raises BadInput if the interpreter carries no docstrings and SynbootError if
    the child fails.
    """
    if not sys.executable:
        raise SynbootError(
            "pydocs needs a Python interpreter to start, and sys.executable is empty"
        )
    home = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-I", "-S", "-B", "-c", _CHILD, home]
    try:
        # The root as working directory: turtle reads a turtle.cfg from wherever it is imported.
        child = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=_STDLIB.anchor,
            timeout=_CHILD_TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SynbootError(f"cannot collect Python's documentation: {error}") from None
    if child.returncode:
        reason = child.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        kind = BadInput if child.returncode == BadInput.exit_code else SynbootError
        raise kind(f"cannot collect Python's documentation (status {child.returncode}): {reason}")
    with atomic_file(path) as file:
        file.write(child.stdout)
    return child.stdout.count(b"\n")


def fingerprint() -> str:
    """A name for what `write_pydocs` would write here; takes milliseconds, fit for a file name.

    Covers implementation, full version, platform, WORLD_VERSION and which modules of the standard
    library are installed (distributions ship tkinter and others apart).
    """
    files = (*_STDLIB.glob("*"), *_STDLIB.glob("lib-dynload/*"))
    names = {file.name.partition(".")[0] for file in files}
    python = f"{sys.implementation.name}-{platform.python_version()}-{sysconfig.get_platform()}"
    build = digest([sys.version, sorted(names & sys.stdlib_module_names)])
    return f"pydocs-{WORLD_VERSION}-{python}-{build[:12]}"


def python_documents() -> list[dict[str, str]]:
    """The standard library's public docstrings and the language topics, sorted by id.

    Each has `id` (`kind:dotted.name`; kinds class, function, method, module, property, topic),
    `text` (signature or name, then the cleaned docstring), `group`, `source` and `license`.
    `group` is the top-level module, one for a module and its twins (posixpath and ntpath, pickle
    and _pickle); every topic is its own. An object belongs to the module that its `__module__`
    names; a docstring that several objects carry counts once, for the smallest id. Left out:
    names with a leading underscore, docstrings under MIN_DOCSTRING_CHARACTERS characters (they
    say hardly more than the name), texts with memory addresses, and modules that do not import.

    Imports the whole standard library into this process, and sees it as this process does (where
    setuptools stands in for distutils, distutils is passed over); `write_pydocs` does neither.
    Raises BadInput if this process has no docstrings (-OO).
    """
    if sys.flags.optimize >= 2 or not dict.__doc__ or not json.__doc__:
        raise BadInput(
            "this Python has no docstrings: expected one started without -OO (PYTHONOPTIMIZE=2) "
            "and built with docstrings"
        )
    found: dict[str, tuple[str, str]] = {}
    for identity, heading, docstring in _described(_import_standard_library()):
        if isinstance(docstring, str):
            found.setdefault(identity, (heading, _cleaned(docstring)))
    seen: set[str] = set()
    documents = []
    for identity, (heading, body) in sorted(found.items()):
        if len(body) < MIN_DOCSTRING_CHARACTERS or body in seen or " at 0x" in heading + body:
            continue
        seen.add(body)
        documents.append(
            {
                "id": identity,
                "text": heading + body,
                "group": _group(identity),
                "source": "python-stdlib-docs",
                "license": "PSF-2.0",
            }
        )
    return documents


def _print_documents() -> None:
    """The child's work: JSON lines on stdout, on which nothing else may write."""
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            documents = python_documents()
        except BadInput as error:
            print(error, file=sys.stderr)
            sys.exit(error.exit_code)
        for document in documents:
            output.write(json.dumps(document, ensure_ascii=False).encode() + b"\n")


def _import_standard_library() -> dict[str, ModuleType]:
    """Every importable module of the standard library by name, quietly, in a fixed order."""
    modules: dict[str, ModuleType] = {}
    waiting = sorted(sys.stdlib_module_names, reverse=True)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        while waiting:
            name = waiting.pop()
            if name.rpartition(".")[2] in _PASSED_OVER:
                continue
            # Modules for other systems fail in many ways, by sys.exit too.
            with contextlib.suppress(Exception, SystemExit):
                if not _is_standard(name):
                    continue
                modules[name] = importlib.import_module(name)
                inside = pkgutil.iter_modules(getattr(modules[name], "__path__", ()))
                waiting += sorted((f"{name}.{child.name}" for child in inside), reverse=True)
    return modules


def _is_standard(name: str) -> bool:
    """Whether `name` comes with the interpreter, and not from a file that shadows it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin in (None, "built-in", "frozen"):
        return spec is not None
    file = Path(str(spec.origin)).resolve()
    if not file.is_relative_to(_STDLIB):
        return False
    return file.relative_to(_STDLIB).parts[0] not in ("site-packages", "dist-packages")


def _described(modules: dict[str, ModuleType]) -> Iterator[tuple[str, str, object]]:
    """Yields (id, heading, docstring or None) of all that may become a document."""
    for name, module in modules.items():
        yield f"module:{name}", f"{name}: ", module.__doc__
        for attribute, value in list(vars(module).items()):
            if not _defines(name, attribute, value, modules):
                continue
            if inspect.isclass(value):
                yield from _described_class(value, f"{name}.{attribute}")
            else:
                yield _entry("function", f"{name}.{attribute}", value)
    for topic, text in importlib.import_module("pydoc_data.topics").topics.items():
        yield f"topic:{topic}", "", text


def _defines(name: str, attribute: str, value: Any, modules: dict[str, ModuleType]) -> bool:
    """Whether `value` is a public class or function that is at home in the module `name`."""
    if attribute.startswith("_") or not (inspect.isclass(value) or inspect.isroutine(value)):
        return False
    home = modules.get(str(value.__module__))
    imported = home is not modules[name] and vars(home).get(attribute) is value if home else False
    return value.__name__ == attribute and not imported


def _described_class(cls: type, name: str) -> Iterator[tuple[str, str, object]]:
    yield _entry("class", name, cls)
    for attribute, value in list(vars(cls).items()):
        member = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
        if attribute.startswith("_"):
            continue
        if inspect.isclass(member):
            if member.__qualname__ == f"{cls.__qualname__}.{attribute}":
                yield from _described_class(member, f"{name}.{attribute}")
        elif inspect.isroutine(member):
            yield _entry("method", f"{name}.{attribute}", member)
        elif inspect.isdatadescriptor(member):
            yield _entry("property", f"{name}.{attribute}", member)


def _entry(kind: str, name: str, value: Any) -> tuple[str, str, object]:
    shown = name.removeprefix("builtins.")
    heading = f"{'class ' if kind == 'class' else ''}{shown}{_signature(value)}\n\n"
    docstring = value.__doc__
    if inspect.isclass(value):
        docstring = vars(value).get("__doc__")  # its own, where `__doc__` may be inherited
        if dataclasses.is_dataclass(value) and str(docstring).startswith(f"{value.__name__}("):
            docstring = None  # generated: the signature again, with reprs of sets in any order
    return f"{kind}:{name}", heading, docstring


def _signature(value: object) -> str:
    """`(a, b=1, *args)` without annotations, or nothing where Python does not know it."""
    try:
        parameters = inspect.signature(value).parameters.values()  # type: ignore[arg-type]
    except Exception:  # not only the documented ValueError and TypeError: annotations are evaluated
        return ""
    shown = [
        p.replace(
            annotation=p.empty,
            default=p.empty if p.default is p.empty else _Shown(_default_text(p.default)),
        )
        for p in parameters
    ]
    return str(inspect.Signature(shown))


class _Shown:
    """A default value that prints as the given text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _default_text(value: object) -> str:
    """A default as text; "..." for paths and for objects whose repr may hold an address."""
    if type(value) is str and len(value) > 1 and value.startswith("/"):
        return "..."
    if value is None or type(value) in (bool, int, float, str, bytes):
        return repr(value)
    if type(value) in (list, dict) and not value:
        return repr(value)
    if type(value) is tuple:
        items = [_default_text(item) for item in value]
        return f"({', '.join(items)}{',' * (len(items) == 1)})"
    if inspect.isclass(value) or inspect.isroutine(value):
        return str(value.__name__)
    return "..."


def _cleaned(docstring: str) -> str:
    lines = inspect.cleandoc(docstring).splitlines()
    text = "\n".join(line.rstrip() for line in lines).strip()
    return text.encode("utf-8", "replace").decode()  # without lone surrogates, which no file takes


def _group(identity: str) -> str:
    kind, _, name = identity.partition(":")
    if kind == "topic":
        return identity
    top = name.partition(".")[0]
    public = top.removeprefix("_py").lstrip("_")
    if public not in sys.stdlib_module_names:
        public = top
    return _GROUP.get(public, public)
