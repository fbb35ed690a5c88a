"""The recipes of the experiment: what the protocol says of them, and that they run when reduced."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from synboot.core.config import read_recipe
from synboot.core.errors import OutOfTime
from synboot.core.events import QuietDisplay, read_events
from synboot.experiment.arms import rivals_of_variants
from synboot.experiment.plan import Plan, make_plan
from synboot.experiment.recipe import Recipe, load_recipe
from synboot.experiment.run import run_recipe
from synboot.experiment.search.frozen import frozen_recipe
from synboot.experiment.stages.process import own_threads
from synboot.model.settings import num_parameters, shape_of

ROOT = Path(__file__).parents[2]
EXPERIMENT = ROOT / "docs" / "experiment"
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
FAMILY = ("cpu-smaller-all", "cpu-small-all", "cpu-larger-all", "gpu-small")
CONTENT = "0" * 64
ON_CPU = ("runtime.device=cpu", "runtime.precision=float32")


def recipe_of(name: str, *settings: str) -> Recipe:
    given = ["corpus.path=somewhere", *ON_CPU, *settings]
    return load_recipe(ROOT / "recipes" / f"{name}.yaml", given)


def plan_of(name: str, *settings: str) -> Plan:
    return make_plan(recipe_of(name, *settings), Path("nowhere"), CONTENT)


def number(cell: str) -> int:
    return int(cell.replace(",", ""))


def test_the_protocol_says_what_the_recipes_do() -> None:
    rows = re.findall(r"^\| [a-z-]+ \| `([a-z-]+)` \| (.*?) \| (.*?) \| (.*?) \|$",
                      PROTOCOL, re.MULTILINE)  # fmt: skip
    assert [row[0] for row in rows] == list(FAMILY)
    for name, shape, unique, training in rows:
        recipe = recipe_of(name)
        assert recipe.budget.unique_tokens == number(unique)
        assert recipe.budget.training_tokens == number(training) == 20 * number(unique)
        assert recipe.search is not None
        assert recipe.search.training_tokens is None  # a trial's are those of the recipe
        assert f"`{recipe.model.preset}`" in shape
        if name != "gpu-small":
            millions = float(shape.split(", ")[1].removesuffix("M"))
            size = num_parameters(shape_of(recipe.model.preset), recipe.tokenizer.vocab_size)[0]
            assert round(size / 1e6, 1) == millions


@pytest.mark.parametrize("name", FAMILY)
def test_all_arms_controls_and_seeds_and_one_search(name: str) -> None:
    recipe, first = recipe_of(name), recipe_of(FAMILY[1])
    assert recipe.experiment == first.experiment
    plan = plan_of(name)
    assert plan.arms == [
        "repetition", "sbp", "oracle", "self_distillation", "random_pairs",
        "repetition_2x", "repetition_4x", "repetition_8x", "repetition_same_cost",
    ]  # fmt: skip
    assert {seed for _, seed in plan.pretrain} == {0, 1, 2}
    assert recipe.search is not None
    assert first.search is not None
    assert recipe.search.trials == first.search.trials == 8
    assert "A trial has all training tokens of the recipe" in PROTOCOL
    assert recipe.search.seed == first.search.seed == 1000
    for setting, values in recipe.search.space.items():
        shown = ", ".join(f"{value:g}" for value in values)
        line = next(
            line
            for line in PROTOCOL.splitlines()
            if line.startswith(f"| `{setting.removeprefix('pretrain.')}` |")
        )
        assert shown in line


def test_the_variants_are_those_of_the_protocol() -> None:
    frozen, variants = recipe_of("frozen/cpu-small-all"), recipe_of("cpu-small-variants")
    table = PROTOCOL.partition("They are these")[2].partition("## ")[0]
    named = [name for row in re.findall(r"^\| `.*", table, re.MULTILINE)
             for name in re.findall(r"`([a-z_0-9]+)`", row.split("|")[1])]  # fmt: skip
    assert [name for name in named if name != "real_context"] == list(variants.experiment.variants)
    assert variants.evaluate.split == "valid"
    assert variants.evaluate.tasks == ()
    assert variants.search == frozen.search
    assert variants.budget == frozen.budget
    assert {seed for _, seed in plan_of("cpu-small-variants").pretrain} == {1001}
    for arm, settings in variants.experiment.overrides.items():
        assert frozen.experiment.overrides[arm] == settings
    assert set(frozen.experiment.overrides) - set(variants.experiment.overrides) == {
        "repetition_2x", "repetition_4x", "repetition_8x",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["cpu-small-all", "cpu-smaller-all"])
def test_a_frozen_recipe_has_the_winners_of_its_search(name: str) -> None:
    found = json.loads((EXPERIMENT / f"{name}.search.json").read_text())
    recipe, frozen = recipe_of(name), recipe_of(f"frozen/{name}")
    winners = {arm: one["settings"] for arm, one in found["arms"].items()}
    winners |= {arm: winners[other] for arm, other in found["has_the_winner_of"].items()}
    for one in (*found["arms"].values(), found["tune"]):
        trials = {t["trial"]: t["validation_loss"] for t in one["trials"] if t["validation_loss"]}
        assert one["winner"] == min(trials, key=lambda number: trials[number])
        assert one["settings"] == one["trials"][one["winner"]]["settings"]
    assert found["training_tokens"] == frozen.budget.training_tokens
    text = frozen_recipe(recipe, found, read_recipe(ROOT / "recipes" / f"{name}.yaml"))
    ours, theirs = (
        Recipe.model_validate(yaml.safe_load(one) | {"corpus": {"path": "x"}, "runtime": {}})
        for one in (text, (ROOT / "recipes" / "frozen" / f"{name}.yaml").read_text())
    )
    assert ours.model_copy(update={"runtime": theirs.runtime}) == theirs
    assert {arm: frozen.experiment.overrides[arm] for arm in winners} == winners


def test_the_chosen_variant_is_the_lowest_on_validation_text() -> None:
    result = json.loads((EXPERIMENT / "cpu-small-variants" / "result.json").read_text())
    assert result["split"] == "valid"
    losses = {
        arm: result["arms"][arm]["test"]["bits_per_byte"]
        for arm, variant in recipe_of("cpu-small-variants").experiment.variants.items()
        if variant.of == "sbp"
    }
    for size in ("small", "smaller", "larger"):
        chosen = recipe_of(f"frozen/cpu-{size}-chosen")
        assert chosen.experiment.ensembles
        [(name, alike)] = rivals_of_variants(chosen.experiment).items()
        assert name == min(losses, key=lambda arm: losses[arm])
        everywhere = recipe_of("cpu-small-variants").experiment.variants
        assert chosen.experiment.variants[name] == everywhere[name]
        controls = {chosen.experiment.variants[arm].of for arm in alike if "_writers" in arm}
        assert controls == {"self_distillation", "random_pairs"}
        assert set(chosen.experiment.variants) <= {name, *alike}


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("cpu-larger-chosen", "cpu-larger-all"),
        ("cpu-larger-controls", "cpu-larger-all"),
        ("gpu-small", "gpu-small"),
    ],
)
def test_sizes_that_are_not_searched_have_the_winners_of_cpu_small(name: str, recipe: str) -> None:
    small, own = recipe_of("frozen/cpu-small-all"), recipe_of(f"frozen/{name}")
    planned = recipe_of(recipe)
    arms = set(plan_of(f"frozen/{name}").arms)
    winners = {arm: one for arm, one in small.experiment.overrides.items() if arm in arms}
    assert own.experiment.overrides == winners
    assert own.experiment.seeds == small.experiment.seeds
    assert own.corpus.group_field == small.corpus.group_field == "label"
    assert (own.budget, own.model) == (planned.budget, planned.model)
    for section in ("pretrain", "tune"):
        for field in ("learning_rate", "weight_decay", "dropout"):
            assert getattr(getattr(own, section), field) == getattr(getattr(small, section), field)
    assert own.tune.passes == small.tune.passes


def test_the_larger_size_is_read_with_the_arms_of_the_question() -> None:
    everything, read = plan_of("frozen/cpu-larger-chosen"), plan_of("frozen/cpu-larger-controls")
    question = PROTOCOL.partition("## Question")[2].partition("## ")[0]
    for control in ("tuned repetition", "self-distillation", "random pairs", "same cost"):
        assert control in question
    assert read.arms == [
        "repetition", "sbp", "oracle", "self_distillation", "random_pairs", "repetition_same_cost",
    ]  # fmt: skip
    shared = [of for of in read.pretrain if of[0] != "repetition_same_cost"]
    assert len(shared) == 5 * 3
    for of in shared:
        assert read.pretrain[of].id == everything.pretrain[of].id


def test_what_cpu_small_made_is_a_part_of_it() -> None:
    plain, everything = plan_of("cpu-small"), plan_of("cpu-small-all")
    for arm in ("repetition", "sbp"):
        assert everything.pretrain[arm, 0].id == plain.pretrain[arm, 0].id


def test_gpu_small_says_how_large_its_models_are() -> None:
    text = (ROOT / "recipes" / "gpu-small.yaml").read_text()
    said = re.findall(r"(\d+m) ([\d,]+) \(([\d,]+)\)", text)
    assert [preset for preset, _, _ in said] == ["5m", "20m", "50m"]
    vocab_size = recipe_of("gpu-small").tokenizer.vocab_size
    for preset, everything, rest in said:
        assert (number(everything), number(rest)) == num_parameters(shape_of(preset), vocab_size)


@pytest.mark.slow
def test_gpu_small_reduced_to_a_cpu(small_corpus: Path, tmp_path: Path) -> None:
    """The recipe that is run on a GPU, in its precision and with its engine, in pieces: all arms
    and controls, two seeds, each stage done once; what is brought back is small. Reduced are model,
    text, training and the number of seeds."""
    corpus, runs, seeds = tmp_path / "labelled.jsonl", tmp_path / "runs", (3, 4)
    records = [json.loads(line) for line in small_corpus.read_text().splitlines()]
    corpus.write_text(
        "".join(
            json.dumps({"id": r["id"], "text": r["text"], "label": r["id"].split("-")[0]}) + "\n"
            for r in records
        )
    )
    recipe = recipe_of(
        "frozen/gpu-small",
        f"corpus.path={corpus}",
        "corpus={valid_fraction: 0.1, test_fraction: 0.3}",
        "tokenizer.vocab_size=384",
        "budget={unique_tokens: 2500, training_tokens: 2048, oracle_multiple: max}",
        "model={preset: 0.6m, context: 64}",
        "pretrain={batch_rows: 2, num_validations: 1}",
        "tune={batch_rows: 8, num_validations: 1}",
        "pairs={dimensions: 16, top_k: 3}",
        "synthesize={max_tokens: 24, filters: {min_tokens: 2, max_repetition: 1.0}}",
        f"experiment.seeds={list(seeds)}",
        "evaluate.bootstrap_resamples=200",
        "runtime={precision: bfloat16, engine: torch, workers: 1, threads: 1, slots: 16, "
        "part_draws: 32}",
    )
    pieces, seconds, result = 0, 3.0, None
    with own_threads():
        while result is None:
            pieces += 1
            try:
                result = run_recipe(recipe, runs, display=QuietDisplay(), stop_after=seconds)
            except OutOfTime:
                seconds *= 1.5  # on a slow machine too it comes to an end
    events = list(read_events(runs / "gpu-small" / "events.jsonl"))
    assert sum(event["event"] == "out_of_time" for event in events) == pieces - 1 >= 2
    done = Counter(event["id"] for event in events if event["event"] == "stage_done")
    assert done == {stage.id: 1 for stage in make_plan(recipe, runs).stages}
    for name in ("pretrain", "tune", "synthesize"):
        manifests = list(runs.glob(f"artifacts/{name}/*/manifest.json"))
        numerics = [json.loads(path.read_text())["numerics"] for path in manifests]
        assert {one["precision"] for one in numerics} == {"bfloat16"}

    arms = {
        "repetition", "sbp", "oracle", "self_distillation", "random_pairs",
        "repetition_2x", "repetition_4x", "repetition_8x", "repetition_same_cost",
    }  # fmt: skip
    assert set(result["arms"]) == arms == set(recipe.experiment.overrides)
    for arm, found in result["arms"].items():
        losses = [found["seeds"][str(seed)]["test"]["nats_per_token"] for seed in seeds]
        assert len(found["seeds"]) == 2
        assert found["test"]["nats_per_token"] == pytest.approx(sum(losses) / 2)
        assert losses[0] != losses[1], arm
        assert max(losses) < math.log(384)  # more was learnt than how many tokens there are
    assert set(result["comparisons"]) == arms - {"repetition"}
    for compared in result["comparisons"].values():
        gain = compared["bits_per_byte"]
        for interval in (gain, gain["seeds"], gain["both"]):
            assert interval["low"] < gain["gain"] < interval["high"]
        assert len(gain["by_seed"]) == 2
    recovered = result["statistics"]["recovered"]
    assert set(recovered) == {"sbp", "self_distillation", "random_pairs", "repetition_same_cost"}
    for share in recovered.values():
        for kind in ("seeds", "both"):
            stated = share[kind].get("low") is not None
            assert stated != bool(share[kind].get("refused")), share
    ladder = [run["arm"] for run in result["data_efficiency"]["runs"]]
    assert ladder == ["repetition", "repetition_2x", "repetition_4x", "repetition_8x", "oracle"]
    assert result["cost_inclusive"]["extra_tokens"] > 0

    brought = list((runs / "gpu-small").iterdir())
    assert {"result.json", "report.html", "comparison.svg"} <= {path.name for path in brought}
    assert sum(path.stat().st_size for path in brought) < 8 << 20
    assert json.loads((runs / "gpu-small" / "result.json").read_text()) == result
