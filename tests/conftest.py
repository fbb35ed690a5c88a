"""What several tests need: a small corpus of our own making and a recipe that runs in seconds."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

sys.path.append(str(Path(__file__).parent))

from program import Program

ROOT = Path(__file__).parents[1]
SLOWEST = (
    "test_killed_verbs.py",
    "test_cli.py",
    "test_resume_everywhere.py",
    "test_bad_input.py",
    "test_identity_of_runs.py",
    "test_script.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Tests on several cores: each process, with all it starts, has one of its own. Programs that
    each count on all cores would stand in each other's way."""
    name = os.environ.get("PYTEST_XDIST_WORKER", "")
    if name and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(name.removeprefix("gw")) % len(cores)]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that no core waits for one of them at the end."""
    items.sort(key=lambda item: item.path.name not in SLOWEST)


def generate_documents(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Documents of invented words: each is about one of `count / 6` topics, six to a topic, so
    that documents of a topic are related; pairs of topics form a group."""
    source = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "ai", "or")]

    def words(number: int) -> list[str]:
        return ["".join(source.choices(syllables, k=source.randint(1, 3))) for _ in range(number)]

    common = words(60)
    documents = []
    for topic in range(-(-count // 6)):
        own = words(25)
        for member in range(6):
            sentences = []
            for _ in range(source.randint(4, 9)):
                chosen = [source.choice(own if source.random() < 0.5 else common) for _ in range(9)]
                sentences.append(" ".join(chosen).capitalize() + ".")
            documents.append(
                {
                    "id": f"t{topic}-{member}",
                    "text": " ".join(sentences),
                    "topic": f"group {topic // 2}",
                    "license": "CC0-1.0" if topic % 2 else "MIT",
                    "source": "generated",
                }
            )
    return documents[:count]


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL file of 240 generated documents with id, text, topic, license, source."""
    path = tmp_path_factory.mktemp("corpus") / "documents.jsonl"
    lines = [json.dumps(document) for document in generate_documents(240)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def small_recipe_values(corpus: Path) -> dict[str, object]:
    """All stages and arms in a few seconds, with several parts in every parted stage."""
    return {
        "name": "small",
        "corpus": {
            "path": str(corpus),
            "group_field": "topic",
            "valid_fraction": 0.1,
            "test_fraction": 0.1,
        },
        "tokenizer": {"vocab_size": 384},
        "budget": {
            "unique_tokens": 5000,
            "training_tokens": 8000,
            "oracle_multiple": 3,
            "synthetic_share": 0.25,
        },
        "model": {"preset": "0.6m", "context": 64},
        "pretrain": {
            "learning_rate": 4e-3,
            "batch_rows": 8,
            "num_validations": 4,
            "dropout": 0.1,
        },
        "pairs": {"dimensions": 16, "top_k": 5, "min_similarity": 0.1},
        "tune": {"learning_rate": 1e-3, "batch_rows": 16, "passes": 1, "num_validations": 3},
        "synthesize": {
            "max_tokens": 24,
            "max_draws_per_seed": 20,
            "filters": {"keep_unfinished": True, "max_repetition": 1.0, "min_tokens": 2},
        },
        "evaluate": {"bootstrap_resamples": 200},
        "runtime": {
            "workers": 1,
            "threads": 1,
            "slots": 16,
            "part_documents": 16,
            "part_draws": 32,
            "checkpoint_seconds": 0,
        },
    }


@pytest.fixture
def small_recipe(small_corpus: Path, tmp_path: Path) -> Path:
    """The small recipe as a file."""
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small_recipe_values(small_corpus)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def finished_run(synboot, small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs directory of the small recipe (`small.yaml` in it), run once without a stop."""
    runs = tmp_path_factory.mktemp("finished") / "runs"
    recipe = runs / "small.yaml"
    runs.mkdir()
    recipe.write_text(yaml.safe_dump(small_recipe_values(small_corpus)), encoding="utf-8")
    outcome = synboot("run", str(recipe), "--runs", str(runs))
    assert outcome.returncode == 0, outcome.stderr
    return runs


@pytest.fixture(scope="session")
def synboot() -> Iterator[Program]:
    """The program: `synboot("run", path, ...)`."""
    program = Program()
    yield program
    program.close()
