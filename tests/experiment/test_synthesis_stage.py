"""synthesize as a stage: which engine sampled, what it cost, and what a resume may not change."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import synboot
from synboot.core import native
from synboot.core.errors import BadInput, GateFellShort
from synboot.experiment.stages.synthesis import draws_flops
from synboot.model.flops import Cost, forward_flops, sampling_flops
from synboot.synth.order import DrawOrder

sys.path.append(str(Path(__file__).parents[1] / "model"))

from tiny import END, byte_level, save_tokenizer, tiny_model, words

COST = Cost(layers=1000, output=300, attention=7, sliding=0, window=0)


def synthesizer(layout: str, directory: Path) -> Path:
    tokenizer = byte_level()
    size = tokenizer.get_vocab_size()
    tiny_model(layout, vocab_size=size, context=64).save_pretrained(directory)
    save_tokenizer(tokenizer, directory, bos_token=END)
    return directory


def synthesize(model: Path, tmp_path: Path, **options: Any) -> dict[str, Any]:
    """What the verb counted: 200 tokens from 12 documents, nothing filtered."""
    corpus = tmp_path / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, text in enumerate(words(12)):
        (corpus / f"d{number}.txt").write_text(text, encoding="utf-8")
    lenient = dict.fromkeys(
        ("max_repetition", "max_seed_overlap", "max_corpus_overlap", "max_draw_overlap"), 1.0
    )
    settings = {"tokens": 200, "max_tokens": 9, "min_tokens": 1, "keep_unfinished": True}
    out = tmp_path / "synthetic.parquet"
    return dict(
        synboot.synthesize(model, corpus, out, **settings | lenient | options, quiet=True).counts
    )


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNBOOT_RUNTIME__DEVICE", "cpu")


@pytest.mark.parametrize(
    ("layout", "engine", "name"),
    [("qwen3", "auto", "native"), ("qwen3", "torch", "slots"), ("gpt2", "auto", "transformers")],
)
def test_counts_name_the_engine_that_sampled(
    layout: str, engine: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNBOOT_RUNTIME__ENGINE", engine)
    counts = synthesize(synthesizer(layout, tmp_path / "model"), tmp_path)
    assert counts["engine"] == name
    assert counts["flops"] > 0


def test_an_engine_asked_for_by_name_samples_or_nothing_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNBOOT_RUNTIME__ENGINE", "native")
    with pytest.raises(BadInput, match=r"runtime\.engine: expected auto or torch .* not gpt2"):
        synthesize(synthesizer("gpt2", tmp_path / "model"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "model"]


def test_a_stage_does_not_go_on_with_code_of_another_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = synthesizer("qwen3", tmp_path / "model")
    with pytest.raises(GateFellShort):
        synthesize(model, tmp_path, max_draws_per_seed=1)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(native, "_version", lambda compiler: "cc 99.0")
        with pytest.raises(BadInput, match="begun with other numerics: library was"):
            synthesize(model, tmp_path)
    assert synthesize(model, tmp_path)["tokens"] == 200


def test_a_stage_does_not_go_on_in_another_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of torch's products; the native engine has one."""
    model = synthesizer("qwen3", tmp_path / "model")
    monkeypatch.setenv("SYNBOOT_RUNTIME__ENGINE", "torch")
    monkeypatch.setenv("SYNBOOT_RUNTIME__PRECISION", "bfloat16")
    with pytest.raises(GateFellShort):
        synthesize(model, tmp_path, max_draws_per_seed=1)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("SYNBOOT_RUNTIME__PRECISION", "float32")
        with pytest.raises(BadInput, match=r"begun with other numerics: precision was .bfloat16"):
            synthesize(model, tmp_path)
    counts = synthesize(model, tmp_path)
    assert (counts["tokens"], counts["engine"]) == (200, "slots")


def test_a_prompt_costs_once_where_the_engine_shares_it() -> None:
    order = DrawOrder(num_seeds=2, draws_per_prompt=3, seed=5)
    prompts, sampled = [10, 21], [4, 1, 6, 2, 3, 5]
    lengths = [prompts[order.place(index)[0]] for index in range(6)]
    alone = [sampling_flops(COST, n, count) for n, count in zip(lengths, sampled, strict=True)]
    shared = [
        sampling_flops(COST, n, count, shared_prompt=True)
        for n, count in zip(lengths, sampled, strict=True)
    ]

    def flops(engine: str, part_draws: int = 512) -> int:
        return draws_flops(COST, engine, order, part_draws, prompts, sampled)

    assert flops("transformers") == sum(alone)
    groups = alone[0] + sum(shared[1:3]) + alone[3] + sum(shared[4:])
    assert flops("native") == flops("slots") == groups < sum(alone)
    # Parts of five draws: the sixth is the first of another call.
    assert flops("native", 5) == groups - shared[5] + alone[5]
    whole = sum(
        forward_flops(COST, 0, n + before)
        for n, count in zip(lengths, sampled, strict=True)
        for before in range(count)
    )
    assert flops("reference") == whole > sum(alone)
