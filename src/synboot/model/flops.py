"""Floating-point operations of training, generation and scoring, counted by hand (law 10).

A product of an (m, k) and a (k, n) matrix counts 2mkn. Counted are the linear maps, the output
layer and the attention products over the positions that a token may see (itself and those before
it, within the window of a sliding layer). Not counted: norms, activations, softmax, rotary
embedding, the optimizer. The backward pass counts twice the forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from synboot.core.errors import BadInput
from synboot.model.settings import Shape


@dataclass(frozen=True)
class Cost:
    """FLOPs of a model's forward pass.

    Of one token: `layers` in the linear maps of all layers, `output` in the output layer. Of one
    position that a token sees: `attention` in all layers that see every earlier position, and
    `sliding` in those that see the last `window` positions only.
    """

    layers: int
    output: int
    attention: int
    sliding: int = 0
    window: int = 0


def cost_of_shape(shape: Shape, vocab_size: int) -> Cost:
    """The cost of a model of `new_model`."""
    attention = shape.width * shape.head_dim * 2 * (shape.query_heads + shape.key_value_heads)
    feed_forward = 3 * shape.width * shape.feed_forward_width
    return Cost(
        layers=2 * shape.layers * (attention + feed_forward),
        output=2 * vocab_size * shape.width,
        attention=4 * shape.layers * shape.query_heads * shape.head_dim,
    )


def cost_of_model(model: Any) -> Cost:
    """The cost of any dense transformer of transformers: its linear maps once a token, its output
    layer over the whole embedding, padding rows included; attention by its config.

    Raises BadInput for what this would count wrongly: mixtures of experts, weights outside of
    linear maps, layers that are no attention.
    """
    config, output = model.config, model.get_output_embeddings()
    if strange := _uncounted(model):
        raise BadInput(f"FLOPs of {type(model).__name__} cannot be counted: {strange}")
    linear = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not output
    )
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    of_layer = 4 * config.num_attention_heads * head_dim
    windowed = _sliding_layers(config)
    return Cost(
        layers=2 * linear,
        output=2 * output.weight.numel(),
        attention=(config.num_hidden_layers - windowed) * of_layer,
        sliding=windowed * of_layer,
        window=config.sliding_window if windowed else 0,
    )


def known_cost(model: Any) -> Cost | None:
    """`cost_of_model`, None where it cannot be counted: that must not stop the work."""
    return None if _uncounted(model) else cost_of_model(model)


def _uncounted(model: Any) -> str | None:
    """What `cost_of_model` would count wrongly."""
    config = model.config
    for name in ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"):
        if (getattr(config, name, None) or 0) > 1:
            return f"a mixture of {getattr(config, name)} experts"
    if getattr(config, "kv_lora_rank", None) is not None:
        return "attention over compressed keys and values"
    if not isinstance(getattr(config, "num_attention_heads", None), int):
        return "no single number of attention heads"
    others = {*_layer_types(config)} - {"full_attention", "sliding_attention"}
    if others:
        return f"{', '.join(sorted(others))} layers"
    for name, module in model.named_modules():
        known = isinstance(module, nn.Linear | Conv1D | nn.Embedding)
        matrices = [key for key, p in module.named_parameters(recurse=False) if p.ndim > 1]
        if matrices and not known:
            return f"{name}.{matrices[0]} is no weight of a linear map"
    return None


def _layer_types(config: Any) -> list[str]:
    return getattr(config, "layer_types", None) or []


def _sliding_layers(config: Any) -> int:
    """How many layers see a window only: those that are named so, or all where none is named."""
    if types := _layer_types(config):
        return types.count("sliding_attention")
    sliding = getattr(config, "sliding_window", None) and getattr(
        config, "use_sliding_window", True
    )
    return int(config.num_hidden_layers) if sliding else 0


def forward_flops(cost: Cost, first: int, stop: int) -> int:
    """FLOPs of computing positions `first` to `stop` of a sequence whose earlier positions are
    known (0 to L for a whole sequence), with the output layer at each of them."""
    return (stop - first) * (cost.layers + cost.output) + _attention(cost, first, stop)


def training_flops(cost: Cost, row_lengths: Mapping[int, int]) -> int:
    """FLOPs of forward and backward over `{row length: number of rows}`."""
    return 3 * sum(count * forward_flops(cost, 0, length) for length, count in row_lengths.items())


def sampling_flops(
    cost: Cost, prompt_length: int, num_sampled: int, *, shared_prompt: bool = False
) -> int:
    """FLOPs of one prompt, with logits at its last position only, and of the tokens after it; the
    last sampled token is not fed back. A `shared_prompt` was computed for another draw."""
    last = prompt_length + max(num_sampled - 1, 0)
    if shared_prompt:
        return forward_flops(cost, prompt_length, last)
    prompt = prompt_length * cost.layers + _attention(cost, 0, prompt_length) + cost.output
    return prompt + forward_flops(cost, prompt_length, last)


def _attention(cost: Cost, first: int, stop: int) -> int:
    """Scores and values for each query from `first` to `stop` and each key that it sees."""
    visible = _triangle(stop) - _triangle(first)
    # Query i sees i + 1 keys, in a sliding layer `window` of them at most.
    beyond = [_triangle(max(end - cost.window, 0)) for end in (first, stop)]
    return cost.attention * visible + cost.sliding * (visible - beyond[1] + beyond[0])


def _triangle(n: int) -> int:
    """1 + 2 + ... + n."""
    return n * (n + 1) // 2
