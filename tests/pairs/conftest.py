"""Tiny models for the encoders that read with one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from synboot.core.rng import rng
from synboot.data.tokenizer import train_tokenizer
from synboot.model.architecture import new_model, save_model
from synboot.model.settings import Shape

CONTEXT = 32


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Bitwise claims hold for a given number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def topic_texts() -> list[str]:
    """48 documents of 8 topics of ten words each, document i about topic i modulo 8; half of
    their 12 to 70 words belong to all."""
    shared = [f"common{i}" for i in range(20)]
    texts = []
    for index in range(48):
        random = rng(11, "topic text", index)
        own = [f"word{index % 8}{letter}" for letter in "abcdefghij"]
        picks = [own if random.random() < 0.5 else shared for _ in range(random.integers(12, 70))]
        texts.append(" ".join(words[random.integers(len(words))] for words in picks))
    return texts


@pytest.fixture(scope="session")
def language_model(topic_texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an untrained causal LM with a context of 32 and its tokenizer."""
    directory = tmp_path_factory.mktemp("lm")
    tokenizer = train_tokenizer(topic_texts, 400)
    tokenizer.save(directory)
    shape = Shape(2, 32, 2, 1, 16, 48)
    model = new_model(
        shape,
        vocab_size=tokenizer.vocab_size,
        context=CONTEXT,
        end_id=tokenizer.end_id,
        seed=0,
    )
    save_model(model, directory)
    return directory


@pytest.fixture(scope="session")
def sentence_model(topic_texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an untrained sentence-transformers model that reads 32 tokens."""
    library = pytest.importorskip("sentence_transformers", reason="pip install 'synboot[encoders]'")
    directory = tmp_path_factory.mktemp("bert")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(
        topic_texts,
        trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=CONTEXT,
    ).save_pretrained(directory / "bert")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        bert = BertModel(
            BertConfig(
                vocab_size=tokenizer.get_vocab_size(),
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=48,
                max_position_embeddings=CONTEXT,
            )
        )
    bert.save_pretrained(directory / "bert")
    model = library.SentenceTransformer(str(directory / "bert"), device="cpu")  # with mean pooling
    model.save(str(directory / "model"))
    return directory / "model"
