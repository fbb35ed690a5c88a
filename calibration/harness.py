"""Our scores of ARC-Easy, SciQ, PIQA, BLiMP and LAMBADA beside those of lm-evaluation-harness.

The harness puts the items with its own task definitions, ours with prompts of our own; both read
one model directory. `SYNBOOT_DATA` names a folder with the task files, `SYNBOOT_CALIBRATION_MODEL`
a model; without one a small model is pretrained on the news of that folder, since the logits of an
untrained one are near ties.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import synboot
from synboot.core.errors import SynbootError
from synboot.core.storage import write_json
from synboot.data.files import list_files
from synboot.data.tokenizer import TextTokenizer
from synboot.eval.choices import Request, encode_requests, score_requests
from synboot.eval.harness import harness_version
from synboot.eval.tasks import Form, Item, read_items, subset
from synboot.model.architecture import context_of, load_model, read_config

MIN_EQUAL_CHOICES = 0.995
MAX_DIFFERENCE = 1e-3  # of log-likelihoods, in nats
_QUICK_ITEMS = 100
_TRAINING_TOKENS = {True: 100_000, False: 600_000}
_BATCH_SIZE = 32

Record = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A task here and there: `theirs` names it in the harness, `record` gives it our item."""

    name: str
    file: str
    theirs: str
    record: Callable[[Record], Record]
    form: Form = field(default_factory=Form)


def _arc(item: Record) -> Record:
    labels = "ABCDE"[: len(item["choices"])]
    return {
        "question": item["query"],
        "choices": {"text": item["choices"], "label": list(labels)},
        "answerKey": labels[item["gold"]],
    }


def _sciq(item: Record) -> Record:
    wrong = [choice for place, choice in enumerate(item["choices"]) if place != item["gold"]]
    own = {f"distractor{place}": choice for place, choice in enumerate(wrong, 1)}
    return {
        "support": "",
        "question": item["query"],
        "correct_answer": item["choices"][item["gold"]],
        **own,
    }


def _piqa(item: Record) -> Record:
    first, second = item["choices"]
    goal = item["query"].removeprefix("Goal: ")
    return {"goal": goal, "sol1": first, "sol2": second, "label": item["gold"]}


TASKS = (
    Task("arc_easy", "eval_mc/arc_easy_test.jsonl.gz", "arc_easy", _arc),
    Task(
        "sciq",
        "eval_mc/sciq.jsonl.gz",
        "sciq",
        _sciq,
        Form(prompt="\nQuestion: {query}\nAnswer:"),  # theirs, without a supporting text
    ),
    Task(
        "piqa", "eval_mc/piqa_val.jsonl.gz", "piqa", _piqa, Form(remove_prefix="Goal: ")
    ),
    Task(
        "blimp",
        "eval_blimp/blimp.jsonl.gz",
        "blimp_adjunct_island",  # all of its tasks have one template
        lambda item: {"sentence_good": item["good"], "sentence_bad": item["bad"]},
    ),
    Task(
        "lambada",
        "eval_lambada/lambada_openai_test.jsonl.gz",
        "lambada_openai",
        lambda item: {"text": item["text"]},
    ),
)  # fmt: skip


def run(quick: bool) -> dict[str, Any]:
    """Every task with its items, equal choices, differences; `held` if all bounds hold. Raises
    SynbootError where the data or the harness is missing."""
    version = harness_version()
    data = Path(os.environ.get("SYNBOOT_DATA", ""))
    missing = [task.file for task in TASKS if not (data / task.file).is_file()]
    if missing:
        raise SynbootError(f"SYNBOOT_DATA: expected a folder with {missing[0]}, got {str(data)!r}")
    with tempfile.TemporaryDirectory() as folder:
        given = os.environ.get("SYNBOOT_CALIBRATION_MODEL")
        model = Path(given) if given else _pretrained(data, Path(folder), _TRAINING_TOKENS[quick])
        tasks = [_compare(task, data, model, Path(folder), quick) for task in TASKS]
        return {
            "harness": version,
            "quick": quick,
            "model": "given" if given else f"0.6m, {_TRAINING_TOKENS[quick]} tokens of news",
            "bounds": {"equal_choices": MIN_EQUAL_CHOICES, "max_difference": MAX_DIFFERENCE},
            "tasks": tasks,
            "held": all(
                own["equal_choices"] >= MIN_EQUAL_CHOICES
                and own["equal_choices_per_character"] >= MIN_EQUAL_CHOICES
                and own["max_difference"] <= MAX_DIFFERENCE
                and own["equal_texts"] == 1
                for own in tasks
            ),
        }


def _pretrained(data: Path, folder: Path, tokens: int) -> Path:
    news = data / "wikinews_small"
    shape = {"preset": "0.6m", "context": 512, "vocab_size": 2048}
    made = synboot.pretrain(str(news), folder / "model", tokens=tokens, quiet=True, **shape)
    return Path(made.path)


def _compare(task: Task, data: Path, model: Path, folder: Path, quick: bool) -> dict[str, Any]:
    items = read_items(list_files(str(data / task.file)), task.form)
    with gzip.open(data / task.file, "rt", encoding="utf-8") as file:
        records = {record["id"]: record for record in map(json.loads, file)}
    if task.name == "sciq":  # theirs has the right answer last
        items = [_gold_last(item) for item in items]
    items = subset(items, _QUICK_ITEMS if quick else None, 0, "calibration")
    tokenizer = TextTokenizer.load(model)
    context = context_of(read_config(model))
    requests = [encode_requests(tokenizer, item.pairs) for item in items]
    fits = [all(len(r.continuation) <= context for r in own) for own in requests]
    items = [item for item, fit in zip(items, fits, strict=True) if fit]
    requests = [own for own, fit in zip(requests, fits, strict=True) if fit]
    ours = score_requests(load_model(model), requests, context=context, device=torch.device("cpu"))
    theirs = _by_harness(task, [task.record(records[item.id]) for item in items], model, folder)
    return {
        "task": task.name,
        "items": len(items),
        "too_long_for_the_harness": fits.count(False),
        **_agreement(items, requests, -ours.nats, ours.greedy, theirs),
    }


def _gold_last(item: Item) -> Item:
    order = [*(i for i in range(len(item.choices)) if i != item.gold), item.gold]
    choices = tuple(item.choices[i] for i in order)
    return Item(item.id, item.category, item.context, item.delimiter, choices, len(order) - 1,
                item.text)  # fmt: skip


def _by_harness(
    task: Task, records: Sequence[Record], model: Path, folder: Path
) -> list[Mapping[str, Any]]:
    """The harness' samples of its own task on these records, in order."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    path = folder / f"{task.name}.jsonl"
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text("".join(lines), encoding="utf-8")
    manager = TaskManager()
    local = {
        "include": str(manager.task_index[task.theirs].yaml_path),
        "task": task.theirs,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": str(folder / "cache")},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
    }
    write_json(path.with_suffix(".yaml"), local)  # JSON is YAML
    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), "dtype": "float32"},
        tasks=[str(path.with_suffix(".yaml"))],
        device="cpu",
        batch_size=_BATCH_SIZE,
        bootstrap_iters=0,
        log_samples=True,
        task_manager=manager,
    )
    return sorted(found["samples"][task.theirs], key=lambda sample: sample["doc_id"])


def _agreement(
    items: Sequence[Item],
    requests: Sequence[Sequence[Request]],
    likelihoods: np.ndarray,
    greedy: np.ndarray,
    theirs: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    starts = np.cumsum([0, *map(len, requests)])
    texts = equal = equal_normalised = right = right_theirs = 0
    worst = 0.0
    for item, sample, start in zip(items, theirs, starts, strict=False):
        own = likelihoods[start : start + len(item.choices)]
        other = np.array([float(answer[0]) for answer in sample["filtered_resps"]])
        texts += [tuple(pair) for pair in sample["arguments"]] == item.pairs
        worst = max(worst, float(np.abs(own - other).max()))
        if len(item.choices) == 1:
            ours_is, theirs_is = bool(greedy[start]), bool(sample["filtered_resps"][0][1])
            equal += ours_is == theirs_is
            equal_normalised += ours_is == theirs_is
            right, right_theirs = right + ours_is, right_theirs + theirs_is
            continue
        size = np.array([len(choice) for choice in item.choices])
        equal += int(own.argmax() == other.argmax())
        equal_normalised += int((own / size).argmax() == (other / size).argmax())
        right += int(own.argmax() == item.gold)
        right_theirs += int(sample["acc"])
    return {
        "equal_texts": texts / len(items),
        "equal_choices": equal / len(items),
        "equal_choices_per_character": equal_normalised / len(items),
        "max_difference": worst,
        "accuracy": right / len(items),
        "accuracy_of_the_harness": right_theirs / len(items),
    }


def summary(outcome: Mapping[str, Any]) -> str:
    """A table for a terminal."""
    lines = [
        f"{outcome['harness']} and synboot on one model ({outcome['model']}), in float32",
        f"{'task':10} {'items':>6} {'equal texts':>11} {'equal choices':>13} "
        f"{'per character':>13} {'max difference, nats':>20} {'right':>7} {'theirs':>7}",
    ]
    lines += map(_line, outcome["tasks"])
    lines.append(
        f"bounds: choices equal for {MIN_EQUAL_CHOICES:.1%}, differences of at most "
        f"{MAX_DIFFERENCE:g} nats: {'held' if outcome['held'] else 'NOT HELD'}"
    )
    return "\n".join(lines)


def _line(own: Mapping[str, Any]) -> str:
    left_out = own["too_long_for_the_harness"]
    return (
        f"{own['task']:10} {own['items']:6,} {own['equal_texts']:11.2%} "
        f"{own['equal_choices']:13.2%} {own['equal_choices_per_character']:13.2%} "
        f"{own['max_difference']:20.1e} {own['accuracy']:7.2%} "
        f"{own['accuracy_of_the_harness']:7.2%}"
    ) + (f"  ({left_out} items it cannot read left out)" if left_out else "")
