"""Cached decoding of Llama-layout models (Llama, Mistral, Qwen2, Qwen3): prompts in, each once for
all that continues it, and many slots forward.

Keys and values of a prompt are stored once, at a place, and apart from those of the slots that go
on from it. The queries of these slots are put side by side, so that a step reads a prompt once for
all of them and has shapes that do not change; what a slot finds in its prompt and what it finds in
its own text are joined by the mass of each. Held to transformers' own forward by a test (law 10).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from synboot.core.errors import BadInput, SynbootError

_LAYOUTS = ("llama", "mistral", "qwen2", "qwen3")


def bucket(length: int, most: int) -> int:
    """The next of 64, 96, 128, 192, 256, ..., but at most `most`: so few lengths that each can have
    a shape of its own, and none is half as long again as what it is for."""
    size = 64
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return min(size, most)


class Cache:
    """Keys and values of `places` prompts of at most `prompt_room` positions, and of `slots` texts
    of at most `own_room`; at most `shared` slots go on from one place. Tensors that a step reads
    and writes stay where they are (a captured step knows them by address).

    Raises SynbootError if memory does not suffice.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        slots: int,
        places: int,
        shared: int,
        prompt_room: int,
        own_room: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        layers, heads, head_dim = shape
        prompts = (layers, places, heads, prompt_room, head_dim)
        own = (layers, slots, heads, own_room, head_dim)
        try:  # zeros, so that what nobody has written yet is finite
            self.prompt_keys, self.prompt_values, self.keys, self.values = (
                torch.zeros(size, dtype=dtype, device=device)
                for size in (prompts, prompts, own, own)
            )
        except RuntimeError as error:
            size = 2 * dtype.itemsize * (torch.Size(prompts).numel() + torch.Size(own).numel())
            raise SynbootError(
                f"no memory for {size / 1e9:,.1f} GB of keys and values; "
                "set a smaller runtime.slots"
            ) from error

        def numbers(*size: int) -> torch.Tensor:
            return torch.zeros(size, dtype=torch.int64, device=device)

        self.lengths = numbers(places) + 1  # of prompts; never none, which would be 0 / 0
        self.member = numbers(places, shared)  # the slot whose query stands there
        self.place, self.column = numbers(slots), numbers(slots)  # of a slot in `member`
        self.ids = numbers(slots)  # the token that a slot is fed next,
        self.counts = numbers(slots)  # and how many it was fed before
        self.slots = torch.arange(slots, device=device)

    def seat(self, slots: torch.Tensor, places: torch.Tensor, columns: torch.Tensor) -> None:
        """`slots` go on from the prompts at `places`; all int64 [count]. A pair of place and column
        is one slot's alone, until it is another's."""
        self.place[slots], self.column[slots] = places, columns
        self.member[places, columns] = slots


@dataclass(frozen=True)
class _Linear:
    """A linear map's weight [out, in], and its bias [out] where it has one."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        return linear(states.to(self.weight.dtype), self.weight, self.bias).float()


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
    """A model's weights and their use, for sequences of at most `capacity` positions.

    Matrix products are of numbers in `precision`; everything between them is float32, as in
    training. Raises BadInput for a model whose numbers it would get wrong.
    """

    def __init__(
        self, model: Any, *, capacity: int, precision: torch.dtype = torch.float32
    ) -> None:
        config = model.config
        check_understood(config)
        self._precision = precision
        self._layers = [_layer(layer, precision) for layer in model.model.layers]
        self._embedding = model.model.embed_tokens.weight.detach()
        self._final_norm = model.model.norm.weight.detach().float()
        self._output = _linear(model.lm_head, precision)
        self._epsilon = float(config.rms_norm_eps)
        heads, self._kv_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
        self._groups = heads // self._kv_heads
        self._head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        frequencies = model.model.rotary_emb.inv_freq.to(self._embedding.device)
        # A slot without a request may stand behind a prompt that fills all positions.
        self._cos, self._sin = rotary(capacity + 1, frequencies)

    def cache(self, *, dtype: torch.dtype | None = None, **sizes: int) -> Cache:
        """An empty one for this model, in its precision by default; `sizes` are `Cache`'s."""
        shape = len(self._layers), self._kv_heads, self._head_dim
        device = self._embedding.device
        return Cache(shape, dtype=dtype or self._precision, device=device, **sizes)

    def bytes_of_position(self, dtype: torch.dtype) -> int:
        """Of the keys and values of all layers."""
        return 2 * len(self._layers) * self._kv_heads * self._head_dim * dtype.itemsize

    @torch.inference_mode()
    def prefill(
        self, cache: Cache, places: torch.Tensor, ids: torch.Tensor, lengths: torch.Tensor
    ) -> torch.Tensor:
        """Compute prompts: ids int64 [rows, longest], of which `lengths` [rows] count, are put at
        `places` [rows]. The logits after them, float32 [rows, vocabulary]."""
        longest = ids.shape[1]
        hidden = self._embedding[ids].float()  # [rows, longest, width]
        cos, sin = self._cos[:longest, None], self._sin[:longest, None]
        cache.lengths[places] = lengths
        for number, layer in enumerate(self._layers):
            projected = self._project(layer, hidden, cos, sin)
            query, key, value = (part.transpose(1, 2).to(self._precision) for part in projected)
            cache.prompt_keys[number][places, :, :longest] = key.to(cache.keys.dtype)
            cache.prompt_values[number][places, :, :longest] = value.to(cache.keys.dtype)
            key, value = (part.repeat_interleave(self._groups, 1) for part in (key, value))
            mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
            hidden = self._after_attention(layer, hidden, mixed.transpose(1, 2).flatten(2))
        rows = torch.arange(len(ids), device=ids.device)
        return self._logits(hidden[rows, lengths - 1])

    @torch.inference_mode()
    def step(
        self, cache: Cache, prompt_room: int | None = None, own_room: int | None = None
    ) -> torch.Tensor:
        """Feed every slot the token `cache.ids`: the logits after it, float32 [slots, vocabulary].

        Attention reads the first `prompt_room` positions of prompts and `own_room` of texts, all by
        default: no slot whose logits are used may have more.
        """
        positions = cache.lengths[cache.place] + cache.counts
        hidden = self._embedding[cache.ids].float()  # [slots, width]
        cos, sin = self._cos[positions, None], self._sin[positions, None]
        kept = cache.prompt_keys, cache.prompt_values, cache.keys, cache.values
        for layer, *states in zip(self._layers, *kept, strict=True):
            query, key, value = self._project(layer, hidden, cos, sin)
            prompt_keys, prompt_values, keys, values = states
            keys[cache.slots, :, cache.counts] = key.to(keys.dtype)
            values[cache.slots, :, cache.counts] = value.to(values.dtype)
            query = query * self._head_dim**-0.5
            query = query.view(len(query), self._kv_heads, self._groups, self._head_dim)
            # [places, kv heads, shared, groups, head_dim], the queries of a prompt side by side
            together = query[cache.member].transpose(1, 2)
            seen = prompt_keys[:, :, :prompt_room], prompt_values[:, :, :prompt_room]
            in_prompt = self._attend(together.flatten(2, 3), *seen, cache.lengths - 1)
            found, mass = (
                part.view(*together.shape[:4], -1).transpose(1, 2)[cache.place, cache.column]
                for part in in_prompt
            )
            seen = keys[:, :, :own_room], values[:, :, :own_room]
            own, own_mass = self._attend(query, *seen, cache.counts)
            mixed = own + torch.sigmoid(mass - own_mass) * (found - own)
            hidden = self._after_attention(layer, hidden, mixed.flatten(1))
        return self._logits(hidden)

    def _attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, last: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries [sequences, kv heads, queries, head_dim] over [sequences, kv heads, room,
        head_dim] up to the position `last` [sequences]: what is found, and the logarithm of the
        mass [..., 1] that it has, both float32."""
        keys, values = keys.to(self._precision), values.to(self._precision)
        scores = (query.to(self._precision) @ keys.transpose(2, 3)).float()
        beyond = torch.arange(keys.shape[2], device=last.device) > last[:, None]
        weights = scores.masked_fill_(beyond[:, None, None], -torch.inf).softmax(-1)
        # The largest weight is exp(largest score) / mass.
        mass = scores.amax(-1, keepdim=True) - weights.amax(-1, keepdim=True).log()
        return (weights.to(self._precision) @ values).float(), mass

    def _project(
        self, layer: _Layer, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key (both normed and rotated) and value: [..., heads, head_dim]."""
        normed = self._norm(hidden, layer.input_norm)
        heads = (*hidden.shape[:-1], -1, self._head_dim)
        query, key, value = (
            project(normed).view(heads) for project in (layer.query, layer.key, layer.value)
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


def _linear(module: Any, precision: torch.dtype) -> _Linear:
    bias = None if module.bias is None else module.bias.detach().to(precision)
    return _Linear(module.weight.detach().to(precision), bias)


def _layer(layer: Any, precision: torch.dtype) -> _Layer:
    attention, feed_forward = layer.self_attn, layer.mlp
    query_norm, key_norm = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    return _Layer(
        input_norm=layer.input_layernorm.weight.detach().float(),
        query=_linear(attention.q_proj, precision),
        key=_linear(attention.k_proj, precision),
        value=_linear(attention.v_proj, precision),
        query_norm=None if query_norm is None else query_norm.weight.detach().float(),
        key_norm=None if key_norm is None else key_norm.weight.detach().float(),
        output=_linear(attention.o_proj, precision),
        feed_forward_norm=layer.post_attention_layernorm.weight.detach().float(),
        gate=_linear(feed_forward.gate_proj, precision),
        up=_linear(feed_forward.up_proj, precision),
        down=_linear(feed_forward.down_proj, precision),
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
