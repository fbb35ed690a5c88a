"""What a synthesizer takes from its seed document: what is scored, how, and what is said."""

from __future__ import annotations

import copy
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synboot.data.tokenizer import TextTokenizer
from synboot.data.tokens import TokenStore
from synboot.experiment.recipe import load_recipe
from synboot.experiment.seed_use import seed_use_caveat, seed_use_line, seed_use_of
from synboot.experiment.sizes import sizes_section, variants_section
from synboot.experiment.stages.corpus import unique_documents
from synboot.experiment.stages.seed_use import read_seed_use, with_others
from synboot.experiment.stages.training import pair_split
from synboot.model.architecture import load_model
from synboot.pipeline.stage import Artifact
from synboot.synth.template import pair_row

_sizes = runpy.run_path(str(Path(__file__).parent / "test_sizes.py"))
NUMBERS = st.integers(0, 11)


@given(
    st.lists(st.tuples(NUMBERS, NUMBERS).filter(lambda p: p[0] != p[1]), max_size=30),
    st.lists(st.sampled_from(["a", "b", "c", None]), min_size=12, max_size=12),
    st.integers(0, 5),
    st.integers(1, 3),
)
def test_the_other_document_is_a_first_one_that_is_not_related(
    known: list[tuple[int, int]], groups: list[str | None], seed: int, share: int
) -> None:
    known = list(dict.fromkeys(known))
    pairs = known[::share]
    of = dict(enumerate(groups))
    triples = with_others(pairs, known, of, seed)
    assert triples == with_others(pairs, known, of, seed)
    together = {frozenset(pair) for pair in known}
    firsts = {d1 for d1, _ in known}
    found = {}
    for d1, d2, other in triples:
        found[d1, d2] = other
        assert other in firsts - {d1, d2}
        assert frozenset((other, d2)) not in together
        assert of[other] is None or of[other] not in (of[d1], of[d2])
    assert list(found) == [pair for pair in pairs if pair in found]
    for d1, d2 in set(pairs) - set(found):
        assert not [
            d
            for d in firsts - {d1, d2}
            if frozenset((d, d2)) not in together
            and (of[d] is None or of[d] not in (of[d1], of[d2]))
        ], "a pair is left out though there is another document"


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
    known = [*split.training, *split.validation]
    groups = {n: documents.groups(n, n + 1)[0] for pair in known for n in pair}
    triples = with_others(split.validation, known, groups, artifacts["tune"].manifest["seed"])
    assert triples, "nothing was compared"
    model = load_model(artifacts["tune"].file("best"))
    tokenizer = TextTokenizer.load(artifacts["tokenizer"].path)
    store, context = TokenStore(artifacts["tokens"].file("train")), recipe.model.context
    expected: dict[str, np.ndarray] = {}
    for d1, d2, other in triples:
        sums = expected.setdefault(documents.ids(d2, d2 + 1)[0], np.zeros(3))
        scored = min(len(store[d2]), context // 2)
        for place, first in enumerate((d1, other)):
            ends = (tokenizer.end_id, tokenizer.start_id)
            row, targets = pair_row(store[first][:-1], store[d2][:-1], context, *ends)
            at = np.flatnonzero(targets >= 0)[:scored]
            assert len(at) == scored, "both prompts leave room for the tokens that are scored"
            with torch.no_grad():
                logits = model(input_ids=torch.from_numpy(row)[None]).logits[0, at]
            chosen = torch.log_softmax(logits, -1).gather(1, torch.from_numpy(targets[at])[:, None])
            sums[place] -= float(chosen.sum())
        sums[2] += scored
    table = pq.read_table(artifacts["seed use"].file("seed_use.parquet")).to_pylist()
    assert {row["id"] for row in table} == set(expected)
    for row in table:
        found = [row["own_seed"], row["other_seed"], row["num_tokens"]]
        assert found == pytest.approx(expected[row["id"]], rel=1e-4)
    facts = result["synthesizer"]["seed_use"]
    own, other, tokens = np.sum(list(expected.values()), axis=0)
    assert facts["pairs"] == len(triples)
    assert facts["tokens"] == tokens
    assert facts["nats_own_seed"] == pytest.approx(own / tokens, rel=1e-4)
    assert facts["saved"]["gain"] == pytest.approx((other - own) / tokens, abs=1e-4)
    shown = f"saves the synthesizer {facts['saved']['gain']:+.4f}".replace("-", "\N{MINUS SIGN}")
    page = (finished_run / "small" / "report.html").read_text(encoding="utf-8")
    assert shown in page


def with_saved(gain: float, verdict: str, **bounds: float) -> dict[str, Any]:
    result: dict[str, Any] = copy.deepcopy(_sizes["size"](1000, {"repetition": 0.3}))
    saved = {"gain": gain, "verdict": verdict, **bounds}
    result["synthesizer"]["seed_use"] = {"documents": 20, "saved": saved}
    return result


def test_a_synthesizer_that_does_not_read_its_seed_is_named() -> None:
    assert seed_use_caveat(with_saved(0.2, "better", low=0.1, high=0.3)) == []
    for verdict in ("unclear", "worse"):
        said = seed_use_caveat(with_saved(-0.01, verdict, low=-0.1, high=0.1))
        assert len(said) == 1
        assert "(-0.0100 nats a token)" in said[0]
    without = _sizes["size"](1000, {"repetition": 0.3})
    assert seed_use_caveat(without) == []
    assert seed_use_line(without, str) == ""
    assert seed_use_of(without, "random_pairs") == {}


def test_what_the_seed_document_saves_stands_in_the_line_and_by_size() -> None:
    first = with_saved(0.2, "better", low=0.1, high=0.3)
    assert "saves the synthesizer +0.20 [+0.10, +0.30] nats" in seed_use_line(
        first, "{:+.2f}".format
    )
    second = _sizes["size"](9000, {"repetition": 0.3})
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
    import pyarrow as pa

    empty = {
        "id": pa.array([], pa.string()),
        "group": pa.array([], pa.string()),
        "num_tokens": pa.array([], pa.int64()),
        "own_seed": pa.array([], pa.float64()),
        "other_seed": pa.array([], pa.float64()),
    }
    pq.write_table(pa.table(empty), tmp_path / "seed_use.parquet")
    assert read_seed_use(Artifact(tmp_path, {})) is None
