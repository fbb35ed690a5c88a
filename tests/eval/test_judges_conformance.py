"""Law 9: what holds for every judge that reads, however it comes to its judgements."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from synboot.core.judgement import Judge
from synboot.core.storage import canonical_json
from synboot.data.tokenizer import train_tokenizer
from synboot.eval.endpoint import Endpoint, EndpointJudge
from synboot.eval.judge import PROMPTS, ModelJudge
from synboot.model.architecture import new_model, save_model
from synboot.model.settings import Shape

sys.path.append(str(Path(__file__).parent))

from loopback import Server

torch.set_num_threads(1)
TEXTS = ["one", "", "two {seed}", "one", "three 你好"]
SEEDS = ["a seed", "a seed", None, None, ""]


@pytest.fixture(params=["model", "endpoint"])
def judge(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Judge]:
    """Each implementation."""
    if request.param == "endpoint":
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with Server() as server:
            yield EndpointJudge(Endpoint(server.url, "reader"), tmp_path / "answers")
        return
    tokenizer = train_tokenizer(PROMPTS.values(), 300)
    vocab_size, end_id = tokenizer.vocab_size, tokenizer.end_id
    shape = Shape(1, 8, 1, 1, 8, 16)
    model = new_model(shape, vocab_size=vocab_size, context=700, end_id=end_id, seed=0)
    save_model(model, tmp_path)
    tokenizer.save(tmp_path)
    yield ModelJudge(tmp_path)


def test_a_judge_says_something_of_every_text_in_order(judge: Judge) -> None:
    found = judge.judge(TEXTS, SEEDS)
    assert len(found) == len(TEXTS)
    for answer, seed in zip(found, SEEDS, strict=True):
        assert answer.non_factual in (True, False)
        assert (answer.irrelevant is None) == (seed is None)
    alone = [judge.judge([text], [seed])[0] for text, seed in zip(TEXTS, SEEDS, strict=True)]
    assert alone == list(found)
    assert list(judge.judge([], [])) == []


def test_a_judge_describes_itself_in_plain_values(judge: Judge) -> None:
    described = dict(judge.describe())
    assert canonical_json(described) == canonical_json(dict(judge.describe()))
    assert described["model"]
    assert described["prompts"] == PROMPTS
