"""The table of the paper (arXiv 2509.15248v3), with synthetic and real text of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PAPER = "arXiv 2509.15248v3"
PAPER_SCALES = ("200B", "1T 3B", "1T 6B", "real")
_PAPER_PERCENT: dict[str, tuple[float | None, ...]] = {
    "repetition": (4.3, 3.9, 2.6, 1.8),
    "duplicate": (0.8, 0.8, 0.3, 0.7),
    "non_factual": (15.1, 8.7, 6.5, 1.8),
    "pair_irrelevance": (25.6, 7.8, 6.0, None),
    "pair_copying": (0.1, 0.9, 0.3, None),
}
"""In percent, with the paper's own judge, thresholds and a million documents: not measured here."""

_LABELS = {
    "repetition": "repetition",
    "duplicate": "duplicate@{documents}",
    "non_factual": "non-factual",
    "pair_irrelevance": "pair-irrelevance",
    "pair_copying": "pair-copying",
}


def paper_table(synthetic: Mapping[str, Any], real: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each measure of the paper: `measure`, `label`, `synthetic` and `real` (figures of
    ours, None where not measured), `paper` ({scale: percent})."""
    rows = []
    for name, label in _LABELS.items():
        ours, beside = _figure(synthetic, name), _figure(real, name)
        documents = (ours or {}).get("documents", 0)
        rows.append(
            {
                "measure": name,
                "label": label.format(documents=documents),
                "synthetic": ours,
                "real": beside,
                "paper": dict(zip(PAPER_SCALES, _PAPER_PERCENT[name], strict=True)),
            }
        )
    return rows


def _figure(side: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    duplicates = side.get("duplicates") or {}
    found = {
        "repetition": side.get("repetition"),
        "duplicate": duplicates.get("draws_equal") or duplicates.get("draws"),
        "non_factual": (side.get("judged") or {}).get("non_factual"),
        "pair_irrelevance": (side.get("judged") or {}).get("irrelevant"),
        "pair_copying": side.get("pair_copying"),
    }[name]
    return found if found and found.get("rate") is not None else None


def table_lines(quality: Mapping[str, Any]) -> str:
    """The table, and the figures beside it, for a terminal."""
    documents = quality["documents"]
    lines = [
        f"{documents['synthetic']:,} synthetic documents, {documents['synthetic_looked_at']:,} "
        f"looked at, {documents['with_seed']:,} with a seed; {documents['real']:,} real ones, "
        f"{documents['real_looked_at']:,} looked at, {documents['real_pairs']:,} real pairs",
        "",
        f"{'%, [95%]':28}{'synthetic':>24}{'real':>24}   paper: " + " | ".join(PAPER_SCALES),
    ]
    for row in quality["table"]:
        paper = " | ".join("-" if v is None else f"{v:.1f}" for v in row["paper"].values())
        lines.append(_line(row["label"], row["synthetic"], row["real"]) + f"   {paper}")
    lines.append("")
    lines += [_line(*row) for row in further_rows(quality)]
    lines += [f"note: {caveat}" for caveat in quality["caveats"]]
    return "\n".join(lines)


def further_rows(quality: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(label, synthetic figure, real figure) of what the paper's table has not."""
    sides = (quality["synthetic"], quality["real"])
    seed, corpus = (
        [(s.get("novelty") or {}).get(of) or {} for s in sides] for of in ("seed", "corpus")
    )
    rows: list[tuple[str, Any, Any]] = [
        ("near duplicate of the seed", *_of(sides, "duplicates", "seed")),
        ("near duplicate in the corpus", *_of(sides, "duplicates", "corpus")),
    ]
    if any("draws_equal" in (side.get("duplicates") or {}) for side in sides):
        rows.append(("duplicate, all looked at", *_of(sides, "duplicates", "draws")))
    rows += [
        (f"new {n}-grams, to the seed", seed[0].get(n), seed[1].get(n))
        for n in ("1", "2", "4", "8")
    ]
    rows += [
        (f"new {n}-grams, to the corpus", corpus[0].get(n), corpus[1].get(n))
        for n in ("4", "8", "13")
    ]
    rows += [
        ("extractive coverage", *_of(sides, "fragments", "coverage")),
        ("extractive density, words", *_of(sides, "fragments", "density")),
        *[
            (f"distinct {n}-grams", *_plain(sides, "distinct", n, "rate"))
            for n in ("1", "2", "3", "4")
        ],
        ("compression ratio", *_plain(sides, "compression", "ratio", "mean")),
        ("repeated 4-word windows", *_shares(sides)),
        ("words", *_of(sides, "lengths", "words")),
        ("bytes", *_of(sides, "lengths", "bytes")),
        ("similarity to the seed", *_of(sides, "relevance", "similarity")),
        ("AUC against random pairs", *_of(sides, "relevance", "auc")),
        ("below 95% of random pairs", *_of(sides, "relevance", "below_random_quantile")),
    ]
    return [row for row in rows if {written(row[1]), written(row[2])} != {"-"}]


def _of(sides: tuple[Mapping[str, Any], ...], group: str, name: str) -> tuple[Any, ...]:
    return tuple((side.get(group) or {}).get(name) for side in sides)


def _plain(
    sides: tuple[Mapping[str, Any], ...], group: str, name: str, kind: str
) -> tuple[Any, Any]:
    """Values that have no interval, as figures."""
    synthetic, real = _of(sides, group, name)
    return {kind: synthetic}, {kind: real}


def _shares(sides: tuple[Mapping[str, Any], ...]) -> tuple[Any, Any]:
    """Means of shares, to be shown in percent."""
    synthetic, real = (side.get("repeated_share") or {} for side in sides)
    return {"rate": synthetic.get("mean"), **synthetic}, {"rate": real.get("mean"), **real}


def _line(label: str, synthetic: Any, real: Any) -> str:
    return f"{label:28}{written(synthetic):>24}{written(real):>24}"


def written(figure: Mapping[str, Any] | None) -> str:
    """A figure with its interval: rates in percent, means as they are; - for none."""
    name = next((name for name in ("rate", "mean", "auc") if name in (figure or {})), None)
    if figure is None or name is None or figure[name] is None:
        return "-"
    value, low, high = figure[name], figure.get("low"), figure.get("high")
    scale, digits = (100.0, 1) if name == "rate" else (1.0, 3)
    digits = 1 if name == "mean" and abs(value) >= 100 else digits
    ends = (
        ""
        if low is None or high is None
        else f" [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
    )
    return f"{scale * value:.{digits}f}{ends}"
