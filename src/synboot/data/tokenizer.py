"""Byte-level BPE trained on the corpus, and the bytes behind every token."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from synboot.core.errors import BadInput
from synboot.core.storage import atomic_file, write_json

END = "<|endoftext|>"
"""Ends every document and stands before its first token: the document-start token."""

_TOKENIZER_FILE = "tokenizer.json"


class TextTokenizer:
    """Text to token ids and back. Special-token strings inside a text stay text (law 14)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        end_id = tokenizer.token_to_id(END)
        if end_id is None:
            raise BadInput(f"the tokenizer has no {END} token")
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.end_id: int = end_id
        self.vocab_size: int = tokenizer.get_vocab_size()
        self._bytes = _token_bytes(tokenizer)

    @classmethod
    def load(cls, directory: Path) -> TextTokenizer:
        """The tokenizer that `save` wrote into `directory`."""
        return cls(Tokenizer.from_file(str(directory / _TOKENIZER_FILE)))

    def save(self, directory: Path) -> None:
        """Write the files that transformers' AutoTokenizer loads."""
        with atomic_file(directory / _TOKENIZER_FILE, "w") as file:
            file.write(self._tokenizer.to_str(pretty=False))
        write_json(
            directory / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": END,
                "eos_token": END,
                "pad_token": END,
                "clean_up_tokenization_spaces": False,
                "split_special_tokens": True,
            },
        )

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, int64, without any special token."""
        return [
            np.asarray(encoding.ids, dtype=np.int64)
            for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`. Raises UnicodeDecodeError if their bytes are no valid UTF-8."""
        return self.decode_bytes(ids).decode("utf-8")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`; a special token stands for none."""
        return b"".join(self._bytes[int(i)] for i in ids)

    def to_json(self) -> str:
        """The tokenizer as one JSON text, for comparison."""
        return json.dumps(json.loads(self._tokenizer.to_str()), sort_keys=True)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> TextTokenizer:
    """A byte-level BPE with at most `vocab_size` entries, `END` among them, learnt from `texts`.

    Every byte has an entry, so that any text can be encoded. Raises BadInput if `vocab_size`
    leaves no room for a single merge (257 entries are taken).
    """
    if vocab_size < 258:
        raise BadInput(f"field tokenizer.vocab_size: expected at least 258, got {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return TextTokenizer(tokenizer)


def _token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of every token id; a special token stands for none."""
    characters = _byte_characters()
    table = [b""] * tokenizer.get_vocab_size()
    special = {index for index, token in tokenizer.get_added_tokens_decoder().items()}
    for token, index in tokenizer.get_vocab().items():
        if index not in special:
            table[index] = bytes(characters[character] for character in token)
    return table


def _byte_characters() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character: bytes that print stand for
    themselves, the others take the code points from 256 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + place): byte for place, byte in enumerate(hidden)}
