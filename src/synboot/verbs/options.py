"""Options of the program that several verbs share, or that one has many of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from synboot.core.errors import BadInput

OutputOption = Annotated[
    Path, typer.Option("--output", "-o", help="What to write.", show_default=False)
]
CorpusArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="CORPUS",
        help="Files, directories, globs or URLs; - is standard input.",
        show_default=False,
    ),
]
ModelOption = Annotated[
    Path | None, typer.Option(help="A causal LM directory (Hugging Face layout).")
]
ContextOption = Annotated[int | None, typer.Option(help="Positions; by default the model's.")]
WorkersOption = Annotated[
    int | None, typer.Option(help="Processes for parts; by default one a processor.")
]
ThreadsOption = Annotated[int | None, typer.Option(help="Of training; by default one a processor.")]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
SeedOption = Annotated[int, typer.Option(help="Key of all randomness.")]

Options = Mapping[str, tuple[Any, Any]]
"""(annotation, default) by the name of the parameter."""


def parse_seconds(text: str) -> float:
    """`"8m" -> 480.0`, `"1h30m" -> 5400.0`, `"90" -> 90.0`. Raises BadInput for anything else."""
    number = r"(\d+(?:\.\d+)?)"
    match = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s?)?", text.strip().lower())
    hours, minutes, seconds = (float(part or 0) for part in (match.groups() if match else "000"))
    total = 3600 * hours + 60 * minutes + seconds
    if total == 0:
        raise BadInput(f"expected a time such as 90s, 8m or 1h30m, got {text!r}")
    return total


def parse_tokens(text: str) -> int:
    """`"1.5M" -> 1_500_000`. Raises BadInput for what is no number of tokens."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMBT]?)", text.strip().replace("_", "").upper())
    if not match:
        raise BadInput(f"expected a number of tokens such as 300000, 500K or 1.5M, got {text!r}")
    return round(
        float(match[1]) * {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}[match[2]]
    )


StopAfterOption = Annotated[
    float | None,
    typer.Option(
        parser=parse_seconds,
        metavar="TIME",
        help="90s, 8m, 1h30m: then end at a clean checkpoint, exit code 4.",
    ),
]

ShareOption = Annotated[
    bool,
    typer.Option(
        "--share", help="Leave to other processes of this command what they are at; end together."
    ),
]

SHARED: Options = {
    "overwrite": (
        Annotated[bool, typer.Option(help="Replace an output that synboot made differently.")],
        False,
    ),
    "json_output": (Annotated[bool, typer.Option("--json", help="Print one JSON value.")], False),
}
"""What every verb on plain files takes."""

READING: Options = {
    "text_field": (
        Annotated[str, typer.Option(help="Where a record has its text; a.b goes into objects.")],
        "text",
    ),
    "id_field": (Annotated[str, typer.Option(help="Where a record has its id.")], "id"),
    "group_field": (
        Annotated[str | None, typer.Option(help="Documents of one group stay together.")],
        None,
    ),
    "license": (
        Annotated[str | None, typer.Option(help="Licence of documents that name none.")],
        None,
    ),
    "on_bad": (Annotated[str, typer.Option(help="Bad records: stop, or skip and count.")], "stop"),
    "max_document_bytes": (
        Annotated[int, typer.Option(help="Longest text of a document.")],
        1 << 28,
    ),
    "long_documents": (
        Annotated[str, typer.Option(help="Longer texts: stop, or split into pieces.")],
        "stop",
    ),
}
"""How documents are read."""

TASKS: Options = {
    "task": (
        Annotated[
            list[str] | None,
            typer.Option(metavar="[NAME=]FILE", help="Items to answer, in place of a corpus."),
        ],
        None,
    ),
    "kind": (
        Annotated[
            str | None, typer.Option(help="choices, minimal_pairs or last_word; told by fields.")
        ],
        None,
    ),
    "prompt": (
        Annotated[
            str | None,
            typer.Option(help="question_answer, plain, or a template that names {fields}."),
        ],
        None,
    ),
    "delimiter": (Annotated[str, typer.Option(help="Between prompt and choice.")], " "),
    "remove_prefix": (Annotated[str, typer.Option(help="Taken off the start of queries.")], ""),
    "category_field": (
        Annotated[str | None, typer.Option(help="By default category or UID, if there is one.")],
        None,
    ),
    "limit": (
        Annotated[int | None, typer.Option(help="Items of a task, at most; a keyed subset.")],
        None,
    ),
    "against": (
        Annotated[
            list[str] | None,
            typer.Option(metavar="[NAME=]CORPUS", help="Text in which items are looked for."),
        ],
        None,
    ),
    "harness": (
        Annotated[bool, typer.Option(help="Let lm-evaluation-harness answer (synboot[eval]).")],
        False,
    ),
    "seed": (Annotated[int, typer.Option(help="Key of the subset.")], 0),
}
"""How evaluate answers tasks."""
