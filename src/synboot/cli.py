"""The program: verbs only. Results go to stdout, progress to stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from synboot import __version__
from synboot.core.errors import BadInput, SynbootError
from synboot.core.events import display_for

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
    _run(packaged_recipe("demo"), runs, [], None, False, json_output)


@app.command()
def run(
    recipe: RecipeArgument,
    runs: RunsOption = Path("runs"),
    settings: SetOption = None,
    until: UntilOption = None,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Run a recipe; what is done is not done again."""
    _run(recipe, runs, settings or [], until, dry_run, json_output)


@app.command()
def status(
    recipe: RecipeArgument,
    runs: RunsOption = Path("runs"),
    settings: SetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show which stages of a recipe are done and how far the others are."""
    _run(recipe, runs, settings or [], None, True, json_output)


def packaged_recipe(name: str) -> Path:
    """A recipe that comes with synboot: inside an installed package, or in its source tree."""
    package = Path(__file__).parent
    for folder in (package / "recipes", package.parents[1] / "recipes"):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    raise SynbootError(f"the recipe {name} did not come with this installation")


def _run(
    recipe_path: Path,
    runs: Path,
    settings: list[str],
    until: str | None,
    dry_run: bool,
    json_output: bool,
) -> None:
    from synboot.experiment.recipe import load_recipe
    from synboot.experiment.run import RunPaths, describe_run, run_recipe

    recipe = load_recipe(recipe_path, settings)
    if dry_run:
        described = describe_run(recipe, runs, until)
        print(json.dumps(described, indent=2) if json_output else _stage_table(described))
        return
    result = run_recipe(recipe, runs, display=display_for(sys.stderr), until=until)
    if result is None:
        described = describe_run(recipe, runs, until)
        print(json.dumps(described, indent=2) if json_output else _stage_table(described))
        return
    if json_output:
        print(json.dumps(result, indent=2))
        return
    print(_comparison_table(result))
    print(f"\nreport: {RunPaths(runs, recipe.name).report}")
    print(f"result: {RunPaths(runs, recipe.name).result}")


def _stage_table(described: dict[str, Any]) -> str:
    lines = []
    width = max(len(stage["label"]) for stage in described["stages"])
    for stage in described["stages"]:
        notes = [
            f"{stage['parts_done']} parts" if "parts_done" in stage else "",
            f"step {stage['checkpoint_step']}" if "checkpoint_step" in stage else "",
            f"{stage['tokens']:,} tokens" if stage["tokens"] else "",
            f"{stage['flops']:.2e} FLOPs" if stage["flops"] else "",
        ]
        note = ", ".join(note for note in notes if note)
        lines.append(
            f"{stage['status']:8} {stage['label']:{width}}  {stage['id'][:12]}  {note}".rstrip()
        )
    flops = described["known_flops_to_do"]
    lines.append(f"{described['missing']} of {len(described['stages'])} stages are missing")
    if flops:
        lines.append(f"training them takes {flops:.2e} FLOPs; tuning and synthesis come on top")
    return "\n".join(lines)


def _comparison_table(result: dict[str, Any]) -> str:
    """The comparison of the arms for a terminal."""
    lines = [
        f"{result['training_tokens']:,} training tokens for every arm, "
        f"{result['unique']['tokens']:,} unique; {result['split']} text of "
        f"{result['corpus']['documents'][result['split']]} documents",
        f"{'arm':12} {'bits/byte':>9} {'nats/token':>10} {'perplexity':>10}  "
        "gain in bits/byte [95%]",
    ]
    for arm, facts in result["arms"].items():
        test = facts["test"]
        gain = result["comparisons"].get(arm, {}).get("bits_per_byte")
        shown = f"{gain['gain']:+.4f}" if gain else ""
        if gain and gain["low"] is not None:
            shown += f" [{gain['low']:+.4f}, {gain['high']:+.4f}]"
        lines.append(
            f"{arm:12} {test['bits_per_byte']:9.4f} {test['nats_per_token']:10.4f} "
            f"{test['perplexity']:10.2f}  {shown}".rstrip()
        )
    if result["recovered"]:
        share = result["recovered"]["bits_per_byte"]
        lines.append(
            f"recovered: refused, {share['refused']}"
            if share["value"] is None
            else f"recovered of the oracle's gain: {share['value']:.1%} "
            f"[{share['low']:.1%}, {share['high']:.1%}]"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the program; every failure that a user can meet is one line on stderr."""
    try:
        app()
    except BadInput as error:
        _fail("bad input", error, error.exit_code)
    except SynbootError as error:
        _fail("error" if error.exit_code < 128 else "interrupted", error, error.exit_code)
    except OSError as error:
        _fail("error", error, 1)


def _fail(kind: str, error: Exception, exit_code: int) -> None:
    print(f"synboot: {kind}: {error}", file=sys.stderr)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
