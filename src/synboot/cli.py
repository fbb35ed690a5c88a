"""The program: verbs only. Results go to stdout, progress to stderr."""

from __future__ import annotations

import functools
import gc
import importlib
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synboot import __version__
from synboot.core.errors import BadInput, OutOfTime, SynbootError
from synboot.verbs.options import (
    READING,
    SHARED,
    TASKS,
    ContextOption,
    CorpusArgument,
    DeviceOption,
    ModelOption,
    Options,
    OutputOption,
    SeedOption,
    ShareOption,
    StopAfterOption,
    ThreadsOption,
    WorkersOption,
    parse_tokens,
)
from synboot.verbs.quality_options import quality

if TYPE_CHECKING:
    from synboot.experiment.recipe import Recipe

app = typer.Typer(
    help="Synthetic bootstrapped pretraining: a new corpus from how your documents relate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeArgument = Annotated[Path, typer.Argument(help="A recipe: YAML.", show_default=False)]
RunsOption = Annotated[Path, typer.Option("--runs", help="Where artifacts and results go.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override a field; may be given several times."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print stages, ids and what is missing; run nothing.")
]


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def demo(runs: RunsOption = Path("runs"), json_output: JsonOption = False) -> None:
    """Run the whole of SBP, three arms, on the documentation that Python itself carries."""
    from synboot.core.config import packaged_recipe

    _run(packaged_recipe("demo"), runs, None, json_output=json_output)


@app.command()
def run(
    recipe: RecipeArgument,
    runs: RunsOption = Path("runs"),
    settings: SetOption = None,
    until: UntilOption = None,
    stop_after: StopAfterOption = None,
    share: ShareOption = False,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Run a recipe; what is done is not done again."""
    _run(recipe, runs, settings, until, stop_after, share, dry_run, json_output)


@app.command()
def status(
    recipe: RecipeArgument,
    runs: RunsOption = Path("runs"),
    settings: SetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show which stages of a recipe are done and how far the others are."""
    _run(recipe, runs, settings, dry_run=True, json_output=json_output)


@app.command()
def plan(
    recipe: RecipeArgument,
    runs: RunsOption = Path("runs"),
    settings: SetOption = None,
    measure: Annotated[bool, typer.Option(help="Measure this machine, some seconds.")] = True,
    json_output: JsonOption = False,
) -> None:
    """Say what a recipe, and its search, will cost: tokens, FLOPs, hours, disk, memory."""
    loaded = _loaded(recipe, settings)
    from synboot.verbs.recipes import show_plan_of

    print(show_plan_of(loaded, runs, measure=measure, as_json=json_output))


@app.command()
def search(
    recipe: RecipeArgument,
    runs: RunsOption = Path("runs"),
    settings: SetOption = None,
    stop_after: StopAfterOption = None,
    share: ShareOption = False,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Tune every arm of a recipe alike, on validation text; write it with the winners, frozen."""
    from synboot.core.config import read_recipe

    loaded, written = _loaded(recipe, settings), read_recipe(recipe)
    from synboot.verbs.recipes import search_and_show, show_trials_of

    if dry_run:
        print(show_trials_of(loaded, runs, as_json=json_output))
        return
    print(search_and_show(loaded, written, runs, stop_after, share, as_json=json_output))


def _verb(
    module: str, function: str, *, reads: bool = True, more: Options | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command that gives its options to `synboot.verbs.MODULE.FUNCTION` and shows the outcome.

    The options that all such verbs share, and `more`, are added to its signature here.
    """
    extra = {**(more or {}), **(READING if reads else {}), **SHARED}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def invoke(json_output: bool, **given: Any) -> None:
            from synboot.data.files import expect_files

            expect_files(given.get("corpus") or ())  # a slip is said before torch is imported
            outcome = getattr(importlib.import_module(f"synboot.verbs.{module}"), function)(**given)
            print(json.dumps(outcome.as_json(), indent=2) if json_output else outcome.summary())

        own = inspect.signature(command, eval_str=True).parameters.values()
        added = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind
            )
            for name, (kind, default) in extra.items()
        ]
        invoke.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        invoke.__annotations__ = {p.name: p.annotation for p in (*own, *added)}
        app.command()(invoke)
        return command

    return decorate


@_verb("splitting", "split_corpus")
def split(
    corpus: CorpusArgument,
    *,
    output: OutputOption,
    valid_fraction: Annotated[float, typer.Option(help="Share of groups.")] = 0.05,
    test_fraction: Annotated[float, typer.Option(help="Share of groups.")] = 0.05,
    max_heldout_overlap: Annotated[
        float, typer.Option(help="Share of 13-word windows in held-out text, at most.")
    ] = 0.2,
    seed: SeedOption = 0,
) -> None:
    """Split a corpus into train, valid and test files that share nothing they should not."""


@_verb("pairing", "find_pairs")
def pair(
    corpus: CorpusArgument,
    *,
    output: OutputOption,
    encoder: Annotated[
        str, typer.Option(help="lsa, lm (with --model) or sentence-transformers:NAME.")
    ] = "lsa",
    model: ModelOption = None,
    layer: Annotated[int | None, typer.Option(help="Of lm; chosen on halves by default.")] = None,
    prefix: Annotated[str, typer.Option(help="Instruction before every text.")] = "",
    dimensions: Annotated[int, typer.Option(help="Of the vectors.")] = 256,
    fit_documents: Annotated[
        int, typer.Option(help="Documents that lsa learns from, at most; a sample.")
    ] = 200_000,
    top_k: Annotated[int, typer.Option(help="Neighbours looked at for each document.")] = 20,
    index: Annotated[str, typer.Option(help="exact, or lists: faster, misses some.")] = "exact",
    min_recall: Annotated[
        float, typer.Option(help="Share of the exact neighbours that lists find, at least.")
    ] = 0.95,
    min_similarity: Annotated[float, typer.Option(help="Cosine; judge by reading.")] = 0.3,
    max_similarity: Annotated[float, typer.Option(help="Cosine.")] = 1.0,
    max_window_overlap: Annotated[
        float, typer.Option(help="Share of 13-word windows in common, at most.")
    ] = 0.5,
    max_pairs_per_document: Annotated[int, typer.Option(help="The most similar first.")] = 10,
    exclude_same_group: Annotated[bool, typer.Option(help="No pairs within a group.")] = False,
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    device: DeviceOption = None,
) -> None:
    """Find the pairs of related documents of a corpus."""


@_verb("training", "tune")
def tune(
    pairs: Annotated[Path, typer.Argument(help="d1, d2: ids of documents.", show_default=False)],
    *,
    output: OutputOption,
    corpus: Annotated[list[str], typer.Option(help="The documents; may be given several times.")],
    model: Annotated[Path, typer.Option(help="The model to start from.")],
    context: ContextOption = None,
    passes: Annotated[int, typer.Option(help="Times that every pair is seen.")] = 2,
    validation_fraction: Annotated[float, typer.Option(help="Share of pairs held out.")] = 0.1,
    learning_rate: float = 3e-4,
    weight_decay: float = 0.1,
    dropout: float = 0.0,
    batch_rows: int = 8,
    num_validations: int = 20,
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = None,
) -> None:
    """Tune a model into a synthesizer, p(d2 given d1)."""


@_verb("synthesis", "synthesize")
def synthesize(
    synthesizer: Annotated[Path, typer.Argument(help="What tune wrote.", show_default=False)],
    corpus: CorpusArgument,
    *,
    output: OutputOption,
    tokens: Annotated[
        int, typer.Option(parser=parse_tokens, metavar="N", help="To write: 500K, 1M, ...")
    ],
    context: ContextOption = None,
    temperature: float = 1.0,
    top_p: float = 0.9,
    top_k: Annotated[int, typer.Option(help="0 for all.")] = 0,
    max_tokens: Annotated[int, typer.Option(help="Of one document.")] = 4096,
    draws_per_prompt: Annotated[
        int, typer.Option(help="Draws of a seed document that follow each other.")
    ] = 4,
    max_draws_per_seed: int = 100,
    keep_unfinished: Annotated[
        bool, typer.Option(help="Keep texts that were cut at the length limit.")
    ] = False,
    min_tokens: int = 8,
    max_repetition: float = 0.5,
    max_seed_overlap: float = 0.5,
    max_corpus_overlap: float = 0.8,
    max_draw_overlap: float = 0.8,
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    slots: Annotated[int | None, typer.Option(help="Sequences sampled together, at most.")] = None,
    device: DeviceOption = None,
) -> None:
    """Write a synthetic corpus: draws from the synthesizer, every document a seed in turn."""


@_verb("training", "pretrain")
def pretrain(
    corpus: CorpusArgument,
    *,
    output: OutputOption,
    tokens: Annotated[
        int, typer.Option(parser=parse_tokens, metavar="N", help="To train: 500K, 1M, ...")
    ],
    synthetic: Annotated[
        list[str] | None, typer.Option(help="Synthetic text, passed once.")
    ] = None,
    synthetic_tokens: Annotated[
        int | None,
        typer.Option(
            parser=parse_tokens, metavar="N", help="Synthetic ones; by default all there are."
        ),
    ] = None,
    valid: Annotated[list[str] | None, typer.Option(help="Validation text.")] = None,
    valid_fraction: Annotated[
        float | None, typer.Option(help="Drawn where there is none; 0.05 by default.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Shape of a new model: 0.6m, 1m, ...")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Directory of a tokenizer.")] = None,
    vocab_size: Annotated[
        int | None, typer.Option(help="Of a new tokenizer; 2,048 by default.")
    ] = None,
    model: ModelOption = None,
    context: ContextOption = None,
    learning_rate: float = 4e-3,
    weight_decay: float = 1.0,
    dropout: float = 0.0,
    batch_rows: int = 8,
    num_validations: int = 20,
    checkpoint: Annotated[str, typer.Option(help="best on validation, or last.")] = "best",
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = None,
) -> None:
    """Train a language model on real text, or on real and synthetic text jointly."""


@_verb("evaluation", "evaluate", more=TASKS)
def evaluate(
    model: Annotated[Path, typer.Argument(help="A causal LM directory.", show_default=False)],
    corpus: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CORPUS", help="Held-out text; without it, --task.", show_default=False
        ),
    ] = None,
    *,
    output: OutputOption,
    context: ContextOption = None,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = None,
) -> None:
    """Score every document of held-out text under a model, or answer tasks with it."""


_verb("quality", "quality")(quality)


@_verb("reporting", "report", reads=False)
def report(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN... [SEARCH.json...] | ARM=SCORES...",
            help="Directories of runs, of which the first has the page, and searches to show; "
            "or arms and their scores.",
            show_default=False,
        ),
    ],
    *,
    output: OutputOption,
    seed: Annotated[int | None, typer.Option(help="Of a comparison; 0 by default.")] = None,
    bootstrap_resamples: Annotated[
        int | None, typer.Option(help="Of a comparison's test documents; 10,000 by default.")
    ] = None,
    note: Annotated[list[str] | None, typer.Option(help="For the top of the page.")] = None,
) -> None:
    """Write the page that shows what a run, or a comparison of models, found."""


def _run(
    recipe_path: Path,
    runs: Path,
    settings: list[str] | None,
    until: str | None = None,
    stop_after: float | None = None,
    share: bool = False,
    dry_run: bool = False,
    json_output: bool = False,
) -> None:
    recipe = _loaded(recipe_path, settings)
    from synboot.verbs.recipes import run_and_show, show_stages_of

    if dry_run:
        print(show_stages_of(recipe, runs, until, as_json=json_output))
    else:
        print(run_and_show(recipe, runs, until, stop_after, share, as_json=json_output))


def _loaded(path: Path, settings: list[str] | None) -> Recipe:
    """The recipe, before torch is imported: what is wrong with it is said at once."""
    from synboot.experiment.recipe import load_recipe

    return load_recipe(path, settings or [])


def main() -> None:
    """Run the program; every failure that a user can meet is one line on stderr."""
    try:
        app()
    except BadInput as error:
        _fail("bad input", error, error.exit_code)
    except SynbootError as error:
        stopped = error.exit_code >= 128 or isinstance(error, OutOfTime)
        _fail("interrupted" if stopped else "error", error, error.exit_code)
    except OSError as error:
        what = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
        _fail("error", f"{what}; once that is mended the same command goes on", 1)
    finally:
        gc.freeze()  # else Python looks through all that was imported as it ends: half a second


def _fail(kind: str, error: Exception | str, exit_code: int) -> None:
    print(f"synboot: {kind}: {error}", file=sys.stderr)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
