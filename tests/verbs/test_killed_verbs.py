"""Every verb alone, killed in the middle and once more before it tidied up; then it goes on, does
nothing twice, and its output has the bytes of an unbroken one."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from synboot.core.events import read_events

SETTINGS = {
    "SYNBOOT_RUNTIME__PART_DOCUMENTS": "16",
    "SYNBOOT_RUNTIME__PART_DRAWS": "32",
    "SYNBOOT_RUNTIME__SLOTS": "16",
    "SYNBOOT_RUNTIME__CHECKPOINT_SECONDS": "0",
    "SYNBOOT_RUNTIME__THREADS": "1",
    "SYNBOOT_RUNTIME__WORKERS": "1",
}
SHAPE = "--preset 0.6m --context 64 --vocab-size 384"

# Verb, command, event after which it is killed (event, stage, which such event).
VERBS = {
    "split": ("split {corpus} -o splits {group}", ("stage_start", "corpus", 1)),
    "pretrain": (
        f"pretrain splits -o base --tokens 8K {SHAPE} --num-validations 4",
        ("checkpoint", "pretrain", 5),
    ),
    "pair": (
        "pair splits -o pairs.parquet --dimensions 16 --top-k {top_k} --min-similarity 0.1",
        ("part_done", "embed", 2),
    ),
    "tune": (
        "tune pairs.parquet -o synthesizer --corpus splits --model base --batch-rows 32 "
        "--passes 1 --num-validations 3",
        ("checkpoint", "tune", 3),
    ),
    "synthesize": (
        "synthesize synthesizer splits -o synthetic.parquet --tokens 2K --max-tokens 24 "
        "--keep-unfinished --max-repetition 1 --min-tokens 2",
        ("part_done", "synthesize", 1),
    ),
    "quality": (
        "quality synthetic.parquet -o quality.json --corpus splits --pairs pairs.parquet "
        "--dimensions 16",
        ("part_done", "quality", 4),
    ),
    "joint": (
        "pretrain splits -o joint --tokens 8K --synthetic synthetic.parquet --tokenizer base "
        "--preset 0.6m --context 64 --num-validations 4 --dropout 0.1",
        ("checkpoint", "pretrain", 5),
    ),
    "evaluate": ("evaluate joint splits -o scores.parquet", ("part_done", "evaluate", 1)),
}
OUTPUTS = {name: shlex.split(command)[shlex.split(command).index("-o") + 1]
           for name, (command, _) in VERBS.items()}  # fmt: skip


@pytest.fixture(scope="module")
def run(synboot) -> Callable[..., str]:
    """Run a verb in a folder, to its end or to its death; its standard error."""

    def run(folder: Path, words: list[str], kill: tuple[str, str, int] | None = None) -> str:
        trap = kill and (kill[0], kill[1], 1, kill[2])
        outcome = synboot(*words, folder=folder, environment=SETTINGS, kill=trap)
        assert outcome.returncode == (0 if kill is None else -signal.SIGKILL), outcome.stderr
        return outcome.stderr

    return run


def content(path: Path) -> dict[str, bytes]:
    """The bytes of a file, or of all files of a directory."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in files if p.is_file()}


GENERATED = {"group": "--group-field topic", "top_k": "5"}
WIKINEWS = {"group": "", "top_k": "1"}


@pytest.fixture(
    scope="module", params=["generated", pytest.param("wikinews", marks=pytest.mark.data)]
)
def words_of(request: pytest.FixtureRequest, small_corpus: Path) -> Callable[[str], list[str]]:
    """The words of a verb's command on one of two corpora."""
    if request.param == "generated":
        values = {"corpus": str(small_corpus), **GENERATED}
    elif "SYNBOOT_DATA" in os.environ:
        corpus = Path(os.environ["SYNBOOT_DATA"]) / "wikinews_small"
        values = {"corpus": str(corpus), **WIKINEWS}
    else:
        pytest.skip("SYNBOOT_DATA is unset")
    return lambda name: shlex.split(VERBS[name][0].format(**values))


@pytest.fixture(scope="module")
def unbroken(
    run: Callable[..., str],
    words_of: Callable[[str], list[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder in which every verb ran once without a stop."""
    folder = tmp_path_factory.mktemp("unbroken")
    for name in VERBS:
        run(folder, words_of(name))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", VERBS)
def test_killed_resumed_and_equal(
    name: str,
    run: Callable[..., str],
    unbroken: Path,
    words_of: Callable[[str], list[str]],
    tmp_path: Path,
) -> None:
    words, (_, kill) = words_of(name), VERBS[name]
    for other, output in OUTPUTS.items():  # what came before is there, what comes is not
        if other == name:
            break
        (tmp_path / output).symlink_to(unbroken / output)
    output = tmp_path / OUTPUTS[name]
    run(tmp_path, words, kill)
    assert not output.exists()
    last = "pairs" if name == "pair" else kill[1]
    run(tmp_path, words, ("output_done", last, 1))
    assert output.exists()

    events = list(read_events(output.with_name(f"{output.name}.partial") / "events.jsonl"))
    done = [(e["id"], e["part"]) for e in events if e["event"] == "part_done"]
    assert len(done) == len(set(done)), "a committed part was made again"
    finished = [e["id"] for e in events if e["event"] == "stage_done"]
    assert len(finished) == len(set(finished)), "a finished stage ran again"
    reused = [e for e in events if e["event"] == "part_reused" and e["stage"] == kill[1]]
    begun = [e["step"] for e in events if e["event"] == "training_from"]
    if kill[0] == "part_done":
        assert reused
    if kill[0] == "checkpoint":
        assert begun[0] == 0
        assert begun[-1] > 0, "training began again"

    assert "done before" in run(tmp_path, words)
    assert not output.with_name(f"{output.name}.partial").exists()
    assert content(output) == content(unbroken / OUTPUTS[name])
