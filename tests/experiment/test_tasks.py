"""Evaluation tasks in a run and in `evaluate --task`: answers, contamination, resume, result."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import synboot
from synboot.core.errors import BadInput
from synboot.core.events import read_events
from synboot.data.documents import Documents
from synboot.data.tokenizer import TextTokenizer
from synboot.eval.choices import encode_requests
from synboot.experiment.plan import make_plan
from synboot.experiment.recipe import load_recipe
from synboot.experiment.stages import items as items_module
from synboot.experiment.stages.items import read_task_items
from synboot.experiment.summary import comparison_table
from synboot.model.architecture import load_model
from synboot.pipeline.stage import Artifact, Context
from synboot.verbs.answering import _named

WORDS = [f"word{n}" for n in range(13)]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def cut(text: str, start: int, stop: int) -> str:
    """Some of a text's words."""
    return " ".join(text.split()[start:stop])


def artifacts(runs: Path, name: str) -> dict[str, Artifact]:
    """The finished artifacts of a run by label."""
    stages = json.loads((runs / name / "stages.json").read_text())
    found = {stage["label"]: Artifact.open(runs / stage["directory"]) for stage in stages}
    return {label: artifact for label, artifact in found.items() if artifact is not None}


@pytest.fixture(scope="module")
def task_run(
    finished_run: Path, tmp_path_factory: pytest.TempPathFactory, synboot: Callable[..., Any]
) -> Path:
    """The small run again, with tasks: its runs directory, where `tasks.yaml` lies."""
    folder = tmp_path_factory.mktemp("tasks")
    runs = folder / "runs"
    shutil.copytree(finished_run, runs)
    made = artifacts(runs, "small")
    order = np.load(made["tokenizer"].file("order.npy"))
    documents = Documents(made["corpus"].file("train.arrow"), order)
    unique = made["tokenizer"].counts["unique_documents"]
    synthetic = pq.read_table(made["synthesize"].file("synthetic.parquet"))["text"].to_pylist()
    held_out = Documents(made["corpus"].file("test.arrow"))
    source = [documents[0].text, documents[unique].text, held_out[0].text]
    source.append(max(synthetic, key=lambda text: len(text.split())))
    pairs = [
        {
            "id": f"p{n}",
            "good": cut(text, 0, 14),
            "bad": "of " + cut(text, 0, 9),
            "UID": f"u{n % 2}",
        }
        for n, text in enumerate(source)
    ]
    pairs.append({"id": "short", "good": "too short", "bad": "to short", "UID": "u1"})
    texts = held_out.texts(0, len(held_out))
    words = [{"id": f"w{n}", "text": text[:-1]} for n, text in enumerate(texts)]
    questions = [
        {
            "id": f"q{n}",
            "query": cut(text, 0, 9),
            "choices": [cut(other, 9, 12) for other in (text, texts[n - 1], texts[n - 2])],
            "gold": 0,
        }
        for n, text in enumerate(texts)
    ]
    files = {
        "pairs": str(write(folder / "pairs.jsonl", pairs)),
        "words": str(write(folder / "words.jsonl", words)),
        "questions": {"path": str(write(folder / "q.jsonl", questions)), "limit": 12},
    }
    values = yaml.safe_load((runs / "small.yaml").read_text())
    values |= {"name": "tasks"}
    values["evaluate"]["tasks"] = files
    (runs / "tasks.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    outcome = synboot("run", str(runs / "tasks.yaml"), "--runs", str(runs))
    assert outcome.returncode == 0, outcome.stderr
    (folder / "stdout").write_text(outcome.stdout, encoding="utf-8")
    return runs


def test_stages_of_other_runs_keep_their_ids(task_run: Path) -> None:
    with_tasks = make_plan(load_recipe(task_run / "tasks.yaml"), task_run)
    without = make_plan(load_recipe(task_run / "small.yaml"), task_run)
    ids = {stage.label: stage.id for stage in with_tasks.stages}
    assert {stage.label: stage.id for stage in without.stages}.items() <= ids.items()
    assert set(ids) - {stage.label for stage in without.stages} == {
        "items",
        "contamination",
        *(f"tasks {arm}, seed 0" for arm in ("repetition", "sbp", "oracle")),
    }
    labels = list(ids)
    assert labels.index("items") < labels.index("embed")  # bad files stop a run before training


def test_ids_know_the_bytes_of_task_files_and_not_their_paths(
    task_run: Path, tmp_path: Path
) -> None:
    def ids(*settings: str) -> dict[str, str]:
        plan = make_plan(load_recipe(task_run / "tasks.yaml", settings), task_run)
        return {stage.label: stage.id for stage in plan.stages}

    first = ids()
    moved = tmp_path / "pairs.jsonl"
    shutil.copy(task_run.parent / "pairs.jsonl", moved)
    assert ids(f"evaluate.tasks.pairs={moved}") == first
    moved.write_text(moved.read_text() + "\n")
    changed = ids(f"evaluate.tasks.pairs={moved}")
    assert {label for label in first if first[label] != changed[label]} == {
        "items", "contamination", *(label for label in first if label.startswith("tasks "))
    }  # fmt: skip
    assert ids("evaluate.tasks.questions.limit=11")["items"] != first["items"]


@torch.no_grad()
def slow_nats(model: Any, tokenizer: TextTokenizer, pair: tuple[str, str], context: int) -> float:
    """One continuation alone, with plain transformers."""
    [request] = encode_requests(tokenizer, [pair])
    whole = np.concatenate([request.context, request.continuation])[-(context + 1) :]
    logits = model(input_ids=torch.from_numpy(whole[None, :-1])).logits[0].double()
    size = len(request.continuation)
    chosen = logits.log_softmax(-1)[-size:, :].numpy()
    return -float(chosen[np.arange(size), request.continuation].sum())


def test_answers_equal_plain_transformers(task_run: Path) -> None:
    made = artifacts(task_run, "tasks")
    items = read_task_items(made["items"])
    table = pq.read_table(made["tasks sbp, seed 0"].file("tasks.parquet")).to_pylist()
    assert [row["id"] for row in table] == [item.id for item in items]
    model = load_model(made["pretrain sbp, seed 0"].file("best"))
    tokenizer = TextTokenizer.load(made["tokenizer"].path)
    for item, row in list(zip(items, table, strict=True))[::3]:
        expected = [slow_nats(model, tokenizer, pair, 64) for pair in item.pairs]
        np.testing.assert_allclose(row["nats"], expected, rtol=1e-4)
        sizes = np.array([len(choice) for choice in item.choices])
        assert row["prediction_raw"] == int(np.argmin(expected))
        assert row["prediction_per_character"] == int(np.argmin(expected / sizes))


def test_contamination_is_found_where_it_is(task_run: Path) -> None:
    made = artifacts(task_run, "tasks")
    table = pq.read_table(made["contamination"].file("contamination.parquet"))
    rows = {row["id"]: row for row in table.to_pylist() if row["task"] == "pairs"}
    found = {
        key: [row[f"found_{name}"] > 0 for name in ("unique", "oracle", "synthetic")]
        for key, row in rows.items()
    }
    # p0 stands in the unique text, which is part of the oracle's; p1 in the oracle's alone, p3 in
    # the synthetic text, p2 in held-out text, which decontamination keeps out of all of them.
    assert found["p0"][:2] == [True, True]
    assert found["p1"][:2] == [False, True]
    assert found["p2"][:2] == [False, False]
    assert found["p3"][2]
    assert rows["short"]["windows"] == 0
    assert rows["p0"]["windows"] == 2  # 14 words


def test_result_page_and_terminal(task_run: Path) -> None:
    result = json.loads((task_run / "tasks" / "result.json").read_text())
    assert list(result["tasks"]) == ["pairs", "questions", "words"]
    words = result["tasks"]["words"]["arms"]
    assert set(words) == {"repetition", "sbp", "oracle"}
    cost = words["sbp"]["perplexity"]
    assert cost["value"] > 1
    ratio = cost["value"] / words["repetition"]["perplexity"]["value"]
    assert cost["of_repetition"]["ratio"] == pytest.approx(ratio)
    assert set(words["sbp"]["gain"]) == {"raw"}
    assert result["tasks"]["questions"]["items"] == 12
    assert result["tasks"]["questions"]["chance"] == pytest.approx(1 / 3)
    own = result["contamination"]["tasks"]["pairs"]
    assert own["too_short"] == 1
    assert own["sources"]["oracle"]["contaminated"] >= 2
    assert own["sources"]["oracle"]["share_of_judged"] >= 0.5
    clean = own["accuracy"]["without_contaminated"]["sbp"]["raw"]
    assert clean["items"] == 5 - own["contaminated_in_any"]
    assert set(result["tasks"]["pairs"]["arms"]["sbp"]["seeds"]["0"]["categories"]) == {"u0", "u1"}
    page = (task_run / "tasks" / "report.html").read_text()
    assert 'id="tasks"' in page
    assert "without the contaminated" in page
    assert 'id="tasks"' not in (task_run / "small" / "report.html").read_text()
    lines = comparison_table(result).splitlines()
    assert any(line.startswith("questions, 12 items, chance 33.3%: repetition ") for line in lines)
    assert lines[-1] in (task_run.parent / "stdout").read_text()


def test_the_ledger_has_the_tasks_and_the_arms_cost_no_more(task_run: Path) -> None:
    with_tasks, without = (
        json.loads((task_run / name / "result.json").read_text()) for name in ("tasks", "small")
    )
    for entry in with_tasks["ledger"]:
        if entry["stage"] == "tasks":
            assert entry["flops"] > 0
            assert len(entry["arms"]) == 1
    kept = [entry for entry in with_tasks["ledger"] if entry in without["ledger"]]
    assert kept == without["ledger"]


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_to_the_same_bytes(
    task_run: Path, tmp_path: Path, synboot: Callable[..., Any]
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(task_run, runs)
    result = (runs / "tasks" / "result.json").read_bytes()
    for label, made in artifacts(runs, "tasks").items():
        if made.path.parent.name in ("items", "contamination", "tasks"):
            shutil.rmtree(made.path, label)
    command = ["run", str(runs / "tasks.yaml"), "--runs", str(runs)]
    for kill in (("part_done", "tasks", 2, 2), ("part_done", "contamination", 1, 3)):
        killed = synboot(*command, kill=kill)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    outcome = synboot(*command)
    assert outcome.returncode == 0, outcome.stderr
    assert (runs / "tasks" / "result.json").read_bytes() == result
    again = artifacts(runs, "tasks")
    for label, made in artifacts(task_run, "tasks").items():
        assert again[label].manifest["files"] == made.manifest["files"], label
    events = list(read_events(runs / "tasks" / "events.jsonl"))
    reused = [e["stage"] for e in events if e["event"] == "part_reused"]
    assert reused.count("tasks") == 2
    assert reused.count("contamination") == 3


def test_the_report_needs_no_task_files(task_run: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(task_run, runs)
    values = json.loads((runs / "tasks" / "recipe.json").read_text())
    for task in values["evaluate"]["tasks"]:
        task["path"] = str(tmp_path / "gone.jsonl")
    (runs / "tasks" / "recipe.json").write_text(json.dumps(values))
    outcome = synboot.report(runs / "tasks", tmp_path / "page.html")
    assert outcome.counts["tasks"] == json.loads(
        (task_run / "tasks" / "result.json").read_text()
    )["tasks"]  # fmt: skip


def test_bad_tasks_in_a_recipe(task_run: Path) -> None:
    def load(*settings: str) -> None:
        load_recipe(task_run / "small.yaml", settings)

    with pytest.raises(BadInput, match=r"evaluate\.tasks.*prompt: expected question_answer"):
        load("evaluate.tasks={a: {path: x.jsonl, prompt: qa}}")
    with pytest.raises(BadInput, match=r"evaluate\.tasks\.0\.pth: unknown key"):
        load("evaluate.tasks={a: {path: x.jsonl, pth: 1}}")
    with pytest.raises(BadInput, match=r"expected a name once, a is there again"):
        load("evaluate.tasks=[{name: a, path: x}, {name: a, path: y}]")
    with pytest.raises(BadInput, match=r"probes_ is for tasks that a world sets itself"):
        load("evaluate.tasks={probes_x: x.jsonl}")
    with pytest.raises(BadInput, match=r"nowhere\.jsonl: expected a data file"):
        make_plan(
            load_recipe(task_run / "small.yaml", ["evaluate.tasks={a: nowhere.jsonl}"]), task_run
        )


def test_a_world_sets_tasks(task_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A world's tasks come from the texts of the unique budget and of all training documents."""
    asked: list[int] = []

    def probes(unique: Any, everything: Any, seed: int) -> dict[str, list[dict[str, Any]]]:
        own, others = list(unique), list(everything)
        assert own == others[: len(own)]
        asked.extend([len(own), len(others), seed])
        record = {"id": "x", "query": own[0][:9], "choices": ["a", "b"], "gold": 1}
        return {"stated": [record | {"category": "born"}], "unstated": []}

    monkeypatch.setitem(items_module.ITEM_SOURCES, "pydocs", probes)
    recipe = load_recipe(
        task_run / "small.yaml", ["corpus.path=null", "corpus.world=pydocs", "name=world"]
    )
    plan = make_plan(recipe, task_run, "x")
    [stage] = [stage for stage in plan.stages if stage.name == "items"]
    assert set(stage.inputs) == {"corpus", "tokenizer"}
    made = artifacts(task_run, "tasks")
    directory = task_run / "made"
    directory.mkdir()
    context = Context(directory, {n: made[n] for n in ("corpus", "tokenizer")},
                      lambda *a: None, lambda: False, lambda *a, **k: None)  # fmt: skip
    assert stage.finish(context, []) == {"items": {"probes_stated": 1}, "flops": 0}
    [item] = read_task_items(Artifact(directory, {}))
    assert item.category == "born"
    assert item.context.count("Question") == 0
    assert asked[0] == made["tokenizer"].counts["unique_documents"]
    assert asked[1] == made["corpus"].counts["documents"]["train"]


# The verb


def model_of(task_run: Path, tmp_path: Path) -> Path:
    made = artifacts(task_run, "tasks")
    directory = tmp_path / "model"
    shutil.copytree(made["pretrain sbp, seed 0"].file("best"), directory)
    for file in made["tokenizer"].path.glob("tokenizer*.json"):
        shutil.copy(file, directory)
    return directory


def test_the_verb_gives_what_the_run_gives(task_run: Path, tmp_path: Path) -> None:
    model = model_of(task_run, tmp_path)
    output = tmp_path / "answers.parquet"
    folder = task_run.parent
    tasks = [folder / "pairs.jsonl", folder / "words.jsonl"]
    outcome = synboot.evaluate(model, None, output, task=tasks, threads=1, quiet=True)
    made = artifacts(task_run, "tasks")["tasks sbp, seed 0"]
    expected = pq.read_table(made.file("tasks.parquet")).to_pylist()
    rows = pq.read_table(output).to_pylist()
    expected = [row for row in expected if row["task"] != "questions"]
    for row, of_run in zip(rows, expected, strict=True):  # parts, and so batches, differ
        np.testing.assert_allclose(row.pop("nats"), of_run.pop("nats"), rtol=1e-5)
    assert rows == expected
    found, of_run = (c["tasks"]["pairs"] for c in (outcome.counts, made.counts))
    assert found["accuracy"] == of_run["accuracy"]
    assert "pairs  5 items, chance 50.0%" in outcome.summary()
    again = synboot.evaluate(model, None, output, task=tasks, threads=1, quiet=True)
    assert again.counts == outcome.counts


def test_the_verb_against_a_corpus(task_run: Path, tmp_path: Path) -> None:
    model = model_of(task_run, tmp_path)
    corpus = write(tmp_path / "corpus.jsonl", [{"id": "d", "text": " ".join(["x", *WORDS, "y"])}])
    other = write(tmp_path / "second.jsonl", [{"id": "d", "text": "nothing of it"}])
    pairs = write(
        tmp_path / "pairs.jsonl",
        [
            {"id": "in", "good": " ".join(WORDS), "bad": "b"},
            {"id": "out", "good": " ".join(WORDS[::-1]), "bad": "b"},
            {"id": "short", "good": "one two", "bad": "b"},
        ],
    )
    output = tmp_path / "answers.parquet"
    outcome = synboot.evaluate(
        model, None, output, task=f"mine={pairs}", against=[corpus, f"other={other}"], threads=1,
        quiet=True,
    )  # fmt: skip
    rows = {row["id"]: row for row in pq.read_table(output).to_pylist()}
    names = ("windows", "found_corpus", "found_other")
    assert {key: [row[name] for name in names] for key, row in rows.items()} == {
        "in": [1, 1, 0], "out": [1, 0, 0], "short": [0, 0, 0]
    }  # fmt: skip
    counted = outcome.counts["contamination"]["mine"]
    assert counted == {"items": 3, "too_short": 1, "contaminated": {"corpus": 1, "other": 0}}
    assert outcome.counts["without_contaminated"]["mine"]["items"] == 2
    assert "contaminated: 1 in corpus, 0 in other; 1 too short" in outcome.summary()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"corpus": "x.jsonl", "task": "y.jsonl"}, "expected either a corpus or task, got both"),
        ({"corpus": None}, r"expected a corpus, or task \(--task FILE\)"),
        ({"corpus": "x.jsonl", "limit": 3}, "limit: only with task"),
        ({"corpus": "x.jsonl", "limit": 0}, "limit: only with task"),
        ({"corpus": "x.jsonl", "delimiter": "", "against": []}, "^delimiter: only with task"),
        ({"corpus": None, "task": "*.jsonl"}, "its name says nothing; say NAME=FILE"),
        ({"corpus": None, "task": ["a/x.jsonl", "b/x.gz"]}, "the name 'x' is taken; say NAME=FILE"),
        ({"corpus": None, "task": "nowhere.jsonl"}, "expected a data file"),
        ({"corpus": None, "task": "x.jsonl", "kind": "riddle"}, "field kind"),
        ({"corpus": None, "task": "x.jsonl", "limit": 0}, "field limit"),
        ({"corpus": None, "task": "x y.jsonl"}, "field name"),
    ],
)
def test_what_the_verb_refuses(
    task_run: Path, tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    model = model_of(task_run, tmp_path)
    with pytest.raises(BadInput, match=message):
        synboot.evaluate(model, output=tmp_path / "out.parquet", quiet=True, **given)
    assert not list(tmp_path.glob("out*"))


def test_names_of_files_that_hold_equals_signs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lang=en").mkdir()
    Path("lang=de.jsonl").touch()
    given = ["data/lang=en/a.jsonl", "https://h/b.jsonl?token=abc", "lang=en/c.jsonl",
             "a/some/*.jsonl", "lang=de.jsonl", "mine=d/x=y.jsonl", "e.jsonl"]  # fmt: skip
    assert list(_named("task", given).items()) == [
        ("a", given[0]), ("b", given[1]), ("c", given[2]), ("some", given[3]),
        ("lang=de", given[4]), ("mine", "d/x=y.jsonl"), ("e", given[6]),
    ]  # fmt: skip
