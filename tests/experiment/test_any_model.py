"""The way of a document through a model directory of any kind: rows, training, tuning, sampling
and scoring, with the directory's own tokenizer, special tokens and context."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from synboot.data.batches import IGNORED
from synboot.data.mixture import Mixture, Source
from synboot.data.tokenizer import TextTokenizer
from synboot.data.tokens import TokenStore, write_token_store
from synboot.eval.likelihood import score_documents
from synboot.model.architecture import context_of, load_model, model_digest, save_model
from synboot.synth.engines import engine_for
from synboot.synth.filters import CorpusWindows, TextFilterConfig
from synboot.synth.generate import SeedDocument, draw
from synboot.synth.order import DrawOrder
from synboot.synth.settings import SamplingConfig
from synboot.synth.template import PairRows
from synboot.train.loop import train
from synboot.train.settings import LoopConfig

sys.path.append(str(Path(__file__).parents[1] / "model"))

from tiny import END, byte_level, save_tokenizer, sentencepiece_like, tiny_model, words

CONTEXT = 48
CPU = torch.device("cpu")
TEXTS = words(12, seed=21)
KINDS = {
    "llama": (sentencepiece_like, {}, "slots", True),
    "qwen3": (byte_level, {"bos_token": None}, "slots", False),
    "gpt2": (byte_level, {"bos_token": END}, "transformers", False),
}


@dataclass(frozen=True)
class Adopted:
    """A model directory, what is loaded of it, and documents as its tokens."""

    directory: Path
    model: Any
    tokenizer: TextTokenizer
    store: TokenStore
    engine: str
    separate_start: bool


@pytest.fixture(params=KINDS)
def adopted(request: pytest.FixtureRequest, tmp_path: Path) -> Adopted:
    torch.set_num_threads(1)
    make, config, engine, separate_start = KINDS[request.param]
    directory = tmp_path / "model"
    size = make().get_vocab_size() + 12  # rows of the embedding that are no tokens
    tiny_model(request.param, vocab_size=size, context=CONTEXT).save_pretrained(directory)
    save_tokenizer(make(), directory, **config)
    tokenizer = TextTokenizer.load(directory)
    documents = (np.append(ids, tokenizer.end_id) for ids in tokenizer.encode(TEXTS))
    write_token_store(tmp_path / "tokens", documents, tokenizer.vocab_size)
    store = TokenStore(tmp_path / "tokens")
    return Adopted(directory, load_model(directory), tokenizer, store, engine, separate_start)


def frame(tokenizer: TextTokenizer) -> dict[str, int]:
    return {"end_id": tokenizer.end_id, "start_id": tokenizer.start_id}


def test_from_the_directory_to_synthetic_text(adopted: Adopted, tmp_path: Path) -> None:
    model, tokenizer, store = adopted.model, adopted.tokenizer, adopted.store
    assert context_of(model.config) == CONTEXT
    before = model_digest(adopted.directory)
    loop = LoopConfig(learning_rate=5e-3, batch_rows=4, num_validations=1)

    mixture = Mixture(
        [Source("real", store, len(store), 2 * store.num_tokens())], CONTEXT, seed=1,
        **frame(tokenizer),
    )  # fmt: skip
    inputs, _ = mixture.row(0)
    assert inputs[0] == tokenizer.start_id
    trained = train(model, mixture, mixture, loop, tmp_path / "scratch", seed=1, device=CPU)
    assert trained.tokens == 2 * store.num_tokens()

    rows = PairRows(store, [(0, 1), (1, 0), (2, 3)], context=CONTEXT, seed=1, **frame(tokenizer))
    tuned = train(model, rows, rows, loop, tmp_path / "scratch tune", seed=1, device=CPU)
    assert tuned.step == 1

    saved = tmp_path / "saved"
    save_model(model, saved)
    tokenizer.save(saved)
    assert model_digest(saved) != before
    again = TextTokenizer.load(saved)
    assert (again.start_id, again.end_id) == (tokenizer.start_id, tokenizer.end_id)
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        expected = AutoModelForCausalLM.from_pretrained(saved)(ids).logits
        assert torch.equal(load_model(saved)(ids).logits, expected)
    plain = AutoTokenizer.from_pretrained(saved)
    assert plain(TEXTS[0], add_special_tokens=False)["input_ids"] == store[0][:-1].tolist()

    engine = engine_for(
        load_model(saved), context=CONTEXT, end_id=tokenizer.end_id,
        num_tokens=tokenizer.vocab_size, slots=4,
    )  # fmt: skip
    assert engine.name == adopted.engine
    seeds = [SeedDocument(f"d{i}", text, store[i][:-1], None, None) for i, text in enumerate(TEXTS)]
    drawn = draw(
        0, 8, seeds.__getitem__, DrawOrder(len(seeds), 1, 1), engine=engine, tokenizer=tokenizer,
        corpus=CorpusWindows(TEXTS), sampling=SamplingConfig(),
        filters=TextFilterConfig(keep_unfinished=True), context=CONTEXT, seed=1,
    )  # fmt: skip
    assert len(drawn) == 8
    assert all(row["text"] for row in drawn)
    assert not any(name in row["text"] for row in drawn for name in ("<s>", "</s>", "<0x"))


def test_a_pair_row_in_the_directorys_own_tokens(adopted: Adopted) -> None:
    """start d1 start d2 goes in; d2 END is learnt, and nothing else."""
    tokenizer, store = adopted.tokenizer, adopted.store
    start, end = tokenizer.start_id, tokenizer.end_id
    short = min(range(len(store)), key=lambda i: len(store[i]))
    rows = PairRows(store, [(short, short)], context=200, seed=0, **frame(tokenizer))
    text = tokenizer.encode([TEXTS[short]])[0].tolist()
    inputs, targets = rows.row(0)
    assert inputs.tolist() == [start, *text, start, *text]
    assert targets.tolist() == [IGNORED] * (1 + len(text)) + [*text, end]
    assert (start != end) == adopted.separate_start


def test_scores_are_those_of_plain_transformers(adopted: Adopted) -> None:
    """With the tokenizer of transformers too: its bos token, where it has one, stands first."""
    tokenizer, store = adopted.tokenizer, adopted.store
    plain = AutoTokenizer.from_pretrained(adopted.directory)
    model = AutoModelForCausalLM.from_pretrained(adopted.directory).eval()
    short = [i for i in range(len(store)) if len(store[i]) <= CONTEXT]
    assert len(short) > 2
    first = plain.eos_token_id if plain.bos_token_id is None else plain.bos_token_id
    expected = []
    for i in short:
        ids = torch.tensor([[first, *plain(TEXTS[i], add_special_tokens=False)["input_ids"]]])
        with torch.inference_mode():
            mean = model(input_ids=ids, labels=ids).loss.double()
        expected.append(float(mean) * (ids.shape[1] - 1))
    found = score_documents(
        adopted.model, [store[i][:-1] for i in short], [TEXTS[i] for i in short],
        context=CONTEXT, device=CPU, **frame(tokenizer),
    )  # fmt: skip
    np.testing.assert_allclose(found.nats, expected, rtol=1e-5)
    assert found.num_bytes.tolist() == [len(TEXTS[i].encode()) for i in short]
