"""lm-evaluation-harness on a model directory and on our items; CI without the extra `eval` skips
what needs it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from synboot.core.errors import BadInput, SynbootError
from synboot.data.tokenizer import TextTokenizer, train_tokenizer
from synboot.eval.choices import encode_requests, joined, score_requests
from synboot.eval.harness import harness_answers, harness_version, require_readable, write_task
from synboot.eval.tasks import Item
from synboot.model.architecture import load_model, save_model

sys.path.append(str(Path(__file__).parents[1] / "model"))

from tiny import tiny_model, words

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed"
)
CONTEXT = 48
TEXTS = words(30, seed=5)


def items_of(kind: str) -> list[Item]:
    def cut(text: str, start: int, stop: int) -> str:
        return " ".join(text.split()[start:stop])

    if kind == "last_word":
        return [Item(f"{n}", None, cut(t, 0, -1), " ", (t.split()[-1],), 0, t)
                for n, t in enumerate(TEXTS)]  # fmt: skip
    if kind == "minimal_pairs":
        pairs = [(cut(t, 0, 6), cut(TEXTS[n - 1], 0, 5)) for n, t in enumerate(TEXTS)]
        return [Item(f"{n}", None, "", " ", pair, 0, pair[0]) for n, pair in enumerate(pairs)]
    return [
        Item(f"{n}", None, f"Question: {cut(t, 0, 3)}\nAnswer:", " ",
             tuple(cut(TEXTS[n - k], 3, 4 + k) for k in range(3)), n % 3, t)
        for n, t in enumerate(TEXTS)
    ]  # fmt: skip


def test_what_the_harness_cannot_read_is_refused() -> None:
    tokenizer = train_tokenizer(["aaaa bb " * 40], vocab_size=300)
    fine = Item("fine", None, "bb", " ", ("aaaa", "bb"), 0, "")
    together = Item("together", None, "aa", "", ("aa", " bb"), 0, "")
    long = Item("long", None, "bb", " ", ("aaaa", "bb" * 50), 0, "")

    def read(*items: Item) -> None:
        requests = encode_requests(tokenizer, [pair for item in items for pair in item.pairs])
        require_readable(tokenizer, items, requests, CONTEXT)

    read(fine)
    assert joined(tokenizer, [*fine.pairs, *together.pairs, ("", "a")]) == [
        False, False, True, False, False]  # fmt: skip
    with pytest.raises(BadInput, match=r"item together: its context and a choice meet"):
        read(fine, together)
    with pytest.raises(
        BadInput, match=r"item long: a choice has \d+ tokens, the model's context 48"
    ):
        read(fine, long)


def test_the_hint_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(SynbootError, match=r"pip install 'synboot\[eval\]'"):
        harness_version()
    with pytest.raises(SynbootError, match=r"pip install 'synboot\[eval\]'"):
        harness_answers(Path(), {})


def test_the_task_that_the_program_of_the_harness_reads(tmp_path: Path) -> None:
    path = write_task("mine", items_of("choices"), tmp_path)
    config = yaml.safe_load(path.read_text())
    assert config["task"] == "mine"
    assert config["target_delimiter"] == " "
    data = Path(config["dataset_kwargs"]["data_files"]["test"])
    records = [json.loads(line) for line in data.read_text().splitlines()]
    assert len(records) == len(TEXTS)
    assert records[1]["prompt"].startswith("Question: ")
    assert records[1]["gold"] == 1


@needs_harness
@pytest.mark.parametrize("layout", ["qwen3", "gpt2"])
def test_equal_to_the_harness(layout: str, tmp_path: Path) -> None:
    """Likelihoods within 1e-3 nats, and every choice that is not decided by less than that."""
    tokenizer = train_tokenizer(TEXTS, 300)
    model = tiny_model(
        layout, vocab_size=tokenizer.vocab_size, context=CONTEXT, end_id=tokenizer.end_id
    )
    save_model(model, tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    tasks = {kind: items_of(kind) for kind in ("choices", "minimal_pairs", "last_word")}
    found = harness_answers(tmp_path / "model", tasks, context=CONTEXT)
    loaded = TextTokenizer.load(tmp_path / "model")
    for name, items in tasks.items():
        groups = [encode_requests(loaded, item.pairs) for item in items]
        ours = score_requests(
            load_model(tmp_path / "model"), groups, context=CONTEXT, device=torch.device("cpu")
        )
        np.testing.assert_allclose(found[name].nats, ours.nats, atol=1e-3, rtol=0)
        assert found[name].greedy.tolist() == ours.greedy.tolist()
    sizes = [[len(choice) for choice in item.choices] for item in tasks["choices"]]
    nats = found["choices"].nats.reshape(-1, 3)
    gold = np.array([item.gold for item in tasks["choices"]])
    metrics = found["choices"].metrics
    assert metrics["acc"] == pytest.approx((nats.argmin(1) == gold).mean())
    assert metrics["acc_norm"] == pytest.approx(((nats / sizes).argmin(1) == gold).mean())
    assert found["last_word"].metrics["perplexity"] == pytest.approx(
        np.exp(found["last_word"].nats.mean()), rel=1e-6
    )
