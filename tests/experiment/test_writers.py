"""Several models write an arm's text: what is planned, what it costs, what is read of it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from synboot.core.errors import BadInput
from synboot.core.events import read_events
from synboot.data.tokens import TokenStore
from synboot.experiment.costs.outlook import outlook
from synboot.experiment.plan import Plan, make_plan
from synboot.experiment.recipe import Recipe, load_recipe
from synboot.experiment.search.trials import Trials, with_ancestors
from synboot.pipeline.stage import Stage

ROOT = Path(__file__).parents[2]
CONTENT = "0" * 64
NOWHERE = Path("nowhere")
ALL = "experiment.arms=[repetition, sbp, oracle, self_distillation, random_pairs, real_context]"
COST = "experiment.cost_inclusive=true"


def recipe_of(*settings: str, name: str = "demo") -> Recipe:
    return load_recipe(ROOT / "recipes" / f"{name}.yaml", settings)


def plan_of(*settings: str, name: str = "demo") -> Plan:
    plan = make_plan(recipe_of(*settings, name=name), NOWHERE, CONTENT)
    assert len({stage.label for stage in plan.stages}) == len(plan.stages), "labels are unique"
    return plan


def pooled(settings: str, of: str = "sbp", more: str = "") -> str:
    return f"experiment.variants.pooled={{of: {of}, set: {{{settings}}}{more}}}"


def ids(plan: Plan) -> dict[str, str]:
    return {stage.label: stage.id for stage in plan.stages}


def writers_of(chain: dict[str, Stage]) -> list[Stage]:
    """The synthesize stages that a pool joins, in order."""
    inputs = chain["synthesize"].inputs
    return [inputs[f"writer_{number}"] for number in range(1, len(inputs))]


class TestPlanned:
    def test_one_writer_is_no_setting(self) -> None:
        plain = ids(plan_of(ALL, COST))
        assert ids(plan_of(ALL, COST, "synthesize.writers=1")) == plain
        more = plan_of(ALL, COST, pooled("synthesize.writers: 3"))
        assert plain.items() <= ids(more).items()
        assert not any("writers" in stage.config for stage in more.stages)
        added = {stage.name for stage in more.stages if stage.label not in plain}
        assert added == {"pretrain", "tune", "synthesize", "pool", "evaluate"}  # pairs are shared

    @pytest.mark.parametrize("arm", ["sbp", "random_pairs", "self_distillation"])
    def test_writers_are_chains_of_seeds_that_follow(self, arm: str) -> None:
        seeds = "experiment.seeds=[4, 5]"
        plan = plan_of(ALL, seeds, pooled("synthesize.writers: 3", arm))
        chain = plan.chains["pooled", 4]
        assert plan.chains["pooled", 5] is chain
        texts = writers_of(chain)
        needs = [text.config["need_tokens"] for text in texts]
        assert needs == [106_667, 106_667, 106_666]
        assert sum(needs) == plan.recipe.budget.synthetic_tokens
        alone = arm == "self_distillation"
        tuned = texts if alone else [text.inputs["tune"] for text in texts]
        bases = [stage.inputs["base"] for stage in tuned]
        assert bases[:2] == [plan.pretrain["repetition", 4], plan.pretrain["repetition", 5]]
        assert [base.seed for base in bases] == [4, 5, 6]
        assert bases[2].config == bases[0].config
        assert [t.seed for t in texts] == [tuned[0].seed + number for number in range(3)]
        if not alone:
            assert tuned[0] is plan.chains[arm, 4]["tune"]
            assert [t.seed for t in tuned] == [t.seed for t in texts]
            assert len({t.inputs["pairs"].id for t in tuned}) == 1
        for seed in (4, 5):
            assert plan.pretrain["pooled", seed].inputs["synthesize"] is chain["synthesize"]

    def test_the_model_that_embeds_is_each_writer_s_own(self) -> None:
        chain = plan_of("pairs.encoder=lm", "synthesize.writers=2").chains["sbp", 0]
        tuned = [text.inputs["tune"] for text in writers_of(chain)]
        embeds = [t.inputs["pairs"].inputs["neighbours"].inputs["embed"] for t in tuned]
        assert [e.inputs["base"] for e in embeds] == [t.inputs["base"] for t in tuned]

    def test_seeds_with_their_own_text_share_no_writer(self) -> None:
        per_seed = "experiment.bootstrap_per_seed=true"
        settings = (per_seed, "synthesize.writers=2", "experiment.seeds=[0, 2]")
        plan = plan_of(*settings)
        of_seed = [{s.id for s in writers_of(plan.chains["sbp", seed])} for seed in (0, 2)]
        assert len(of_seed[0] | of_seed[1]) == 4
        with pytest.raises(BadInput, match=r"experiment.seeds: expected seeds at least 2 apart"):
            plan_of(per_seed, "synthesize.writers=2", "experiment.seeds=[0, 3, 1]")
        plan_of(per_seed, "synthesize.writers=2", "experiment.seeds=[0, 1]",
                "experiment.arms=[repetition, oracle]")  # fmt: skip

    def test_rounds_begin_from_the_arm_s_models_of_the_writers_seeds(self) -> None:
        plan = plan_of(
            "experiment.seeds=[0, 1]", "synthesize.writers=2", pooled("", more=", rounds: 2")
        )
        tuned = [text.inputs["tune"] for text in writers_of(plan.chains["pooled", 0])]
        first = [plan.pretrain["sbp", 0], plan.pretrain["sbp", 1]]
        assert [stage.inputs["base"] for stage in tuned] == first

    def test_readers_have_the_text_of_all(self) -> None:
        plan = plan_of("synthesize.writers=2", pooled("synthesize.megadocuments: 2"), name="facts")
        assert plan.contamination is not None
        assert plan.quality is not None
        pool = plan.bootstrap["synthesize"]
        assert pool.name == "pool"
        assert plan.contamination.inputs["synthesize"] is pool
        assert plan.quality.inputs["synthesize"] is pool
        joined = plan.pretrain["pooled", 0].inputs["synthesize"]
        assert joined.name == "megadocuments"
        assert joined.inputs["synthesize"] is pool

    def test_all_writers_have_the_winner_of_a_search(self) -> None:
        search = (
            "search={trials: 2, space: {pretrain.weight_decay: [3.0]}, tune_trials: 2, "
            "tune_space: {tune.passes: [7]}}"
        )
        trials = Trials(recipe_of(search, "synthesize.writers=2"), NOWHERE, CONTENT)
        names = {stage.name for stage in trials.before_training}
        assert names.isdisjoint({"pretrain", "tune", "synthesize", "pool"})
        plan = trials.of_base({"pretrain.weight_decay": 3.0, "tune.passes": 7})
        for text in writers_of(plan.chains["sbp", 0]):
            assert text.inputs["tune"].config["passes"] == 7
            base = text.inputs["tune"].inputs["base"]
            assert base.config["loop"]["weight_decay"] == 3.0
        winner = trials.of("tune", plan)[1].stage
        assert winner.id == plan.chains["sbp", 0]["tune"].id
        stages = with_ancestors([trial.stage for trial in trials.of("sbp", plan)])
        assert [stage.name for stage in stages].count("pool") == 1

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (["synthesize.writers=0"], "writers: .*greater than or equal to 1"),
            (["synthesize.writers=1001"], "writers: .*less than or equal to 1000"),
            ([pooled("synthesize.writers: 2", "oracle")], "writers cannot be set for oracle alone"),
            ([pooled("synthesize.writers: 2", "real_context")], "cannot be set for real_context"),
            (
                ["synthesize.writers=500", "budget.synthetic_share=0.0006"],
                "synthesize.writers: expected at most the 480 synthetic tokens of sbp, got 500",
            ),
        ],
    )
    def test_what_cannot_be_is_refused(self, settings: list[str], message: str) -> None:
        with pytest.raises(BadInput, match=message):
            plan_of(*settings)


SETTINGS = {
    "arms": ["repetition", "sbp", "self_distillation"],
    "cost_inclusive": True,
    "variants": {
        "sbp_best": {"of": "sbp", "set": {"synthesize.best_of": 2, "synthesize.megadocuments": 2}}
    },
}


@pytest.fixture(scope="module")
def run(finished_run: Path, synboot: Any) -> dict[str, Any]:
    """A run of two writers, killed in its first pool and ended: its result, the directory of every
    stage by label, what `plan` said before."""
    values = yaml.safe_load((finished_run / "small.yaml").read_text())
    values |= {"name": "writers", "experiment": SETTINGS}
    values["synthesize"]["writers"] = 2
    path = finished_run / "writers.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    planned = outlook(load_recipe(path), finished_run, measure=False)
    command = ["run", str(path), "--runs", str(finished_run)]
    killed = synboot(*command, kill=("stage_start", "pool", 1, 1))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    stages = json.loads((finished_run / "writers" / "stages.json").read_text())
    directory = {stage["label"]: finished_run / stage["directory"] for stage in stages}
    (directory["pool"] / "synthetic.parquet").write_bytes(b"half of i")  # as if the end came later
    outcome = synboot(*command, "--json")
    assert outcome.returncode == 0, outcome.stderr
    return {
        "result": json.loads(outcome.stdout),
        "directory": directory,
        "planned": {stage["label"]: stage for stage in planned["stages"]},
        "path": path,
    }


def rows(directory: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(directory / "synthetic.parquet").to_pylist())


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["", " self_distillation", " sbp_best"])
def test_the_text_is_that_of_both_writers_in_turn(run: dict[str, Any], arm: str) -> None:
    directory = run["directory"]
    made = directory[f"pool{arm}"]
    text, store = rows(made), TokenStore(made / "tokens")
    writers = [directory[f"synthesize{arm}{of}"] for of in ("", ", writer 2")]
    assert len({row["id"] for row in text}) == len(text)
    assert [row["num_tokens"] for row in text] == store.lengths().tolist()
    held = [0, 0]
    for place, row in enumerate(text):
        writer = int(row["id"][-1]) - 1
        assert held[writer] == min(held)
        held[writer] += row["num_tokens"]
        assert store[place].tolist() == TokenStore(writers[writer] / "tokens")[
            sum(one["id"][-1] == row["id"][-1] for one in text[:place])
        ].tolist()  # fmt: skip
    assert held == [1000, 1000]
    for number, writer in enumerate(writers, 1):
        own = [row for row in text if row["id"].endswith(f".{number}")]
        assert own == [{**row, "id": f"{row['id']}.{number}"} for row in rows(writer)]
    alone = arm == " self_distillation"
    labels = ["pretrain repetition, seed 0", "pretrain repetition, seed 1"]
    # The tuning of sbp_best is that of sbp: it has no settings of its own there.
    labels = labels if alone else ["tune", "tune, writer 2"]
    written = {row["id"][-1]: row["synthesizer"] for row in text}
    assert written == {str(i): directory[label].name for i, label in enumerate(labels, 1)}


@pytest.mark.slow
def test_the_result_adds_up(run: dict[str, Any]) -> None:
    result, directory = run["result"], run["directory"]
    counts = {
        label: json.loads((path / "manifest.json").read_text())["counts"]
        for label, path in directory.items()
    }
    ledger = {entry["label"]: entry for entry in result["ledger"]}
    for arm, facts in (("", result), (" sbp_best", result["controls"]["sbp_best"])):
        synthetic = facts["synthetic"]
        own = [counts[f"synthesize{arm}{of}"] for of in ("", ", writer 2")]
        assert synthetic["tokens"] == synthetic["requested_tokens"] == 2000
        assert synthetic["share"] == synthetic["share_requested"] == 0.25
        for name in ("documents", "candidates", "sampled_tokens", "draws_per_seed"):
            assert synthetic[name] == sum(one[name] for one in own)
        for reason in synthetic["verdicts"]:
            total = sum(one["verdicts"].get(reason, 0) for one in own)
            assert synthetic["verdicts"][reason] == total
        assert synthetic["verdicts"]["kept"] == synthetic["documents"]
        assert [writer["tokens"] for writer in synthetic["writers"]] == [1000, 1000]
        assert ledger[f"pool{arm}"]["flops"] == 0
        assert ledger[f"pool{arm}"]["tokens"] == 2000
    best = result["controls"]["sbp_best"]
    assert best["synthetic"]["mean_log_ratio_kept"] > best["synthetic"]["mean_log_ratio"]
    kept = [row["log_ratio"] for row in rows(directory["pool sbp_best"])]
    assert best["synthetic"]["mean_log_ratio_kept"] == pytest.approx(sum(kept) / len(kept))
    assert best["megadocuments"]["tokens"] == 2000
    for arm in SETTINGS["arms"]:
        tokens = [part["tokens"] for part in result["arms"][arm]["mixture"]]
        assert tokens == ([8000] if arm == "repetition" else [6000, 2000])
    assert counts["quality"]["synthetic"] == result["synthetic"]["documents"]

    labels = ["embed", "neighbours", "tune", "synthesize", "tune, writer 2", "synthesize, writer 2"]
    labels.append("pretrain repetition, seed 1")  # which no arm has
    cost = result["cost_inclusive"]
    paid = sum(ledger[label]["flops"] for label in labels)
    assert sum(cost["flops_paid"].values()) == paid > 0
    assert len(cost["flops_paid"]) == len(labels)
    assert cost["not_counted"][0].startswith("1 of the 2 base models: they are arms")
    second = ledger["pretrain repetition, seed 1"]
    assert second["arms"] == ["sbp", "self_distillation", "sbp_best"]
    assert second["flops"] == ledger["pretrain repetition, seed 0"]["flops"]
    page = (run["path"].parent / "writers" / "report.html").read_text()
    assert "by 2 writers with equal shares" in page
    assert "its base models, tuning and synthesis" in page


@pytest.mark.slow
def test_the_plan_knew_it(run: dict[str, Any]) -> None:
    planned = run["planned"]
    assert (planned["pool"]["basis"], planned["pool"]["flops"]) == ("exact", 0)
    assert planned["synthesize, writer 2"]["tokens"] == 1000
    assert planned["synthesize, writer 2"]["flops"] > 0
    assert planned["pretrain repetition_same_cost, seed 0"]["tokens"] > 8000


@pytest.mark.slow
def test_killed_in_the_pool_only_the_rest_is_run(run: dict[str, Any]) -> None:
    """What the pool made then is what the first test reads, from its writers' rows alone."""
    events = list(read_events(run["path"].parent / "writers" / "events.jsonl"))
    ended = [event["id"] for event in events if event["event"] == "stage_done"]
    assert len(ended) == len(set(ended))
    begun = [event["id"] for event in events if event["event"] == "stage_start"]
    assert [name for name in begun if begun.count(name) > 1] == [run["directory"]["pool"].name] * 2
