"""Cached decoding of a Qwen3-layout model: one prompt at a time in, many slots forward.

Every slot has its own length. A slot's numbers depend on the slot alone: prompts are computed
one by one and a step has the same shape whatever the other slots hold, so what shares a batch
does not change what is sampled (law 4). Held to transformers' own forward by a test (law 10).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from synboot.core.errors import BadInput


@dataclass(frozen=True)
class Prefix:
    """Keys and values of a prompt, [layers, key-value heads, length, head_dim], and the logits
    [vocabulary] that follow it."""

    keys: torch.Tensor
    values: torch.Tensor
    logits: torch.Tensor

    @property
    def length(self) -> int:
        """Positions of the prompt."""
        return int(self.keys.shape[2])


class CachedDecoder:
    """`slots` sequences of at most `capacity` positions each, with their keys and values."""

    def __init__(self, model: Any, *, slots: int, capacity: int) -> None:
        config = model.config
        _check_understood(config)
        self._layers = [_layer_weights(layer) for layer in model.model.layers]
        self._embedding = model.model.embed_tokens.weight.detach()
        self._final_norm = model.model.norm.weight.detach()
        self._output = model.lm_head.weight.detach()
        self._epsilon = float(config.rms_norm_eps)
        self._heads = int(config.num_attention_heads)
        self._kv_heads = int(config.num_key_value_heads)
        self._head_dim = int(config.head_dim)
        device = self._embedding.device
        self._cos, self._sin = _rotary(
            capacity, self._head_dim, float(config.rope_parameters["rope_theta"]), device
        )
        cache = (len(self._layers), slots, self._kv_heads, capacity, self._head_dim)
        self._keys = torch.zeros(cache, device=device)
        self._values = torch.zeros(cache, device=device)
        self._places = torch.arange(capacity, device=device)
        self._slots = torch.arange(slots, device=device)

    @torch.inference_mode()
    def prefill(self, ids: torch.Tensor) -> Prefix:
        """Compute a prompt, int64 [length]."""
        hidden = self._embedding[ids]  # [length, width]
        cos, sin = self._cos[: len(ids), None], self._sin[: len(ids), None]
        keys, values = [], []
        for weights in self._layers:
            query, key, value = self._project(weights, hidden, cos, sin)
            keys.append(key.transpose(0, 1))
            values.append(value.transpose(0, 1))
            mixed = scaled_dot_product_attention(
                query.transpose(0, 1)[None],
                keys[-1][None],
                values[-1][None],
                is_causal=True,
                enable_gqa=True,
            )
            hidden = self._after_attention(weights, hidden, mixed[0].transpose(0, 1).flatten(1))
        return Prefix(torch.stack(keys), torch.stack(values), self._logits(hidden[-1:])[0])

    @torch.inference_mode()
    def place(self, slot: int, prefix: Prefix) -> None:
        """Start slot `slot` with a computed prompt."""
        self._keys[:, slot, :, : prefix.length] = prefix.keys
        self._values[:, slot, :, : prefix.length] = prefix.values

    @torch.inference_mode()
    def step(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Add one token to every slot: ids, positions int64 [slots]; returns [slots, vocabulary].

        `positions[s]` is where the token of slot s goes; later positions of the slot are unseen.
        """
        hidden = self._embedding[ids]  # [slots, width]
        cos, sin = self._cos[positions, None], self._sin[positions, None]
        unseen = (self._places > positions[:, None])[:, None, None]  # [slots, 1, 1, capacity]
        groups = self._heads // self._kv_heads
        for weights, keys, values in zip(self._layers, self._keys, self._values, strict=True):
            query, key, value = self._project(weights, hidden, cos, sin)
            keys[self._slots, :, positions] = key
            values[self._slots, :, positions] = value
            grouped = query.view(len(ids), self._kv_heads, groups, self._head_dim)
            scores = grouped @ keys.transpose(2, 3) * self._head_dim**-0.5
            weights_over = scores.masked_fill_(unseen, -torch.inf).softmax(-1)
            hidden = self._after_attention(weights, hidden, (weights_over @ values).flatten(1))
        return self._logits(hidden)

    def _project(
        self, weights: dict[str, torch.Tensor], hidden: torch.Tensor, cos: Any, sin: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key (both normed and rotated) and value: [tokens, heads, head_dim]."""
        normed = self._norm(hidden, weights["input_norm"])
        query, key, value = (
            linear(normed, weights[name]).view(len(hidden), -1, self._head_dim)
            for name in ("query", "key", "value")
        )
        query = _rotate(self._norm(query, weights["query_norm"]), cos, sin)
        key = _rotate(self._norm(key, weights["key_norm"]), cos, sin)
        return query, key, value

    def _after_attention(
        self, weights: dict[str, torch.Tensor], hidden: torch.Tensor, mixed: torch.Tensor
    ) -> torch.Tensor:
        hidden = hidden + linear(mixed, weights["output"])
        normed = self._norm(hidden, weights["feed_forward_norm"])
        gated = silu(linear(normed, weights["gate"])) * linear(normed, weights["up"])
        return hidden + linear(gated, weights["down"])

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return linear(self._norm(hidden, self._final_norm), self._output)

    def _norm(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden, (hidden.shape[-1],), weight, self._epsilon)


def _check_understood(config: Any) -> None:
    """Raises BadInput for a model whose numbers this decoder would get wrong."""
    if config.model_type != "qwen3":
        raise BadInput(f"the built-in engine reads qwen3 models, not {config.model_type}")
    rope = config.rope_parameters.get("rope_type", "default")
    strange = {
        f"rope_type {rope}": rope != "default",
        "attention_bias": config.attention_bias,
        "sliding_attention layers": "sliding_attention" in config.layer_types,
        f"hidden_act {config.hidden_act}": config.hidden_act != "silu",
    }
    if names := [name for name, found in strange.items() if found]:
        raise BadInput(f"the built-in engine reads no qwen3 model with {', '.join(names)}")


def _layer_weights(layer: Any) -> dict[str, torch.Tensor]:
    attention, feed_forward = layer.self_attn, layer.mlp
    modules = {
        "input_norm": layer.input_layernorm,
        "query": attention.q_proj,
        "key": attention.k_proj,
        "value": attention.v_proj,
        "query_norm": attention.q_norm,
        "key_norm": attention.k_norm,
        "output": attention.o_proj,
        "feed_forward_norm": layer.post_attention_layernorm,
        "gate": feed_forward.gate_proj,
        "up": feed_forward.up_proj,
        "down": feed_forward.down_proj,
    }
    return {name: module.weight.detach() for name, module in modules.items()}


def _rotary(
    length: int, head_dim: int, theta: float, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of rotary position embedding, [length, head_dim]."""
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, device=device).float() / head_dim)
    angles = torch.arange(length, device=device).float()[:, None] * frequencies
    doubled = torch.cat([angles, angles], dim=-1)
    return doubled.cos(), doubled.sin()


def _rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin
