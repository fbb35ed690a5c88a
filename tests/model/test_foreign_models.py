"""Model directories that others made: what is loaded, what is refused and how, what is kept."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    OPTConfig,
    OPTForCausalLM,
    Qwen3ForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from synboot.core.errors import BadInput
from synboot.model.architecture import context_of, load_model, model_digest, new_model, save_model
from synboot.model.settings import shape_of

sys.path.append(str(Path(__file__).parent))

from tiny import LAYOUTS, SIZES, save_tokenizer, sentencepiece_like, tiny_model

IDS = torch.arange(40).reshape(2, 20) % 60


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=IDS, use_cache=False).logits


def other_model(name: str) -> Any:
    """Layouts with traits of their own: rope nested by layer type, learned positions with an
    offset, windows and soft caps."""
    torch.manual_seed(5)
    shared = SIZES | {"vocab_size": 60, "max_position_embeddings": 32}
    if name == "gemma2":
        return Gemma2ForCausalLM(Gemma2Config(**shared, head_dim=8, sliding_window=6))
    if name == "gemma3":
        types = ["sliding_attention", "full_attention"]
        sizes = shared | {"head_dim": 8, "sliding_window": 6, "layer_types": types}
        return Gemma3ForCausalLM(Gemma3TextConfig(**sizes))
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=60, hidden_size=24, ffn_dim=40, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=32, word_embed_proj_dim=24,
        )
    )  # fmt: skip


def any_model(name: str) -> Any:
    return tiny_model(name) if name in LAYOUTS else other_model(name)


@pytest.mark.parametrize("name", [*LAYOUTS, "gemma2", "gemma3", "opt"])
def test_logits_are_plain_transformers_before_and_after_saving_again(
    tmp_path: Path, name: str
) -> None:
    """To the bit: the same code on the same weights."""
    first, second = tmp_path / "first", tmp_path / "second"
    any_model(name).save_pretrained(first)
    expected = logits(AutoModelForCausalLM.from_pretrained(first))
    loaded = load_model(first)
    assert torch.equal(logits(loaded), expected)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert not loaded.training
    save_model(loaded, second)
    again = load_model(second)
    assert torch.equal(logits(again), expected)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(second)), expected)
    tied = loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert tied == loaded.config.tie_word_embeddings
    assert tied == (again.get_output_embeddings().weight is again.get_input_embeddings().weight)
    written = json.loads((second / "config.json").read_text())
    rope = written.get("rope_parameters") or {}
    assert written.get("rope_theta") == rope.get("rope_theta")
    kept = json.loads((first / "config.json").read_text())
    assert {key for key in kept if written.get(key) != kept[key]} <= {
        "attn_pdrop", "embd_pdrop", "resid_pdrop", "summary_first_dropout", "dropout", "dtype",
        "attention_dropout", "hidden_dropout", "classifier_dropout", "layerdrop",
    }  # fmt: skip


def test_half_precision_and_shards_are_read(tmp_path: Path) -> None:
    tiny_model("llama").bfloat16().save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(logits(load_model(tmp_path)), logits(expected))


def test_a_models_own_dropout_is_off_and_every_token_learns(tmp_path: Path) -> None:
    tiny_model("gpt2", attn_pdrop=0.3, embd_pdrop=0.3, resid_pdrop=0.3).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    expected = logits(model)
    assert torch.equal(model.train()(input_ids=IDS).logits, expected)
    tiny_model("llama", pad_token_id=0).save_pretrained(tmp_path / "llama")
    padded = load_model(tmp_path / "llama")
    padded(input_ids=torch.zeros(1, 3, dtype=torch.long)).logits[..., 1:].square().sum().backward()
    assert padded.get_input_embeddings().weight.grad[0].abs().sum() > 0


def test_a_models_own_generation_config_is_kept(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.save_pretrained(tmp_path / "first")
    own = GenerationConfig(eos_token_id=[3, 4], bos_token_id=2, temperature=0.6, do_sample=True)
    own.save_pretrained(tmp_path / "first")
    save_model(load_model(tmp_path / "first"), tmp_path / "second")
    kept, made = (
        (tmp_path / name / "generation_config.json").read_text() for name in ("second", "first")
    )
    assert json.loads(kept) == json.loads(made)
    # Flags that transformers itself calls inconsistent, as in published directories.
    odd = json.loads(made) | {"do_sample": False, "top_p": 0.9}
    (tmp_path / "first" / "generation_config.json").write_text(json.dumps(odd))
    save_model(load_model(tmp_path / "first"), tmp_path / "third")
    assert load_model(tmp_path / "third").generation_config.eos_token_id == [3, 4]


# --- what is refused -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("good")
    tiny_model("llama", vocab_size=420).save_pretrained(directory)
    save_tokenizer(sentencepiece_like(), directory)
    return directory


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def write(name: str, content: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).write_text(content) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def make_pickle(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(b"whatever: it is never opened")


def cut_weights(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def drop_tensors(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    kept = {name: w for name, w in weights.items() if "layers.1.mlp" not in name}
    save_file(kept, directory / "model.safetensors", metadata={"format": "pt"})


def another_model(model: Callable[[], Any]) -> Callable[[Path], None]:
    def replace(directory: Path) -> None:
        shutil.rmtree(directory)
        model().save_pretrained(directory)

    return replace


BERT = BertConfig(
    vocab_size=60, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=30
)
T5 = T5Config(vocab_size=60, d_model=24, d_kv=6, d_ff=30, num_layers=1, num_heads=2)
INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no such directory"),
        (remove("config.json"), r"no config\.json"),
        (write("config.json", "{"), r"config\.json: expected a JSON object"),
        (write("config.json", "[]"), r"config\.json: expected a JSON object"),
        (
            remove("model.safetensors"),
            r"no model\.safetensors, nor model\.safetensors\.index\.json",
        ),
        (make_pickle, r"pytorch_model\.bin is a pickle, which is not loaded.*save_pretrained"),
        (cut_weights, "the weights cannot be loaded"),
        (drop_tensors, r"the weights lack 3 tensors of a LlamaForCausalLM, model\.layers\.1\.mlp"),
        (write("model.safetensors", ""), "the weights cannot be loaded"),
        (
            edit_config(intermediate_size=41),
            r"model\.layers\.0\.mlp\.\S+ is \[.*40.*\] in the weights, \[.*41.*\] by config\.json",
        ),
        (edit_config(num_attention_heads="many"), r"config\.json: .*num_attention_heads.*many"),
        (edit_config(model_type="newest"), "field model_type: 'newest' .*transformers .* not know"),
        (
            edit_config(model_type="newest", auto_map={"AutoModel": "code.Model"}),
            r"field model_type: .*auto_map\) is not run",
        ),
        (edit_config(model_type=None), "field model_type: None"),
        (edit_config(model_type="vit"), r"config\.json: vit is no causal LM"),
        (
            edit_config(architectures=["LlamaForSequenceClassification"]),
            "field architectures: expected LlamaForCausalLM, got LlamaForSequenceClassification",
        ),
        (
            edit_config(quantization_config={"quant_method": "fp8"}),
            "the weights are quantized",
        ),
        (another_model(lambda: T5ForConditionalGeneration(T5)), "encoder-decoder"),
        (another_model(lambda: BertForMaskedLM(BERT)), "expected BertLMHeadModel"),
        (another_model(lambda: BertLMHeadModel(BERT)), "looks at later tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_used_is_refused_in_one_line(
    good: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    directory = tmp_path / "model"
    shutil.copytree(good, directory)
    damage(directory)
    with pytest.raises(BadInput, match=message) as caught:
        load_model(directory)
    assert str(directory) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_head_for_another_task_on_a_tied_model_is_refused(tmp_path: Path) -> None:
    config = tiny_model("qwen3").config
    Qwen3ForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="expected Qwen3ForCausalLM, got Qwen3ForSequence"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected an object with weight_map"),
        ("[]", "expected an object with weight_map"),
        ('{"weight_map": {"a": "b.safetensors"}}', r"b\.safetensors is no file of"),
        ('{"weight_map": {"a": "../good/model.safetensors"}}', "is no file of"),
    ],
)
def test_a_damaged_index_of_shards_is_refused(
    good: Path, tmp_path: Path, content: str, message: str
) -> None:
    shutil.copytree(good, tmp_path / "good")
    shutil.copytree(good, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    (tmp_path / "model" / INDEX).write_text(content)
    for call in (load_model, model_digest):
        with pytest.raises(BadInput, match=message):
            call(tmp_path / "model")


def test_a_tokenizer_larger_than_the_embedding_is_refused(good: Path, tmp_path: Path) -> None:
    size = sentencepiece_like().get_vocab_size()
    for rows in (size, size - 1):
        directory = tmp_path / str(rows)
        tiny_model("llama", vocab_size=rows).save_pretrained(directory)
        shutil.copy(good / "tokenizer.json", directory)
    assert load_model(tmp_path / str(size)).config.vocab_size == size
    with pytest.raises(BadInput, match=f"{size} tokens, but the model's embedding has {size - 1}"):
        load_model(tmp_path / str(size - 1))
    (tmp_path / str(size) / "tokenizer.json").write_text("{")
    with pytest.raises(BadInput, match=r"tokenizer\.json: no tokenizer"):
        load_model(tmp_path / str(size))


def test_code_in_a_directory_is_not_run(good: Path, tmp_path: Path) -> None:
    """A known model_type is loaded by transformers' own code, whatever auto_map says."""
    shutil.copytree(good, tmp_path / "model")
    (tmp_path / "model" / "code.py").write_text("raise SystemExit('code was run')\n")
    edit_config(auto_map={"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"})(
        tmp_path / "model"
    )
    assert torch.equal(logits(load_model(tmp_path / "model")), logits(load_model(good)))


# --- context and identity ------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["gpt2", "llama", "gpt_neox"])
def test_the_context_is_at_most_what_the_config_states(layout: str) -> None:
    config = tiny_model(layout, context=32).config
    assert context_of(config) == context_of(config, 32) == 32
    assert context_of(config, 20) == 20
    with pytest.raises(BadInput, match=r"context: .* has 32 positions, got 33"):
        context_of(config, 33)


def test_a_model_that_states_no_context_needs_one() -> None:
    config = T5Config()
    assert context_of(config, 50) == 50
    with pytest.raises(BadInput, match=r"context: expected a number"):
        context_of(config)


def test_the_digest_is_of_the_contents(good: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(good, copy)
    original = model_digest(good)
    assert len(original) == 24
    assert model_digest(copy) == original
    (copy / "README.md").write_text("what people read")
    (copy / "optimizer.pt").write_bytes(b"what nobody reads")
    assert model_digest(copy) == original
    for name in (
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ):
        before = (copy / name).read_bytes()
        (copy / name).write_bytes(before + b" ")
        assert model_digest(copy) != original, name
        (copy / name).write_bytes(before)
    (copy / "special_tokens_map.json").write_text("{}")
    assert model_digest(copy) != original
    (copy / "special_tokens_map.json").unlink()
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert model_digest(copy) != original


def test_the_digest_covers_every_shard(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path, max_shard_size="10KB")
    original = model_digest(tmp_path)
    for path in sorted(tmp_path.glob("*.safetensors"))[1:3]:
        before = path.read_bytes()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        assert model_digest(tmp_path) != original
        path.write_bytes(before)
    (tmp_path / "config.json").unlink()
    with pytest.raises(BadInput, match=r"no config\.json"):
        model_digest(tmp_path)


def test_a_model_of_ours_is_saved_as_before(tmp_path: Path) -> None:
    """And again after loading, byte for byte."""
    model = new_model(shape_of("0.6m"), vocab_size=60, context=32, end_id=4, seed=0)
    save_model(model, tmp_path / "a")
    save_model(load_model(tmp_path / "a"), tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
