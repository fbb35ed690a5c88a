"""lm-evaluation-harness on a model directory and on items of our task files (extra `eval`).

Nothing is downloaded: the items are written as a local task of the harness, JSON lines beside a
configuration, which its own program takes as well:
`lm_eval --model hf --model_args pretrained=DIR,dtype=float32 --tasks NAME --include_path FOLDER`.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from synboot.core.errors import BadInput, SynbootError
from synboot.core.storage import atomic_file, write_json
from synboot.data.tokenizer import TextTokenizer
from synboot.eval.choices import Request, joined
from synboot.eval.tasks import Item

_PACKAGE = "lm-eval"
_METRICS = {
    "multiple_choice": ("acc", "acc_norm", "acc_bytes"),
    "loglikelihood": ("acc", "perplexity"),
}


@dataclass(frozen=True)
class HarnessAnswers:
    """What the harness found of one task: for every choice of every item, in order, its negative
    log-likelihood in nats and whether each of its tokens is the likeliest; its own metrics."""

    nats: npt.NDArray[np.float64]
    greedy: npt.NDArray[np.bool_]
    metrics: dict[str, float]


def harness_version() -> str:
    """`lm-eval VERSION`. Raises SynbootError, with how to install it, where it is missing."""
    try:
        return f"{_PACKAGE} {importlib.metadata.version(_PACKAGE)}"
    except importlib.metadata.PackageNotFoundError:
        raise SynbootError(
            "lm-evaluation-harness is not installed; pip install 'synboot[eval]'"
        ) from None


def require_readable(
    tokenizer: TextTokenizer, items: Sequence[Item], requests: Sequence[Request], context: int
) -> None:
    """Raises BadInput for the first item that the harness cannot read: a choice of more tokens than
    `context`, or one without a boundary to the item's context. `requests`: of all choices."""
    owners = [item for item in items for _ in item.choices]
    met = joined(tokenizer, [pair for item in items for pair in item.pairs])
    for item, request, one in zip(owners, requests, met, strict=True):
        if (length := len(request.continuation)) > context:
            problem = f"a choice has {length:,} tokens, the model's context {context:,}"
        elif one:
            problem = "its context and a choice meet in one token"
        else:
            continue
        raise BadInput(f"item {item.id}: {problem}; lm-evaluation-harness cannot read it")


def write_task(name: str, items: Sequence[Item], folder: Path, cache: Path | None = None) -> Path:
    """Write `folder/NAME.jsonl` and the harness' configuration `folder/NAME.yaml`, its path.
    `cache`: where `datasets` puts what it makes of the items, elsewhere than by default."""
    folder.mkdir(parents=True, exist_ok=True)
    data = (folder / f"{name}.jsonl").resolve()
    with atomic_file(data, "w") as file:
        for item in items:
            record = {"prompt": item.context, "choices": item.choices, "gold": item.gold}
            if len(item.choices) == 1:
                record = {"prompt": item.context, "target": item.pairs[0][1]}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    alone = len(items[0].choices) == 1
    kind = "loglikelihood" if alone else "multiple_choice"
    config: dict[str, Any] = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": kind,
        "num_fewshot": 0,
        "doc_to_text": "prompt",
        "doc_to_target": "target" if alone else "gold",
        "metric_list": [
            {
                "metric": metric,
                "aggregation": "perplexity" if metric == "perplexity" else "mean",
                "higher_is_better": metric != "perplexity",
            }
            for metric in _METRICS[kind]
        ],
        "metadata": {"version": 1},
    }
    if cache is not None:
        config["dataset_kwargs"]["cache_dir"] = str(cache)
    if not alone:
        config |= {"doc_to_choice": "choices", "target_delimiter": items[0].delimiter}
    path = folder / f"{name}.yaml"
    write_json(path, config)  # JSON is YAML
    return path


def harness_answers(
    directory: Path,
    tasks: Mapping[str, Sequence[Item]],
    *,
    context: int | None = None,
    device: str = "cpu",
    batch_size: int = 16,
) -> dict[str, HarnessAnswers]:
    """The items of each task answered by the model in `directory` through the harness, in float32.

    Items of a task have one delimiter. Raises SynbootError where the harness is missing.
    """
    harness_version()
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    arguments: dict[str, Any] = {"pretrained": str(directory), "dtype": "float32"}
    if context is not None:
        arguments["max_length"] = context
    with tempfile.TemporaryDirectory() as folder:
        for name, items in tasks.items():
            write_task(name, items, Path(folder), cache=Path(folder, "cache"))
        found = simple_evaluate(
            model="hf",
            model_args=arguments,
            tasks=list(tasks),
            device=device,
            batch_size=batch_size,
            bootstrap_iters=0,
            log_samples=True,
            task_manager=TaskManager(include_path=folder, include_defaults=False),
        )
    return {name: _answers(found["samples"][name], found["results"][name]) for name in tasks}


def _answers(samples: Sequence[Mapping[str, Any]], results: Mapping[str, Any]) -> HarnessAnswers:
    in_order = sorted(samples, key=lambda sample: sample["doc_id"])
    answers = [answer for sample in in_order for answer in sample["filtered_resps"]]
    return HarnessAnswers(
        -np.array([float(answer[0]) for answer in answers]),
        np.array([bool(answer[1]) for answer in answers]),
        {
            name.partition(",")[0]: float(value)
            for name, value in results.items()
            if isinstance(value, (int, float)) and "stderr" not in name
        },
    )
