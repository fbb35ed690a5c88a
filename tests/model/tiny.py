"""Tiny models and tokenizers in the layouts of published ones, made on the spot."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

START, END = "<s>", "</s>"
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
QWEN3 = SIZES | {"head_dim": 8}
LLAMA3 = SIZES | {"head_dim": 16, "rope_parameters": LLAMA3_ROPE}
BIASED = SIZES | {"attention_bias": True, "mlp_bias": True}
NEOX = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
LAYOUTS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, QWEN3 | {"tie_word_embeddings": True}),
    "qwen3 with biases": (Qwen3Config, Qwen3ForCausalLM, QWEN3 | {"attention_bias": True}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, SIZES | {"tie_word_embeddings": True}),
    "llama": (LlamaConfig, LlamaForCausalLM, SIZES),
    "llama 3": (LlamaConfig, LlamaForCausalLM, LLAMA3),
    "llama with biases": (LlamaConfig, LlamaForCausalLM, BIASED),
    "mistral": (MistralConfig, MistralForCausalLM, SIZES | {"sliding_window": None}),
    "mistral, sliding": (MistralConfig, MistralForCausalLM, SIZES | {"sliding_window": 5}),
    "gpt2": (GPT2Config, GPT2LMHeadModel, {"n_embd": 24, "n_layer": 2, "n_head": 4}),
    "gpt_neox": (GPTNeoXConfig, GPTNeoXForCausalLM, NEOX),
}


def tiny_model(
    layout: str, *, vocab_size: int = 60, context: int = 32, end_id: int = 0, **changes: Any
) -> Any:
    """A model with weights as uneven as trained ones, so that its predictions are not flat."""
    config, model, sizes = LAYOUTS[layout]
    positions = "n_positions" if layout == "gpt2" else "max_position_embeddings"
    shared = {"vocab_size": vocab_size, "bos_token_id": end_id, "eos_token_id": end_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = model(config(**sizes | shared | {positions: context} | changes))
        with torch.no_grad():
            for parameter in made.parameters():
                noise = torch.randn_like(parameter)
                parameter.add_(noise, alpha=0.2 if parameter.ndim == 2 else 0.1)
    return made.eval()


def words(count: int, seed: int = 0) -> list[str]:
    """Texts of invented words, with spaces, punctuation and a few letters beyond ASCII."""
    source = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "ü")]

    def word() -> str:
        letters = "".join(source.choices(syllables, k=source.randint(1, 3)))
        return letters + source.choice(["", "", ",", "."])

    return [" ".join(word() for _ in range(source.randint(5, 25))) for _ in range(count)]


def sentencepiece_like(vocab_size: int = 400, *, strip: bool = True) -> Tokenizer:
    """As Llama 2's: BPE over U+2581 for spaces, with byte fallback, <unk>, <s>, </s> and a
    post-processor that puts <s> first. Without `strip` as Gemma's: no prefix space."""
    spaces = [normalizers.Replace(" ", "▁")]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Prepend("▁"), *spaces] if strip else spaces
    tokenizer.normalizer = normalizers.Sequence(steps)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 256,
        special_tokens=["<unk>", START, END],
        show_progress=False,
        max_token_length=8,
    )
    tokenizer.train_from_iterator(words(40), trainer=trainer)
    layout = json.loads(tokenizer.to_str())
    vocabulary = layout["model"]["vocab"]
    # The 256 byte tokens are plain entries of the vocabulary, behind the special ones.
    layout["model"]["vocab"] = {
        **{token: i for token, i in vocabulary.items() if i < 3},
        **{f"<0x{byte:02X}>": 3 + byte for byte in range(256)},
        **{token: i + 256 for token, i in vocabulary.items() if i >= 3},
    }
    tokenizer = Tokenizer.from_str(json.dumps(layout))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if strip else [])])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, 1)]
    )
    return tokenizer


def unigram_like() -> Tokenizer:
    """As T5's and XLM-R's: every character of `words` as a piece, some pairs, the special tokens
    among the pieces that a text could be cut into."""
    letters = sorted({c for text in words(40) for c in text if c != " "} | set("<>/s"))
    pieces = [("<unk>", 0.0), (START, 0.0), (END, 0.0), ("▁", -3.0)]
    pieces += [(letter, -4.0 - i / 100) for i, letter in enumerate(letters)]
    pieces += [("▁b", -4.5), ("ba", -5.0), ("na", -5.1)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<unk>", START, END])
    return tokenizer


def byte_level(*, ignore_merges: bool = False) -> Tokenizer:
    """As GPT-2's and Llama 3's, with added tokens that are not special."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words(40), trainer=trainer)
    tokenizer.add_special_tokens([START, END])
    tokenizer.add_tokens([AddedToken("  ", normalized=False), AddedToken("<tüü>", special=False)])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path, **config: Any) -> None:
    """Write tokenizer.json and tokenizer_config.json with <s>, </s> unless `config` says else."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    written = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": START,
        "eos_token": {"__type": "AddedToken", "content": END, "special": True},
        "split_special_tokens": True,
    } | config
    (directory / "tokenizer_config.json").write_text(json.dumps(written), encoding="utf-8")
