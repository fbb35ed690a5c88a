"""Makes recipe.md, the reference of a recipe's settings, from the classes that check them.

python docs/recipe.py > docs/recipe.md
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import types
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic_core import PydanticUndefined

from synboot.core.config import Config
from synboot.experiment.recipe import Recipe
from synboot.model.settings import PRESETS

_HEAD = """# The settings of a recipe

`python docs/recipe.py > docs/recipe.md` makes this page from the classes that check recipes; a \
test compares the two.

A recipe is a YAML file of the sections below. `base: other.yaml`, a path relative to the file, \
takes another recipe's settings, which its own lie above: mappings merge, lists are replaced. Over \
the file lie variables of the environment (`SYNBOOT_PAIRS__MIN_SIMILARITY=0.2`), over these \
`--set pairs.min_similarity=0.2` (a value is YAML). A key that does not exist and a value out of \
range end the command with exit code 2, before anything is written; what only the corpus or a \
model can tell is refused later, also with 2.

A setting is part of what a result is: change one, and the stages that depend on it are made anew, \
the others found done. Not so `search`, `runtime`, `name`, `evaluate.bootstrap_resamples`, \
`synthesize.max_draws_per_seed` and how a judge is reached; files count by what is in them, not by \
their path.
"""
_SHAPES = """
## Presets

The shapes that `model.preset` and `base_model.preset` name: Qwen3's layout with tied embeddings. \
Names are all parameters, roughly, with 2,048 entries up to `14m`, 8,192 for `20m` and `50m`, \
16,384 for `100m`, 49,152 above.
"""
_UNIONS = (Union, types.UnionType)


def page() -> str:
    """The whole page as Markdown."""
    tops = [name for name, info in Recipe.model_fields.items() if not _section(info.annotation)]
    parts = [_HEAD, "\n## Of the whole\n", _table(Recipe, tops)]
    for name, info in Recipe.model_fields.items():
        section = _section(info.annotation)
        if section:
            parts += _sections(name, section, info.default is None)
    return "".join([*parts, _SHAPES, _presets()])


def _sections(
    path: str, section: type[Config], is_optional: bool, of_field: str = ""
) -> Iterator[str]:
    """A section and those in it; `of_field` is said where the section stands in another one."""
    nested = {n: s for n, i in section.model_fields.items() if (s := _section(i.annotation))}
    said = " ".join(f"{inspect.getdoc(section)} {of_field}".split())
    yield f"\n## {path}\n\n{said}" + (" Not there by default.\n" if is_optional else "\n")
    yield _table(section, [name for name in section.model_fields if name not in nested])
    of_fields = _docstrings(section)
    for name, inner in nested.items():
        info = section.model_fields[name]
        at = f"{path}.{name}" + ".NAME" * (get_origin(info.annotation) in (dict, tuple))
        yield from _sections(at, inner, info.default is None, of_fields.get(name, ""))


def _section(annotation: Any) -> type[Config] | None:
    """The section that a field is, or has by names of the user; None for a value."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    found = [s for part in get_args(annotation) if (s := _section(part))]
    return found[0] if found else None


def _table(section: type[Config], names: list[str]) -> str:
    said = _docstrings(section)
    lines = ["", "| setting | value | default | |", "|---|---|---|---|"]
    for name in names:
        info = section.model_fields[name]
        lines.append(
            f"| `{name}` | {_value(info.annotation, info.metadata)} | {_default(info)} | "
            f"{_cell(said[name])} |"
        )
    return "\n".join(lines) + "\n"


def _docstrings(section: type[Config]) -> dict[str, str]:
    """What stands below each field, in the class that has it."""
    found: dict[str, str] = {}
    for owner in reversed(section.__mro__):
        if not issubclass(owner, Config):
            continue
        module = inspect.getmodule(owner)
        assert module is not None
        body = next(
            node.body
            for node in ast.walk(ast.parse(inspect.getsource(module)))
            if isinstance(node, ast.ClassDef) and node.name == owner.__name__
        )
        for field, after in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
                assert isinstance(field.target, ast.Name)
                found[field.target.id] = ast.literal_eval(after.value)
    return found


def _value(annotation: Any, metadata: list[Any]) -> str:
    """In words: type, choices, bounds."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _value(arguments[0], [*arguments[1:], *metadata])
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if origin in _UNIONS:
        parts = [part for part in arguments if part is not type(None)]
        words = " or ".join(_value(part, metadata) for part in parts)
        return words + " or null" * (len(parts) < len(arguments))
    if origin is tuple:
        return f"list of {_value(arguments[0], [])}"
    if origin is dict:
        return f"mapping to {_value(arguments[1], [])}"
    if annotation is Any:
        return "values"
    kind = {int: "integer", float: "number", str: "text", bool: "true or false"}[annotation]
    return f"{kind} {', '.join(_bounds(metadata))}".strip()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _bounds(metadata: list[Any]) -> Iterator[str]:
    for bound in metadata:
        yield from _bounds(getattr(bound, "metadata", []))  # of a Field inside a list or a union
        for name in ("ge", "gt", "le", "lt"):
            limit = getattr(bound, name, None)
            if limit is not None:
                sign = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}[name]
                yield f"{sign} {limit:,}" if isinstance(limit, int) else f"{sign} {limit:g}"


def _default(info: Any) -> str:
    if info.default_factory is not None:
        made = info.default_factory()
        return "one per processor" if isinstance(made, int) else f"`{made}`"
    if info.default is PydanticUndefined:
        return "the file's name" if info is Recipe.model_fields["name"] else "must be given"
    if info.default is None:
        return "null"
    if info.default == "":
        return "empty"
    if isinstance(info.default, bool):
        return f"`{info.default}`".lower()
    if isinstance(info.default, tuple):
        return f"`[{', '.join(str(value) for value in info.default)}]`"
    return f"`{info.default:g}`" if isinstance(info.default, float) else f"`{info.default!s}`"


def _presets() -> str:
    names = [field.name for field in dataclasses.fields(next(iter(PRESETS.values())))]
    lines = ["", "| preset | " + " | ".join(name.replace("_", " ") for name in names) + " |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for preset, shape in PRESETS.items():
        lines.append(
            f"| `{preset}` | " + " | ".join(f"{getattr(shape, name):,}" for name in names) + " |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
