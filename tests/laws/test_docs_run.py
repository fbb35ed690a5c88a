"""Law 12: what the documentation says is run, or compared with the tree."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import shlex
from pathlib import Path

import pytest

from synboot.core.config import read_recipe
from synboot.core.storage import read_json
from synboot.experiment.figures_statistics import efficiency_figure, sizes_figure
from synboot.experiment.recipe import load_recipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "src" / "synboot"


def commands(text: str) -> list[str]:
    """The lines of a page's sh blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def test_map_is_the_tree() -> None:
    """Every module of the package stands in the map with the first paragraph of its docstring."""
    rows = set(re.findall(r"^\| `(src/synboot/[^`]+)` \| (.*) \|$", DESIGN, flags=re.MULTILINE))
    tree = set()
    for path in PACKAGE.rglob("*.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert docstring, f"{path} has no docstring"
        first = docstring.split("\n\n")[0].replace("\n", " ")
        tree.add((path.relative_to(ROOT).as_posix(), first))
    assert rows == tree


def test_readme_names_the_commands_that_ci_and_developers_use() -> None:
    found = commands(README)
    assert "script/demo" in found
    assert "script/test" in found
    assert "script/test" in (ROOT / ".ci" / "run").read_text().splitlines()
    for line in found:
        program = shlex.split(line)[0]
        if "/" in program and not program.startswith(".venv/"):
            assert os.access(ROOT / program, os.X_OK), f"{program} cannot be run"


def test_synboot_commands_of_the_docs_are_understood(synboot, small_corpus, tmp_path) -> None:
    """Every `.venv/bin/synboot` line runs as a dry run, on our corpus for the user's."""
    lines = [line for line in commands(README) if line.startswith(".venv/bin/synboot")]
    assert lines
    for line in lines:
        words = [
            word.replace("path/to/corpus", str(small_corpus)) for word in shlex.split(line)[1:]
        ]
        words = [str(ROOT / word) if word.startswith("recipes/") else word for word in words]
        if words[0] == "run":
            words += ["--dry-run", "--json", "--runs", str(tmp_path)]
            outcome = synboot(*words)
            assert outcome.returncode == 0, (line, outcome.stderr)
            assert json.loads(outcome.stdout)["stages"]
        else:
            assert synboot(words[0], "--help").returncode == 0, line


RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recipes_are_valid(path: Path) -> None:
    needs_path = read_recipe(path)["corpus"].get("world") is None
    recipe = load_recipe(path, ["corpus.path=somewhere"] if needs_path else [])
    assert recipe.name == path.stem


def test_settings_of_recipes_are_those_that_are_checked() -> None:
    """docs/recipe.md is made from the classes, each of whose fields says what it is for."""
    made = runpy.run_path(str(ROOT / "docs" / "recipe.py"))["page"]()
    assert made == (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")


def test_links_and_pictures_exist() -> None:
    for page in (ROOT / "README.md", ROOT / "LOG.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)]+)\)", text):
            assert " " not in target, (page.name, target)
            if not target.startswith("http"):
                file, _, heading = target.partition("#")
                aim = page.parent / file if file else page
                assert aim.exists(), (page.name, target)
                assert not heading or heading in _anchors(aim), (page.name, target)


def test_drawings_are_of_the_results_beside_them() -> None:
    """Those that need no more than a run's result.json, by the figures that they describe."""
    folder = ROOT / "docs" / "experiment"
    (command,) = re.findall(r"readings\.py draw [^`]*", RESULTS)
    results = {
        name: read_json(folder / name / "result.json")
        for name in re.findall(r"runs/([\w-]+)", command)
    }
    drawn = {"sizes": sizes_figure(list(results.values()))}
    drawn |= {f"{name}-efficiency": efficiency_figure(result) for name, result in results.items()}
    assert len(drawn) > 2
    for name, svg in drawn.items():
        there = (folder / f"{name}.svg").read_text(encoding="utf-8")
        assert _described(svg or "") == _described(there), name


def _described(svg: str) -> str:
    (label,) = re.findall(r'aria-label="([^"]*)"', svg)
    return str(label)


def _anchors(page: Path) -> list[str]:
    """Of its headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return [re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings]


def test_every_law_has_a_test() -> None:
    numbers = {int(n) for n in re.findall(r"^(\d+)\. \*\*", DESIGN, flags=re.MULTILINE)}
    assert numbers == set(range(1, 15))
    covered = set()
    for path in (ROOT / "tests" / "laws").glob("test_*.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        for listed in re.findall(r"[Ll]aws? ([\d, and-]+)", docstring):
            ends = [int(n) for n in re.findall(r"\d+", listed)]
            covered |= set(range(ends[0], ends[-1] + 1)) if "-" in listed else set(ends)
    assert covered >= numbers, f"no test for laws {sorted(numbers - covered)}"
