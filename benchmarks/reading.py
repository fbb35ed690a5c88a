"""Speed and memory of the way from one JSONL file to a token store, beside `datasets`.

    python benchmarks/reading.py --gigabytes 2 --svg reading.svg

Each side has a process of its own, whose resident memory is sampled. synboot reads, splits,
removes duplicates and near copies of held-out text, and encodes; `datasets` (no dependency:
`pip install datasets`) loads the same file and encodes with the same tokenizer. MB are 10^6 bytes
of the JSONL file for reading, of text for encoding.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from tokenizers import Tokenizer

from synboot.data.corpus import read_documents
from synboot.data.documents import Documents
from synboot.data.files import SPLITS
from synboot.data.splits import build_corpus
from synboot.data.tokenizer import TextTokenizer, train_tokenizer
from synboot.data.tokens import write_token_store

SAMPLE_SECONDS = 0.2
VOCAB_SIZE = 8192
TOKENIZER_DOCUMENTS = 2000
BATCH = 1024  # documents


def generate(path: Path, num_bytes: int, seed: int = 0) -> None:
    """Write JSON lines of at least `num_bytes` bytes: invented words by Zipf's law, sentences,
    paragraphs, some letters beyond ASCII, about 2,500 bytes a document."""
    source = np.random.default_rng(seed)
    signs = np.array([*"bdfgklmnprstvz", "ß", "ch", "st"])
    vowels = np.array([*"aeiou", "ä", "é", "ou"])
    words = set()
    while len(words) < 60_000:
        count = int(source.integers(1, 5))
        pairs = zip(source.choice(signs, count), source.choice(vowels, count), strict=True)
        words.add("".join(a + b for a, b in pairs))
    lexicon = sorted(words)
    source.shuffle(lexicon)
    share = np.cumsum(1 / np.arange(1, len(lexicon) + 1))
    share /= share[-1]
    written = number = 0
    with path.open("w", encoding="utf-8") as file:
        while written < num_bytes:
            length = int(np.clip(source.lognormal(5.8, 0.8), 20, 5000))
            chosen = np.searchsorted(share, source.random(length))
            text = "".join(_sentences([lexicon[i] for i in chosen.tolist()], source))
            record = {
                "id": f"doc-{number}",
                "text": text,
                "topic": f"topic {number % 1000}",
                "url": f"made://{number % 97}/{number}",
                "words": length,
            }
            written += file.write(json.dumps(record, ensure_ascii=False) + "\n")
            number += 1


def _sentences(words: list[str], source: np.random.Generator) -> Iterator[str]:
    start = 0
    for length in source.integers(4, 20, len(words)).tolist():
        if start >= len(words):
            return
        yield " ".join(words[start : start + length]).capitalize()
        yield ".\n\n" if length == 19 else ". "
        start += length


def measure(step: str, work: Callable[[], int]) -> None:
    """Run `work`, which returns the bytes that it went through, and print its speed as JSON."""
    start, processor_start = time.time(), time.process_time()
    num_bytes = work()
    end, processor_end = time.time(), time.process_time()
    entry: dict[str, Any] = {"step": step, "start": start, "end": end, "bytes": num_bytes}
    entry["processor"] = processor_end - processor_start
    print(json.dumps(entry), flush=True)


def run_synboot(source: Path, work: Path) -> None:
    """Read alone; read, split and decontaminate; encode to a token store."""
    size = source.stat().st_size
    tokenizer = TextTokenizer.load(work / "tokenizer")

    def read() -> int:
        for _ in read_documents(str(source)):
            pass
        return size

    def build() -> int:
        build_corpus(str(source), work, seed=0, valid_fraction=0.05, test_fraction=0.05)
        return size

    def encode() -> int:
        num_bytes = 0

        def ids(documents: Documents) -> Iterator[np.ndarray]:
            nonlocal num_bytes
            for start in range(0, len(documents), BATCH):
                texts = documents.texts(start, start + BATCH)
                num_bytes += sum(len(text.encode()) for text in texts)
                for tokens in tokenizer.encode(texts):
                    yield np.append(tokens, tokenizer.end_id)

        for split in SPLITS:
            documents = Documents(work / f"{split}.arrow")
            write_token_store(work / split, ids(documents), tokenizer.vocab_size)
        return num_bytes

    measure("read_documents", read)
    measure("build_corpus", build)
    measure("encode", encode)


def run_datasets(source: Path, work: Path) -> None:
    """Load to Arrow; encode with the same tokenizer."""
    import datasets  # no dependency of synboot's

    datasets.disable_progress_bars()
    tokenizer = Tokenizer.from_file(str(work / "tokenizer" / "tokenizer.json"))
    end = TextTokenizer.load(work / "tokenizer").end_id
    loaded: Any = None

    def load() -> int:
        nonlocal loaded
        loaded = datasets.load_dataset(
            "json", data_files=str(source), split="train", cache_dir=str(work / "cache")
        )
        return source.stat().st_size

    def encode() -> int:
        num_bytes = 0

        def ids(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            nonlocal num_bytes
            num_bytes += sum(len(text.encode()) for text in batch["text"])
            encoded = tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)
            return {"ids": [[*each.ids, end] for each in encoded]}

        loaded.map(ids, batched=True, batch_size=BATCH, remove_columns=loaded.column_names)
        return num_bytes

    measure("load_dataset", load)
    measure("map", encode)


SIDES = {"synboot": run_synboot, "datasets": run_datasets}


def resident(pid: int) -> tuple[int, int] | None:
    """(resident, of it anonymous) bytes of a process; the rest is mapped files. None at its end."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    values = dict(line.split(":", 1) for line in lines)
    if "VmRSS" not in values:
        return None
    total, anonymous = (int(values[key].split()[0]) * 1024 for key in ("VmRSS", "RssAnon"))
    return total, anonymous


def watch(
    side: str, source: Path, work: Path, threads: int
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Run one side. Returns its steps, and float [samples, 3]: time, resident, anonymous bytes."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(work / "cache")}
    child = subprocess.Popen(
        [sys.executable, __file__, "--side", side, "--source", str(source), "--work", str(work)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | offline | {"RAYON_NUM_THREADS": str(threads)},
    )
    samples: list[tuple[float, int, int]] = []

    def sample() -> None:
        while (values := resident(child.pid)) is not None:
            samples.append((time.time(), *values))
            time.sleep(SAMPLE_SECONDS)

    sampler = threading.Thread(target=sample)
    sampler.start()
    output, _ = child.communicate()
    sampler.join()
    if child.returncode:
        raise SystemExit(f"{side} ended with code {child.returncode}")
    return [json.loads(line) for line in output.splitlines()], np.array(samples)


def draw(path: Path, runs: dict[str, tuple[list[dict[str, Any]], np.ndarray]]) -> None:
    """Resident memory of each side over time as SVG, steps shaded."""
    mpl.rcParams["svg.hashsalt"] = "synboot"
    figure = Figure(figsize=(8, 3 * len(runs)), layout="constrained")
    for row, (side, (steps, samples)) in enumerate(runs.items(), start=1):
        axes = figure.add_subplot(len(runs), 1, row)
        begin = samples[0, 0]
        axes.plot(samples[:, 0] - begin, samples[:, 1] / 1e6, label="resident")
        axes.plot(samples[:, 0] - begin, samples[:, 2] / 1e6, label="of it not mapped files")
        for place, step in enumerate(steps):
            shade = 0.12 if place % 2 else 0.06
            axes.axvspan(step["start"] - begin, step["end"] - begin, color="gray", alpha=shade)
            name = f" {step['step']}"
            axes.text(step["start"] - begin, 0, name, va="bottom", rotation=90, fontsize=8)
        top = 1.3 * samples[:, 1].max() / 1e6  # room for the legend
        axes.set(title=side, xlabel="seconds", ylabel="MB", ylim=(0, top))
        axes.legend(loc="upper left", ncols=2)
    figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    """Generate, run each side, print a table, draw the memory."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the JSONL file")
    parser.add_argument(
        "--svg", type=Path, default=Path("reading.svg"), help="where to draw memory"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the tokenizer")
    parser.add_argument("--side", choices=sorted(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help="a JSONL file that exists, not a generated one")
    parser.add_argument("--work", type=Path, help="an empty directory for what is written")
    options = parser.parse_args()
    if options.side:
        SIDES[options.side](options.source, options.work)
        return
    sides = [side for side in SIDES if side == "synboot" or importlib.util.find_spec(side)]
    if "datasets" not in sides:
        print("datasets is not installed (pip install datasets): no peer", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        source = options.source or Path(folder) / "generated.jsonl"
        if options.source is None:
            generate(source, round(options.gigabytes * 1e9))
        texts = (document.text for document in read_documents(str(source)))
        first = [text for text, _ in zip(texts, range(TOKENIZER_DOCUMENTS), strict=False)]
        runs = {}
        for side in sides:
            work = Path(folder) / side
            work.mkdir()
            train_tokenizer(first, VOCAB_SIZE).save(work / "tokenizer")
            runs[side] = watch(side, source, work, options.threads)
    for side, (steps, samples) in runs.items():
        for step in steps:
            seconds = step["end"] - step["start"]
            inside = samples[(samples[:, 0] >= step["start"]) & (samples[:, 0] <= step["end"])]
            peak, anonymous = (inside[:, 1:].max(axis=0) if len(inside) else samples[-1, 1:]) / 1e6
            print(
                f"{side:9} {step['step']:15} {step['bytes'] / 1e6:9.1f} MB {seconds:8.1f} s "
                f"(processor {step['processor']:8.1f} s) "
                f"{step['bytes'] / 1e6 / seconds:7.1f} MB/s   peak {peak:6.0f} MB, "
                f"not mapped {anonymous:6.0f} MB"
            )
    draw(options.svg, runs)
    print(f"memory over time: {options.svg}")


if __name__ == "__main__":
    main()
