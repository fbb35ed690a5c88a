"""What a synthesizer takes from its seed document: what is scored, how, and what is said."""

from __future__ import annotations

import copy
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent))

from sample_run import size

from synboot.data.tokenizer import TextTokenizer
from synboot.data.tokens import TokenStore
from synboot.experiment.plan import make_plan
from synboot.experiment.recipe import load_recipe
from synboot.experiment.seed_use import (
    seed_use_caveat,
    seed_use_facts,
    seed_use_line,
    seed_use_of,
)
from synboot.experiment.sizes import sizes_section, variants_section
from synboot.experiment.stages.corpus import unique_documents
from synboot.experiment.stages.seed_use import sample, with_others
from synboot.experiment.stages.training import pair_split
from synboot.model.architecture import load_model
from synboot.pairs.find import read_kept_pairs
from synboot.pipeline.stage import Artifact
from synboot.synth.template import pair_row

ROOT = Path(__file__).parents[2]
NUMBERS = st.integers(0, 11)


@given(
    st.lists(st.tuples(NUMBERS, NUMBERS).filter(lambda p: p[0] != p[1]), max_size=30),
    st.lists(st.sampled_from(["a", "b", "c", None]), min_size=12, max_size=12),
    st.integers(0, 5),
    st.integers(1, 3),
)
def test_the_other_document_is_a_first_one_that_is_not_related(
    related: list[tuple[int, int]], groups: list[str | None], seed: int, share: int
) -> None:
    related = list(dict.fromkeys(related))
    pairs = related[::share]
    of = dict(enumerate(groups))
    triples = with_others(pairs, related, of, seed)
    assert triples == with_others(pairs, related, of, seed)
    together = {frozenset(pair) for pair in related}

    def allowed(d1: int, d2: int, firsts: set[int]) -> set[int]:
        return {
            d
            for d in firsts - {d1, d2}
            if frozenset((d, d2)) not in together
            and (of[d] is None or of[d] not in (of[d1], of[d2]))
        }

    found = {(d1, d2): other for d1, d2, other in triples}
    assert list(found) == [pair for pair in pairs if pair in found]
    for d1, d2 in pairs:
        near = allowed(d1, d2, {first for first, _ in pairs})
        far = allowed(d1, d2, {first for first, _ in related})
        if near or far:
            assert found[d1, d2] in (near or far)
        else:
            assert (d1, d2) not in found


def test_a_sample_is_some_of_the_pairs_in_their_order() -> None:
    pairs = [(i, i + 1) for i in range(2000)]
    some = sample(pairs, 3)
    assert len(some) == 512
    assert sorted(some) == some
    assert set(some) <= set(pairs)
    assert some == sample(pairs, 3) != sample(pairs, 4)
    assert sample(pairs[:512], 3) == pairs[:512]


def test_random_pairs_are_scored_on_related_ones() -> None:
    settings = ["experiment.arms=[repetition, sbp, random_pairs]"]
    recipe = load_recipe(ROOT / "recipes" / "demo.yaml", settings)
    plan = make_plan(recipe, Path("nowhere"), "0" * 64)
    sbp, control = plan.seed_use["sbp"].inputs, plan.seed_use["random_pairs"].inputs
    assert sbp["tune"] is not control["tune"]
    for name in ("pairs", "validation_pairs", "base"):
        assert control[name] is sbp[name]
    assert sbp["pairs"] is plan.chains["sbp", 0]["pairs"]
    assert control["tune"] is plan.chains["random_pairs", 0]["tune"]
    scratch = make_plan(
        load_recipe(ROOT / "recipes" / "demo.yaml", [*settings, "tune.initial=scratch"]),
        Path("nowhere"),
        "0" * 64,
    )
    assert "base" not in scratch.seed_use["sbp"].inputs


@pytest.fixture(scope="module")
def run(finished_run: Path) -> tuple[dict[str, Artifact], dict[str, Any]]:
    stages = json.loads((finished_run / "small" / "stages.json").read_text())
    artifacts = {}
    for stage in stages:
        artifact = Artifact.open(finished_run / stage["directory"])
        assert artifact is not None
        artifacts[stage["label"]] = artifact
    return artifacts, json.loads((finished_run / "small" / "result.json").read_text())


def test_a_run_has_the_nats_of_the_same_tokens_after_both(
    finished_run: Path, run: tuple[dict[str, Artifact], dict[str, Any]]
) -> None:
    """Beside one text at a time through plain transformers."""
    artifacts, result = run
    recipe = load_recipe(finished_run / "small.yaml")
    inputs = {name: artifacts[name] for name in ("corpus", "tokenizer", "tokens", "pairs", "tune")}
    split = pair_split(inputs, recipe.tune.validation_fraction, artifacts["tune"].manifest["seed"])
    documents = unique_documents(inputs)
    pairs = split.validation
    number = {name: i for i, name in enumerate(documents.ids(0, len(documents)))}
    kept = read_kept_pairs(artifacts["pairs"].file("pairs.parquet"))
    related = [(number[a], number[b]) for a, b in kept]
    assert set(pairs) < set(related)
    groups = {n: documents.groups(n, n + 1)[0] for pair in related for n in pair}
    triples = with_others(pairs, related, groups, artifacts["tune"].manifest["seed"])
    assert triples, "nothing was compared"
    models = {
        "synthesizer": load_model(artifacts["tune"].file("best")),
        "base": load_model(
            artifacts["pretrain repetition, seed 0"].file(recipe.tune.initial_checkpoint)
        ),
    }
    tokenizer = TextTokenizer.load(artifacts["tokenizer"].path)
    store, context = TokenStore(artifacts["tokens"].file("train")), recipe.model.context
    expected = []
    for d1, d2, other in triples:
        scored = min(len(store[d2]), context // 2)
        row: dict[str, Any] = {"num_tokens": scored}
        row |= zip(("d1", "d2", "other"), documents.texts_of([d1, d2, other]), strict=True)
        for (name, model), (side, first) in itertools.product(
            models.items(), (("own_seed", d1), ("other_seed", other))
        ):
            ends = (tokenizer.end_id, tokenizer.start_id)
            ids, targets = pair_row(store[first][:-1], store[d2][:-1], context, *ends)
            at = np.flatnonzero(targets >= 0)[:scored]
            assert len(at) == scored, "both prompts leave room for the tokens that are scored"
            with torch.no_grad():
                logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0, at]
            chosen = torch.log_softmax(logits, -1).gather(1, torch.from_numpy(targets[at])[:, None])
            row[f"{name}_{side}"] = -float(chosen.sum())
        expected.append(row)
    text_of = dict(zip(number, documents.texts(0, len(documents)), strict=True))
    table = pq.read_table(artifacts["seed use"].file("seed_use.parquet")).to_pylist()
    assert len(table) == len(expected)
    for found, row in zip(table, expected, strict=True):
        for name, value in row.items():
            is_id = isinstance(value, str)
            shown = text_of[found[name]] if is_id else found[name]
            assert shown == (value if is_id else pytest.approx(value, rel=1e-4)), name
    facts = result["synthesizer"]["seed_use"]
    total = {name: sum(row[name] for row in expected) for name in expected[0] if "_" in name}
    tokens = total["num_tokens"]
    left_out = len(pairs) - len(triples)
    assert (facts["pairs"], facts["pairs_without_another"]) == (len(triples), left_out)
    assert facts["tokens"] == tokens
    sides = {
        row[f"group{side}"] or row[f"d{side}"] for row in table for side in (1, 2)
    }  # groups, where documents have some
    assert facts["independent"] == len(sides)
    for name, side in (("synthesizer", facts), ("base", facts["base"])):
        own, other = total[f"{name}_own_seed"], total[f"{name}_other_seed"]
        assert side["nats_own_seed"] == pytest.approx(own / tokens, rel=1e-4)
        assert side["saved"]["gain"] == pytest.approx((other - own) / tokens, abs=1e-4)
    shown = f"saves SBP's synthesizer {facts['saved']['gain']:+.4f}".replace("'", "&#39;")
    shown = shown.replace("-", "\N{MINUS SIGN}")
    page = (finished_run / "small" / "report.html").read_text(encoding="utf-8")
    assert shown in page


def with_saved(gain: float, verdict: str, **bounds: float) -> dict[str, Any]:
    result: dict[str, Any] = copy.deepcopy(size(1000, {"repetition": 0.3}))
    saved = {"gain": gain, "verdict": verdict, **bounds}
    facts = {"pairs": 40, "documents": 20, "saved": saved, "base": {"saved": {"gain": 0.004}}}
    result["synthesizer"]["seed_use"] = facts
    return result


def test_a_caveat_says_no_more_than_is_known() -> None:
    assert seed_use_caveat(with_saved(0.2, "better", low=0.1, high=0.3)) == []
    few = with_saved(0.2, "better", low=0.1, high=0.3)
    few["synthesizer"]["seed_use"]["independent"] = 12
    (narrow,) = seed_use_caveat(few)
    assert "pairs of 12 documents or groups: its interval may be too narrow" in narrow
    (wide,) = seed_use_caveat(with_saved(0.01, "unclear", low=-0.1, high=0.12))
    assert "not clear that the synthesizer uses" in wide
    assert "+0.0100 [-0.1000, +0.1200]" in wide
    assert "self-distillation" not in wide
    (narrow,) = seed_use_caveat(with_saved(0.003, "unclear", low=-0.001, high=0.007))
    assert "little else than self-distillation" in narrow
    (refused,) = seed_use_caveat(with_saved(0.3, "unclear"))
    assert "Too few independent documents" in refused
    assert "not clear" not in refused
    held_out = with_saved(0.003, "unclear", low=-0.001, high=0.007)
    held_out["synthesizer"]["validated_on"] = "held_out_pairs"
    (known,) = seed_use_caveat(held_out)
    assert "knows from pretraining" in known
    assert "self-distillation" not in known


def test_a_run_without_the_figure_says_nothing() -> None:
    without = size(1000, {"repetition": 0.3})
    assert seed_use_caveat(without) == []
    assert seed_use_line(without, str) == ""
    assert seed_use_of(without, "random_pairs") == {}


def test_what_the_seed_document_saves_stands_in_the_line_and_by_size() -> None:
    first = with_saved(0.2, "better", low=0.1, high=0.3)
    assert seed_use_line(first, "{:+.3f}".format) == (
        "Its seed document, in place of another one, saves SBP's synthesizer +0.200 "
        "[+0.100, +0.300], the base model +0.004 nats a token of a related document "
        "(40 pairs of 20 documents)."
    )
    second = size(9000, {"repetition": 0.3})
    rows = sizes_section([first, second], signed="{:+.2f}".format, percent=str)["rows"]
    assert [(row["saved"], row["saved_ends"]) for row in rows] == [
        ("+0.20", "[+0.10, +0.30]"),
        ("", ""),
    ]
    first["split"] = "valid"
    first["controls"] = {"oracle": {"synthesizer": {"seed_use": {"saved": {"gain": 0.4}}}}}
    variants = variants_section([first], signed="{:+.2f}".format)[0]["rows"]
    assert {row["arm"]: row["saved"] for row in variants} == {
        "repetition": "",
        "sbp": "+0.20",
        "oracle": "+0.40",
    }


def test_nothing_scored_is_no_figure(tmp_path: Path) -> None:
    """Where every pair is of one group there is no other document."""
    columns = ("d1", "d2", "other", "group1", "group2", "num_tokens", "synthesizer_own_seed")
    pq.write_table(pa.table({name: [] for name in columns}), tmp_path / "seed_use.parquet")
    assert seed_use_facts(Artifact(tmp_path, {})) is None
