from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from synboot.core.errors import BadInput
from synboot.core.rng import rng
from synboot.data.tokenizer import TextTokenizer, train_tokenizer
from synboot.model.architecture import load_model, new_model, save_model
from synboot.model.flops import cost_of_shape, forward_flops
from synboot.model.settings import Shape
from synboot.pairs.encoders.cost import reading_flops
from synboot.pairs.encoders.hidden_states import MAX_WINDOWS, HiddenStates
from synboot.pairs.encoders.lm import LmEncoder, reciprocal_rank

CONTEXT = 32
PREFIX = "common1 common2: "


def plain_means(directory: Path, text: str, prefix: str) -> np.ndarray:
    """[layers, width], written plainly: one window at a time, without padding."""
    model, tokenizer = load_model(directory), TextTokenizer.load(directory)
    start = [tokenizer.end_id, *tokenizer.encode([prefix])[0].tolist()]
    ids = tokenizer.encode([text])[0].tolist()
    room = CONTEXT - len(start)
    states = []
    for place in range(0, min(len(ids), MAX_WINDOWS * room), room):
        window = torch.tensor([start + ids[place : place + room]])
        with torch.no_grad():
            output = model(window, output_hidden_states=True)
        states.append(torch.stack(output.hidden_states)[:, 0, len(start) :])
    return torch.cat(states, dim=1).mean(dim=1).numpy()


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_means_are_those_of_plain_transformers(
    language_model: Path, topic_texts: list[str], prefix: str
) -> None:
    """Law 10: neither padding nor batches nor leaving out the output layer changes a thing."""
    texts = [*topic_texts[:9], "x", " ".join(topic_texts)]
    states = HiddenStates(language_model, prefix=prefix, device="cpu")
    found = states.means(states.tokenize(texts), range(states.num_layers))
    assert found.shape == (len(texts), 3, 32)
    expected = np.stack([plain_means(language_model, text, prefix) for text in texts])
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_cost_is_that_of_the_hand_count() -> None:
    shape = Shape(3, 32, 4, 2, 8, 48)
    model = new_model(shape, vocab_size=300, context=16, end_id=0, seed=0)
    lengths = [1, 7, 16]
    expected = sum(
        forward_flops(cost_of_shape(shape, 0), 0, length) for length in lengths
    )  # no output layer
    assert reading_flops(model.base_model, model.config, lengths, causal=True) == expected


def test_cost_of_a_document(language_model: Path) -> None:
    """END, prefix and text are read, padding is not counted."""
    states = HiddenStates(language_model, prefix="", device="cpu")
    documents = [np.arange(length, dtype=np.int64) for length in (3, 40)]
    states.means(documents, [0])
    shape = Shape(2, 32, 2, 1, 16, 48)
    expected = [forward_flops(cost_of_shape(shape, 0), 0, length) for length in (4, 32, 10)]
    assert states.flops == sum(expected)


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_stopping_early_changes_cost_and_nothing_else(tmp_path: Path, layer: int) -> None:
    shape = Shape(3, 32, 2, 1, 16, 48)
    tokenizer = train_tokenizer(["some words"], 300)
    tokenizer.save(tmp_path)
    model = new_model(
        shape, vocab_size=tokenizer.vocab_size, context=CONTEXT, end_id=tokenizer.end_id, seed=0
    )
    save_model(model, tmp_path)
    documents = [np.arange(5, dtype=np.int64), np.arange(50, dtype=np.int64)]
    whole, cut = (HiddenStates(tmp_path, prefix="", device="cpu") for _ in range(2))
    cut.stop_at(layer)
    expected = whole.means(documents, range(4))[:, layer]
    np.testing.assert_array_equal(cut.means(documents, [layer])[:, 0], expected)
    assert cut.flops * 3 == whole.flops * min(layer + 1, 3)


def test_reads_as_many_windows_as_stated(language_model: Path) -> None:
    room = CONTEXT - 1
    tokens = rng(0, "tokens").integers(1, 250, MAX_WINDOWS * room + 50)
    states = HiddenStates(language_model, prefix="", device="cpu")
    shorter, full, longer = states.means(
        [tokens[: MAX_WINDOWS * room - 1], tokens[: MAX_WINDOWS * room], tokens], [2]
    )
    np.testing.assert_array_equal(full, longer)
    assert np.abs(shorter - full).max() > 0


def test_rank_of_the_other_half() -> None:
    """By hand; of rows equally near, the own one counts as the last."""
    eye = np.eye(3, dtype=np.float32)
    assert reciprocal_rank(eye, eye) == 1
    assert reciprocal_rank(eye, eye[[1, 0, 2]]) == pytest.approx((1 / 3 + 1 / 3 + 1) / 3)
    assert reciprocal_rank(eye, np.ones((3, 3), np.float32)) == pytest.approx(1 / 3)
    first = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    second = np.array([[0, 1], [0.8, 0.6], [1, 0]], np.float32)  # ranks 3, 2, 3
    assert reciprocal_rank(first, second) == pytest.approx((1 / 3 + 1 / 2 + 1 / 3) / 3)


def test_choice_is_the_best_score_and_is_saved(
    language_model: Path, topic_texts: list[str], tmp_path: Path
) -> None:
    encoder = LmEncoder.fit(topic_texts, model_directory=language_model, dimensions=16, seed=0)
    choice = encoder.choice
    assert choice["documents"] == len(topic_texts)
    assert sorted({entry["layer"] for entry in choice["scores"]}) == [0, 1, 2]
    best = max(entry["score"] for entry in choice["scores"])
    winners = [entry for entry in choice["scores"] if entry["score"] == best]
    expected = min(winners, key=lambda entry: (entry["layer"], -entry["shrinkage"]))
    assert (choice["layer"], choice["shrinkage"]) == (expected["layer"], expected["shrinkage"])
    assert best > 5 / len(topic_texts)  # chance: about 4.5 / 48, the mean of 1 / rank
    encoder.save(tmp_path)
    assert json.loads((tmp_path / "settings.json").read_text())["choice"] == choice
    loaded = LmEncoder.load(tmp_path, model_directory=language_model)
    assert loaded.choice == choice


def test_of_equal_scores_the_lower_layer_and_the_larger_shrinkage(
    language_model: Path,
) -> None:
    """Halves that are alike are found whatever is read."""
    texts = [f"{chr(97 + i)}{chr(97 + i)}" * 8 for i in range(6)]
    encoder = LmEncoder.fit(texts, model_directory=language_model, dimensions=4, seed=0)
    scores = {entry["score"] for entry in encoder.choice["scores"]}
    assert 1.0 in scores
    assert encoder.choice["layer"] == 0
    first = next(entry for entry in encoder.choice["scores"] if entry["score"] == 1.0)
    assert encoder.choice["shrinkage"] == first["shrinkage"]


def test_related_texts_are_nearer(language_model: Path, topic_texts: list[str]) -> None:
    """Even untrained: embeddings tell words apart. Labels take no part in fitting."""
    encoder = LmEncoder.fit(topic_texts, model_directory=language_model, dimensions=16, seed=0)
    vectors = encoder.encode(topic_texts)
    similarities = vectors @ vectors.T
    np.fill_diagonal(similarities, -2)
    hits = similarities.argmax(axis=1) % 8 == np.arange(len(topic_texts)) % 8
    assert hits.mean() > 0.7  # chance: 5 of 47
    centre = vectors.mean(axis=0)
    assert np.linalg.norm(centre) < 0.2  # of uncentred states all cosines are near 1


def test_a_given_layer_is_taken(language_model: Path, topic_texts: list[str]) -> None:
    vectors = []
    for layer in range(3):
        encoder = LmEncoder.fit(
            topic_texts, model_directory=language_model, dimensions=16, seed=0, layer=layer
        )
        assert encoder.choice["layer"] == layer
        assert {entry["layer"] for entry in encoder.choice["scores"]} == {layer}
        vectors.append(encoder.encode(topic_texts))
    assert np.abs(vectors[0] - vectors[1]).max() > 0.01
    assert np.abs(vectors[1] - vectors[2]).max() > 0.01
    for layer in (3, 99):
        with pytest.raises(BadInput, match=rf"pairs\.layer: expected 0 to 2 .*, got {layer}"):
            LmEncoder.fit(
                topic_texts, model_directory=language_model, dimensions=4, seed=0, layer=layer
            )


def test_no_more_dimensions_than_asked_or_there_are(
    language_model: Path, topic_texts: list[str]
) -> None:
    for texts, asked, given in (
        (topic_texts, 5, 5),
        (topic_texts, 999, 32),
        (topic_texts[:4], 9, 3),
    ):
        encoder = LmEncoder.fit(texts, model_directory=language_model, dimensions=asked, seed=0)
        assert encoder.encode(topic_texts).shape == (len(topic_texts), given)


@pytest.mark.parametrize(
    "texts", [[], [""], ["", " "], ["one two three"], ["a b", "", "\n"], ["b"] * 3]
)
def test_too_few_documents(language_model: Path, texts: list[str]) -> None:
    with pytest.raises(BadInput, match=r"pairs\.encoder: lm needs at least two documents"):
        LmEncoder.fit(texts, model_directory=language_model, dimensions=4, seed=0)


def test_documents_that_do_not_differ(language_model: Path, topic_texts: list[str]) -> None:
    with pytest.raises(BadInput, match="at least two documents that differ"):
        LmEncoder.fit(topic_texts[:1] * 30, model_directory=language_model, dimensions=4, seed=0)


def test_a_prefix_that_leaves_no_room(language_model: Path, topic_texts: list[str]) -> None:
    with pytest.raises(BadInput, match=r"pairs\.prefix: takes \d+ of a window's 32 tokens"):
        LmEncoder.fit(
            topic_texts, model_directory=language_model, dimensions=4, seed=0, prefix="far " * 40
        )


def test_another_model_is_refused(
    language_model: Path, topic_texts: list[str], tmp_path: Path
) -> None:
    """By what its files hold, not by where they are."""
    encoder = LmEncoder.fit(topic_texts, model_directory=language_model, dimensions=4, seed=0)
    encoder.save(tmp_path / "encoder")
    assert not list((tmp_path / "encoder").glob("*.safetensors"))
    moved = shutil.copytree(language_model, tmp_path / "moved")
    loaded = LmEncoder.load(tmp_path / "encoder", model_directory=moved)
    np.testing.assert_array_equal(loaded.encode(topic_texts), encoder.encode(topic_texts))
    model = load_model(moved)
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-3
    save_model(model, moved)
    with pytest.raises(BadInput, match="not the model that the encoder was fitted with"):
        LmEncoder.load(tmp_path / "encoder", model_directory=moved)


def test_reads_any_causal_lm(topic_texts: list[str], language_model: Path, tmp_path: Path) -> None:
    """Learnt positions, no separate heads for keys, another name for the width."""
    tokenizer = TextTokenizer.load(language_model)
    tokenizer.save(tmp_path)
    config = GPT2Config(
        vocab_size=tokenizer.vocab_size, n_positions=CONTEXT, n_embd=24, n_layer=2, n_head=2
    )
    model = GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path)
    states = HiddenStates(tmp_path, prefix="", device="cpu")
    found = states.means(states.tokenize(topic_texts[:3]), range(3))
    expected = np.stack([plain_means(tmp_path, text, "") for text in topic_texts[:3]])
    np.testing.assert_allclose(found, expected, atol=2e-6)
    states.stop_at(0)
    first = states.means(states.tokenize(topic_texts[:3]), [0])
    np.testing.assert_array_equal(first, found[:, :1])
    matrices = 2 * 12 * 24 * 24  # 4 of attention and 8 of the feed-forward, width by width
    assert reading_flops(model.base_model, model.config, [5], causal=True) == (
        2 * matrices * 5 + 4 * 2 * 24 * 15
    )
