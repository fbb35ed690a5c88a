"""The language model: transformers' Qwen3 (Llama 3 with QK-norm), its presets and its files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

from synboot.core.errors import BadInput
from synboot.core.rng import seed_for
from synboot.core.storage import write_json

# Its bars would run through ours.
transformers_logging.disable_progress_bar()

ROPE_THETA = 10_000.0


@dataclass(frozen=True)
class Shape:
    """A Qwen3-layout transformer with tied embeddings, without its vocabulary and context.

    Grouped-query attention: `query_heads` share `key_value_heads`. Every linear map is free of
    biases; the feed-forward is SwiGLU with `feed_forward_width` hidden units.
    """

    layers: int
    width: int
    query_heads: int
    key_value_heads: int
    head_dim: int
    feed_forward_width: int


PRESETS: dict[str, Shape] = {
    "0.6m": Shape(4, 96, 3, 1, 32, 256),
    "1m": Shape(4, 128, 4, 2, 32, 384),
    "3m": Shape(6, 192, 6, 2, 32, 512),
    "5m": Shape(6, 256, 8, 4, 32, 704),
    "14m": Shape(8, 384, 6, 2, 64, 1024),
    "20m": Shape(8, 448, 7, 1, 64, 1216),
    "50m": Shape(10, 640, 10, 2, 64, 1728),
    "100m": Shape(12, 832, 13, 1, 64, 2240),
    "350m": Shape(24, 1024, 16, 8, 64, 2816),
    "1b": Shape(24, 1792, 14, 7, 128, 4864),
    # The shape of the 3B model is recalled, not sourced; that of the 6B model is the natural
    # next one of the same family with that many parameters.
    "paper-3b": Shape(26, 3072, 24, 8, 128, 8192),
    "paper-6b": Shape(32, 4096, 32, 8, 128, 11008),
}
"""Names are all parameters, roughly, with a vocabulary that suits the size: 2,048 entries up to
14m, 8,192 for 20m and 50m, 16,384 for 100m, 49,152 from 350m on (`paper-*` are the scales of arXiv
2509.15248)."""


def shape_of(preset: str) -> Shape:
    """The preset's shape. Raises BadInput for a name that does not exist."""
    if preset not in PRESETS:
        raise BadInput(f"field model.preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    return PRESETS[preset]


def num_parameters(shape: Shape, vocab_size: int) -> tuple[int, int]:
    """(all parameters, parameters without the embedding), counted by hand."""
    attention = shape.width * shape.head_dim * 2 * (shape.query_heads + shape.key_value_heads)
    feed_forward = 3 * shape.width * shape.feed_forward_width
    norms = 2 * shape.width + 2 * shape.head_dim
    rest = shape.layers * (attention + feed_forward + norms) + shape.width
    return rest + vocab_size * shape.width, rest


def new_model(
    shape: Shape, *, vocab_size: int, context: int, end_id: int, seed: int
) -> Qwen3ForCausalLM:
    """A freshly initialised model (normal, standard deviation 0.02); float32, on the CPU."""
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=shape.width,
        intermediate_size=shape.feed_forward_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.query_heads,
        num_key_value_heads=shape.key_value_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=context,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        attention_bias=False,
        attention_dropout=0.0,
        bos_token_id=end_id,
        eos_token_id=end_id,
        pad_token_id=None,  # torch would hold that token's embedding at zero, without gradient
        use_cache=True,
    )
    with torch.random.fork_rng(devices=[]):
        number = seed_for(seed, "initial weights", *map(str, asdict(shape).values()))
        torch.default_generator.manual_seed(number)  # torch.manual_seed would seed CUDA's too
        model = Qwen3ForCausalLM(config)
    return model.float()


def load_model(directory: Path) -> Any:
    """A causal LM from a model directory (safetensors only, no remote code), float32."""
    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )


def _padding_id(config: Any) -> int | None:
    """The padding token, or the (first) end token where there is none."""
    end = config.eos_token_id
    padding: int | None = config.pad_token_id
    if padding is None:
        padding = end[0] if isinstance(end, list) else end
    return padding


def save_model(model: Any, directory: Path) -> None:
    """Write config, generation config and safetensors as transformers lays them out.

    `rope_theta` stands beside transformers 5's `rope_parameters`, for readers of either.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=_padding_id(model.config),
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
    )
    try:
        model.save_pretrained(directory, safe_serialization=True)
    except SafetensorError as error:  # a full disk, for one
        raise OSError(f"{directory}: {error}") from error
    file = directory / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    if "rope_parameters" in config:
        config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    write_json(file, config)
