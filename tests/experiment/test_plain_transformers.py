"""The model directory means the same to plain transformers as to synboot (law 10)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from synboot.data.documents import Documents
from synboot.model.architecture import load_model
from synboot.model.decode import CachedDecoder


@pytest.fixture(scope="module")
def labels(finished_run: Path) -> dict[str, Path]:
    """Artifact directories by label."""
    stages = json.loads((finished_run / "small" / "stages.json").read_text())
    return {stage["label"]: finished_run / stage["directory"] for stage in stages}


def test_same_logits_and_generates(labels: dict[str, Path]) -> None:
    directory = labels["pretrain sbp, seed 0"] / "best"
    plain = AutoModelForCausalLM.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = torch.tensor([tokenizer("Document of the test.").input_ids])
    with torch.inference_mode():
        logits = plain(ids).logits
        ours = load_model(directory).eval()(ids).logits
        decoder = CachedDecoder(load_model(directory), capacity=64)
        cache = decoder.cache(slots=1, places=1, shared=1, prompt_room=64, own_room=1)
        lengths = torch.tensor([ids.shape[1]])
        decoded = decoder.prefill(cache, torch.tensor([0]), ids, lengths)[0]
    assert (logits - ours).abs().max() <= 1e-4
    assert (logits[0, -1] - decoded).abs().max() <= 1e-4
    generated = plain.generate(ids, max_new_tokens=8)
    assert generated.shape[1] > ids.shape[1]


def test_ten_lines_give_the_same_bits_per_byte(labels: dict[str, Path]) -> None:
    directory = labels["pretrain sbp, seed 0"] / "best"
    documents = Documents(labels["corpus"] / "test.arrow")
    texts = documents.texts(0, len(documents))

    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    nats = num_bytes = 0
    context = model.config.max_position_embeddings
    for text in texts:
        ids = [tokenizer.bos_token_id, *tokenizer(text).input_ids]
        scored = 0
        for start in range(0, len(ids), context // 2):
            if scored < len(ids) - 1:
                window = torch.tensor([ids[start : start + context + 1]])
                logits = model(window[:, :-1]).logits.log_softmax(-1)
                losses = -logits.gather(-1, window[:, 1:, None])[0, :, 0]
                nats += losses[scored - start :].sum().item()
                scored = start + window.shape[1] - 1
        num_bytes += len(text.encode())
    expected = nats / math.log(2) / num_bytes

    table = pq.read_table(labels["evaluate sbp, seed 0"] / "scores.parquet")
    ours = sum(table["nats"].to_pylist()) / math.log(2) / sum(table["num_bytes"].to_pylist())
    assert ours == pytest.approx(expected, abs=1e-3)
    result = json.loads((labels["corpus"].parents[2] / "small" / "result.json").read_text())
    assert result["arms"]["sbp"]["test"]["bits_per_byte"] == pytest.approx(ours, abs=1e-12)
