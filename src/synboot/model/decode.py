"""Cached decoding of Llama-layout models (Llama, Mistral, Qwen2, Qwen3): one prompt at a time in,
many slots forward.

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

_LAYOUTS = ("llama", "mistral", "qwen2", "qwen3")


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


@dataclass(frozen=True)
class _Linear:
    """A linear map's weight [out, in], and its bias [out] where it has one."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        return linear(states, self.weight, self.bias)


@dataclass(frozen=True)
class _Layer:
    """The weights of a layer; queries and keys are normed in Qwen3 only."""

    input_norm: torch.Tensor
    query: _Linear
    key: _Linear
    value: _Linear
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    output: _Linear
    feed_forward_norm: torch.Tensor
    gate: _Linear
    up: _Linear
    down: _Linear


class CachedDecoder:
    """`slots` sequences of at most `capacity` positions each, with their keys and values.

    Raises BadInput for a model whose numbers it would get wrong.
    """

    def __init__(self, model: Any, *, slots: int, capacity: int) -> None:
        config = model.config
        check_understood(config)
        self._layers = [_layer(layer) for layer in model.model.layers]
        self._embedding = model.model.embed_tokens.weight.detach()
        self._final_norm = model.model.norm.weight.detach()
        self._output = _linear(model.lm_head)
        self._epsilon = float(config.rms_norm_eps)
        self._heads = int(config.num_attention_heads)
        self._kv_heads = int(config.num_key_value_heads)
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // self._heads
        self._head_dim = int(head_dim)
        device = self._embedding.device
        self._cos, self._sin = rotary(capacity, model.model.rotary_emb.inv_freq.to(device))
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
        for layer in self._layers:
            query, key, value = self._project(layer, hidden, cos, sin)
            keys.append(key.transpose(0, 1))
            values.append(value.transpose(0, 1))
            mixed = scaled_dot_product_attention(
                query.transpose(0, 1)[None],
                keys[-1][None],
                values[-1][None],
                is_causal=True,
                enable_gqa=True,
            )
            hidden = self._after_attention(layer, hidden, mixed[0].transpose(0, 1).flatten(1))
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
        for layer, keys, values in zip(self._layers, self._keys, self._values, strict=True):
            query, key, value = self._project(layer, hidden, cos, sin)
            keys[self._slots, :, positions] = key
            values[self._slots, :, positions] = value
            grouped = query.view(len(ids), self._kv_heads, groups, self._head_dim)
            scores = grouped @ keys.transpose(2, 3) * self._head_dim**-0.5
            weights = scores.masked_fill_(unseen, -torch.inf).softmax(-1)
            hidden = self._after_attention(layer, hidden, (weights @ values).flatten(1))
        return self._logits(hidden)

    def _project(
        self, layer: _Layer, hidden: torch.Tensor, cos: Any, sin: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key (both normed and rotated) and value: [tokens, heads, head_dim]."""
        normed = self._norm(hidden, layer.input_norm)
        query, key, value = (
            project(normed).view(len(hidden), -1, self._head_dim)
            for project in (layer.query, layer.key, layer.value)
        )
        query = _rotate(self._norm(query, layer.query_norm), cos, sin)
        key = _rotate(self._norm(key, layer.key_norm), cos, sin)
        return query, key, value

    def _after_attention(
        self, layer: _Layer, hidden: torch.Tensor, mixed: torch.Tensor
    ) -> torch.Tensor:
        hidden = hidden + layer.output(mixed)
        normed = self._norm(hidden, layer.feed_forward_norm)
        return hidden + layer.down(silu(layer.gate(normed)) * layer.up(normed))

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._output(self._norm(hidden, self._final_norm))

    def _norm(self, hidden: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        if weight is None:
            return hidden
        return rms_norm(hidden, (hidden.shape[-1],), weight, self._epsilon)


def check_understood(config: Any) -> None:
    """Raises BadInput for a model whose numbers this decoder would get wrong."""
    kind = config.model_type
    if kind not in _LAYOUTS:
        raise BadInput(f"the built-in engine reads {', '.join(_LAYOUTS)} models, not {kind}")
    rope = config.rope_parameters.get("rope_type", "default")
    types = getattr(config, "layer_types", None)
    sliding = "sliding_attention" in types if types else getattr(config, "sliding_window", None)
    strange = {
        f"rope_type {rope}": rope not in ("default", "llama3"),
        "partial rotary embedding": config.rope_parameters.get("partial_rotary_factor", 1) != 1,
        "sliding_attention layers": sliding,
        f"hidden_act {config.hidden_act}": config.hidden_act != "silu",
    }
    if names := [name for name, found in strange.items() if found]:
        raise BadInput(f"the built-in engine reads no {kind} model with {', '.join(names)}")


def _linear(module: Any) -> _Linear:
    bias = module.bias
    return _Linear(module.weight.detach(), None if bias is None else bias.detach())


def _layer(layer: Any) -> _Layer:
    attention, feed_forward = layer.self_attn, layer.mlp
    query_norm, key_norm = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    return _Layer(
        input_norm=layer.input_layernorm.weight.detach(),
        query=_linear(attention.q_proj),
        key=_linear(attention.k_proj),
        value=_linear(attention.v_proj),
        query_norm=None if query_norm is None else query_norm.weight.detach(),
        key_norm=None if key_norm is None else key_norm.weight.detach(),
        output=_linear(attention.o_proj),
        feed_forward_norm=layer.post_attention_layernorm.weight.detach(),
        gate=_linear(feed_forward.gate_proj),
        up=_linear(feed_forward.up_proj),
        down=_linear(feed_forward.down_proj),
    )


def rotary(length: int, frequencies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of rotary position embedding, [length, head_dim]."""
    places = torch.arange(length, device=frequencies.device)
    angles = places.float()[:, None] * frequencies.float()
    doubled = torch.cat([angles, angles], dim=-1)
    return doubled.cos(), doubled.sin()


def _rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin
