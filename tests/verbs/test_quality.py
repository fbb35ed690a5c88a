"""quality, on what synboot made and on what it did not."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import synboot
from synboot.core.errors import BadInput, Incomplete
from synboot.core.judgement import Judgement
from synboot.data.ngrams import reference_windows, words
from synboot.data.repeats import bare

sys.path.append(str(Path(__file__).parents[1] / "eval"))

from loopback import Server, says

generate_documents = runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))[
    "generate_documents"
]
REAL = generate_documents(60, seed=5)
FAST = {"dimensions": 8, "quiet": True}


def synthetic_rows() -> list[dict[str, Any]]:
    """New text, a copy, a near copy, a repetitive text, another draw twice, one without a seed."""
    new = generate_documents(40, seed=6)
    rows = [{"text": d["text"], "seed_id": REAL[i]["id"], "num_tokens": 50 + i}
            for i, d in enumerate(new[:30])]  # fmt: skip
    rows[3]["text"] = f"  {REAL[3]['text'].upper()} !"
    rows[4]["text"] = REAL[4]["text"] + " Something else."
    rows[5]["text"] = "so it goes on and on again. " * 8
    rows[6]["text"] = rows[7]["text"]
    rows[8]["seed_id"] = None
    rows[9]["text"] = REAL[50]["text"]
    return rows


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with real.jsonl, pairs.jsonl and synthetic.parquet."""
    lines = "\n".join(map(json.dumps, REAL))
    (tmp_path / "real.jsonl").write_text(lines, encoding="utf-8")
    pairs = [{"d1": f"t{t}-{a}", "d2": f"t{t}-{a + 1}"} for t in range(10) for a in (0, 2, 4)]
    pairs.append({"d1": "t0-0", "d2": "t9-0", "verdict": "drop"})
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    pq.write_table(pa.Table.from_pylist(synthetic_rows()), tmp_path / "synthetic.parquet")
    return tmp_path


def measure(folder: Path, **options: Any) -> dict[str, Any]:
    settings = {"corpus": folder / "real.jsonl", "pairs": folder / "pairs.jsonl"} | FAST | options
    return dict(synboot.quality(folder / "synthetic.parquet", folder / "q.json", **settings).counts)


def jaccard(one: str, other: str) -> float:
    a, b = reference_windows(one, 5), reference_windows(other, 5)
    return len(a & b) / len(a | b) if a and b else 0.0


def test_figures_are_those_of_python_sets(files: Path) -> None:
    found = measure(files)
    rows, real = synthetic_rows(), {d["id"]: d["text"] for d in REAL}
    ours, beside = found["synthetic"], found["real"]
    seeded = [(row["text"], real[row["seed_id"]]) for row in rows if row["seed_id"]]
    texts = [row["text"] for row in rows]
    assert found["documents"] == {
        "synthetic": 30, "real": 60, "real_pairs": 30, "synthetic_looked_at": 30, "with_seed": 29,
        "real_looked_at": 60, "pairs_looked_at": 30,
    }  # fmt: skip
    for figure, count, documents in (
        (ours["repetition"], 1, 30),
        (beside["repetition"], 0, 60),
        (ours["pair_copying"], sum(bare(t) == bare(s) for t, s in seeded), 29),
        (ours["duplicates"]["seed"], sum(jaccard(t, s) >= 0.6 for t, s in seeded), 29),
        (ours["duplicates"]["corpus"],
         sum(any(jaccard(t, r) >= 0.6 for r in real.values()) for t in texts), 30),
        (ours["duplicates"]["draws"],
         sum(any(jaccard(t, o) >= 0.6 for j, o in enumerate(texts) if j != i)
             for i, t in enumerate(texts)), 30),
    ):  # fmt: skip
        assert (figure["count"], figure["documents"]) == (count, documents)
        assert figure["low"] <= figure["rate"] <= figure["high"]
    assert ours["pair_copying"]["count"] == 1
    assert ours["duplicates"]["seed"]["count"] == 2
    assert ours["duplicates"]["corpus"]["count"] == 3
    assert ours["duplicates"]["draws"]["count"] == 2
    assert ours["duplicates"]["draws_equal"]["documents"] == 30
    assert beside["duplicates"]["draws_equal"]["documents"] == 30
    for n in (1, 4, 13):
        every = [[tuple(w[i : i + n]) for i in range(len(w) - n + 1)]
                 for w in map(words, texts)]  # fmt: skip
        known = {tuple(w[i : i + n]) for t in real.values() for w in [words(t)]
                 for i in range(len(w) - n + 1)}  # fmt: skip
        figure = ours["novelty"]["corpus"][str(n)]
        assert figure["of"] == sum(map(len, every))
        assert figure["count"] == sum(run not in known for own in every for run in own)
    assert ours["lengths"]["tokens"]["mean"] == 50 + 14.5
    assert ours["lengths"]["words"]["quantiles"]["1"] == max(len(words(t)) for t in texts)
    assert "tokens" not in beside["lengths"]
    assert ours["distinct"]["words"] == beside["distinct"]["words"]
    assert ours["compression"]["bytes"] == beside["compression"]["bytes"]
    table = {row["measure"]: row for row in found["table"]}
    assert table["duplicate"]["label"] == "duplicate@30"
    assert table["repetition"]["paper"] == {"200B": 4.3, "1T 3B": 3.9, "1T 6B": 2.6, "real": 1.8}
    assert table["non_factual"]["synthetic"] is None
    assert any("No judge" in caveat for caveat in found["caveats"])


def test_relevance_tells_related_from_random(files: Path) -> None:
    """Real pairs are of one topic; the synthetic texts are of others, but for four copies."""
    found = measure(files)
    real, ours = found["real"]["relevance"], found["synthetic"]["relevance"]
    assert real["auc"]["auc"] > 0.85
    assert ours["auc"]["auc"] < 0.75
    assert real["random"]["documents"] == 60
    assert real["similarity"]["mean"] > ours["similarity"]["mean"] + 0.1
    assert "relevance" not in measure(files, relevance=False, overwrite=True)["synthetic"]


def test_texts_alone_are_enough(files: Path) -> None:
    """Any Parquet with a column of text: no ids, no seeds, no pairs."""
    table = pa.table({"body": [row["text"] for row in synthetic_rows()], "id": ["same"] * 30})
    pq.write_table(table, files / "synthetic.parquet")
    found = measure(files, pairs=None, synthetic_text_field="body")
    assert found["documents"]["with_seed"] == found["documents"]["real_pairs"] == 0
    assert found["synthetic"]["duplicates"]["corpus"]["count"] == 3
    assert found["synthetic"]["repetition"]["count"] == 1
    assert any("names a seed" in caveat for caveat in found["caveats"])
    rows = {row["measure"]: row["synthetic"] for row in found["table"]}
    assert rows["pair_copying"] is None
    assert rows["duplicate"]["count"] == 2


def test_seeds_may_be_numbers_and_must_be_known(files: Path) -> None:
    lines = [json.dumps({"id": i, "text": d["text"]}) for i, d in enumerate(REAL)]
    (files / "real.jsonl").write_text("\n".join(lines))
    rows = [{"text": d["text"], "meta": {"from": i}} for i, d in enumerate(REAL[:5])]
    pq.write_table(pa.Table.from_pylist(rows), files / "synthetic.parquet")
    found = measure(files, pairs=None, seed_field="meta.from")
    assert found["synthetic"]["pair_copying"]["count"] == 5
    rows[2]["meta"]["from"] = 99
    pq.write_table(pa.Table.from_pylist(rows), files / "synthetic.parquet")
    with pytest.raises(
        BadInput, match=r"synthetic\.parquet:3: field meta\.from: .*no document '99'"
    ):
        measure(files, pairs=None, seed_field="meta.from", overwrite=True)


def test_samples_are_keyed(files: Path) -> None:
    one = measure(files, sample_documents=10)
    assert one["documents"]["synthetic_looked_at"] == one["documents"]["pairs_looked_at"] == 10
    assert one["documents"]["synthetic"] == 30
    assert one == measure(files, sample_documents=10, overwrite=True)
    assert one != measure(files, sample_documents=10, seed=1, overwrite=True)


def test_the_file_has_its_stamp_and_what_is_not_ours_stays(files: Path) -> None:
    measure(files)
    before = (files / "q.json").read_bytes()
    stamp = json.loads(before)["synboot"]
    assert stamp["verb"] == "quality"
    assert measure(files) == json.loads(before)["quality"]  # done before
    (files / "q.json").unlink()
    measure(files)
    assert (files / "q.json").read_bytes() == before
    with pytest.raises(BadInput, match="other settings"):
        measure(files, max_repetition=0.5)
    (files / "q.json").write_text('{"mine": 1}')
    with pytest.raises(BadInput, match="not made by synboot"):
        measure(files, overwrite=True)


def test_text_without_spaces_is_said_to_be(files: Path) -> None:
    rows = [{"text": f"今天天气很好。我们去公园{i}吧,明天也去。"} for i in range(6)]
    pq.write_table(pa.Table.from_pylist(rows), files / "synthetic.parquet")
    found = measure(files, pairs=None, relevance=False)
    assert found["synthetic"]["without_spaces"]["count"] == 6
    assert found["real"]["without_spaces"]["count"] == 0
    assert any("6 of 6 synthetic documents are in scripts" in each for each in found["caveats"])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An endpoint on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as made:
        yield made


def test_an_endpoint_judges_both_sides_and_is_asked_once(files: Path, server: Server) -> None:
    judge = {"judge": "endpoint:reader", "judge_url": server.url, "judge_documents": 8,
             "judge_answers": files / "answers", "relevance": False}  # fmt: skip
    found = measure(files, **judge)
    ours, beside = found["synthetic"]["judged"], found["real"]["judged"]
    assert ours["asked"] == beside["asked"] == 8
    assert ours["non_factual"]["documents"] == beside["irrelevant"]["documents"] == 8
    assert found["judge"]["model"] == "reader"
    assert "{seed}" in found["judge"]["prompts"]["irrelevant"]
    assert server.url not in (files / "q.json").read_text()
    asked = len(server.requests)
    assert asked == 16 + 8 + ours["irrelevant"]["documents"]
    measure(files, overwrite=True, max_repetition=0.3, **judge)
    assert len(server.requests) == asked
    spent = measure(files, overwrite=True, judge_requests=10, **judge)
    problems = [
        spent[side]["judged"]["problems"].get("budget", 0) for side in ("synthetic", "real")
    ]
    assert sum(problems) > 0
    assert any("budget" in caveat for caveat in spent["caveats"])


def test_an_endpoint_that_is_down_is_incomplete_and_goes_on(files: Path, server: Server) -> None:
    down = True

    def script(number: int, body: dict[str, Any]) -> Any:
        return (500, b"", {}) if down and number > 9 else says(body)

    server.script = script
    judge = {"judge": "endpoint:reader", "judge_url": server.url, "relevance": False}
    judge |= {"judge_attempts": 1}
    with pytest.raises(Incomplete, match="the same command goes on"):
        measure(files, **judge)
    assert not (files / "q.json").exists()
    before, down = len(server.requests), False
    found = measure(files, **judge)
    prompts = {request["messages"][0]["content"] for request in server.requests}
    asked = [request["messages"][0]["content"] for request in server.requests[before:]]
    assert len(prompts) == 30 + 29 + 30 + 30 - 1  # two texts are equal
    assert len(asked) == len(prompts) - 10
    assert found["synthetic"]["judged"]["problems"] == {}
    assert not (files / "q.json.partial").exists()


@pytest.mark.parametrize(("options", "said"), [
    ({"judge": "endpoint:m"}, "url: expected"), ({"judge": "oracle"}, "expected endpoint:MODEL"),
    ({"judge": "endpoint:m", "judge_url": "http://h/v1", "judge_key_variable": "NO_SUCH_KEY"},
     "environment variable NO_SUCH_KEY"),
    ({"judge": "model:/nowhere"}, "no such directory"), ({"judge_url": "http://h/v1"}, "expected"),
    ({"judge_requests": 5}, "beside judge_requests"),
    ({"judge": "endpoint:m", "judge_url": "http://u:p@h/v1"}, "no user, password"),
    ({"judge": "endpoint:m", "judge_url": "http://h/v1?key=p"}, "no user, password"),
    ({"seed_field": "sed_id"}, "field sed_id: expected the name of a seed"),
    ({"encoder": "lm"}, "got 'lm'"), ({"max_repetition": 2.0}, "less than or equal to 1"),
])  # fmt: skip
def test_what_cannot_be_used_is_said(files: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        measure(files, **options)
    assert not (files / "q.json").exists()


class Exact:
    """Knows: long texts lie, and a text is relevant that begins like its seed."""

    def describe(self) -> dict[str, str]:
        return {"judge": "exact"}

    def judge(self, texts, seeds):
        return [Judgement(len(t) > 300, None if s is None else t[:1] != s[:1])
                for t, s in zip(texts, seeds, strict=True)]  # fmt: skip


def test_a_plan_takes_a_worlds_judge(
    small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from synboot.experiment import judges
    from synboot.experiment.plan import make_plan
    from synboot.experiment.recipe import load_recipe

    recipe = load_recipe(small_recipe)
    without = make_plan(recipe, tmp_path)
    monkeypatch.setattr(judges, "world_judge", lambda recipe: Exact())
    judged = make_plan(recipe, tmp_path)
    assert judged.quality.config["judge"] == {"judge": "exact"}
    assert [s.id for s in judged.stages if s.name != "quality"] == [
        s.id for s in without.stages if s.name != "quality"
    ]
    assert judged.quality.id != without.quality.id
    assert judged.quality.config["judge_documents"] == recipe.quality.sample_documents


def test_a_plan_of_a_finished_run_reads_no_judge(small_recipe: Path, tmp_path: Path) -> None:
    """The model that judged is not there any more."""
    from synboot.experiment.judges import FinishedJudge
    from synboot.experiment.plan import make_plan
    from synboot.experiment.recipe import load_recipe

    recipe = load_recipe(small_recipe, ["quality.judge={name: 'model:/nowhere'}"])
    with pytest.raises(BadInput, match="no such directory"):
        make_plan(recipe, tmp_path)
    plan = make_plan(recipe, tmp_path, "0" * 64, judge=FinishedJudge({"judge": "model"}))
    assert plan.quality.config["judge"] == {"judge": "model"}


def test_a_run_has_its_quality(finished_run: Path) -> None:
    """result.json, the report, and the verb on the run's own file say the same of its texts."""
    result = json.loads((finished_run / "small" / "result.json").read_text())
    quality = result["quality"]
    stages = json.loads((finished_run / "small" / "stages.json").read_text())
    where = {stage["name"]: finished_run / stage["directory"] for stage in stages}
    rows = pq.read_table(where["synthesize"] / "synthetic.parquet").to_pylist()
    scores = pq.read_table(where["quality"] / "documents.parquet").to_pylist()
    assert [row["id"] for row in rows] == [row["id"] for row in scores]
    assert [row["num_tokens"] for row in rows] == [row["tokens"] for row in scores]
    assert quality["documents"]["synthetic"] == quality["documents"]["with_seed"] == len(rows)
    assert quality["documents"]["real"] == result["unique"]["documents"]
    assert quality["documents"]["real_pairs"] == 2 * result["pairs"]["kept"]
    tokens = quality["real"]["lengths"]["tokens"]
    assert tokens["mean"] * tokens["documents"] == pytest.approx(result["unique"]["tokens"])
    page = (finished_run / "small" / "report.html").read_text()
    assert "What the synthetic text is like" in page
    both = min(len(rows), quality["documents"]["real"])
    assert f"duplicate@{both}" in page
    assert "distinct 2-grams" in page
    assert "compression ratio" in page


def test_a_run_of_before_has_a_report_without_what_came_later(
    finished_run: Path, tmp_path: Path
) -> None:
    """One that was finished when there were no such stages."""
    runs = shutil.copytree(finished_run, tmp_path / "runs", symlinks=True)
    stages = json.loads((runs / "small" / "stages.json").read_text())
    for name in ("quality", "seed_use"):
        later = next(stage for stage in stages if stage["name"] == name)
        shutil.rmtree(runs / later["directory"])
        stages.remove(later)
    (runs / "small" / "stages.json").write_text(json.dumps(stages))
    result = dict(synboot.report(runs / "small", tmp_path / "page.html").counts)
    whole = json.loads((finished_run / "small" / "result.json").read_text())
    assert "quality" not in result
    assert "seed_use" in whole["synthesizer"]
    assert "seed_use" not in result["synthesizer"]
    assert result["arms"] == whole["arms"]
    assert "What the synthetic text is like" not in (tmp_path / "page.html").read_text()


def test_a_stage_counts_what_an_exact_judge_says(files: Path) -> None:
    """Every document is asked of, beside the text of its own seed."""
    from synboot.core.events import EventLog, QuietDisplay
    from synboot.experiment.stages.files import DocumentsStage
    from synboot.experiment.stages.quality import QualityStage
    from synboot.pipeline.runner import Runner
    from synboot.verbs.inputs import documents_stage, machine, pairs_stage

    out = files / "out.json"
    real = documents_stage({"train": files / "real.jsonl"}, {}, out, seed=0)
    made = documents_stage({"train": files / "synthetic.parquet"}, {}, out, seed=0)
    made = DocumentsStage(made.config | {"id_field": None}, seed=0, files=made.files)
    inputs = {"corpus": real, "synthetic": made}
    inputs["pairs"] = pairs_stage(files / "pairs.jsonl", real, out)
    config = {
        "sample_documents": 100, "max_repetition": 0.2, "duplicate_similarity": 0.6,
        "duplicate_words": 5, "judge": {"judge": "exact"}, "judge_documents": 100,
        "seed_field": "seed_id",
    }  # fmt: skip
    numerics = machine(workers=1).numerics.parts
    stage = QualityStage(config, inputs, seed=0, numerics=numerics, judge=Exact())
    runner = Runner(files / "store", 1, EventLog(None), QuietDisplay())
    artifact = runner.run([*inputs.values(), stage])[stage.id]
    found = json.loads(artifact.file("quality.json").read_text())
    texts = {d["id"]: d["text"] for d in REAL}
    rows = synthetic_rows()
    ours, beside = found["synthetic"]["judged"], found["real"]["judged"]
    assert ours["non_factual"]["count"] == sum(len(row["text"]) > 300 for row in rows)
    seeded = [row for row in rows if row["seed_id"]]
    assert ours["irrelevant"]["count"] == sum(
        row["text"][0] != texts[row["seed_id"]][0] for row in seeded
    )
    assert (ours["asked"], ours["irrelevant"]["documents"]) == (30, len(seeded))
    pairs = [(f"t{t}-{a}", f"t{t}-{a + 1}") for t in range(10) for a in (0, 2, 4)]
    assert beside["irrelevant"]["count"] == sum(texts[a][0] != texts[b][0] for a, b in pairs)
    assert beside["non_factual"]["count"] == sum(len(texts[b]) > 300 for _, b in pairs)
    judged = {row["id"]: row for row in pq.read_table(artifact.file("judged.parquet")).to_pylist()}
    for i, row in enumerate(rows, 1):
        assert judged[f"synthetic.parquet:{i}"]["non_factual"] == (len(row["text"]) > 300)
    assert found["judge"] == {"judge": "exact"}


def test_a_model_on_this_disk_judges(files: Path) -> None:
    from synboot.data.tokenizer import train_tokenizer
    from synboot.eval.judge import PROMPTS, ModelJudge
    from synboot.model.architecture import new_model, save_model
    from synboot.model.settings import Shape

    tokenizer = train_tokenizer([*PROMPTS.values(), *(d["text"] for d in REAL)], 400)
    vocab_size, end_id = tokenizer.vocab_size, tokenizer.end_id
    shape = Shape(1, 16, 2, 1, 8, 32)
    network = new_model(shape, vocab_size=vocab_size, context=700, end_id=end_id, seed=0)
    save_model(network, files / "model")
    tokenizer.save(files / "model")
    found = measure(files, judge=f"model:{files / 'model'}", judge_documents=6, relevance=False)
    assert found["judge"]["prompts"] == PROMPTS
    assert found["judge"]["model"] == ModelJudge(files / "model").describe()["model"]
    for side in ("synthetic", "real"):
        judged = found[side]["judged"]
        assert judged["asked"] == judged["non_factual"]["documents"] == 6
        assert set(judged["problems"]) <= {"cut"}
