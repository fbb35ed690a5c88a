"""A run on the facts world: its corpus, a judge for its synthetic text, its probes."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from synboot.core.errors import BadInput
from synboot.experiment.plan import make_plan
from synboot.experiment.recipe import Recipe, load_recipe
from synboot.experiment.stages.corpus import training_documents, unique_documents
from synboot.pipeline.stage import Artifact
from synboot.worlds.facts.judge import FactsJudge
from synboot.worlds.facts.parsing import read
from synboot.worlds.facts.probes import attribute_probes
from synboot.worlds.facts.world import FactsWorld


@pytest.fixture
def facts_recipe(small_recipe: Path) -> Path:
    """The small recipe on 60 persons, of which less than ten are the unique budget."""
    values = yaml.safe_load(small_recipe.read_text(encoding="utf-8"))
    values |= {"name": "facts", "corpus": {"world": "facts", "facts": {"persons": 60}}}
    values["budget"]["oracle_multiple"] = "max"
    values["runtime"] = {"workers": 1, "threads": 1}  # nothing here is about parts
    path = small_recipe.with_name("facts.yaml")
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def artifacts_of(recipe: Recipe, runs: Path) -> dict[str, Artifact]:
    plan = make_plan(recipe, runs)
    found = {stage.name: Artifact.open(stage.directory(runs / "artifacts"))
             for stage in plan.until("synthesize")}  # fmt: skip
    assert None not in found.values()
    return {name: artifact for name, artifact in found.items() if artifact is not None}


def test_a_run_on_the_facts_world(facts_recipe: Path, tmp_path: Path, synboot) -> None:
    recipe, runs = load_recipe(facts_recipe), tmp_path / "runs"
    outcome = synboot("run", str(facts_recipe), "--runs", str(runs))
    assert outcome.returncode == 0, outcome.stderr
    artifacts = artifacts_of(recipe, runs)
    unique = unique_documents(artifacts)
    texts = unique.texts(0, len(unique))
    judge = FactsJudge(FactsWorld(recipe.corpus.facts))
    assert {j.non_factual for j in judge.judge(texts, [None] * len(texts))} == {False}
    assert len({read(text).main_person for text in texts}) == len(
        set(unique.groups(0, len(unique)))
    )

    rows = pq.read_table(artifacts["synthesize"].file("synthetic.parquet")).to_pylist()
    seeds = dict(zip(unique.ids(0, len(unique)), texts, strict=True))
    found = judge.judge([r["text"] for r in rows], [seeds[r["seed_id"]] for r in rows])
    result = json.loads((runs / "facts" / "result.json").read_bytes())
    for name in ("non_factual", "irrelevant"):
        answers = [getattr(each, name) for each in found]
        figure = result["quality"]["synthetic"]["judged"][name]
        assert figure["count"] == sum(answer is True for answer in answers)
        assert figure["documents"] == sum(answer is not None for answer in answers)
    judged = {side: result["quality"][side]["judged"] for side in ("synthetic", "real")}
    assert judged["synthetic"]["asked"] == len(rows)
    whole = sum(read(row["text"]).num_units for row in rows)
    assert judged["synthetic"]["shares"]["units_not_understood"]["of"] == whole
    assert judged["real"]["non_factual"]["rate"] == 0
    assert judged["real"]["shares"]["units_not_understood"]["rate"] == 0
    assert judged["real"]["shares"]["statements_false"]["rate"] == 0

    everything = training_documents(artifacts)
    probes = attribute_probes(texts, everything.texts(0, len(everything)), recipe.seed)
    assert min(map(len, probes.values())) > 20
    asked = {f"probes_{name}": len(items) for name, items in probes.items()}
    assert {name: own["items"] for name, own in result["tasks"].items()} == asked
    for own in result["tasks"].values():
        assert own["chance"] == 0.25
        assert set(own["arms"]) == {"repetition", "sbp", "oracle"}


def test_the_settings_of_the_world_fork_its_run_and_no_other(
    facts_recipe: Path, small_recipe: Path, tmp_path: Path
) -> None:
    def ids(*settings: str) -> set[str]:
        return {s.id for s in make_plan(load_recipe(facts_recipe, settings), tmp_path).stages}

    assert ids() == ids("corpus.facts.documents_per_person=6", "corpus.facts.seed=0")
    assert not ids() & ids("corpus.facts.seed=1")
    assert sorted(p.suffix for p in (tmp_path / "worlds").iterdir()) == [".jsonl", ".jsonl"]
    assert "facts" not in load_recipe(small_recipe).corpus.reading()


def test_settings_of_the_world_without_the_world(small_recipe: Path) -> None:
    with pytest.raises(BadInput, match=r"corpus: facts: only the world facts has"):
        load_recipe(small_recipe, ["corpus.facts.persons=50"])
    with pytest.raises(BadInput, match=r"corpus.facts.person: unknown key; did you mean persons"):
        load_recipe(small_recipe, ["corpus.facts.person=50"])
    with pytest.raises(BadInput, match=r"corpus.facts.persons.*greater than or equal to 8"):
        load_recipe(small_recipe, ["corpus.facts.persons=3"])
