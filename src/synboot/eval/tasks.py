"""Task files: items that ask which continuation of a text is right, of three kinds.

`choices` have query, choices and gold (the place of the right one, from 0); `minimal_pairs` have a
good and a bad sentence; `last_word` has a text whose last word is to be foretold, or context and
target. A kind is told by the fields of a file's first record.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from synboot.core.errors import BadInput
from synboot.core.rng import unit_interval
from synboot.data.fields import Problem, find_one, num_bytes, to_name, type_name, wrong_type
from synboot.data.files import DataFile
from synboot.data.records import records, where

Kind = Literal["choices", "minimal_pairs", "last_word"]
KINDS: tuple[Kind, ...] = get_args(Kind)

PROMPTS = {"question_answer": "Question: {query}\nAnswer:", "plain": "{query}"}
"""Templates of `choices` by name; a template names fields of the record in braces."""
_DEFAULT_PROMPTS: dict[Kind, str] = {
    "choices": PROMPTS["question_answer"],
    "minimal_pairs": "",
    "last_word": "{context}",
}
_MARKS: dict[Kind, tuple[str, ...]] = {
    "choices": ("choices",),
    "minimal_pairs": ("good", "bad"),
    "last_word": ("context", "text"),
}
_CATEGORY_FIELDS = ("category", "UID")
_MAX_RECORD_BYTES = 1 << 26

Located = Iterable[tuple[str, str, Callable[[], Any]]]
"""Records: where each stands, the id it has if it names none, and what loads it."""


@dataclass(frozen=True)
class Item:
    """One question: the continuations `delimiter + choice` of `context`, of which `gold` is right.

    An item of `last_word` has one choice, the right one. `text` is the item with its right answer
    as it stands in its file: all fields that the prompt shows, without the prompt's words.
    """

    id: str
    category: str | None
    context: str
    delimiter: str
    choices: tuple[str, ...]
    gold: int
    text: str

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(context, continuation) for every choice."""
        return [(self.context, self.delimiter + choice) for choice in self.choices]


@dataclass(frozen=True)
class Form:
    """How records become items.

    `prompt`: the context's template, or its name in `PROMPTS`; by default that of the kind.
    `delimiter` stands between context and choice. `remove_prefix` is taken off the start of
    queries. `category_field`: by default `category` or `UID`, where there is one.
    """

    kind: Kind | None = None
    prompt: str | None = None
    delimiter: str = " "
    remove_prefix: str = ""
    category_field: str | None = None

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in KINDS:
            raise BadInput(f"field kind: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.prompt is not None:
            _check_template(PROMPTS.get(self.prompt, self.prompt))


def read_items(files: Sequence[DataFile], form: Form) -> list[Item]:
    """The items of task files (JSON lines or Parquet), in order. Raises BadInput with file, line,
    field and what was expected for the first record that is no item."""
    return items_of(_located(files), form)


def items_of(located: Located, form: Form) -> list[Item]:
    """Records as items; all are of one kind. Raises BadInput, also where there is none."""
    items: list[Item] = []
    taken: set[str] = set()
    kind = form.kind
    for place, default_id, load in located:
        try:
            record = load()
            if not isinstance(record, dict):
                raise Problem("not_an_object", f"expected an object, got {type_name(record)}")
            kind = kind or _kind_of(record)
            item = _item(record, kind, form, default_id)
            if item.id in taken:
                raise Problem("duplicate_id", f"field id: the id {item.id!r} is taken")
        except Problem as problem:
            raise BadInput(f"{place}: {problem}") from None
        taken.add(item.id)
        items.append(item)
    if not items:
        raise BadInput("expected at least one item of a task, found none")
    return items


def subset(items: Sequence[Item], limit: int | None, *key: int | str) -> list[Item]:
    """At most `limit` of the items in their order: those whose ids have the least keyed numbers."""
    if limit is None or limit >= len(items):
        return list(items)
    drawn = [unit_interval(*key, item.id) for item in items]
    kept = sorted(range(len(items)), key=lambda index: (drawn[index], index))[:limit]
    return [items[index] for index in sorted(kept)]


def _located(files: Sequence[DataFile]) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    for file in files:
        for number, _, load in records(file, _MAX_RECORD_BYTES):
            yield where(file, number), f"{file.name}:{number}", load


def _kind_of(record: Mapping[str, Any]) -> Kind:
    for kind, fields in _MARKS.items():
        if any(field in record for field in fields):
            return kind
    has = ", ".join(map(repr, list(record)[:12])) or "no fields"
    raise Problem(
        "unknown_kind",
        "expected the fields of a task (query, choices, gold; good, bad; text; or context, "
        f"target), the record has {has}",
    )


def _item(record: dict[str, Any], kind: Kind, form: Form, default_id: str) -> Item:
    """A record as an item. Raises Problem."""
    fields = dict(record)
    if kind == "choices":
        query = _text(record, "query", blank=True).removeprefix(form.remove_prefix)
        choices = _choices(record)
        gold = _gold(record, len(choices))
        fields["query"] = asked = query
    elif kind == "minimal_pairs":
        choices, gold, asked = (_text(record, "good"), _text(record, "bad")), 0, None
    else:
        context, target = _last_word(record)
        fields |= {"context": context, "target": target}
        choices, gold, asked = (target,), 0, context
    prompt = _DEFAULT_PROMPTS[kind] if form.prompt is None else form.prompt
    template = PROMPTS.get(prompt, prompt)
    shown = [_text(fields, name, blank=True) for name in _fields_of(template)]
    if asked is not None and asked not in shown:
        shown.append(asked)
    identifier = record.get("id")
    return Item(
        id=default_id if identifier is None else to_name("id", identifier),
        category=_category(record, form.category_field),
        context=_render(template, fields),
        delimiter=form.delimiter,
        choices=choices,
        gold=gold,
        text=" ".join([*shown, choices[gold]]),
    )


def _text(record: dict[str, Any], field: str, *, blank: bool = False) -> str:
    value = find_one(record, field).value
    if not isinstance(value, str):
        raise wrong_type(field, "text", value)
    num_bytes(f"field {field}", value)
    if not blank and not value.strip():
        raise Problem("blank", f"field {field}: expected text, it is blank")
    return value


def _choices(record: dict[str, Any]) -> tuple[str, ...]:
    values = find_one(record, "choices").value
    if not isinstance(values, list):
        raise wrong_type("choices", "a list of texts", values)
    if len(values) < 2:
        raise Problem("few_choices", f"field choices: expected 2 at least, got {len(values)}")
    named = {f"choices.{place}": value for place, value in enumerate(values)}
    return tuple(_text(named, field) for field in named)


def _gold(record: dict[str, Any], num_choices: int) -> int:
    gold = find_one(record, "gold").value
    if isinstance(gold, bool) or not isinstance(gold, int):
        raise wrong_type("gold", "the place of the right choice, from 0", gold)
    if not 0 <= gold < num_choices:
        expected = f"expected 0 to {num_choices - 1}, there are {num_choices} choices"
        raise Problem("gold_out_of_range", f"field gold: {expected}, got {gold}")
    return gold


def _last_word(record: dict[str, Any]) -> tuple[str, str]:
    """(context, target): a text is cut at its last space."""
    if "context" in record or "target" in record:
        return _text(record, "context"), _text(record, "target")
    context, space, target = _text(record, "text").rpartition(" ")
    if not space or not context.strip() or not target.strip():
        raise Problem("no_last_word", "field text: expected words before and after its last space")
    return context, target


def _category(record: dict[str, Any], field: str | None) -> str | None:
    if field is None:
        field = next((name for name in _CATEGORY_FIELDS if record.get(name) is not None), None)
        if field is None:
            return None
    value = find_one(record, field).value
    return None if value is None else to_name(field, value)


def _check_template(template: str) -> None:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise BadInput(f"field prompt: {error}, in {template!r}") from None
    fields = [(field, form or more) for _, field, form, more in parts if field is not None]
    plain = all(field.replace("_", "a").isalnum() and not more for field, more in fields)
    if not plain or (template and not fields):  # a constant prompt is a mistyped name
        raise BadInput(
            f"field prompt: expected {', '.join(PROMPTS)}, or a text with names of fields in "
            f"braces, got {template!r}"
        )


def _fields_of(template: str) -> list[str]:
    """The fields that a template names, each once."""
    named = (field for _, field, _, _ in string.Formatter().parse(template) if field is not None)
    return list(dict.fromkeys(named))


def _render(template: str, fields: dict[str, Any]) -> str:
    """The template with the texts of its fields: nothing in a text is taken for a template."""
    return "".join(
        before + ("" if field is None else _text(fields, field, blank=True))
        for before, field, _, _ in string.Formatter().parse(template)
    )
