"""Judges that read: what they are asked, how answers are understood, and a model on this disk.

A judge is asked two questions of each text, answered by yes or no: does it state something false,
and is it about something else than its seed document. An answer that is neither is counted as such
and never guessed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from synboot.core.judgement import Judgement
from synboot.core.storage import digest, read_json, write_json
from synboot.data.tokenizer import TextTokenizer
from synboot.model.architecture import context_of, load_model, model_digest, read_config

Question = Literal["non_factual", "irrelevant"]
QUESTIONS: tuple[Question, ...] = ("non_factual", "irrelevant")

PROMPTS: dict[Question, str] = {
    "non_factual": (
        "Below is a text between two lines of dashes.\n"
        "-----\n{text}\n-----\n"
        "Does the text state anything that can be checked and is false? Judge facts, not style, "
        "and not that the text ends early. Answer with one word, yes or no.\nAnswer:"
    ),
    "irrelevant": (
        "Below are two texts, each between two lines of dashes.\n"
        "First text:\n-----\n{seed}\n-----\n"
        "Second text:\n-----\n{text}\n-----\n"
        "Is the second text about another topic, event or entity than the first, so that the two "
        "are unrelated? Answer with one word, yes or no.\nAnswer:"
    ),
}
"""What is asked; yes is the fault. `{text}` and `{seed}` stand for the texts."""

_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_ANSWER = re.compile(
    r"\W*(yes|no)(?=[.,;:!*\"'`)\]\u2019\u201d\u3002\uff0c\uff01]|\s*$|\s*\n)([^\n]*)",
    re.IGNORECASE,
)
_WORD = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_PLACES = re.compile(r"\{(text|seed)\}")


@dataclass(frozen=True)
class Answer(Judgement):
    """A judgement, and what went wrong with it: `unparsed_QUESTION` (neither yes nor no),
    `failed_QUESTION` (no answer came), `budget` (not asked any more), `cut` (the text or its seed
    was too long to be shown whole)."""

    problems: tuple[str, ...] = ()


def parse_answer(content: str | None) -> bool | None:
    """True for yes, False for no, None for anything else: the word comes first and ends there (at
    a mark, a line break or the end: not "no idea"), and the other one is not in its line. What a
    model thinks aloud before its answer (`<think>...</think>`) is passed over."""
    match = _ANSWER.match(_THOUGHT.sub("", content or ""))
    if match is None:
        return None
    said = match[1].lower()
    return said == "yes" if {word.lower() for word in _WORD.findall(match[2])} <= {said} else None


def fill(question: Question, text: str, seed: str) -> str:
    """The prompt of a question, with the texts in their places; braces in them stay as they are."""
    texts = {"text": text, "seed": seed}
    return _PLACES.sub(lambda place: texts[place[1]], PROMPTS[question])


class ModelJudge:
    """A causal LM on this disk: yes, if it finds " yes" likelier than " no" after the prompt.

    Every question has an answer, so none is ever unparsed; what the answers are worth depends on
    the model, and is to be measured where the truth is known. Answers are kept below `answers`, if
    that is given, and not asked for again.
    """

    def __init__(
        self, directory: Path, *, answers: Path | None = None, device: str = "cpu"
    ) -> None:
        self._answers = answers
        self._directory = directory
        self._device = torch.device(device)
        self._content = model_digest(directory)
        self._context = context_of(read_config(directory))
        self._loaded: tuple[Any, TextTokenizer] | None = None

    def describe(self) -> Mapping[str, Any]:
        """Its model by the digest of its content, and the prompts."""
        return {
            "judge": "model",
            "model": self._content,
            "context": self._context,
            "prompts": dict(PROMPTS),
            "answers": [" yes", " no"],
        }

    def judge(self, texts: Sequence[str], seeds: Sequence[str | None]) -> list[Answer]:
        """One judgement for each text."""
        return [self._judge(text, seed) for text, seed in zip(texts, seeds, strict=True)]

    def _judge(self, text: str, seed: str | None) -> Answer:
        non_factual, cut = self._answer("non_factual", text, "")
        irrelevant, also_cut = (None, False)
        if seed is not None:
            irrelevant, also_cut = self._answer("irrelevant", text, seed)
        return Answer(non_factual, irrelevant, ("cut",) if cut or also_cut else ())

    def _answer(self, question: Question, text: str, seed: str) -> tuple[bool, bool]:
        """As `_ask`, of an answer that was kept where there is one."""
        if self._answers is None:
            return self._ask(question, text, seed)
        prompt = fill(question, text, seed).encode("utf-8", "replace").decode()
        key = digest({"model": self._content, "context": self._context, "prompt": prompt})
        file = self._answers / key[:2] / f"{key}.json"
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            kept = read_json(file)
            if isinstance(kept["yes"], bool) and isinstance(kept["cut"], bool):
                return kept["yes"], kept["cut"]
        yes, cut = self._ask(question, text, seed)
        write_json(file, {"question": question, "model": self._content, "yes": yes, "cut": cut})
        return yes, cut

    @torch.inference_mode()
    def _ask(self, question: Question, text: str, seed: str) -> tuple[bool, bool]:
        """Whether yes is likelier than no, and whether a text was cut to fit the context."""
        if self._loaded is None:
            model = load_model(self._directory).to(self._device)
            self._loaded = model, TextTokenizer.load(self._directory)
        model, tokenizer = self._loaded
        answers = tokenizer.encode([" yes", " no"])
        prompt, cut = self._prompt(tokenizer, question, text, seed, max(map(len, answers)))
        rows = [np.concatenate([prompt, answer]) for answer in answers]
        length = max(map(len, rows))
        inputs = np.full(
            (2, length), tokenizer.end_id, dtype=np.int64
        )  # unseen: attention is causal
        for row, ids in zip(inputs, rows, strict=True):
            row[: len(ids)] = ids
        logits = model(input_ids=torch.from_numpy(inputs).to(self._device), use_cache=False).logits
        scores = logits[:, len(prompt) - 1 :].float().log_softmax(-1).cpu().numpy()
        yes, no = (
            float(sum(scores[row, place, token] for place, token in enumerate(answer.tolist())))
            for row, answer in enumerate(answers)
        )
        return yes > no, cut

    def _prompt(
        self, tokenizer: TextTokenizer, question: Question, text: str, seed: str, room: int
    ) -> tuple[np.ndarray, bool]:
        """Token ids of the prompt. Where it does not fit, texts are cut, each to an equal share of
        what the question leaves; the question never is."""
        pieces = _PLACES.split(PROMPTS[question])  # words and names of places in turn
        ids = tokenizer.encode([{"text": text, "seed": seed}.get(p, p) if i % 2 else p
                                for i, p in enumerate(pieces)])  # fmt: skip
        places = range(1, len(pieces), 2)
        fixed = 1 + room + sum(len(own) for i, own in enumerate(ids) if i % 2 == 0)
        left, cut = max(self._context - fixed, 0), False
        for number, place in enumerate(sorted(places, key=lambda i: len(ids[i]))):
            share = left // (len(places) - number)
            cut |= len(ids[place]) > share
            ids[place] = ids[place][:share]
            left -= len(ids[place])
        whole = np.concatenate([[tokenizer.start_id], *ids]).astype(np.int64)
        return whole[-(self._context - room) :], cut
