"""Verbs, functions and documentation say the same."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import synboot
from synboot.cli import app
from synboot.verbs.inputs import READING_FIELDS

GUIDE = (Path(__file__).parents[2] / "docs" / "guide.md").read_text(encoding="utf-8")
FUNCTION_OF = {
    "split": "split_corpus",
    "pair": "find_pairs",
    "tune": "tune",
    "synthesize": "synthesize",
    "pretrain": "pretrain",
    "evaluate": "evaluate",
    "quality": "quality",
    "report": "report",
}
OF_RECIPES = ("search", "plan")
"""Verbs of recipes that have a section of options in the guide."""
ONLY_OF_VERBS = {"json_output", "help"}
ONLY_OF_FUNCTIONS = {"quiet", "reading"}


def options(verb: str) -> dict[str, Any]:
    """The parameters of a verb by name."""
    found = {p.name: p for p in get_command(app).commands[verb].params}
    return {name: p for name, p in found.items() if name not in ONLY_OF_VERBS}


def parameters(verb: str) -> dict[str, inspect.Parameter]:
    """The parameters of a verb's function by name."""
    return dict(inspect.signature(getattr(synboot, FUNCTION_OF[verb])).parameters)


def test_every_public_function_has_its_verb() -> None:
    assert set(synboot.__all__) - {"__version__"} == set(FUNCTION_OF.values())
    assert set(get_command(app).commands) == {*FUNCTION_OF, *OF_RECIPES, "demo", "run", "status"}
    for name in synboot.__all__:
        assert getattr(synboot, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        synboot.magic  # noqa: B018


@pytest.mark.parametrize("verb", FUNCTION_OF)
def test_options_are_the_functions_parameters(verb: str) -> None:
    of_verb, of_function = options(verb), parameters(verb)
    names = set(of_function) - ONLY_OF_FUNCTIONS
    if "reading" in of_function:
        names |= set(READING_FIELDS)
    assert set(of_verb) == names
    for name, parameter in of_function.items():
        if name in ONLY_OF_FUNCTIONS or parameter.default is inspect.Parameter.empty:
            continue
        # A script's functions stay in one process; the program takes all processors.
        expected = None if name == "workers" else parameter.default
        assert of_verb[name].default == expected, name


@pytest.mark.parametrize("verb", [*FUNCTION_OF, *OF_RECIPES])
def test_guide_has_every_option_with_its_default(verb: str) -> None:
    section = re.search(rf"^### {verb}\n(.*?)(?=^##|\Z)", GUIDE, flags=re.DOTALL | re.MULTILINE)
    assert section, f"the guide has no section {verb}"
    if verb in FUNCTION_OF:
        assert f"`synboot.{FUNCTION_OF[verb]}`" in section[1]
    rows = dict(re.findall(r"^\| `--([a-z0-9-]+)` \| `?([^|`]*?)`? \|", section[1], re.MULTILINE))
    shown = {
        {"settings": "set"}.get(name, name).replace("_", "-"): option
        for name, option in options(verb).items()
        if option.param_type_name == "option" and name not in READING_FIELDS
    }
    assert set(rows) == set(shown)
    for name, option in shown.items():
        default = "" if option.default is None or option.required else str(option.default)
        assert rows[name] == {"False": "no", "True": "yes"}.get(default, default), name


def test_guide_has_how_documents_are_read() -> None:
    section = GUIDE[GUIDE.index("## Corpora") : GUIDE.index("## Models")]
    rows = dict(re.findall(r"^\| `--([a-z-]+)` \| `?([^|`]*?)`? \|", section, re.MULTILINE))
    of_verb = options("pair")
    assert set(rows) == {name.replace("_", "-") for name in READING_FIELDS}
    for name in READING_FIELDS:
        default = of_verb[name].default
        assert rows[name.replace("_", "-")] == ("" if default is None else str(default))


def test_importing_synboot_loads_nothing_heavy() -> None:
    code = (
        "import sys, synboot; heavy = {'torch', 'transformers', 'pyarrow', 'sklearn'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert outcome.stdout.strip() == "[]"


def test_public_names_come_from_the_modules_that_are_named() -> None:
    for name, module in synboot._FUNCTIONS.items():
        assert getattr(importlib.import_module(f"synboot.verbs.{module}"), name).__doc__
