"""Fields of a record by name: dotted names go into nested objects and lists."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from synboot.core.errors import BadInput

DEFAULT_ID_FIELD = "id"
ALL = "*"
"""The part of a name that stands for every element of a list."""


class Place(NamedTuple):
    """An object or list, the key or index in it, and the full name of what stands there."""

    within: Any
    key: Any
    name: str

    @property
    def value(self) -> Any:
        """What stands there."""
        return self.within[self.key]


@dataclass(frozen=True)
class Fields:
    """Where a record has its text, id and group: `text`, `meta.text`, `turns.0.text`.

    The text may be in every element of a list (`turns.*.text`, `paragraphs.*`).
    """

    text: str = "text"
    id: str | None = DEFAULT_ID_FIELD
    group: str | None = None

    def __post_init__(self) -> None:
        for name, field in (("id_field", self.id), ("group_field", self.group)):
            if field is not None and ALL in field.split("."):
                raise BadInput(f"field {name}: expected the name of one value, got {field}")


class Problem(Exception):
    """One record cannot be used; problems are counted by `kind`."""

    def __init__(self, kind: str, explanation: str) -> None:
        super().__init__(explanation)
        self.kind = kind


def find_one(record: dict[str, Any], field: str) -> Place:
    """The place of a field without `*`. Raises Problem with the place where the way to it ends."""
    if field in record:
        return Place(record, field, field)
    return next(_walk(record, field.split("."), ()))


def find_all(record: dict[str, Any], field: str) -> list[Place]:
    """The places of `field`, in order; one unless it has a `*`. Raises Problem as `find_one`."""
    if field in record:
        return [Place(record, field, field)]
    return list(_walk(record, field.split("."), ()))


def remove(places: Sequence[Place]) -> None:
    """Take values out of their record; a list keeps a null, so that its other places stay."""
    for place in places:
        if isinstance(place.within, dict):
            place.within.pop(place.key, None)
        else:
            place.within[place.key] = None


def to_name(field: str, value: Any) -> str:
    """The value of a field that names something (id, group, source, license) as text."""
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise wrong_type(field, "text or a whole number", value)
    name = str(value)
    num_bytes(f"field {field}", name)
    return name


def num_bytes(where: str, text: str) -> int:
    """Bytes of `text` in UTF-8. Raises Problem for half of a surrogate pair."""
    try:
        return len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:
        code = f"\\u{ord(text[error.start]):04x}"
        explanation = f"{where}: expected Unicode text, character {error.start + 1} is {code}"
        raise Problem("lone_surrogate", f"{explanation}, half of a surrogate pair") from None


def plain(value: Any) -> Any:
    """`value` in types that JSON has: Parquet and NaN go beyond them."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def wrong_type(field: str, expected: str, value: Any) -> Problem:
    """What to say of a value of the wrong type."""
    return Problem("wrong_type", f"field {field}: expected {expected}, got {type_name(value)}")


def type_name(value: Any) -> str:
    """The type of a value in a message."""
    return "null" if value is None else type(value).__name__ if value != "" else "empty text"


def _walk(within: Any, parts: Sequence[str], done: tuple[str, ...]) -> Iterator[Place]:
    first, *rest = parts
    for key in _keys(within, first, done):
        if rest:
            yield from _walk(within[key], rest, (*done, str(key)))
        else:
            yield Place(within, key, ".".join((*done, str(key))))


def _keys(within: Any, name: str, done: tuple[str, ...]) -> Sequence[Any]:
    """The keys or indices of `within` that `name` stands for."""
    here, above = ".".join((*done, name)), ".".join(done)
    if isinstance(within, dict):
        if name in within:
            return [name]
        names = ", ".join(map(repr, itertools.islice(within, 12))) or "no fields"
        raise Problem(
            "missing_field", f"field {here}: expected one, {above or 'the record'} has {names}"
        )
    if not isinstance(within, list):
        raise wrong_type(above, "an object or a list", within)
    if name == ALL:
        return range(len(within))
    if not name.isdecimal():
        raise wrong_type(above, f"an object with {name}, or the place in the list", within)
    if int(name) >= len(within):
        has = f"the list has {len(within)} elements"
        raise Problem("missing_field", f"field {here}: expected one, {has}")
    return [int(name)]
