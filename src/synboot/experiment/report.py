"""The page that shows what a run found: one HTML file that loads nothing and runs nothing.

Whatever comes from a corpus or a model is hostile text: everything is escaped but our own figures,
and the page's own policy forbids scripts and loads besides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from jinja2 import ChainableUndefined, Environment, FileSystemLoader, Undefined
from markupsafe import Markup

from synboot.core.storage import atomic_file
from synboot.experiment import figures, figures_statistics
from synboot.experiment.ensembles import ensemble_note, ensemble_rows
from synboot.experiment.phrases import (
    arm_label,
    but_same_cost,
    governing,
    rivals,
    run_id,
    variant_rows,
    verdict_of,
)
from synboot.experiment.quality_report import quality_section
from synboot.experiment.report_data import ReportData
from synboot.experiment.report_markdown import MARKDOWN_GENERATOR, as_markdown
from synboot.experiment.report_statistics import statistics_section
from synboot.experiment.search.found import searches_section
from synboot.experiment.seed_use import seed_use_line
from synboot.experiment.sizes import sizes_section, variants_section
from synboot.experiment.task_section import contamination_rows, task_rows

SHOWN_CHARACTERS = 900  # of one text
SHOWN_SAMPLES = 8  # of what was kept
SHOWN_PER_REASON = 3  # of what was dropped

_GENERATOR = '<meta name="generator" content="synboot">'
_NONE = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_SBP_GAIN = ("comparisons", "sbp", "bits_per_byte")
# Characters that HTML or UTF-8 cannot carry. Those of C0 have a picture; the others get U+FFFD.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def write_report(data: ReportData, path: Path) -> None:
    """Write the page to `path`, atomically: as Markdown if its name ends in .md, else as HTML.
    Equal data give equal bytes."""
    write_page(page_for(path, data), path)


def write_page(page: str, path: Path) -> None:
    """Write what `page_for` made for `path`, atomically."""
    with atomic_file(path) as file:
        file.write(page.encode("utf-8"))


def is_report(path: Path) -> bool:
    """Whether the file at `path` is a page that `write_report` wrote."""
    with path.open("rb") as file:
        start = file.read(2048)
    return _GENERATOR.encode() in start or start.startswith(MARKDOWN_GENERATOR.encode())


def page_for(path: Path, data: ReportData) -> str:
    """What `write_report` writes to `path`."""
    page = render(data)
    return as_markdown(page) if path.suffix == ".md" else page


def render(data: ReportData) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters |= {
        "fixed": _fixed,
        "signed": _signed,
        "integer": _integer,
        "flops": _flops,
        "percent": _percent,
        "arm": arm_label,
        "tenths": lambda value: f"{value:.1%}" if _known(value) else _NONE,
        "hundredths": lambda value: f"{value:.2%}" if _known(value) else _NONE,
        "signed_tenths": lambda value: _signed(100 * value, 1) + "%" if _known(value) else _NONE,
        "role": figures.arm_role,
        "titled": lambda text: text[:1].upper() + text[1:],
        "words": lambda name: str(name).replace("_", " "),
        "unbroken": lambda text: re.sub(r"\[[^]]*\]", _unbroken, text),
        "excerpt": lambda text: _text(text)[:SHOWN_CHARACTERS],
        "characters": lambda text: len(_text(text)),
    }
    result, pairs, synthetic = data.result, data.pairs, data.synthetic
    # Of runs on validation text the variants stand on the page, of files that were scored one by
    # one there is no more.
    further = [run for run in data.beside if run.get("split") != "valid" and "recipe" in run]
    part = environment.get_template("run.html.jinja")
    others = [
        Markup(part.render(_facts(run) | {"prefix": f"run-{i}-", "of_run": f"{run['recipe']}: "}))
        for i, run in enumerate(further, start=1)
    ]
    return environment.get_template("report.html.jinja").render(
        _facts(result) | {"prefix": "", "of_run": "", "figures": _figures(data)},
        said=data.said,
        others=others,
        other_names=[run["recipe"] for run in further],
        sizes=sizes_section([result, *data.beside], signed=_signed, percent=_percent),
        trials=variants_section(data.beside, signed=_signed),
        searches=searches_section(data.searches),
        duplicates=sum(_numbers((result["corpus"].get("exact_duplicates") or {}).values())),
        bad_records=sum(_numbers((result["corpus"].get("bad") or {}).values())),
        pair_counts=_counts(pairs.get("counts")),
        kept_pairs=_samples(pairs, "kept_samples"),
        dropped_pairs=_dropped(_samples(pairs, "dropped_samples")),
        synthetic_counts=_counts(synthetic.get("counts")),
        synthetic_kept=_samples(synthetic, "samples"),
        synthetic_dropped=_dropped(_samples(synthetic, "dropped_samples")),
        seed_use=seed_use_line(result, _signed),
        shown_characters=SHOWN_CHARACTERS,
        shown_samples=SHOWN_SAMPLES,
        shown_per_reason=SHOWN_PER_REASON,
    )


def _facts(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the page says of any run, the one it is of or one beside it."""
    return {
        "result": result,
        "split": figures.scored_split(result),
        "headline": headline(result),
        "notes": _notes(result),
        "arms": _arms(result),
        "arms_over": "documents and seeds" if _over_both(result) else "documents",
        "seeds": _seeds(result),
        "run_id": run_id(result),
        "variants": variant_rows(result),
        "ensembles": {"rows": ensemble_rows(result), "note": ensemble_note(result)},
        "task_rows": task_rows(result),
        "contamination_rows": contamination_rows(result),
        "figures": None,
        "surely": statistics_section(result, signed=_signed, percent=_percent),
        "totals": _ledger_totals(result),
        "quality": quality_section(result),
    }


def headline(result: Mapping[str, Any]) -> str:
    """The result in one sentence that claims no more than its intervals do: with several seeds,
    the one over documents and seeds too."""
    gain = _at(result, *_SBP_GAIN)
    if not _known(gain.get("gain")):
        return "This run has no scores of both SBP and repetition, so there is no comparison."
    share = _at(result, "recovered", "bits_per_byte")
    verdict = verdict_of(gain)
    if _known(share.get("value")):
        value = f"{_percent(share['value'])}{_ends(share, _percent)} of the oracle's gain"
        return {
            "better": f"SBP recovers {value}.",
            "worse": f"SBP did worse than repetition here: it recovers {value}.",
            "unclear": f"SBP did not clearly beat repetition here: it recovers {value}.",
        }[verdict]
    change = f"{_signed(gain['gain'])}{_ends(gain, _signed)} bits per byte"
    return {
        "better": f"SBP beat repetition here: its gain is {change}.",
        "worse": f"SBP did worse than repetition here: its gain is {change}.",
        "unclear": f"SBP did not clearly beat repetition here: its gain is {change}.",
    }[verdict]


def _ends(interval: Mapping[str, Any], write: Any) -> str:
    bounds = governing(interval)
    low, high = bounds.get("low"), bounds.get("high")
    return f" [{write(low)}, {write(high)}]" if _known(low) and _known(high) else ""


def _notes(result: Mapping[str, Any]) -> list[str]:
    """What a reader must know beside the headline: scale, what the interval covers, cost."""
    notes = []
    if _at(result, *_SBP_GAIN):
        if refused := _at(result, "recovered", "bits_per_byte").get("refused"):
            notes.append(f"No share of the oracle's gain is stated: {refused}.")
        elif result.get("recovered") is None:
            notes.append("Without an oracle there is no share of its gain to state.")
        documents = _integer(_at(result, "corpus", "documents").get(result.get("split", "test")))
        seeds = max((len(arm.get("seeds") or {}) for arm in result["arms"].values()), default=0)
        share = _at(result, "recovered", "bits_per_byte")
        shown = share if _known(share.get("value")) else _at(result, *_SBP_GAIN)
        trained = "one training seed" if seeds == 1 else f"{seeds} training seeds, averaged"
        notes.append(
            f"The headline's brackets are 95% intervals over the choice of the {documents} "
            f"{figures.scored_split(result)} documents{_in_groups(result)} "
            + (
                f"and of the training seed ({trained})."
                if governing(shown) is not shown
                else f"alone; they do not cover the choice of training seed ({trained})."
            )
        )
    if standing := rivals(result):
        notes.append(standing)
    totals = _ledger_totals(result)
    if totals.get("repetition") and totals.get("sbp"):
        ratio = totals["sbp"] / totals["repetition"]
        notes.append(
            f"The arms are matched in trained tokens{but_same_cost(result)}, not in compute: with "
            "its base model, tuning and synthesis, SBP spent "
            f"{ratio:.1f} times the FLOPs of repetition."
        )
    return notes


def _in_groups(result: Mapping[str, Any]) -> str:
    """Of what intervals over documents resample, where it is not documents one by one."""
    groups = _at(result, "statistics").get("groups")
    return f" (in {_integer(groups)} groups, whole ones)" if _known(groups) else ""


def _over_both(result: Mapping[str, Any]) -> bool:
    """Whether every gain has an interval over documents and seeds."""
    gains = [of["bits_per_byte"] for of in (result.get("comparisons") or {}).values()]
    return bool(gains) and all(governing(gain) is not gain for gain in gains)


def _arms(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    totals, over_both = _ledger_totals(result), _over_both(result)
    return [
        {
            "name": name,
            "facts": facts,
            "gain": (gain := _at(result, "comparisons", name, "bits_per_byte")),
            "bounds": governing(gain) if over_both else gain,
            "total_flops": totals.get(name),
        }
        for name, facts in result["arms"].items()
    ]


def _seeds(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"arm": arm, "seed": seed, "facts": facts}
        for arm, of_arm in result["arms"].items()
        for seed, facts in (of_arm.get("seeds") or {}).items()
    ]


def _method_ledger(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The ledger without evaluation, which every arm has and no method needs."""
    evaluation = ("evaluate", "ensemble", "items", "tasks", "contamination")
    return [entry for entry in result.get("ledger") or [] if entry["stage"] not in evaluation]


def _ledger_totals(result: Mapping[str, Any]) -> dict[str, float]:
    """FLOPs of each arm's method; an entry that arms share counts in full for each of them."""
    ledger = _method_ledger(result)
    return {
        arm: sum(_numbers(e.get("flops") for e in ledger if arm in e["arms"]))
        for arm in result["arms"]
    }


def _figures(data: ReportData) -> dict[str, dict[str, Markup]]:
    """Each figure that has something to show, drawn for wide and for narrow screens."""
    result, pairs = data.result, data.pairs
    scored = any(_known(_at(arm, "test").get("bits_per_byte")) for arm in result["arms"].values())
    edges, every, kept = (
        pairs.get(f"similarity_{name}") or [] for name in ("edges", "all", "kept")
    )
    drawn: dict[str, dict[str, Markup]] = {}
    for size, wide, medium in (
        ("wide", figures.WIDE, figures.MEDIUM),
        ("narrow", figures.NARROW, figures.NARROW),
    ):
        for name, svg in {
            "comparison": figures.comparison_figure(result, wide) if scored else None,
            "curves": figures.curves_figure(data.curves, wide),
            "gains": figures_statistics.gains_figure(result, wide),
            "efficiency": figures_statistics.efficiency_figure(result, wide),
            "sizes": figures_statistics.sizes_figure([result, *data.beside], wide),
            "flops": figures.flops_figure(_method_ledger(result), list(result["arms"]), wide),
            "similarity": figures.similarity_figure(edges, every, kept, medium) if edges else None,
            "degree": figures.degree_figure(pairs.get("degree") or {}, medium),
            **{
                f"trials-{place}": figures_statistics.trials_figure(found, f"trials-{place}", wide)
                for place, found in enumerate(data.searches)
            },
        }.items():
            if svg:
                drawn.setdefault(name, {})[size] = Markup(figures.inline(svg))
    return drawn


def _counts(counts: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Rows of a table of reasons, with each count's share of the largest for its bar."""
    rows = {name: n for name, n in (counts or {}).items() if _known(n)}
    largest = max(rows.values(), default=0) or 1
    return [
        {
            "name": name.replace("dropped_", "dropped: ", 1).replace("_", " "),
            "count": count,
            "width": round(100 * max(0, count) / largest, 1),
        }
        for name, count in rows.items()
    ]


def _samples(source: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return list(source.get(name) or [])


def _dropped(samples: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Samples by reason, reasons in the order they come in."""
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        by_reason.setdefault(str(sample.get("reason")), []).append(sample)
    return by_reason


def _at(value: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """The mapping below `keys`, empty where any of them is missing or None."""
    for key in keys:
        value = value.get(key) or {}
    return value


def _known(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _numbers(values: Iterable[Any]) -> Sequence[float]:
    return [value for value in values if _known(value)]


def _text(value: object) -> str:
    return "" if value is None or isinstance(value, Undefined) else str(value)


def _unbroken(interval: re.Match[str]) -> str:
    return interval[0].replace(" ", "\N{NO-BREAK SPACE}")


def _printable(value: object) -> object:
    """What the template may write: our own markup as it is, all else as text that HTML can hold."""
    if isinstance(value, Markup):
        return value
    if value is None or isinstance(value, Undefined):
        return _NONE
    return _UNPRINTABLE.sub(_picture, str(value).replace("\r\n", "\n"))


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    return chr(0x2400 + code) if code < 0x20 else "\N{REPLACEMENT CHARACTER}"


def _fixed(value: Any, digits: int = 4) -> str:
    return f"{value:,.{digits}f}".replace("-", _MINUS) if _known(value) else _NONE


def _signed(value: Any, digits: int = 4) -> str:
    return f"{value:+,.{digits}f}".replace("-", _MINUS) if _known(value) else _NONE


def _integer(value: Any) -> str:
    return f"{value:,.0f}".replace("-", _MINUS) if _known(value) else _NONE


def _percent(value: Any) -> str:
    return f"{value:.0%}".replace("-", _MINUS) if _known(value) else _NONE


def _flops(value: Any) -> str:
    return figures.scientific(value) if _known(value) else _NONE
