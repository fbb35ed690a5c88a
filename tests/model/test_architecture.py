from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from synboot.core.errors import BadInput
from synboot.data.tokenizer import train_tokenizer
from synboot.model.architecture import ROPE_THETA, load_model, new_model, save_model
from synboot.model.settings import PRESETS, Shape, num_parameters, shape_of

TINY = Shape(
    layers=2, width=24, query_heads=4, key_value_heads=2, head_dim=8, feed_forward_width=40
)
IDS = torch.tensor([[0, 7, 3, 3, 9, 1, 4, 6]])


def tiny(seed: int = 0, shape: Shape = TINY) -> torch.nn.Module:
    return new_model(shape, vocab_size=60, context=32, end_id=0, seed=seed)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_the_parameters_that_are_counted(preset: str) -> None:
    shape = shape_of(preset)
    with torch.device("meta"):  # shapes without memory: 6 billion parameters fit
        model = new_model(shape, vocab_size=1000, context=64, end_id=0, seed=0)
    everything, rest = num_parameters(shape, 1000)
    assert sum(p.numel() for p in model.parameters()) == everything
    embedding = model.get_input_embeddings().weight
    assert everything - rest == embedding.numel() == 1000 * shape.width
    assert model.get_output_embeddings().weight is embedding
    assert shape.query_heads % shape.key_value_heads == 0


@pytest.mark.parametrize("preset", [p for p, s in PRESETS.items() if num_parameters(s, 0)[0] < 2e7])
def test_a_small_preset_runs(preset: str) -> None:
    shape = shape_of(preset)
    model = new_model(shape, vocab_size=300, context=16, end_id=0, seed=0)
    assert sum(p.numel() for p in model.parameters()) == num_parameters(shape, 300)[0]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    found = logits(model)
    assert found.shape == (1, 8, 300)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(
    ("preset", "vocab_size"),
    [
        *((preset, 2048) for preset in ("0.6m", "1m", "3m", "5m", "14m")),
        *((preset, 8192) for preset in ("20m", "50m")),
        ("100m", 16384),
        *((preset, 49152) for preset in ("350m", "1b", "paper-3b", "paper-6b")),
    ],
)
def test_a_preset_is_about_as_large_as_its_name_says(preset: str, vocab_size: int) -> None:
    number = float(preset.removeprefix("paper-")[:-1]) * (1e9 if preset.endswith("b") else 1e6)
    assert num_parameters(shape_of(preset), vocab_size)[0] == pytest.approx(number, rel=0.15)


def test_an_unknown_preset_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"field model\.preset.*0\.6m.*'2m'"):
        shape_of("2m")


def test_matrices_start_small_and_norms_at_one() -> None:
    model = new_model(replace(TINY, width=128), vocab_size=300, context=32, end_id=0, seed=0)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert (parameter == 1).all(), name
        else:
            # Of 2,000 draws and more the standard deviation strays by 10% (6 sigma) once in
            # 10^8 seeds; this one is fixed.
            assert parameter.numel() >= 2000
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name


@pytest.mark.parametrize("saved", [False, True])
def test_every_token_learns_from_being_read_end_too(tmp_path: Path, saved: bool) -> None:
    """END starts every document. As a padding token it would be held at zero by torch."""
    model = tiny()
    if saved:
        save_model(model, tmp_path)
        model = load_model(tmp_path)
    ids = torch.arange(8)
    outputs = model(input_ids=ids[None]).logits[..., 8:]  # the tied output rows of others
    outputs.square().sum().backward()
    embedding = model.get_input_embeddings().weight
    assert (embedding.grad[:8].abs().amax(1) > 0).all()
    assert (embedding[:8].std(1) > 0.005).all()


def test_the_seed_alone_decides_the_weights() -> None:
    first = tiny(1).state_dict()
    torch.manual_seed(99)
    torch.rand(5)
    again, other = tiny(1).state_dict(), tiny(2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tiny()
    assert torch.equal(torch.rand(3), expected)


def test_a_saved_model_comes_back(tmp_path: Path) -> None:
    model = tiny()
    save_model(model, tmp_path / "deep" / "model")
    loaded = load_model(tmp_path / "deep" / "model")
    assert torch.equal(logits(loaded), logits(model))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


def test_the_directory_holds_what_readers_expect(tmp_path: Path) -> None:
    save_model(tiny(), tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "qwen3"
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == ROPE_THETA
    assert config["tie_word_embeddings"] is True
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (4, 2)
    assert config["max_position_embeddings"] == 32
    assert (config["bos_token_id"], config["eos_token_id"]) == (0, 0)
    generation = GenerationConfig.from_pretrained(tmp_path)
    assert (generation.do_sample, generation.temperature) == (True, 1.0)
    assert (generation.top_p, generation.top_k) == (1.0, 0)
    assert (generation.eos_token_id, generation.pad_token_id) == (0, 0)


def test_saving_again_replaces(tmp_path: Path) -> None:
    save_model(tiny(1), tmp_path)
    save_model(tiny(2), tmp_path)
    assert torch.equal(logits(load_model(tmp_path)), logits(tiny(2)))


def test_plain_transformers_loads_and_generates(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["the cat sat on the mat"] * 3, 300)
    model = new_model(
        TINY, vocab_size=tokenizer.vocab_size, context=32, end_id=tokenizer.end_id, seed=3
    )
    save_model(model, tmp_path)
    tokenizer.save(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    plain_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    prompt = plain_tokenizer("the cat", return_tensors="pt")
    sampled = plain.generate(**prompt, max_new_tokens=6, min_new_tokens=6)
    assert sampled.shape == (1, prompt["input_ids"].shape[1] + 6)
    greedy = plain.generate(**prompt, max_new_tokens=1, do_sample=False)[0, -1]
    with torch.inference_mode():
        assert greedy == model.eval()(**prompt).logits[0, -1].argmax()


def test_weights_that_are_a_pickle_are_not_loaded(tmp_path: Path) -> None:
    model = tiny()
    save_model(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(BadInput, match=r"pytorch_model\.bin is a pickle, which is not loaded"):
        load_model(tmp_path)
