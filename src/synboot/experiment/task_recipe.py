"""evaluate.tasks: which evaluation tasks a run's arms answer."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from synboot.core.config import Config
from synboot.core.errors import BadInput
from synboot.eval.tasks import Form, Kind

PROBES = "probes"
"""How the names of tasks begin that a world sets itself."""


NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""What a task may be called."""


class TaskConfig(Config):
    """A task: files of items, and how they are put to a model."""

    name: str = Field(pattern=rf"^{NAME}$")
    """In tables and files; it is the key where tasks are a mapping. probes_ begins the names of a
    world's own."""
    path: str | tuple[str, ...]
    """Files, directories, globs or URLs of JSON lines or Parquet, relative to the working
    directory."""
    kind: Kind | None = None
    """choices, minimal_pairs or last_word; by default what the first record looks like."""
    prompt: str | None = None
    """Template of the context: question_answer (of choices by default), plain, or a text with the
    names of fields in braces. Minimal pairs have no context, last words their own."""
    delimiter: str = " "
    """Between context and choice."""
    remove_prefix: str = ""
    """What is taken off the start of queries."""
    category_field: str | None = None
    """By default `category` or `UID`, where there is one."""
    limit: int | None = Field(default=None, ge=1)
    """A keyed subset of so many items."""

    def form(self) -> dict[str, Any]:
        """The fields of eval.tasks.Form."""
        return self.model_dump(exclude={"name", "path", "limit"})

    @model_validator(mode="after")
    def _understood(self) -> Self:
        try:
            Form(**self.form())
        except BadInput as error:
            raise ValueError(str(error).removeprefix("field ")) from None
        if self.name.startswith(f"{PROBES}_"):
            raise ValueError(f"name: {PROBES}_ is for tasks that a world sets itself")
        return self


def _listed(values: Any) -> Any:
    """`{name: path or settings}` is a list too."""
    if not isinstance(values, dict):
        return values
    return [
        {"name": name, **(settings if isinstance(settings, dict) else {"path": settings})}
        for name, settings in values.items()
    ]


def _distinct(tasks: tuple[TaskConfig, ...]) -> tuple[TaskConfig, ...]:
    twice = [name for name, count in Counter(task.name for task in tasks).items() if count > 1]
    if twice:
        raise ValueError(f"expected a name once, {twice[0]} is there again")
    return tasks


Tasks = Annotated[tuple[TaskConfig, ...], BeforeValidator(_listed), AfterValidator(_distinct)]
