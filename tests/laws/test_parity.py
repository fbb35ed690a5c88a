"""Law 10, the model: logits are those of plain transformers' Qwen3, FLOPs and parameters those
of a count by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3ForCausalLM

from synboot.model.architecture import load_model, new_model, save_model
from synboot.model.decode import CachedDecoder
from synboot.model.flops import cost_of_shape, forward_flops, sampling_flops, training_flops
from synboot.model.settings import Shape, num_parameters, shape_of

CONTEXT = 40
VOCAB_SIZE = 200
# Float32, other kernels and another order of sums: 1e-4 is allowed for logits of size 1.
TOLERANCE = 1e-4


@pytest.fixture(
    scope="module",
    params=[
        Shape(3, 48, 6, 2, 16, 96),
        Shape(2, 32, 4, 4, 8, 64),
        Shape(2, 40, 5, 1, 32, 64),
        shape_of("0.6m"),
    ],
    ids=["grouped", "multi-head", "one key-value head", "preset 0.6m"],
)
def saved(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, torch.Tensor, torch.Tensor]:
    """A model directory with weights as uneven as trained ones; ids; the authority's logits, from
    plain transformers with the attention that is written out."""
    torch.set_num_threads(1)
    model = new_model(request.param, vocab_size=VOCAB_SIZE, context=CONTEXT, end_id=0, seed=7)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise, alpha=0.1 if parameter.ndim == 2 else 0.3)
    directory = tmp_path_factory.mktemp("model")
    save_model(model, directory)
    ids = torch.randint(VOCAB_SIZE, (3, CONTEXT), generator=generator)
    plain = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager")
    assert type(plain) is Qwen3ForCausalLM
    with torch.inference_mode():
        logits = plain(input_ids=ids).logits
    assert logits.dtype == torch.float32
    assert logits.std() > 0.5
    return directory, ids, logits


def test_the_saved_model_is_transformers_own(
    saved: tuple[Path, torch.Tensor, torch.Tensor],
) -> None:
    directory, ids, expected = saved
    with torch.inference_mode():
        found = load_model(directory).eval()(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


def test_the_cached_decoder_computes_the_same_at_every_position(
    saved: tuple[Path, torch.Tensor, torch.Tensor],
) -> None:
    directory, ids, expected = saved
    decoder = CachedDecoder(load_model(directory).eval(), capacity=CONTEXT)
    sizes = {"places": 3, "shared": 1, "prompt_room": CONTEXT, "own_room": CONTEXT}
    cache = decoder.cache(slots=3, **sizes)
    slots, starts = torch.arange(3), torch.tensor([1, 8, 15])
    found = decoder.prefill(cache, slots, ids[:3, :15], starts)
    torch.testing.assert_close(found, expected[slots, starts - 1], atol=TOLERANCE, rtol=0)
    cache.seat(slots, slots, torch.zeros_like(slots))
    for step in range(CONTEXT - 15):
        cache.ids.copy_(ids[slots, starts + step])
        cache.counts.fill_(step)
        found = decoder.step(cache)
        torch.testing.assert_close(found, expected[slots, starts + step], atol=TOLERANCE, rtol=0)


def test_plain_transformers_generates_what_the_decoder_finds_most_likely(
    saved: tuple[Path, torch.Tensor, torch.Tensor],
) -> None:
    directory, ids, _ = saved
    plain = AutoModelForCausalLM.from_pretrained(directory)
    options = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None}
    expected = plain.generate(ids[:1, :6], **options)[0, 6:].tolist()
    decoder = CachedDecoder(load_model(directory), capacity=CONTEXT)
    cache = decoder.cache(slots=1, places=1, shared=1, prompt_room=CONTEXT, own_room=CONTEXT)
    logits = decoder.prefill(cache, torch.tensor([0]), ids[:1, :6], torch.tensor([6]))
    found = [int(logits[0].argmax())]
    while len(found) < len(expected):
        cache.ids.fill_(found[-1])
        cache.counts.fill_(len(found) - 1)
        found.append(int(decoder.step(cache)[0].argmax()))
    assert found == expected


# Counts by hand. Every number is written as it stands in the shape: a layer has query, key,
# value, output; gate, up, down; the norms of its input, of its feed-forward, of queries and keys.


def test_parameters_of_0_6m_by_hand() -> None:
    """4 layers, width 96, 3 query heads and 1 key-value head of 32, feed-forward 256."""
    attention = 96 * 96 + 96 * 32 + 96 * 32 + 96 * 96  # 24,576
    feed_forward = 96 * 256 + 96 * 256 + 256 * 96  # 73,728
    norms = 96 + 96 + 32 + 32  # 256
    layers = 4 * (attention + feed_forward + norms)  # 4 x 98,560
    assert layers + 96 == 394_336
    assert num_parameters(shape_of("0.6m"), 2048) == (394_336 + 2048 * 96, 394_336)
    assert num_parameters(shape_of("0.6m"), 2048)[0] == 590_944


def test_parameters_of_1m_by_hand() -> None:
    """4 layers, width 128, 4 query heads and 2 key-value heads of 32, feed-forward 384."""
    attention = 128 * 128 + 128 * 64 + 128 * 64 + 128 * 128  # 49,152
    feed_forward = 3 * 128 * 384  # 147,456
    norms = 128 + 128 + 32 + 32  # 320
    assert 4 * (attention + feed_forward + norms) + 128 == 787_840
    assert num_parameters(shape_of("1m"), 2048) == (787_840 + 262_144, 787_840)


def test_parameters_of_the_papers_3b_by_hand() -> None:
    """26 layers, width 3072, 24 query heads and 8 key-value heads of 128, feed-forward 8192,
    vocabulary 49,152."""
    query, key, value, output = 9_437_184, 3_145_728, 3_145_728, 9_437_184
    gate, up, down = 25_165_824, 25_165_824, 25_165_824
    norms = 3072 + 3072 + 128 + 128
    layer = query + key + value + output + gate + up + down + norms
    assert layer == 100_669_696
    assert 26 * layer + 3072 == 2_617_415_168
    everything = 2_617_415_168 + 150_994_944
    assert num_parameters(shape_of("paper-3b"), 49_152) == (everything, 2_617_415_168)
    assert everything == 2_768_410_112


def test_parameters_of_the_papers_6b_by_hand() -> None:
    """32 layers, width 4096, 32 query heads and 8 key-value heads of 128, feed-forward 11008,
    vocabulary 49,152."""
    query, key, value, output = 16_777_216, 4_194_304, 4_194_304, 16_777_216
    gate, up, down = 45_088_768, 45_088_768, 45_088_768
    norms = 4096 + 4096 + 128 + 128
    layer = query + key + value + output + gate + up + down + norms
    assert layer == 177_217_792
    assert 32 * layer + 4096 == 5_670_973_440
    everything = 5_670_973_440 + 201_326_592
    assert num_parameters(shape_of("paper-6b"), 49_152) == (everything, 5_670_973_440)
    assert everything == 5_872_300_032


def test_flops_of_0_6m_by_hand() -> None:
    """A row of 256 targets, vocabulary 2,048."""
    weights = 4 * (24_576 + 73_728) + 96 * 2048
    assert weights == 589_824
    linear = 256 * 2 * weights  # one multiplication and one addition for each weight
    pairs = 256 * 257 // 2  # position i sees itself and the i before it
    attention = 4 * 3 * (2 * 32 + 2 * 32) * pairs  # layers, heads; scores and values
    assert (linear, attention) == (301_989_888, 50_528_256)
    forward = 352_518_144
    assert forward_flops(cost_of_shape(shape_of("0.6m"), 2048), 0, 256) == forward
    assert training_flops(cost_of_shape(shape_of("0.6m"), 2048), {256: 1}) == 3 * forward
    # 3,125 rows of 256 are the 800,000 tokens of the demo.
    assert training_flops(cost_of_shape(shape_of("0.6m"), 2048), {256: 3125}) == 3_304_857_600_000


def test_flops_of_the_papers_3b_by_hand() -> None:
    """A row of 4,096 tokens, vocabulary 49,152."""
    weights = 26 * (25_165_824 + 75_497_472) + 150_994_944
    assert weights == 2_768_240_640
    linear = 4096 * 2 * weights
    attention = 26 * 24 * (2 * 128 + 2 * 128) * (4096 * 4097 // 2)
    assert (linear, attention) == (22_677_427_322_880, 2_680_713_904_128)
    forward = 25_358_141_227_008
    assert forward_flops(cost_of_shape(shape_of("paper-3b"), 49_152), 0, 4096) == forward
    # 200 billion tokens in rows of 4,096, the last one shorter.
    rows, rest = divmod(200_000_000_000, 4096)
    assert (rows, rest) == (48_828_125, 0)
    total = training_flops(cost_of_shape(shape_of("paper-3b"), 49_152), {4096: rows})
    assert total == 3 * 48_828_125 * forward
    assert total == pytest.approx(3.7145e21, rel=1e-3)


def test_flops_of_the_papers_6b_by_hand() -> None:
    weights = 32 * (41_943_040 + 135_266_304) + 201_326_592
    assert weights == 5_872_025_600
    linear = 4096 * 2 * weights
    attention = 32 * 32 * (2 * 128 + 2 * 128) * (4096 * 4097 // 2)
    assert forward_flops(cost_of_shape(shape_of("paper-6b"), 49_152), 0, 4096) == linear + attention
    assert linear + attention == 52_502_753_968_128


def test_flops_of_sampling_by_hand() -> None:
    """Preset 0.6m, a prompt of 3 tokens, 2 sampled: positions 0, 1, 2 go in, the output layer is
    read at position 2; then the first sampled token goes in at position 3."""
    layers, output = 4 * (24_576 + 73_728), 96 * 2048
    prompt = 3 * 2 * layers + 2 * output
    prompt += 4 * 3 * (2 * 32 + 2 * 32) * (1 + 2 + 3)
    step = 2 * layers + 2 * output + 4 * 3 * (2 * 32 + 2 * 32) * 4
    assert sampling_flops(cost_of_shape(shape_of("0.6m"), 2048), 3, 2) == prompt + step == 3_947_520
