"""The language model: transformers' Qwen3 (Llama 3 with QK-norm) in a preset's shape, or any causal
LM of a Hugging Face directory; its files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from synboot.core.errors import BadInput
from synboot.core.rng import seed_for
from synboot.core.storage import digest, file_checksum, write_json
from synboot.model.settings import Shape

if TYPE_CHECKING:
    from transformers import Qwen3ForCausalLM

# Its bars would run through ours.
transformers_logging.disable_progress_bar()

ROPE_THETA = 10_000.0

_CONFIG_FILE = "config.json"
_WEIGHTS = "model.safetensors"
_WEIGHTS_INDEX = "model.safetensors.index.json"
_OPTIONAL_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


def new_model(
    shape: Shape, *, vocab_size: int, context: int, end_id: int, seed: int
) -> Qwen3ForCausalLM:
    """A freshly initialised model (normal, standard deviation 0.02); float32, on the CPU."""
    from transformers import Qwen3ForCausalLM  # brings all that transformers' models need

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
    model.generation_config = GenerationConfig(
        bos_token_id=end_id,
        eos_token_id=end_id,
        pad_token_id=end_id,
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
    )
    return model.float()


def load_model(directory: Path) -> Any:
    """A causal LM from any Hugging Face directory: safetensors only, from this disk, transformers'
    own code only; float32, in evaluation mode.

    Its own dropout rates are set to 0, so that those of a training loop are the only ones, and no
    embedding is kept from learning as padding. Raises BadInput, with the directory and what is
    missing or wrong, for anything that cannot be used as such a model.
    """
    config = read_config(directory)
    _weight_files(directory)
    for name, value in vars(config).items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are looked at below
        )
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise BadInput(f"{directory}: the weights cannot be loaded: {_line(error)}") from error
    if missing := sorted(loading["missing_keys"]):
        raise BadInput(
            f"{directory}: the weights lack {len(missing)} tensors of a "
            f"{type(model).__name__}, {missing[0]} among them"
        )
    if wrong := sorted(loading["mismatched_keys"]):
        name, found, expected = wrong[0]
        raise BadInput(
            f"{directory}: {name} is {list(found)} in the weights, {list(expected)} by config.json"
        )
    model.eval()
    embedding = model.get_input_embeddings()
    embedding.padding_idx = None
    _check_vocabulary(directory, len(embedding.weight))
    if not _is_causal(model):
        raise BadInput(f"{directory}: the model looks at later tokens; expected a causal LM")
    return model


def empty_model(directory: Path) -> Any:
    """The model of a directory without its weights, for counting: it takes no memory."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(read_config(directory))


def context_of(config: Any, wanted: int | None = None) -> int:
    """`wanted` positions, or by default as many as a model's config states. Raises BadInput if
    they are more than it states, or if neither says how many."""
    stated: int | None
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
    stated = next((n for name in names if isinstance(n := getattr(config, name, None), int)), None)
    context = stated if wanted is None else wanted
    if context is None:
        raise BadInput(f"context: expected a number, as the {config.model_type} model states none")
    if isinstance(context, bool) or not isinstance(context, int) or context < 2:
        raise BadInput(f"context: expected a whole number of 2 at least, got {context!r}")
    if stated is not None and context > stated:
        raise BadInput(
            f"context: the {config.model_type} model has {stated} positions, got {context}"
        )
    return context


def save_model(model: Any, directory: Path) -> None:
    """Write config, generation config and safetensors as transformers lays them out.

    A single `rope_theta` stands beside transformers 5's `rope_parameters`, for readers of either.
    """
    directory.mkdir(parents=True, exist_ok=True)
    try:
        model.save_pretrained(directory, safe_serialization=True)
    except SafetensorError as error:  # a full disk, for one
        raise OSError(f"{directory}: {error}") from error
    file = directory / _CONFIG_FILE
    config = json.loads(file.read_text(encoding="utf-8"))
    if "rope_theta" in (rope := config.get("rope_parameters") or {}):
        config["rope_theta"] = rope["rope_theta"]
    write_json(file, config)


def model_digest(directory: Path) -> str:
    """24 hexadecimal digits that depend on what synboot reads of a model directory, config,
    weights and tokenizer, and on nothing else. Raises BadInput if it holds no model."""
    _check_directory(directory)
    optional = [name for name in _OPTIONAL_FILES if (directory / name).is_file()]
    names = [_CONFIG_FILE, *optional, *_weight_files(directory)]
    return digest({name: file_checksum(directory / name) for name in names})


def _check_directory(directory: Path) -> None:
    if not directory.is_dir():
        raise BadInput(f"{directory}: no such directory; expected a Hugging Face model directory")
    if not (directory / _CONFIG_FILE).is_file():
        raise BadInput(f"{directory}: no {_CONFIG_FILE}; expected a Hugging Face model directory")


def read_config(directory: Path) -> Any:
    """The config of a causal LM that transformers itself knows."""
    _check_directory(directory)
    path = directory / _CONFIG_FILE
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        kind = written.get("model_type")
    except (ValueError, AttributeError) as error:
        raise BadInput(f"{path}: expected a JSON object: {_line(error)}") from error
    if kind not in CONFIG_MAPPING:
        reason = f"transformers {transformers.__version__} does not know it"
        if "auto_map" in written:
            reason += ", and code that comes with a model (auto_map) is not run"
        raise BadInput(f"{path}: field model_type: {kind!r} cannot be loaded: {reason}")
    try:
        config = AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # each kind of config has checks of its own
        raise BadInput(f"{path}: {_line(error)}") from error
    if getattr(config, "is_encoder_decoder", False):
        raise BadInput(f"{path}: {kind} is an encoder-decoder; expected a causal LM")
    if config.get_text_config(decoder=True) is not config:
        raise BadInput(f"{path}: {kind} reads more than text; expected a causal LM of text")
    if getattr(config, "quantization_config", None) is not None:
        raise BadInput(f"{path}: the weights are quantized; expected them in full")
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    if known is None:
        raise BadInput(f"{path}: {kind} is no causal LM")
    names = config.architectures or [known]
    if known.lower() not in {name.lower() for name in names}:
        raise BadInput(f"{path}: field architectures: expected {known}, got {', '.join(names)}")
    return config


def _weight_files(directory: Path) -> list[str]:
    """The safetensors files that transformers reads, the index of shards among them, by name."""
    if (directory / _WEIGHTS).is_file():
        return [_WEIGHTS]
    index = directory / _WEIGHTS_INDEX
    if index.is_file():
        try:
            shards = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{index}: expected an object with weight_map") from error
        for shard in shards:
            if Path(shard).name != shard or not (directory / shard).is_file():
                raise BadInput(f"{index}: {shard} is no file of {directory}")
        return [_WEIGHTS_INDEX, *shards]
    pickles = sorted(p.name for s in (".bin", ".pt", ".pth") for p in directory.glob(f"*{s}"))
    if pickles:
        raise BadInput(
            f"{directory}: no {_WEIGHTS}; {pickles[0]} is a pickle, which is not loaded (where you "
            "trust it, transformers writes the other: "
            "AutoModelForCausalLM.from_pretrained(...).save_pretrained(...))"
        )
    raise BadInput(f"{directory}: no {_WEIGHTS}, nor {_WEIGHTS_INDEX}")


def _check_vocabulary(directory: Path, rows: int) -> None:
    """A tokenizer in the directory fits the embedding (which may have more rows)."""
    path = directory / "tokenizer.json"
    if not path.is_file():
        return
    try:
        vocabulary = Tokenizer.from_file(str(path)).get_vocab()
    except Exception as error:  # tokenizers raises nothing more precise
        raise BadInput(f"{path}: no tokenizer: {_line(error)}") from error
    if (size := 1 + max(vocabulary.values(), default=-1)) > rows:
        raise BadInput(f"{path}: {size} tokens, but the model's embedding has {rows} rows")


@torch.inference_mode()
def _is_causal(model: Any) -> bool:
    """Whether a first token's logits stay when the second token is another."""
    last = len(model.get_input_embeddings().weight) - 1
    ids = torch.tensor([[0, 0], [0, last]])
    logits = model(input_ids=ids, use_cache=False).logits
    first, second = (logits[0] - logits[1]).abs().amax(-1).tolist()
    return bool(first <= 1e-3 * second)  # apart from rounding, which rows of a batch may differ in


def _line(error: Exception) -> str:
    """What a library says, as one line of at most 300 characters."""
    return " ".join((str(error) or type(error).__name__).split())[:300]
