"""The ids of the fast encoder are those of `tokenizers`, for any text and any merges it takes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from synboot.data.byte_level import byte_characters, byte_level_encoder, merge_ranks
from synboot.data.tokenizer import TextTokenizer

SOURCES = str(Path(__file__).parents[2] / "src")
END = "<|end|>"
DIGITS = {"Llama 3": "{1,3}", "Qwen 2": ""}
LINES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS = ["the", "they'll", "it's", "I'M", "über", "Straße", "naïve", "日本語", "日本", "и", "не"]
WORDS += ["1234", "12", "3.14", "x_1", "(foo)", "...", "!?", "🙂🙂", "def", "return", "\u0301"]
SPACES = [" ", " ", " ", "  ", "\n", "\n\n    ", "\t", "\r\n", "\u00a0", " \u2003", "\u3000 "]


def corpus(count: int, seed: int) -> list[str]:
    source = random.Random(seed)
    syllables = [a + b for a in "bdfglmnprst" for b in ("a", "e", "i", "oo", "ü")]

    def word() -> str:
        if source.random() < 0.5:
            return source.choice(WORDS)
        return "".join(source.choices(syllables, k=source.randint(1, 4)))

    return [
        "".join(source.choice(SPACES) + word() for _ in range(source.randint(5, 60)))
        for _ in range(count)
    ]


def trained(layout: str, vocab_size: int = 700) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if layout == "GPT-2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    else:
        pattern = Regex(LINES % DIGITS[layout])
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(pattern, "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(300, 1), trainer=trainer)
    return tokenizer


PLAIN = {layout: trained(layout) for layout in ("GPT-2", "Llama 3", "Qwen 2")}
OURS = {
    layout: TextTokenizer(Tokenizer.from_str(plain.to_str()), end=END)
    for layout, plain in PLAIN.items()
}
for plain_tokenizer in PLAIN.values():
    plain_tokenizer.encode_special_tokens = True


def expected(layout: str, texts: list[str]) -> list[list[int]]:
    encodings = PLAIN[layout].encode_batch(texts, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def found(layout: str, texts: list[str]) -> list[list[int]]:
    ids = OURS[layout].encode(texts)
    assert all(each.dtype == np.int64 for each in ids)
    return [each.tolist() for each in ids]


def is_fast(tokenizer: Tokenizer) -> bool:
    return byte_level_encoder(json.loads(tokenizer.to_str())) is not None


tricky = st.lists(
    st.sampled_from(
        [*SPACES, *WORDS, END, "'", "'S", "'\u017f", "\r", "\x0b", "\x1c", "\x85", "\0", "\1"]
    ),
    max_size=12,
).map("".join)
texts = st.lists(st.text(max_size=30) | tricky, max_size=6)


@pytest.mark.parametrize("layout", PLAIN)
@settings(deadline=None, max_examples=200)
@given(texts=texts)
def test_ids_are_those_of_tokenizers(layout: str, texts: list[str]) -> None:
    assert found(layout, texts) == expected(layout, texts)


@pytest.mark.parametrize("layout", PLAIN)
def test_they_are_for_long_texts_in_many_chunks(layout: str) -> None:
    assert is_fast(PLAIN[layout])
    texts = corpus(600, 2)
    texts[7] = " ".join(texts)  # longer than a chunk
    assert found(layout, texts) == expected(layout, texts)


@pytest.mark.parametrize("layout", PLAIN)
def test_characters_are_cut_in_the_same_places(layout: str) -> None:
    """In case and beside others: all below U+3100, and ligatures and wide letters."""
    codes = [*range(0x3100), *range(0xFB00, 0xFB10), *range(0xFF00, 0xFF80)]
    for context in ("a{}b", "1{}2", " {}.", ".{} a", "\n{}\nx", "'{}'l{}", "  {}"):
        texts = [context.replace("{}", chr(code)) for code in codes]
        lines = ["|".join(texts[start : start + 500]) for start in range(0, len(texts), 500)]
        assert found(layout, lines) == expected(layout, lines), context


@pytest.mark.parametrize(
    ("first", "stop"),
    [(0, 0x10000), pytest.param(0x10000, 0x110000, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("kind", [r"\p{L}", r"\p{N}", r"\s"])
def test_both_libraries_know_the_same_characters(kind: str, first: int, stop: int) -> None:
    text = "".join(chr(code) for code in range(first, stop) if not 0xD800 <= code < 0xE000)
    every_byte = {bytes([byte]): byte for byte in range(256)}
    one = tiktoken.Encoding("one", pat_str=kind, mergeable_ranks=every_byte, special_tokens={})
    split = pre_tokenizers.Split(Regex(f"{kind}+"), "removed")
    rest: set[str] = set()
    for start in range(0, len(text), 4096):
        pieces = split.pre_tokenize_str(text[start : start + 4096])
        rest.update("".join(piece for piece, _ in pieces))
    assert bytes(one.encode_ordinary(text)).decode() == "".join(c for c in text if c not in rest)


@pytest.mark.parametrize("size", [99, 101, 501, 20_000])
@pytest.mark.parametrize("unit", ["a", "ab", " ", "\n", " \n", "🙂", "日本", "=", "1", "\u00a0"])
def test_long_pieces_are_merged_alike(unit: str, size: int) -> None:
    text = (unit * size)[:size]
    for layout in PLAIN:
        for each in (text, f"x{text}", f"{text}x", f"{text}.x"):
            assert found(layout, [each]) == expected(layout, [each])


def test_long_random_pieces_are_merged_alike() -> None:
    source = random.Random(5)
    for letters in ("ab", "théy'", "日本語", "returndef"):
        piece = "".join(source.choices(letters, k=5000))
        assert found("GPT-2", [piece]) == expected("GPT-2", [piece])


def test_a_million_spaces_are_no_trouble() -> None:
    """The expression as it is published overflows the stack here."""
    text = " " * 1_000_000 + "x"
    [ids] = OURS["GPT-2"].encode([text])
    assert OURS["GPT-2"].decode(ids) == text


@pytest.mark.parametrize("text", ["\0", "a\0\0b", "\1", "\1\1 a", " \0 \1"])
def test_the_marks_themselves_are_text(text: str) -> None:
    for layout in PLAIN:
        texts = ["before", text, "", f"  {text}  x", "after"]
        assert found(layout, texts) == expected(layout, texts)


@pytest.mark.parametrize("text", ["\ud800", "a \udfff"])
def test_half_a_character_is_refused(text: str) -> None:
    with pytest.raises((TypeError, UnicodeEncodeError)):
        OURS["GPT-2"].encode(["fine", text])


@st.composite
def merges_of_few_letters(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Merges that no training would make, of few letters, so that all of them meet: some never
    applied, in any order, or all that make a token, as converters write them."""
    tokens = ["a", "b", "c"]
    pairs: list[tuple[str, str]] = []
    for _ in range(draw(st.integers(0, 9))):
        pairs.append((draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))))
        tokens.append("".join(pairs[-1]))
    pairs = [pair for pair in dict.fromkeys(pairs) if len("".join(pair)) < 8]
    wholes = list(dict.fromkeys("".join(pair) for pair in pairs))
    order = draw(st.sampled_from(["as drawn", "any", "all"]))
    if order == "as drawn":
        return pairs
    if order == "any":
        return draw(st.permutations(pairs))
    splits = [(whole[:cut], whole[cut:]) for whole in wholes for cut in range(1, len(whole))]
    return [pair for pair in splits if {*pair} <= {"a", "b", "c", *wholes}]


def with_merges(merges: list[tuple[str, str]], **options: Any) -> Tokenizer:
    tokens = [*byte_characters(), *(left + right for left, right in merges)]
    vocabulary = {token: 3 * i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, **options))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return tokenizer


@settings(deadline=None, max_examples=100)
@given(merges_of_few_letters(), st.booleans(), st.randoms(use_true_random=False))
def test_merges_that_are_taken_give_the_same_ids(
    merges: list[tuple[str, str]], ignore_merges: bool, source: random.Random
) -> None:
    tokenizer = with_merges(merges, ignore_merges=ignore_merges)
    encoder = byte_level_encoder(json.loads(tokenizer.to_str()))
    if encoder is None:
        return
    texts = ["".join(source.choices("abc", k=source.randint(1, 12))) for _ in range(40)]
    wanted = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    assert [ids.tolist() for ids in encoder.encode(texts, 7)] == [[*ids, 7] for ids in wanted]


@pytest.mark.parametrize(
    ("merges", "taken"),
    [
        ([], True),
        ([("a", "b"), ("ab", "c")], True),
        ([("b", "c"), ("a", "bc")], True),
        ([("a", "a"), ("aa", "aa"), ("aa", "a")], True),
        ([("a", "b"), ("ab", "c"), ("b", "c"), ("a", "bc")], True),  # the last is never applied
        ([("a", "b"), ("b", "c"), ("a", "bc")], True),  # nor here: abc is ab, c
        ([("a", "a"), ("a", "aa")], True),  # nor here: aaa is aa, a
        ([("ab", "c"), ("a", "b")], False),  # its half comes later
        ([("ab", "c"), ("b", "c"), ("a", "bc"), ("a", "b")], True),  # but the whole before it
    ],
)
def test_which_merges_are_taken(merges: list[tuple[str, str]], taken: bool) -> None:
    model = json.loads(with_merges(merges).to_str())["model"]
    assert (merge_ranks(model) is not None) == taken
    older = model | {"merges": [" ".join(pair) for pair in merges]}
    assert (merge_ranks(older) is not None) == taken


def test_trained_merges_are_taken_in_their_order() -> None:
    model = json.loads(PLAIN["GPT-2"].to_str())["model"]
    taken = merge_ranks(model)
    assert taken is not None
    ranks, ids = taken
    assert len(ranks) == len(ids) == len(model["merges"]) + 256
    assert sorted(ids.tolist()) == list(range(1, 700))
    assert (np.diff(ids[256:]) > 0).all()


def changed(change: str) -> Tokenizer:
    layout = json.loads(PLAIN["GPT-2"].to_str())
    model = layout["model"]
    match change:
        case "prefix space":
            layout["pre_tokenizer"]["add_prefix_space"] = True
        case "no pre-tokenizer":
            layout["pre_tokenizer"] = None
        case "dropout":
            model["dropout"] = 0.1
        case "a byte without a token":
            lost = byte_characters()
            byte = next(iter(lost))
            model["merges"] = [pair for pair in model["merges"] if byte not in "".join(pair)]
            model["vocab"] = {t: i for t, i in model["vocab"].items() if byte not in t}
        case "a token that tiktoken would merge":
            model["ignore_merges"] = True
            model["vocab"] |= {token: 900 + i for i, token in enumerate(["zz", "zzz"])}
        case "another normalizer":
            layout["normalizer"] = {"type": "NFKC"}
        case "another expression":
            layout["pre_tokenizer"] = json.loads(PLAIN["Qwen 2"].to_str())["pre_tokenizer"]
            layout["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] += "|x"
    return Tokenizer.from_str(json.dumps(layout))


@pytest.mark.parametrize(
    "change",
    [
        "prefix space",
        "no pre-tokenizer",
        "dropout",
        "a byte without a token",
        "a token that tiktoken would merge",
        "another normalizer",
        "another expression",
    ],
)
def test_other_layouts_are_left_to_tokenizers(change: str) -> None:
    assert is_fast(PLAIN["GPT-2"])
    assert not is_fast(changed(change))


def test_nfc_is_done_by_tokenizers_where_it_could_matter() -> None:
    plain = Tokenizer.from_str(PLAIN["Qwen 2"].to_str())
    plain.normalizer = normalizers.NFC()
    encoder = byte_level_encoder(json.loads(plain.to_str()))
    assert encoder is not None
    assert encoder.knows("Straße")
    assert not encoder.knows("u\u0308")
    ours = TextTokenizer(Tokenizer.from_str(plain.to_str()), end=END)
    source = random.Random(8)
    texts = ["".join(chr(source.randrange(32, 0x340)) for _ in range(9)) for _ in range(400)]
    texts += ["u\u0308", "\u212b", "Straße", "\u1100\u1161"]
    wanted = [encoding.ids for encoding in plain.encode_batch(texts, add_special_tokens=False)]
    assert [ids.tolist() for ids in ours.encode(texts)] == wanted


def test_added_tokens_that_are_no_special_ones_are_found_in_text() -> None:
    plain = Tokenizer.from_str(PLAIN["Qwen 2"].to_str())
    plain.add_tokens(["<tool>", "they"])
    assert is_fast(plain)
    ours = TextTokenizer(plain, end=END)
    texts = ["a <tool> b", "they'll", "the y", f"<tool{END}>"]
    wanted = [encoding.ids for encoding in plain.encode_batch(texts, add_special_tokens=False)]
    assert [ids.tolist() for ids in ours.encode(texts)] == wanted
    assert plain.token_to_id("<tool>") in wanted[0]


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = corpus(700, 3)
    results = []
    for parallel in ("true", "false"):
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", parallel)
        results.append(found("GPT-2", texts))
    assert results[0] == results[1]


def test_nothing_is_fetched() -> None:
    """tiktoken could: it must neither when it is imported nor when it encodes."""
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise AssertionError('a socket')\n"
        "socket.socket = socket.create_connection = refuse\n"
        "from synboot.data.tokenizer import train_tokenizer\n"
        "print(train_tokenizer(['some text ' * 9], 300).encode(['some text'])[0].tolist())\n"
    )
    environment = os.environ | {"PYTHONPATH": SOURCES}
    outcome = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
