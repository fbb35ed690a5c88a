"""The public functions: what they refuse, what their ids depend on, what they leave alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import synboot
from synboot.core.errors import BadInput
from synboot.core.storage import read_json
from synboot.data.tokenizer import train_tokenizer
from synboot.model.architecture import new_model, save_model
from synboot.model.flops import known_cost
from synboot.model.settings import Shape
from synboot.verbs.inputs import documents_stage, given_model, machine, token_stages

SHAPE = {"preset": "0.6m", "context": 32, "vocab_size": 300, "num_validations": 1}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a train and a valid file of documents of a few words."""
    folder = tmp_path_factory.mktemp("corpus")
    for split, count in (("train", 40), ("valid", 5)):
        records = [
            {
                "id": f"{split}{i}",
                "text": " ".join(f"{split[0]}{(i * j) % 11} of" for j in range(9)),
            }
            for i in range(count)
        ]
        text = "\n".join(map(json.dumps, records))
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory of a few kilobytes."""
    directory = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer([f"t{i} of t{i}" for i in range(11)], 280)
    shape = Shape(1, 16, 2, 1, 8, 32)
    vocab_size, end_id = tokenizer.vocab_size, tokenizer.end_id
    save_model(
        new_model(shape, vocab_size=vocab_size, context=32, end_id=end_id, seed=0), directory
    )
    tokenizer.save(directory)
    return directory


def pretrain(corpus: Path, output: Path, **options: Any) -> synboot.verbs.work.Outcome:
    settings = {"tokens": 200, "threads": 1, "quiet": True, **SHAPE} | options
    return synboot.pretrain(corpus, output, **settings)


def test_the_chosen_checkpoint_is_part_of_the_id(corpus: Path, tmp_path: Path) -> None:
    best = pretrain(corpus, tmp_path / "model")
    assert read_json(tmp_path / "model" / "manifest.json")["checkpoint"] == "best"
    with pytest.raises(BadInput, match="other settings"):
        pretrain(corpus, tmp_path / "model", checkpoint="last")
    last = pretrain(corpus, tmp_path / "model", checkpoint="last", overwrite=True)
    assert last.id != best.id
    assert read_json(tmp_path / "model" / "manifest.json")["checkpoint"] == "last"


def test_micro_batches_are_no_part_of_the_id(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks of dropout do not depend on them."""
    whole = pretrain(corpus, tmp_path / "whole", dropout=0.2)
    monkeypatch.setenv("SYNBOOT_RUNTIME__MICRO_ROWS", "2")
    assert pretrain(corpus, tmp_path / "whole", dropout=0.2).id == whole.id


def test_a_tokenizers_ends_are_part_of_ids(corpus: Path, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in model.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = read_json(other / "tokenizer_config.json")
    (other / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "a"}))
    documents = documents_stage({"train": corpus}, {}, tmp_path / "out", seed=0)
    ids = {
        token_stages(documents, machine(), model=directory)["tokens"].id
        for directory in (model, other)
    }
    assert len(ids) == 2


def test_changed_weights_are_no_longer_what_a_verb_made(corpus: Path, tmp_path: Path) -> None:
    made = pretrain(corpus, tmp_path / "model")
    assert given_model(made.path, None).name == made.id
    weights = bytearray((made.path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (made.path / "model.safetensors").write_bytes(weights)
    assert given_model(made.path, None).name != made.id


def test_a_missing_file_of_a_finished_output_is_noticed(corpus: Path, tmp_path: Path) -> None:
    made = pretrain(corpus, tmp_path / "model")
    (made.path / "model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"model\.safetensors: is missing or was changed"):
        pretrain(corpus, tmp_path / "model")
    assert pretrain(corpus, tmp_path / "model", overwrite=True).id == made.id
    assert (made.path / "model.safetensors").is_file()


def test_overwrite_spares_what_synboot_did_not_make(corpus: Path, tmp_path: Path) -> None:
    made = pretrain(corpus, tmp_path / "model")
    (made.path / "NOTES.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"holds NOTES\.txt"):
        pretrain(corpus, tmp_path / "model", tokens=300, overwrite=True)
    assert (made.path / "NOTES.txt").read_text() == "mine"


def test_an_output_inside_the_corpus_is_refused(corpus: Path) -> None:
    before = sorted(corpus.iterdir())
    with pytest.raises(BadInput, match="would become a part of the corpus"):
        synboot.find_pairs(corpus, corpus / "pairs.parquet", quiet=True)
    assert sorted(corpus.iterdir()) == before


def test_unfinished_work_is_no_part_of_a_corpus(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    (folder / "x.partial").mkdir(parents=True)
    (folder / "x.partial" / "events.jsonl").write_text('{"event": "begun"}\n')
    (folder / "train.jsonl").write_bytes((corpus / "train.jsonl").read_bytes())
    documents = documents_stage({"train": folder}, {}, tmp_path / "out", seed=0)
    assert [file.name for file in documents.files["train"]] == ["train.jsonl"]


def test_threads_come_back_as_they_were(corpus: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads(), os.environ.get("TOKENIZERS_PARALLELISM")
    pretrain(corpus, tmp_path / "model", threads=3)
    assert (torch.get_num_threads(), os.environ.get("TOKENIZERS_PARALLELISM")) == before


def test_a_mixture_of_experts_has_no_flops_and_no_other_trouble() -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, num_local_experts=2,
    )  # fmt: skip
    with torch.device("meta"):
        assert known_cost(MixtralForCausalLM(config)) is None


REFUSED: dict[str, tuple[Callable[[Path, Path, Path], object], str]] = {
    "checkpoint": (lambda c, m, o: pretrain(c, o, checkpoint="foo"), "expected best or last"),
    "tokens 0": (lambda c, m, o: pretrain(c, o, tokens=0), "tokens: expected a whole number"),
    "tokens 6.5": (lambda c, m, o: pretrain(c, o, tokens=6.5), "tokens: expected a whole"),
    "tokens text": (lambda c, m, o: pretrain(c, o, tokens="600"), "tokens: expected a whole"),
    "context 0": (lambda c, m, o: pretrain(c, o, context=0), "model.context|context"),
    "valid_fraction 0": (
        lambda c, m, o: pretrain(c / "train.jsonl", o, valid_fraction=0),
        "valid_fraction: expected between",
    ),
    "valid_fraction 2": (
        lambda c, m, o: pretrain(c / "train.jsonl", o, valid_fraction=2),
        "valid_fraction: expected between",
    ),
    "vocab_size beside a tokenizer": (
        lambda c, m, o: pretrain(c, o, tokenizer=m), "there is a tokenizer already"
    ),
    "valid_fraction beside files": (
        lambda c, m, o: pretrain(c, o, valid_fraction=0.1), "validation text already"
    ),
    "similarities": (
        lambda c, m, o: synboot.find_pairs(c, f"{o}.parquet", max_similarity=0.1), "is above"
    ),
    "parent": (lambda c, m, o: synboot.split_corpus(c / "train.jsonl", ".."), "with a name"),
    "neither": (lambda c, m, o: pretrain(c, o, preset=None), "either preset"),
    "evaluate context": (
        lambda c, m, o: synboot.evaluate(m, c / "valid.jsonl", f"{o}.parquet", context=-5),
        "context: expected",
    ),
    "evaluate beyond": (
        lambda c, m, o: synboot.evaluate(m, c / "valid.jsonl", f"{o}.parquet", context=64),
        "has 32 positions",
    ),
    "no test file": (
        lambda c, m, o: synboot.evaluate(m, c, f"{o}.parquet"), "no file of the split test"
    ),
    "split .": (lambda c, m, o: synboot.split_corpus(c / "train.jsonl", "."), "with a name"),
    "url": (
        lambda c, m, o: synboot.find_pairs(c, "memory://x.parquet"), "on this machine"
    ),
    "suffix": (lambda c, m, o: synboot.find_pairs(c, "pairs.csv"), r"ends in \.parquet"),
    "encoder": (
        lambda c, m, o: synboot.find_pairs(c, f"{o}.parquet", encoder="bert"), "expected lsa, lm"
    ),
    "lm alone": (
        lambda c, m, o: synboot.find_pairs(c, f"{o}.parquet", encoder="lm"), "takes a model"
    ),
    "unknown reading": (
        lambda c, m, o: synboot.find_pairs(c, f"{o}.parquet", textfield="t"), "did you mean"
    ),
    "no arms": (lambda c, m, o: synboot.report({}, f"{o}.html"), "at least one arm"),
    "no files": (lambda c, m, o: synboot.report({"a": []}, f"{o}.html"), "expected scores"),
    "no such file": (
        lambda c, m, o: synboot.report({"a": "nowhere.parquet"}, f"{o}.html"), "no such file"
    ),
    "resamples": (
        lambda c, m, o: synboot.report({"a": "x"}, f"{o}.html", bootstrap_resamples=1),
        "100 at least",
    ),
    "no run": (lambda c, m, o: synboot.report(c, f"{o}.html"), "directory of a run"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_a_line_and_nothing_left(
    name: str, corpus: Path, model: Path, tmp_path: Path
) -> None:
    call, expected = REFUSED[name]
    with pytest.raises(BadInput, match=expected) as caught:
        call(corpus, model, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_too_few_pairs_are_counted_as_pairs(corpus: Path, model: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"d1": ["train1", "train2"], "d2": ["train2", "train3"]}), pairs)
    with pytest.raises(BadInput, match="2 pairs cannot be split"):
        synboot.tune(pairs, tmp_path / "out", corpus=corpus, model=model, quiet=True)


def test_a_comparison_knows_how_its_arms_were_trained(corpus: Path, tmp_path: Path) -> None:
    for arm, tokens in (("repetition", 400), ("sbp", 200)):
        pretrain(corpus, tmp_path / arm, tokens=tokens)
        synboot.evaluate(
            tmp_path / arm,
            corpus / "valid.jsonl",
            tmp_path / f"{arm}.parquet",
            threads=1,
            quiet=True,
        )
    source = {arm: tmp_path / f"{arm}.parquet" for arm in ("repetition", "sbp")}
    # The tokenizers are alike, so that the arms can be compared.
    made = synboot.report(source, tmp_path / "report.html", bootstrap_resamples=100)
    assert [arm["trained_tokens"] for arm in made.counts["arms"].values()] == [400, 200]
    assert any("repetition 400, sbp 200" in caveat for caveat in made.counts["caveats"])
    again = synboot.report(source, tmp_path / "report.html", bootstrap_resamples=100)
    assert again.id == made.id
    with pytest.raises(BadInput, match="is there already"):
        synboot.report({"sbp": source["sbp"]}, tmp_path / "report.html")
    noted = ("one <b>&", "another [one]")
    for name in ("noted.html", "noted.md"):
        synboot.report(source, tmp_path / name, bootstrap_resamples=100, note=noted)
    synboot.report(source, tmp_path / "one.html", bootstrap_resamples=100, note="one note")
    assert "<p>one note</p>" in (tmp_path / "one.html").read_text()
    page = (tmp_path / "noted.html").read_text()
    assert page.index("</h1>") < page.index("<p>one &lt;b&gt;&amp;</p>") < page.index("<nav")
    assert "\n\nanother \\[one\\]\n" in (tmp_path / "noted.md").read_text()


def test_groups_of_documents_go_from_evaluate_into_the_report(
    corpus: Path, model: Path, tmp_path: Path
) -> None:
    records = [json.loads(line) for line in (corpus / "train.jsonl").read_text().splitlines()]
    sites = [f"site {i % 8}" if i else None for i in range(len(records))]
    rows = [record | {"site": site} for record, site in zip(records, sites, strict=True)]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = {}
    for name, reading in (("grouped", {"group_field": "site"}), ("alone", {})):
        output = tmp_path / f"{name}.parquet"
        synboot.evaluate(model, tmp_path / "texts.jsonl", output, threads=1, quiet=True, **reading)
        assert pq.read_table(output)["group"].to_pylist() == (sites if reading else [None] * 40)
        made = synboot.report(
            {"repetition": output}, tmp_path / f"{name}.html", bootstrap_resamples=100
        )
        found[name] = made.counts["statistics"]
    assert (found["grouped"]["groups"], found["alone"]["groups"]) == (9, None)
    both = {"repetition": tmp_path / "grouped.parquet", "sbp": tmp_path / "alone.parquet"}
    with pytest.raises(BadInput, match="differ in groups"):
        synboot.report(both, tmp_path / "both.html", bootstrap_resamples=100)
    # As evaluate wrote before it knew of groups.
    earlier = pq.read_table(tmp_path / "grouped.parquet").drop_columns(["group"])
    pq.write_table(earlier, tmp_path / "earlier.parquet")
    made = synboot.report({"repetition": tmp_path / "earlier.parquet"}, tmp_path / "e.html")
    assert made.counts["statistics"]["groups"] is None
