"""Configuration: YAML with a base, `SYNBOOT_*` variables and `--set a.b=c`, strictly checked; the
recipes that come with synboot.

Precedence (highest first): `--set`, environment, recipe, its base recipes, defaults.
"""

from __future__ import annotations

import difflib
import os
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from synboot.core.errors import BadInput, SynbootError

ENVIRONMENT_PREFIX = "SYNBOOT_"
_SCIENTIFIC = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)[eE][+-]?\d+$")


class Config(BaseModel):
    """A frozen section of configuration; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


ConfigType = TypeVar("ConfigType", bound=Config)


class _Loader(yaml.SafeLoader):
    """YAML that knows 1e-3 for a number, and in which a mapping has a key once."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"the key {key.value!r} stands here for the second time"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # such as a 32nd of January
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from None


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _SCIENTIFIC, list("+-.0123456789"))


def _load(text: str) -> Any:
    return yaml.load(text, _Loader)


def packaged_recipe(name: str) -> Path:
    """A recipe that comes with synboot: inside an installed package, or in its source tree."""
    package = Path(__file__).parents[1]
    for folder in (package / "recipes", package.parents[1] / "recipes"):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    raise SynbootError(f"the recipe {name} did not come with this installation")


def read_recipe(path: Path) -> dict[str, Any]:
    """The mapping of a recipe file laid over its `base` recipes (paths relative to the file).

    Raises BadInput for a missing file, broken YAML, anything but a mapping, or a circle of bases.
    """
    return _read_recipe(path, ())


def _read_recipe(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise BadInput(f"{path}: field base: the recipes name each other in a circle")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot read the recipe: {error}") from None
    try:
        values = _load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "broken YAML"
        raise BadInput(f"{path}{line}: {problem}; expected a YAML mapping") from None
    if not isinstance(values, dict):
        raise BadInput(f"{path}: expected a YAML mapping, got {type(values).__name__}")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise BadInput(f"{path}: field base: expected the path of a recipe, got {base!r}")
    return merge(_read_recipe(path.parent / base, (*seen, path.resolve())), values)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, mapping by mapping."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = (
            merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
        )
    return merged


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """`["a.b=1"] -> {"a": {"b": 1}}`; values are YAML. Raises BadInput for anything else."""
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not all(name.split(".")):
            raise BadInput(f"--set {setting}: expected section.field=value")
        values = merge(values, _nest(name.split("."), text, f"--set {setting}"))
    return values


def environment_settings(
    config_type: type[Config], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Settings from variables such as `SYNBOOT_PAIRS__MIN_SIMILARITY` (`__` for the dot)."""
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for name, text in sorted(environment.items()):
        path = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if not name.startswith(ENVIRONMENT_PREFIX) or (
            len(path) == 1 and path[0] not in config_type.model_fields
        ):
            continue
        values = merge(values, _nest(path, text, name))
    return values


def _nest(path: Sequence[str], text: str, origin: str) -> dict[str, Any]:
    try:
        value: Any = _load(text)
    except yaml.YAMLError:
        raise BadInput(f"{origin}: {text!r} is no YAML value") from None
    for key in reversed(path):
        value = {key: value}
    return dict(value)


def validate(config_type: type[ConfigType], values: Mapping[str, Any], origin: str) -> ConfigType:
    """`values` as `config_type`. Raises BadInput with the field, what was wrong and, for an
    unknown key, the nearest valid one."""
    try:
        return config_type.model_validate(values)
    except ValidationError as error:
        lines = [_explain(config_type, problem) for problem in error.errors()]
        raise BadInput("; ".join(f"{origin}: {line}" for line in dict.fromkeys(lines))) from None


def _explain(config_type: type[Config], problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    name = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = list(_fields_at(config_type, location[:-1]))
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
        return f"field {name}: unknown key; {hint}"
    message = problem["msg"].removeprefix("Value error, ")
    whole_section = problem["type"] == "missing" or isinstance(problem["input"], Mapping)
    got = "" if whole_section else f", got {problem['input']!r}"
    return f"field {name}: {message}{got}" if name else f"{message}"


def _fields_at(config_type: type[Config], location: Sequence[str]) -> Mapping[str, FieldInfo]:
    """The fields of the section there; a section may stand in a mapping by names of the user."""
    at: Any = config_type
    for part in location:
        if typing.get_origin(at) is dict:
            at = typing.get_args(at)[1]
        else:
            fields = at.model_fields if _is_section(at) else {}
            at = fields[part].annotation if part in fields else None
    return dict(at.model_fields) if _is_section(at) else {}


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Config)
