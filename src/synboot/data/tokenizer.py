"""Tokenizers: one trained on the corpus or one that came with a model, and the bytes behind ids."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from synboot.core.errors import BadInput
from synboot.core.storage import atomic_file, write_json
from synboot.data.byte_level import ByteLevelEncoder, byte_characters, byte_level_encoder

END = "<|endoftext|>"
"""Our own tokenizers' only special token: ends every document and stands before its first token."""

_TOKENIZER_FILE = "tokenizer.json"
_CONFIG_FILE = "tokenizer_config.json"
_MAP_FILE = "special_tokens_map.json"
_KEPT_FILES = (
    _TOKENIZER_FILE,
    _CONFIG_FILE,
    _MAP_FILE,
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
)
_KEPT_TEMPLATES = "additional_chat_templates/*.jinja"
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


class TextTokenizer:
    """Text to token ids and back. Special-token strings inside a text stay text (law 14).

    `end_id` ends every document. `start_id` stands before its first token; it is `end_id` where
    the tokenizer has no start token. `vocab_size` is above every id; a special token, and an id
    below `vocab_size` that the tokenizer lacks, stand for no bytes.

    Text comes back to the byte from byte-level tokenizers. It does not where the tokenizer changes
    it: by a normalizer (Qwen's NFC, NFKC of many Unigram models), by a prefix space that its
    decoder does not take off, by tokens that swallow the white space beside them, by U+2581 for a
    space (sentencepiece: U+2581 itself comes back as a space), or, without byte fallback, by an
    unknown token for characters that it lacks.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        end: str = END,
        start: str | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """`start` is `end` by default; `files` are what `save` writes instead of our own."""
        end_id, start_id = (tokenizer.token_to_id(token) for token in (end, start or end))
        if end_id is None or start_id is None:
            raise BadInput(f"the tokenizer has no {end if end_id is None else start} token")
        tokenizer.add_special_tokens([end, start or end])  # they may have been plain tokens
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._files = dict(files or {})
        self.end_id: int = end_id
        self.start_id: int = start_id
        self.vocab_size: int = 1 + max(tokenizer.get_vocab().values())
        layout = json.loads(tokenizer.to_str())
        _keep_text_apart(tokenizer, layout)
        self._bytes_of: Callable[[Iterable[int]], bytes] = (
            _ByteTable(tokenizer)
            if "ByteLevel" in _types(layout["decoder"])
            else _Pieces(tokenizer, layout)
        )

    @classmethod
    def load(cls, directory: Path) -> TextTokenizer:
        """The tokenizer of any Hugging Face directory with a tokenizer.json, ours among them.

        The end token is the eos_token of tokenizer_config.json or special_tokens_map.json, else
        the (first) eos_token_id of config.json or generation_config.json; the start token is the
        bos_token of the first two, if the tokenizer has it. Raises BadInput if there is no
        tokenizer.json, if it cannot be read, or if no end token is named.
        """
        path = directory / _TOKENIZER_FILE
        if not path.is_file():
            raise BadInput(
                f"{directory}: no {_TOKENIZER_FILE}; write one with transformers: "
                "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises nothing more precise
            raise BadInput(f"{path}: no tokenizer: {error}") from error
        files = [directory / name for name in _KEPT_FILES]
        files += sorted(directory.glob(_KEPT_TEMPLATES))
        return cls(
            tokenizer,
            end=_end_token(directory, tokenizer),
            start=_start_token(directory, tokenizer),
            files={
                file.relative_to(directory).as_posix(): file.read_bytes()
                for file in files
                if file.is_file()
            },
        )

    def save(self, directory: Path) -> None:
        """Write the files that transformers' AutoTokenizer loads: those that a loaded tokenizer
        came with, as they were."""
        for name, content in self._files.items():
            with atomic_file(directory / name) as file:
                file.write(content)
        if self._files:
            return
        with atomic_file(directory / _TOKENIZER_FILE, "w") as file:
            file.write(self._tokenizer.to_str(pretty=False))
        write_json(
            directory / _CONFIG_FILE,
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": END,
                "eos_token": END,
                "pad_token": END,
                "clean_up_tokenization_spaces": False,
                "split_special_tokens": True,
            },
        )

    @functools.cached_property
    def ids_before_text(self) -> np.ndarray:
        """Special tokens that the tokenizer's own post-processor puts before a text (transformers
        goes by it too, whatever add_bos_token says); int64."""
        encoding = self._tokenizer.encode("a")
        first = next((i for i, own in enumerate(encoding.special_tokens_mask) if not own), 0)
        return np.array(encoding.ids[:first], dtype=np.int64)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, int64, without any special token."""
        return [ids[:-1] for ids in self.encode_documents(texts)]

    def encode_documents(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, int64, and END after them."""
        fast = self._fast
        known = [fast is not None and fast.knows(text) for text in texts]
        ours = [text for text, is_known in zip(texts, known, strict=True) if is_known]
        rest = [text for text, is_known in zip(texts, known, strict=True) if not is_known]
        fast_ids = iter(fast.encode(ours, self.end_id) if fast is not None else [])
        encodings = iter(self._tokenizer.encode_batch_fast(rest, add_special_tokens=False))
        return [
            next(fast_ids)
            if is_known
            else np.array([*next(encodings).ids, self.end_id], dtype=np.int64)
            for is_known in known
        ]

    @functools.cached_property
    def _fast(self) -> ByteLevelEncoder | None:
        """Takes most texts of most byte-level tokenizers off `tokenizers`."""
        return byte_level_encoder(json.loads(self._tokenizer.to_str()))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`. Raises UnicodeDecodeError if their bytes are no valid UTF-8; U+FFFD
        is a character like any other and never stands for invalid bytes."""
        return self.decode_bytes(ids).decode("utf-8")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`; a special token stands for none."""
        return self._bytes_of(ids)

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


class _ByteTable:
    """The bytes of a byte-level tokenizer's ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        characters = byte_characters()
        added = tokenizer.get_added_tokens_decoder()
        self._bytes = [b""] * (1 + max(tokenizer.get_vocab().values()))
        for token, index in tokenizer.get_vocab().items():
            if index in added:  # written as it is
                self._bytes[index] = b"" if added[index].special else token.encode()
            elif all(character in characters for character in token):
                self._bytes[index] = bytes(characters[character] for character in token)
            else:
                self._bytes[index] = token.encode()

    def __call__(self, ids: Iterable[int]) -> bytes:
        return b"".join(self._bytes[int(i)] for i in ids)


class _Pieces:
    """The bytes of any other tokenizer's ids: what its own decoder makes of their pieces.

    The decoder would write U+FFFD for invalid bytes. So a byte-fallback token goes through it as
    one character that no piece has, and becomes its byte afterwards.
    """

    def __init__(self, tokenizer: Tokenizer, layout: Mapping[str, Any]) -> None:
        vocabulary = tokenizer.get_vocab()
        added = tokenizer.get_added_tokens_decoder()
        taken = set().union(*vocabulary)
        free = (code for code in range(0x10FFFD, 0, -1) if chr(code) not in taken)
        stand_in = {byte: chr(next(free)) if byte > 0x7F else chr(byte) for byte in range(256)}
        # What Python calls surrogateescape: U+DC80 to U+DCFF become the bytes 80 to FF.
        self._escapes = {ord(stand_in[byte]): 0xDC00 + byte for byte in range(0x80, 0x100)}
        self._decoder = tokenizer.decoder
        self._pieces = [""] * (1 + max(vocabulary.values()))
        for token, index in vocabulary.items():
            if _has_byte_fallback(layout) and (match := _BYTE_TOKEN.fullmatch(token)):
                self._pieces[index] = stand_in[int(match[1], 16)]
            elif not (index in added and added[index].special):
                self._pieces[index] = token

    def __call__(self, ids: Iterable[int]) -> bytes:
        pieces = [piece for i in ids if (piece := self._pieces[int(i)])]
        text = self._decoder.decode(pieces) if self._decoder else " ".join(pieces)
        return text.translate(self._escapes).encode("utf-8", "surrogateescape")


def _keep_text_apart(tokenizer: Tokenizer, layout: Mapping[str, Any]) -> None:
    """Make it impossible that text which spells a special or a byte-fallback token becomes it.

    Reading special tokens as text is not enough where the model itself has them among its pieces:
    Unigram takes any piece that fits. There such a spelling is cut behind its first character,
    which changes nothing for other text.
    """
    special = {t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special}
    if _has_byte_fallback(layout):
        special |= {token for token in tokenizer.get_vocab() if _BYTE_TOKEN.fullmatch(token)}
    spellings = sorted(token for token in special & _reachable(layout["model"]) if len(token) > 1)
    if not spellings:
        return
    cut = "|".join(f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in spellings)
    guard = pre_tokenizers.Split(Regex(cut), "isolated")
    steps = [tokenizer.pre_tokenizer, guard] if tokenizer.pre_tokenizer else [guard]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)


def _reachable(model: Mapping[str, Any]) -> set[str]:
    """The pieces that a tokenizer's model can find in a text."""
    if model["type"] == "Unigram":
        return {piece for piece, _ in model["vocab"]}
    if model["type"] == "BPE" and not model.get("ignore_merges"):
        pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
        return {"".join(pair) for pair in pairs}
    return set(model["vocab"])


def _has_byte_fallback(layout: Mapping[str, Any]) -> bool:
    return layout["model"].get("byte_fallback") or "ByteFallback" in _types(layout["decoder"])


def _types(decoder: Mapping[str, Any] | None) -> set[str]:
    """The kinds of decoder in a decoder."""
    parts = (decoder or {}).get("decoders", [])
    return {(decoder or {}).get("type", "")}.union(*map(_types, parts))


def _end_token(directory: Path, tokenizer: Tokenizer) -> str:
    for name in (_CONFIG_FILE, _MAP_FILE):
        token = _named_token(directory / name, "eos_token")
        if token is not None:
            if tokenizer.token_to_id(token) is None:
                raise BadInput(
                    f"{directory / name}: field eos_token: expected a token of {_TOKENIZER_FILE}, "
                    f"got {token!r}"
                )
            return token
    for name in ("config.json", "generation_config.json"):
        number = _read_object(directory / name).get("eos_token_id")
        number = next(iter(number), None) if isinstance(number, list) else number
        if number is not None:
            token = tokenizer.id_to_token(number) if type(number) is int and number >= 0 else None
            if token is None:
                raise BadInput(
                    f"{directory / name}: field eos_token_id: expected an id of {_TOKENIZER_FILE}, "
                    f"got {number!r}"
                )
            return token
    raise BadInput(
        f"{directory}: no end token; expected eos_token in {_CONFIG_FILE}, or eos_token_id in "
        "config.json"
    )


def _start_token(directory: Path, tokenizer: Tokenizer) -> str | None:
    for name in (_CONFIG_FILE, _MAP_FILE):
        token = _named_token(directory / name, "bos_token")
        if token is not None:
            return token if tokenizer.token_to_id(token) is not None else None
    return None


def _named_token(path: Path, field: str) -> str | None:
    """A token that transformers writes as a string or as an object with its `content`."""
    value = _read_object(path).get(field)
    token = value.get("content") if isinstance(value, dict) else value
    if not (token is None or isinstance(token, str)):
        raise BadInput(f"{path}: field {field}: expected a token, got {value!r}")
    return token


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise BadInput(f"{path}: expected JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path}: expected an object, got {type(value).__name__}")
    return value
