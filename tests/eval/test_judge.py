"""What judges ask and understand; a model on disk against plain transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synboot.core.judgement import Judgement
from synboot.data.tokenizer import TextTokenizer, train_tokenizer
from synboot.eval.judge import PROMPTS, Answer, ModelJudge, fill, parse_answer
from synboot.eval.quality.judged import judge_sides, judged_figures
from synboot.model.architecture import load_model, new_model, save_model
from synboot.model.settings import Shape

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("yes", True), ("No.", False), ("  **Yes**, it is", True), ("NO\n", False),
        ("<think>no, it says yes</think>\nyes", True), ("<think>yes", None), ("", None),
        (None, None), ("maybe", None), ("I think yes", None), ("nothing", None),
        ("yesterday", None), ("No idea.", None), ("no comment", None),
        ("No answer can be given", None), ("Yes or no?", None), ("Yes/No", None),
        ("No, yes", None), ("no: Yes", None), ("No, there is no error", False),
        ("**No**", False), ("\"yes\"", True), ("'No'.", False), ("(no)", False), ("yes ", True),
        ("Yes \nNo doubt", True), ("no\r\nbecause yes", False), ("no-one knows", None),
    ],
)  # fmt: skip
def test_answers_are_understood_or_not_at_all(content: str | None, expected: bool | None) -> None:
    assert parse_answer(content) is expected


@settings(deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_texts_stand_in_prompts_as_they_are(text: str, seed: str) -> None:
    text += "{seed}{text}{x}\\1"
    assert fill("non_factual", text, seed) == PROMPTS["non_factual"].replace("{text}", text)
    before, middle, after = PROMPTS["irrelevant"].replace("{text}", "{seed}").split("{seed}")
    assert fill("irrelevant", text, seed) == before + seed + middle + text + after


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory of a few kilobytes, with weights large enough for opinions."""
    directory = tmp_path_factory.mktemp("judge")
    tokenizer = train_tokenizer([prompt.replace("-", " ") for prompt in PROMPTS.values()], 400)
    network = new_model(
        Shape(2, 16, 2, 1, 8, 32), vocab_size=tokenizer.vocab_size, context=512,
        end_id=tokenizer.end_id, seed=3,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12.0)
    save_model(network, directory)
    tokenizer.save(directory)
    return directory


@torch.no_grad()
def likelihood(network, tokenizer: TextTokenizer, pieces: list[str], answer: str) -> float:
    """Token by token: one forward pass for each token of the answer."""
    ids = [tokenizer.start_id]
    for piece in pieces:
        ids += tokenizer.encode([piece])[0].tolist()
    total = 0.0
    for token in tokenizer.encode([answer])[0].tolist():
        logits = network(input_ids=torch.tensor([ids])).logits[0, -1].double()
        total += float(logits.log_softmax(-1)[token])
        ids.append(token)
    return total


def test_a_model_says_what_plain_transformers_finds_likelier(model: Path) -> None:
    judge = ModelJudge(model)
    network, tokenizer = load_model(model), TextTokenizer.load(model)
    texts = [f"the text {i} is {i * 7} and {'not ' * (i % 3)}about it" for i in range(12)]
    seeds = [None if i % 4 == 0 else f"first {i} of two" for i in range(12)]
    found = judge.judge(texts, seeds)
    opinions = set()
    for text, seed, answer in zip(texts, seeds, found, strict=True):
        for question, said in (
            ("non_factual", answer.non_factual),
            ("irrelevant", answer.irrelevant),
        ):
            if question == "irrelevant" and seed is None:
                assert said is None
                continue
            prompt = PROMPTS[question].replace("{seed}", "\0seed\0").replace("{text}", "\0text\0")
            places = {"seed": seed, "text": text}
            pieces = [places.get(p, p) for p in prompt.split("\0")]
            yes, no = (likelihood(network, tokenizer, pieces, f" {word}") for word in ("yes", "no"))
            assert said == (yes > no)
            opinions.add((question, said))
        assert answer.problems == ()
    assert len(opinions) >= 3, "the model has no opinions to compare"


def test_long_texts_are_cut_and_the_question_never_is(model: Path) -> None:
    judge = ModelJudge(model)
    short, long = "a short text", "word " * 2000
    found = judge.judge([short, long, short], [short, short, long])
    assert [answer.problems for answer in found] == [(), ("cut",), ("cut",)]
    tokenizer = TextTokenizer.load(model)
    ids, cut = judge._prompt(tokenizer, "irrelevant", long, short, 4)
    assert cut
    assert len(ids) + 4 == 512
    text = tokenizer.decode(ids[1:])
    assert text.endswith(PROMPTS["irrelevant"].split("{text}")[1])
    assert short in text


def test_answers_of_a_model_are_kept(model: Path, tmp_path: Path) -> None:
    texts, seeds = ["one text", "word " * 2000, "third"], ["a seed", None, "a seed"]
    found = ModelJudge(model, answers=tmp_path).judge(texts, seeds)
    assert found == ModelJudge(model).judge(texts, seeds)
    files = sorted(tmp_path.rglob("*.json"))
    assert len(files) == 5
    again = ModelJudge(model, answers=tmp_path)
    again._ask = None  # type: ignore[assignment,method-assign]
    assert again.judge(texts, seeds) == found
    files[0].write_text("[]")
    assert ModelJudge(model, answers=tmp_path).judge(texts, seeds) == found


def test_its_description_names_prompts_and_model(model: Path) -> None:
    described = ModelJudge(model).describe()
    assert described["prompts"] == PROMPTS
    assert len(described["model"]) == 24


class Scripted:
    """Judges by what a text says of itself."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def describe(self) -> dict[str, str]:
        return {"judge": "scripted"}

    def judge(self, texts, seeds):
        self.calls.append(len(texts))
        return [
            Answer(None, None, ("budget",))
            if "budget" in text
            else Judgement("false" in text, None if seed is None else seed not in text)
            for text, seed in zip(texts, seeds, strict=True)
        ]


def test_rates_are_among_what_was_decided() -> None:
    judge = Scripted()
    texts = ["false a", "true a", "true b", "budget", "false c"] * 8
    seeds = ["a", "b", "b", "a", None] * 8
    real = ["true"] * 3
    reports: list[float] = []
    found = judge_sides(judge, [(texts, seeds), (real, [None] * 3)],
                        lambda done, total, note: reports.append(done / total))  # fmt: skip
    assert judge.calls == [16, 3, 16, 8]
    assert reports == sorted(reports)
    assert reports[-1] == 1.0
    synthetic, beside = map(judged_figures, found)
    assert (synthetic["non_factual"]["count"], synthetic["non_factual"]["documents"]) == (16, 32)
    assert (synthetic["irrelevant"]["count"], synthetic["irrelevant"]["documents"]) == (8, 24)
    assert synthetic["problems"] == {"budget": 8}
    assert beside["non_factual"]["count"] == 0
    assert beside["irrelevant"]["rate"] is None
    assert np.isclose(synthetic["non_factual"]["rate"], 0.5)


def test_a_judge_that_asks_several_at_once_gets_as_many() -> None:
    judge = Scripted()
    judge.at_once = 40
    judge.while_waiting = lambda: None
    said: list[tuple[float, float]] = []
    judge_sides(
        judge, [(["a"] * 50, [None] * 50)], lambda done, total, _: said.append((done, total))
    )
    assert judge.calls == [40, 10]
    judge.while_waiting()
    assert said == [(0, 50), (40, 50), (50, 50), (50, 50)]
