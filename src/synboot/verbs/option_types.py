"""The options that several verbs share, as types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

OutputOption = Annotated[
    Path, typer.Option("--output", "-o", help="What to write.", show_default=False)
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
