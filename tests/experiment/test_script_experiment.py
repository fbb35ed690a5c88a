"""The one command of the experiment: which commands it runs, in which order, with which paths."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest

from synboot.core.config import parse_settings

ROOT = Path(__file__).parents[2]
STUB = """#!/usr/bin/env bash
exec 9>> "$CALLS.lock"
flock 9  # several may be called at once
printf '%s\\0' "$@" >> "$CALLS"
printf '\\1' >> "$CALLS"
"""
SEARCHED = ("cpu-small-all", "cpu-smaller-all")
CHOSEN = (
    *("cpu-small-chosen", "cpu-smaller-chosen", "cpu-larger-controls"),
    "cpu-small-real-context-chosen",
)
VALIDATED = ("cpu-small-variants", "cpu-small-real-context", "cpu-small-length")
SEARCH = "docs/experiment/cpu-small-all.search.json"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone whose program writes down how it is called."""
    clone = tmp_path / "a clone"
    shutil.copytree(ROOT / "script", clone / "script")
    frozen = clone / "recipes" / "frozen"
    frozen.mkdir(parents=True)
    for name in SEARCHED:
        (frozen / f"{name}.yaml").write_text("# Frozen by synboot search: x\nname: small\n")
    for name in CHOSEN:
        (frozen / f"{name}.yaml").write_text("base: cpu-small-all.yaml\n")
    (clone / SEARCH).parent.mkdir(parents=True)
    (clone / SEARCH).touch()
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, clone)
    program = clone / ".venv" / "bin" / "synboot"
    program.parent.mkdir(parents=True)
    program.write_text(STUB)
    program.chmod(0o755)
    command = "cat pyproject.toml constraints.txt | cksum"
    stamp = subprocess.run(["bash", "-c", command], cwd=clone, capture_output=True, check=True)
    (clone / ".venv" / ".installed").write_bytes(stamp.stdout)
    return clone


TASKS = ("eval_blimp/blimp", "eval_lambada/lambada_openai_test", "eval_mc/arc_easy_test",
         "eval_mc/sciq", "eval_mc/piqa_val")  # fmt: skip


def with_data(data: Path) -> Path:
    """A folder with all that the command reads."""
    (data / "enwiki_sec").mkdir(parents=True)
    for name in TASKS:
        (data / name).parent.mkdir(exist_ok=True)
        (data / f"{name}.jsonl.gz").touch()
    return data


def called(
    clone: Path, *arguments: str, folder: Path, found: str = ""
) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    calls = clone / "calls"
    runs = clone / "run s&"
    for name in SEARCHED:
        (runs / name).mkdir(parents=True, exist_ok=True)
        (runs / name / "frozen.yaml").write_text(found)
    outcome = subprocess.run(
        [str(clone / "script" / "experiment"), *arguments],
        cwd=folder,
        env=os.environ | {"CALLS": str(calls), "SYNBOOT_RUNS": str(runs)},
        capture_output=True,
        text=True,
        check=False,
    )
    text = calls.read_text() if calls.exists() else ""
    return outcome, [call.split("\0")[:-1] for call in text.split("\1")[:-1]]


def test_all_sizes_the_variants_and_one_report(clone: Path, tmp_path: Path) -> None:
    data = with_data(tmp_path / "the data: # here")
    outcome, calls = called(
        clone, "--processes", "1", data.name, "runtime.threads=2", folder=tmp_path
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "gpu-small: not measured" in outcome.stderr
    recipes = [f"recipes/{name}.yaml" for name in VALIDATED]
    recipes += [f"recipes/frozen/{size}.yaml" for size in CHOSEN]
    assert [call[:2] for call in calls[:-2]] == [["run", recipe] for recipe in recipes]
    runs = clone / "run s&"
    for call in calls[:-2]:
        settings = [after for word, after in pairwise(call) if word == "--set"]
        values = parse_settings(settings)
        assert values["corpus"] == {"path": str(data / "enwiki_sec"), "group_field": "label"}
        assert values["runtime"] == {"threads": 2, "workers": 1, "precision": "float32"}
        assert call[call.index("--runs") + 1] == str(runs)
        tasks = values.get("evaluate", {}).get("tasks", {})
        assert set(tasks) == (
            {"blimp", "lambada", "arc_easy", "sciq", "piqa"} if "frozen" in call[1] else set()
        )
        if tasks:
            assert tasks["sciq"] == str(data / "eval_mc" / "sciq.jsonl.gz")
    sizes = (*CHOSEN, *VALIDATED)
    shown = [*(str(runs / size) for size in sizes), SEARCH]
    for call, form in zip(calls[-2:], ("html", "md"), strict=True):
        output = ["--output", str(runs / f"experiment.{form}"), "--overwrite"]
        aims, unmeasured = (note for word, note in pairwise(call) if word == "--note")
        assert call == ["report", *shown, "--note", aims, "--note", unmeasured, *output]
        assert "docs/protocol.md" in aims
        assert unmeasured.startswith("gpu-small: not measured")


def test_what_reads_test_text_alone_and_gpu_small(clone: Path, tmp_path: Path) -> None:
    data = with_data(tmp_path / "data")
    arguments = ("--test-only", "--gpu-small", "--processes", "1", str(data))
    outcome, calls = called(clone, *arguments, folder=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert "not measured" not in outcome.stderr
    recipes = [f"recipes/frozen/{size}.yaml" for size in CHOSEN]
    recipes += ["recipes/frozen/gpu-small.yaml"] * 3
    assert [call[:2] for call in calls[:-2]] == [["run", recipe] for recipe in recipes]
    names = []
    for call in calls[len(CHOSEN) : -2]:
        settings = [after for word, after in pairwise(call) if word == "--set"]
        values = parse_settings(settings)
        names.append(values["name"])
        assert values["name"] == f"gpu-small-{values['model']['preset']}"
        assert values["corpus"]["path"] == str(data / "enwiki_sec")
        assert "evaluate" not in values
        assert "precision" not in values["runtime"], "its recipe has bfloat16"
    runs = clone / "run s&"
    shown = [str(runs / name) for name in (*CHOSEN, *names)]
    shown += [f"docs/experiment/{name}" for name in VALIDATED]
    assert calls[-1][: len(shown) + 1] == ["report", *shown]
    assert calls[-1].count("--note") == 1
    assert "not measured" not in " ".join(calls[-1])
    assert names == ["gpu-small-5m", "gpu-small-20m", "gpu-small-50m"]


def test_several_processes_share_each_run(clone: Path, tmp_path: Path) -> None:
    data = with_data(tmp_path / "data")
    outcome, calls = called(clone, "--processes", "3", str(data), folder=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    runs, reports = calls[:-2], calls[-2:]
    assert [call[0] for call in reports] == ["report", "report"]
    assert len(runs) == 3 * len(VALIDATED + CHOSEN)
    for number, one in enumerate(runs):
        assert one == runs[number - number % 3]
        assert one[-1] == "--share"
    (clone / "calls").unlink()
    _, calls = called(clone, str(data), folder=tmp_path)
    processors = os.cpu_count()
    if shutil.which("nvidia-smi") is None:
        assert len(calls) - 2 == (processors or 1) * len(VALIDATED + CHOSEN)
    settings = [after for word, after in pairwise(calls[0]) if word == "--set"]
    assert parse_settings(settings)["runtime"] == {
        **{"threads": 1, "workers": 1},
        "precision": "float32",
    }
    for wrong in ("0", "two"):
        outcome, _ = called(clone, "--processes", wrong, str(data), folder=tmp_path)
        assert outcome.returncode == 2
        assert "--processes: expected a number" in outcome.stderr
    outcome, _ = called(clone, str(data), "--stop-after", folder=tmp_path)
    assert outcome.returncode == 2
    outcome, _ = called(clone, "--stop-after", folder=tmp_path)
    assert outcome.returncode == 2
    assert "--stop-after: expected a time" in outcome.stderr


def with_signals() -> None:
    """Tests that run in the background ignore what a terminal sends, and bash cannot trap that."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("sent", "passed_on", "code"),
    [("INT", "INT", 130), ("TERM", "TERM", 143), ("HUP", "TERM", 143), ("QUIT", "TERM", 143)],
)
@pytest.mark.parametrize("first", [False, True], ids=["running", "starting"])
def test_a_signal_reaches_every_process_once(
    clone: Path, tmp_path: Path, sent: str, passed_on: str, code: int, first: bool
) -> None:
    """Each ends at its checkpoint, as synboot does; a second signal would end it at once."""
    data, program = with_data(tmp_path / "data"), clone / ".venv" / "bin" / "synboot"
    program.write_text(
        f"""#!/usr/bin/env bash
trap 'echo INT >> "{tmp_path}/$$.got"; code=130' INT
trap 'echo TERM >> "{tmp_path}/$$.got"; code=143' TERM
echo $$ >> "{tmp_path}/started"
for ((waited = 0; waited < 600 && ${{code:-0}} == 0; waited++)); do sleep 0.05; done
[ -p /dev/stdout ] && sleep 0.5  # the one whose output is read ends last
sleep 0.2
echo $$ >> "{tmp_path}/clean"
exit ${{code:-0}}
"""
    )
    script = subprocess.Popen(
        [str(clone / "script" / "experiment"), "--processes", "8", str(data)],
        env=os.environ | {"SYNBOOT_RUNS": str(tmp_path / "runs")},
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=with_signals,
    )
    started, until = tmp_path / "started", time.monotonic() + 30
    while not (started.exists() and len(started.read_text().splitlines()) >= (1 if first else 8)):
        assert time.monotonic() < until
        time.sleep(0.001)
    os.killpg(script.pid, signal.Signals[f"SIG{sent}"])  # as a terminal does
    assert script.wait(timeout=30) == code
    begun = started.read_text().split()
    assert sorted((tmp_path / "clean").read_text().split()) == sorted(begun)
    assert sorted(path.stem for path in tmp_path.glob("*.got")) == sorted(begun)
    assert {path.read_text() for path in tmp_path.glob("*.got")} == {f"{passed_on}\n"}
    assert len(begun) == 8 or first, "nothing was begun after the signal"


def test_the_processes_stand_still_with_the_script(clone: Path, tmp_path: Path) -> None:
    data, program = with_data(tmp_path / "data"), clone / ".venv" / "bin" / "synboot"
    started = tmp_path / "started"
    program.write_text(
        f"""#!/usr/bin/env bash
echo $$ >> "{started}"
for ((waited = 0; waited < 200; waited++)); do sleep 0.05; done
"""
    )
    script = subprocess.Popen(
        [str(clone / "script" / "experiment"), "--processes", "2", str(data)],
        env=os.environ | {"SYNBOOT_RUNS": str(tmp_path / "runs")},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )

    def states() -> set[str]:
        pids = started.read_text().split() if started.exists() else []
        return {Path(f"/proc/{pid}/stat").read_text().split()[2] for pid in pids[:2]}

    def until(state: str) -> None:
        end = time.monotonic() + 10
        while not states() or (states() == {"T"}) != (state == "stopped"):
            assert time.monotonic() < end
            time.sleep(0.02)

    try:
        until("running")
        os.kill(script.pid, signal.SIGTSTP)
        until("stopped")
        os.kill(script.pid, signal.SIGCONT)
        until("running")
    finally:
        os.kill(script.pid, signal.SIGTERM)
        script.wait(timeout=30)


def test_a_run_that_fails_ends_those_that_share_it(clone: Path, tmp_path: Path) -> None:
    data, program = with_data(tmp_path / "data"), clone / ".venv" / "bin" / "synboot"
    started = tmp_path / "others"
    program.write_text(
        f"""#!/usr/bin/env bash
if ! [ -p /dev/stdout ]; then echo $$ > "{started}"; exec sleep 60; fi  # beside the one we read
until [ -s "{started}" ]; do sleep 0.05; done
exit 4
"""
    )
    outcome, _ = called(clone, "--processes", "2", str(data), folder=tmp_path)
    assert outcome.returncode == 4
    time.sleep(0.2)
    command = Path(f"/proc/{started.read_text().strip()}/cmdline")
    assert not (command.exists() and command.read_bytes())  # nothing left, or a zombie


@pytest.mark.parametrize("name", CHOSEN)
def test_no_test_text_is_read_before_a_variant_is_chosen(
    clone: Path, tmp_path: Path, name: str
) -> None:
    (clone / "recipes" / "frozen" / f"{name}.yaml").unlink()
    outcome, calls = called(clone, str(with_data(tmp_path / "data")), folder=tmp_path)
    assert (outcome.returncode, calls) == (2, [])
    assert f"{name}.yaml: no such file" in outcome.stderr


def test_a_search_that_finds_other_settings_says_so_and_is_shown(
    clone: Path, tmp_path: Path
) -> None:
    data = str(with_data(tmp_path / "data"))
    arguments = ("--search", "--processes", "1", data)
    outcome, calls = called(clone, *arguments, folder=tmp_path, found="name: other\n")
    assert outcome.returncode == 0, outcome.stderr
    assert "cpu-small-all: the search found other settings" in outcome.stderr
    searched = [["search", f"recipes/{size}.yaml"] for size in SEARCHED]
    assert [call[:2] for call in calls[:2]] == searched
    runs_made = len(VALIDATED + CHOSEN)
    assert [call[0] for call in calls[2:]] == [*["run"] * runs_made, "report", "report"]
    runs = clone / "run s&"
    made = [str(runs / size / "search.json") for size in SEARCHED]
    assert set(made) < set(calls[-1])
    assert SEARCH not in calls[-1]
    frozen = (clone / "recipes" / "frozen" / "cpu-small-all.yaml").read_text()
    outcome, _ = called(clone, *arguments, folder=tmp_path, found=frozen)
    assert outcome.returncode == 0, outcome.stderr
    assert "found other settings" not in outcome.stderr


def test_it_stops_after_a_time_with_the_exit_code_of_its_run(clone: Path, tmp_path: Path) -> None:
    data, program = with_data(tmp_path / "data"), clone / ".venv" / "bin" / "synboot"
    program.write_text(STUB + "exit 4\n")
    arguments = ("--processes", "1", "--stop-after", "8m", str(data))
    outcome, (call,) = called(clone, *arguments, folder=tmp_path)
    assert outcome.returncode == 4
    assert call[call.index("--stop-after") + 1] == "8m"


def test_a_process_beside_that_fails_is_not_passed_over(clone: Path, tmp_path: Path) -> None:
    data, program = with_data(tmp_path / "data"), clone / ".venv" / "bin" / "synboot"
    program.write_text(
        """#!/usr/bin/env bash
if ! [ -p /dev/stdout ]; then echo "no room left" >&2; exit 5; fi  # beside the one we read
"""
    )
    (clone / "run s&").mkdir()
    (clone / "run s&" / "process-3.log").write_text("of a run with more processes")
    outcome, _ = called(clone, "--processes", "2", str(data), folder=tmp_path)
    assert outcome.returncode == 5
    assert "no room left" in outcome.stderr
    assert "more processes" not in outcome.stderr


def test_results_land_where_the_caller_says(clone: Path, tmp_path: Path) -> None:
    """CDPATH of the caller leads nowhere else."""
    data = with_data(tmp_path / "data")
    (tmp_path / "elsewhere" / "data" / "enwiki_sec").mkdir(parents=True)
    (tmp_path / "elsewhere" / "a clone" / "script").mkdir(parents=True)
    own = {"CDPATH": str(tmp_path / "elsewhere"), "CALLS": str(tmp_path / "calls")}
    subprocess.run(
        ["a clone/script/experiment", "--test-only", "--processes", "1", "data"],
        cwd=tmp_path,
        env=os.environ | own | {"SYNBOOT_RUNS": "my runs"},
        check=True,
        capture_output=True,
    )
    call = (tmp_path / "calls").read_text().split("\1")[0].split("\0")
    assert call[call.index("--runs") + 1] == str(tmp_path / "my runs")
    assert f'corpus.path="{data / "enwiki_sec"}"' in call


def test_a_folder_without_the_corpus_is_refused(clone: Path, tmp_path: Path) -> None:
    for arguments in ((), ("nowhere",), ("--search",)):
        outcome, calls = called(clone, *arguments, folder=tmp_path)
        assert (outcome.returncode, calls) == (2, [])
        assert "FOLDER has enwiki_sec/" in outcome.stderr
    data = with_data(tmp_path / "data")
    outcome, calls = called(clone, "data", "experiment.seeds=[0]", folder=tmp_path)
    assert (outcome.returncode, calls) == (2, [])
    assert "experiment.seeds=[0]: expected runtime." in outcome.stderr
    (data / "eval_mc" / "sciq.jsonl.gz").unlink()
    outcome, calls = called(clone, "data", folder=tmp_path)
    assert (outcome.returncode, calls) == (2, [])
    assert "sciq.jsonl.gz: no such file" in outcome.stderr
