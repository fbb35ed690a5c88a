from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer

from synboot.core.errors import BadInput
from synboot.data.tokenizer import END, TextTokenizer, train_tokenizer

SOURCES = str(Path(__file__).parents[2] / "src")
TEXTS = sorted({getattr(builtins, name).__doc__ or "" for name in dir(builtins)})
VOCAB_SIZE = 512

tokenizer = train_tokenizer(TEXTS, VOCAB_SIZE)

# Pieces of the special token's spelling, so that the whole of it turns up often.
tricky_texts = st.lists(
    st.sampled_from([END, END[:-1], END[1:], "<|", "|>", "endoftext", " ", "\n", "a", "<s>"]),
    max_size=8,
).map("".join)
texts = st.text(max_size=60) | tricky_texts


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory without weights: AutoTokenizer looks at the model's type too."""
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(path)
    (path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    return path


@pytest.fixture(scope="module")
def plain(directory: Path) -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(directory)


@settings(deadline=None)
@given(texts)
def test_any_text_comes_back_to_the_byte(text: str) -> None:
    [ids] = tokenizer.encode([text])
    assert ids.dtype == np.int64
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.end_id not in ids
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_every_sequence_of_bytes_can_be_written_in_ids(data: bytes) -> None:
    id_of_byte = {
        tokenizer.decode_bytes([i]): i
        for i in range(tokenizer.vocab_size)
        if len(tokenizer.decode_bytes([i])) == 1
    }
    assert len(id_of_byte) == 256
    ids = [id_of_byte[bytes([byte])] for byte in data]
    assert tokenizer.decode_bytes(ids) == data
    try:
        text = data.decode()
    except UnicodeDecodeError:
        with pytest.raises(UnicodeDecodeError):
            tokenizer.decode(ids)
    else:
        assert tokenizer.decode(ids) == text


def test_end_is_the_first_id_and_stands_for_no_bytes() -> None:
    assert tokenizer.end_id == 0
    assert tokenizer.decode_bytes([0, 0]) == b""


def test_the_special_token_inside_a_text_stays_text() -> None:
    [ids] = tokenizer.encode([f"before {END} after"])
    assert tokenizer.end_id not in ids
    [alone] = tokenizer.encode([END])
    assert len(alone) > 1


def test_a_corpus_full_of_the_special_token_teaches_no_second_one() -> None:
    taught = train_tokenizer([f"{END}{END} {END}"] * 50, 1000)
    spellings = [taught.decode_bytes([i]) for i in range(1, taught.vocab_size)]
    assert END.encode() not in spellings
    assert taught.decode(taught.encode([END])[0]) == END
    assert taught.end_id not in taught.encode([END])[0]


@given(texts)
@settings(deadline=None)
def test_transformers_gives_the_same_ids_by_default(plain: AutoTokenizer, text: str) -> None:
    ids = tokenizer.encode([text])[0].tolist()
    assert plain(text)["input_ids"] == ids
    assert plain.encode(text) == ids
    assert plain.decode(ids) == text


def test_transformers_keeps_the_special_token_as_text(plain: AutoTokenizer) -> None:
    ids = plain(f"a{END}b")["input_ids"]
    assert 0 not in ids
    assert len(ids) > 3
    assert [plain.bos_token_id, plain.eos_token_id, plain.pad_token_id] == [0, 0, 0]
    assert len(plain) == tokenizer.vocab_size


def test_saved_and_loaded_it_is_the_same(directory: Path) -> None:
    loaded = TextTokenizer.load(directory)
    assert loaded.to_json() == tokenizer.to_json()
    assert (loaded.end_id, loaded.vocab_size) == (tokenizer.end_id, tokenizer.vocab_size)
    sample = [*TEXTS, END]
    for before, after in zip(tokenizer.encode(sample), loaded.encode(sample), strict=True):
        assert before.tolist() == after.tolist()


def test_training_does_not_depend_on_the_process() -> None:
    code = (
        "import builtins\n"
        "from synboot.data.tokenizer import train_tokenizer\n"
        "texts = sorted({getattr(builtins, n).__doc__ or '' for n in dir(builtins)})\n"
        f"print(train_tokenizer(texts, {VOCAB_SIZE}).to_json())\n"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ
            | {"PYTHONPATH": SOURCES, "PYTHONHASHSEED": seed, "TOKENIZERS_PARALLELISM": parallel},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed, parallel in (("1", "true"), ("2", "false"))
    ]
    assert printed[0] == printed[1] == tokenizer.to_json()


def test_the_vocabulary_has_at_most_the_size_asked_for() -> None:
    assert tokenizer.vocab_size == VOCAB_SIZE
    assert train_tokenizer(["abc"], VOCAB_SIZE).vocab_size == 257  # nothing occurs twice
    assert train_tokenizer(TEXTS, 258).vocab_size == 258


@pytest.mark.parametrize("size", [-1, 0, 257])
def test_a_vocabulary_without_room_is_bad_input(size: int) -> None:
    with pytest.raises(BadInput, match=r"tokenizer\.vocab_size.*258"):
        train_tokenizer(TEXTS, size)


def test_a_tokenizer_without_end_is_bad_input() -> None:
    with pytest.raises(BadInput, match="endoftext"):
        TextTokenizer(Tokenizer(models.BPE()))


@settings(deadline=None)
@given(st.lists(texts | st.sampled_from(["\0", "a\1b"]), max_size=5))
def test_a_document_is_its_text_and_end(texts: list[str]) -> None:
    documents = tokenizer.encode_documents(texts)
    wanted = [[*ids.tolist(), tokenizer.end_id] for ids in tokenizer.encode(texts)]
    assert [ids.tolist() for ids in documents] == wanted
    assert all(ids.dtype == np.int64 for ids in documents)


def test_no_text_is_no_ids() -> None:
    assert tokenizer.encode([]) == []
    assert [len(ids) for ids in tokenizer.encode(["", "a"])] == [0, 1]
    assert tokenizer.decode([]) == ""
