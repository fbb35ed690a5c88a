"""Tokenizers that came with a model: their special tokens, their bytes, their files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer

from synboot.core.errors import BadInput
from synboot.data.tokenizer import TextTokenizer, train_tokenizer

sys.path.append(str(Path(__file__).parents[1] / "model"))

from tiny import END, START, byte_level, save_tokenizer, sentencepiece_like, unigram_like, words

BYTE_LEVEL = {"byte-level": byte_level(), "ignoring merges": byte_level(ignore_merges=True)}
PIECES = {
    "Llama 2": sentencepiece_like(),
    "Gemma": sentencepiece_like(strip=False),
    "Unigram": unigram_like(),
}
ALL = BYTE_LEVEL | PIECES

spellings = [START, END, "</s", "s>", "<", "<0xE4>", "<0x", "0A>", "<tüü>"]
tricky = st.lists(
    st.sampled_from([*spellings, " ", "  ", "ba", "\n", "▁"]),
    max_size=8,
).map("".join)
texts = st.text(max_size=40) | tricky | st.sampled_from(words(5, seed=9))


def adopted(name: str, tmp_path: Path, **config: Any) -> TextTokenizer:
    save_tokenizer(ALL[name], tmp_path, **config)
    return TextTokenizer.load(tmp_path)


def in_memory(name: str) -> TextTokenizer:
    return TextTokenizer(Tokenizer.from_str(ALL[name].to_str()), end=END, start=START)


MADE = {name: in_memory(name) for name in ALL}


@pytest.mark.parametrize("name", BYTE_LEVEL)
@settings(deadline=None)
@given(text=texts)
def test_any_text_comes_back_to_the_byte(name: str, text: str) -> None:
    tokenizer = MADE[name]
    [ids] = tokenizer.encode([text])
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert not {tokenizer.end_id, tokenizer.start_id} & {*ids.tolist()}


@pytest.mark.parametrize("name", ["Llama 2", "Gemma"])
@settings(deadline=None)
@given(text=texts)
def test_pieces_with_byte_fallback_change_the_space_mark_alone(name: str, text: str) -> None:
    tokenizer = MADE[name]
    [ids] = tokenizer.encode([text])
    assert tokenizer.decode(ids) == text.replace("▁", " ")
    assert not {0, tokenizer.end_id, tokenizer.start_id} & {*ids.tolist()}


@settings(deadline=None)
@given(parts=st.lists(st.sampled_from([START, END, " ba", " nab", "</", "s>"]), max_size=8))
def test_a_model_with_special_tokens_among_its_pieces_keeps_text_as_text(parts: list[str]) -> None:
    """Metaspace takes one space off the beginning; white space at the ends is not compared."""
    text = "".join(parts)
    tokenizer = MADE["Unigram"]
    [ids] = tokenizer.encode([text])
    assert not {tokenizer.end_id, tokenizer.start_id} & {*ids.tolist()}
    assert tokenizer.decode(ids).strip() == text.strip()


def test_the_guard_changes_no_other_text() -> None:
    plain = ALL["Unigram"]
    for text in words(20, seed=4):
        expected = plain.encode(text, add_special_tokens=False).ids
        assert MADE["Unigram"].encode([text])[0].tolist() == expected


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None)
@given(text=st.sampled_from(words(30, seed=7)))
def test_ids_and_text_are_those_of_tokenizers(name: str, text: str) -> None:
    ids = ALL[name].encode(text, add_special_tokens=False).ids
    assert MADE[name].encode([text])[0].tolist() == ids
    assert MADE[name].decode(ids) == ALL[name].decode(ids) == text
    start, end = MADE[name].start_id, MADE[name].end_id
    assert MADE[name].decode([start, *ids, end]) == text


def test_byte_fallback_tokens_are_bytes() -> None:
    tokenizer = MADE["Llama 2"]
    ids = {byte: 3 + byte for byte in range(256)}
    assert tokenizer.decode_bytes([ids[byte] for byte in range(256)]) == bytes(range(256))
    plain = PIECES["Llama 2"]
    [some] = tokenizer.encode(["ba"])
    assert tokenizer.decode([*some, *(ids[b] for b in "é".encode())]) == "baé"
    assert tokenizer.decode_bytes([*some, ids[0xC3], *some]) == b"ba\xc3" + b" ba"
    with pytest.raises(UnicodeDecodeError):
        tokenizer.decode([*some, ids[0xC3], *some])
    assert "\ufffd" in plain.decode([*some.tolist(), ids[0xC3], *some.tolist()])


def test_the_replacement_character_is_a_character_like_any_other() -> None:
    for name in ("byte-level", "Llama 2", "Gemma"):
        [ids] = MADE[name].encode(["ba \ufffd ba"])
        assert MADE[name].decode(ids) == "ba \ufffd ba"


def test_private_characters_of_a_text_are_not_taken_for_bytes() -> None:
    text = "".join(chr(code) for code in range(0x10FF00, 0x10FFFE))
    assert MADE["Llama 2"].decode(MADE["Llama 2"].encode([text])[0]) == text


@settings(deadline=None)
@given(data=st.binary(max_size=30))
def test_every_sequence_of_bytes_can_be_written(data: bytes) -> None:
    tokenizer = MADE["Gemma"]
    ids = [3 + byte for byte in data]
    assert tokenizer.decode_bytes(ids) == data
    try:
        text = data.decode()
    except UnicodeDecodeError:
        with pytest.raises(UnicodeDecodeError):
            tokenizer.decode(ids)
    else:
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("name", ALL)
def test_start_and_end_of_the_config(name: str, tmp_path: Path) -> None:
    tokenizer = adopted(name, tmp_path)
    plain = ALL[name]
    assert (tokenizer.start_id, tokenizer.end_id) == (
        plain.token_to_id(START),
        plain.token_to_id(END),
    )
    assert tokenizer.vocab_size == plain.get_vocab_size()
    assert tokenizer.decode_bytes([tokenizer.start_id, tokenizer.end_id]) == b""


@pytest.mark.parametrize("bos", [None, "<nowhere>"])
def test_without_a_start_token_end_is_it(tmp_path: Path, bos: str | None) -> None:
    tokenizer = adopted("byte-level", tmp_path, bos_token=bos)
    assert tokenizer.start_id == tokenizer.end_id == ALL["byte-level"].token_to_id(END)


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def test_where_the_end_token_is_looked_for(tmp_path: Path) -> None:
    """In this order: each file is found wanting before the next is written."""
    save_tokenizer(ALL["Llama 2"], tmp_path, eos_token=None, bos_token=None)
    with pytest.raises(BadInput, match=r"no end token; expected eos_token in tokenizer_config"):
        TextTokenizer.load(tmp_path)
    write(tmp_path / "generation_config.json", {"eos_token_id": [50, 2]})
    assert TextTokenizer.load(tmp_path).end_id == 50
    write(tmp_path / "config.json", {"eos_token_id": 51})
    assert TextTokenizer.load(tmp_path).end_id == 51
    write(tmp_path / "special_tokens_map.json", {"eos_token": {"content": END}, "bos_token": START})
    loaded = TextTokenizer.load(tmp_path)
    assert (loaded.end_id, loaded.start_id) == (2, 1)
    write(tmp_path / "tokenizer_config.json", {"eos_token": "<unk>"})
    assert TextTokenizer.load(tmp_path).end_id == 0
    (tmp_path / "tokenizer_config.json").unlink()
    assert TextTokenizer.load(tmp_path).end_id == 2


def test_a_plain_token_that_is_named_as_the_end_becomes_special(tmp_path: Path) -> None:
    tokenizer = adopted("byte-level", tmp_path, eos_token="<tüü>")
    [ids] = tokenizer.encode(["ba<tüü>ba"])
    assert tokenizer.end_id not in ids
    assert tokenizer.decode(ids) == "ba<tüü>ba"
    assert tokenizer.decode_bytes([tokenizer.end_id]) == b""


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer.json": None}, r"no tokenizer\.json; .*save_pretrained"),
        ({"tokenizer.json": "{"}, r"tokenizer\.json: no tokenizer"),
        ({"tokenizer.json": '{"model": 3}'}, r"tokenizer\.json: no tokenizer"),
        ({"tokenizer_config.json": "{"}, r"tokenizer_config\.json: expected JSON"),
        ({"tokenizer_config.json": "[]"}, r"tokenizer_config\.json: expected an object"),
        (
            {"tokenizer_config.json": '{"eos_token": "<gone>"}'},
            r"tokenizer_config\.json: field eos_token: expected a token .*<gone>",
        ),
        (
            {"tokenizer_config.json": '{"eos_token": 7}'},
            r"field eos_token: expected a token, got 7",
        ),
        (
            {"tokenizer_config.json": "{}", "config.json": '{"eos_token_id": 100000}'},
            r"config\.json: field eos_token_id: expected an id .*100000",
        ),
        ({"tokenizer_config.json": "{}", "config.json": '{"eos_token_id": []}'}, "no end token"),
        ({"tokenizer_config.json": "{}", "config.json": '{"eos_token_id": "x"}'}, "eos_token_id"),
    ],
)
def test_what_is_missing_or_wrong_is_named(
    tmp_path: Path, files: dict[str, str | None], message: str
) -> None:
    save_tokenizer(ALL["Llama 2"], tmp_path)
    for name, content in files.items():
        (tmp_path / name).unlink(missing_ok=True)
        if content is not None:
            (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(BadInput, match=message) as caught:
        TextTokenizer.load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_saved_truncation_and_padding_are_off(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(ALL["Llama 2"].to_str())
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9, pad_id=0, pad_token="<unk>")
    save_tokenizer(tokenizer, tmp_path)
    long, short = "ba na " * 20, "ba"
    found = TextTokenizer.load(tmp_path).encode([long, short])
    expected = [ALL["Llama 2"].encode(text, add_special_tokens=False).ids for text in (long, short)]
    assert [ids.tolist() for ids in found] == expected


def test_ids_that_a_tokenizer_lacks_stand_for_no_bytes() -> None:
    layout = json.loads(BYTE_LEVEL["byte-level"].to_str())
    for token in layout["added_tokens"]:
        token["id"] += 0
    vocabulary = layout["model"]["vocab"]
    moved = max(vocabulary, key=vocabulary.get)
    vocabulary[moved] += 500
    layout["model"]["merges"] = layout["model"]["merges"][:-1]
    tokenizer = TextTokenizer(Tokenizer.from_str(json.dumps(layout)), end=END)
    assert tokenizer.vocab_size == vocabulary[moved] + 1 > tokenizer._tokenizer.get_vocab_size()
    assert tokenizer.decode_bytes([vocabulary[moved] - 1]) == b""


def test_what_a_tokenizer_came_with_is_kept(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    save_tokenizer(ALL["Llama 2"], first, chat_template="{{ messages }}", add_bos_token=True)
    write(first / "special_tokens_map.json", {"eos_token": END})
    (first / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    (first / "additional_chat_templates").mkdir()
    (first / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    (first / "tokenizer.model").write_bytes(b"\x00\xff not read by us")
    for name in ("config.json", "model.safetensors", "README.md", "optimizer.pt"):
        (first / name).write_text("{}")
    TextTokenizer.load(first).save(second)

    def kept(directory: Path) -> dict[str, bytes]:
        files = (path for path in directory.rglob("*") if path.is_file())
        return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}

    others = {"config.json", "model.safetensors", "README.md", "optimizer.pt"}
    assert kept(second) == {n: data for n, data in kept(first).items() if n not in others}


def test_our_own_comes_back_byte_for_byte(tmp_path: Path) -> None:
    ours = train_tokenizer(words(20), 300)
    ours.save(tmp_path / "a")
    loaded = TextTokenizer.load(tmp_path / "a")
    assert loaded.start_id == loaded.end_id == ours.end_id == ours.start_id
    loaded.save(tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("name", ["byte-level", "Llama 2"])
def test_transformers_gives_the_same_ids_of_text(name: str, tmp_path: Path) -> None:
    tokenizer = adopted(name, tmp_path)
    write(tmp_path / "config.json", {"model_type": "llama"})
    plain = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*words(5, seed=2), "ba</s>", "ü ber"]:
        ids = tokenizer.encode([text])[0].tolist()
        assert plain(text, add_special_tokens=False)["input_ids"] == ids
    assert (plain.bos_token_id, plain.eos_token_id) == (tokenizer.start_id, tokenizer.end_id)


def test_a_normalizer_and_unknown_characters_are_what_differs() -> None:
    composed = Tokenizer.from_str(BYTE_LEVEL["byte-level"].to_str())
    composed.normalizer = normalizers.NFC()
    tokenizer = TextTokenizer(composed, end=END)
    assert tokenizer.decode(tokenizer.encode(["u\u0308"])[0]) == "ü"
    assert MADE["Unigram"].decode(MADE["Unigram"].encode(["ba 你 ba"])[0]) == "ba  ba"


def test_without_a_decoder_words_are_joined_by_spaces() -> None:
    plain = Tokenizer(models.WordLevel({"<unk>": 0, END: 1, "ba": 2, "na": 3}, unk_token="<unk>"))
    assert TextTokenizer(plain, end=END).decode([2, 3, 1]) == plain.decode([2, 3]) == "ba na"
    plain.decoder = decoders.Fuse()
    assert TextTokenizer(plain, end=END).decode([2, 3]) == "bana"


@pytest.mark.parametrize("ignore_merges", [False, True])
def test_a_special_token_that_merges_could_make_is_not_made(ignore_merges: bool) -> None:
    vocabulary = {END: 0, "<": 1, "/": 2, "s": 3, ">": 4, "/s": 5, "/s>": 6}
    merges = [("/", "s"), ("/s", ">"), ("<", "/s>")]
    plain = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=ignore_merges))
    plain.decoder = decoders.Fuse()
    plain.add_special_tokens([END])
    plain.encode_special_tokens = True
    assert plain.encode(END).ids == [0]
    tokenizer = TextTokenizer(plain, end=END)
    for text in (END, f"s{END}/{END}{END}"):
        [ids] = tokenizer.encode([text])
        assert 0 not in ids
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode([END, "/s><"])[0].tolist() == [1, 6]
