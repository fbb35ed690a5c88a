"""What a recipe may say of its encoder, and what of that counts for identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synboot.core.config import validate
from synboot.core.errors import BadInput
from synboot.experiment.recipe import PairsConfig
from synboot.pairs.encoders.encoder import fit_encoder, load_encoder
from synboot.pairs.encoders.fingerprint import fingerprint
from synboot.pairs.encoders.settings import EncoderConfig, encoder_settings

TEXTS = ["red fish and blue fish", "one bird and two birds", "red bird, blue fish"]
ABROAD = "sentence-transformers:someone/model"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"encoder": "lsa", "dimensions": 3},
        {"encoder": "lm"},
        {"encoder": "lm", "layer": 0, "prefix": "About: "},
        {"encoder": ABROAD, "prefix": "query: "},
    ],
    ids=str,
)
def test_what_a_recipe_may_say(values: dict[str, Any]) -> None:
    config = validate(PairsConfig, values, "recipe.yaml")
    assert config.model_dump(include=set(values)) == values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder": "bert"}, r"field encoder: expected lsa, lm or .*, got 'bert'"),
        ({"encoder": "sentence-transformers:"}, r"field encoder: expected lsa, lm or"),
        ({"encoder": "sentence-transformers: "}, r"field encoder: expected lsa, lm or"),
        ({"encoder": ""}, r"field encoder: expected lsa, lm or"),
        ({"encoder": 3}, r"field encoder: "),
        ({"prefix": "query: "}, r"prefix: lsa takes none, got 'query: '"),
        ({"layer": 2}, r"layer: only lm has layers"),
        ({"encoder": ABROAD, "layer": 2}, r"layer: only lm has layers"),
        ({"encoder": "lm", "layer": -1}, r"field layer: "),
        ({"encoder": "lm", "prefixes": "x"}, r"did you mean prefix\?"),
    ],
    ids=str,
)
def test_what_it_may_not(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        validate(PairsConfig, values, "recipe.yaml")


def test_identity_of_lsa_is_what_it_always_was() -> None:
    assert encoder_settings(PairsConfig()) == {"encoder": "lsa", "dimensions": 256}


def test_identity_of_lm_has_all_that_it_depends_on() -> None:
    config = EncoderConfig(encoder="lm", dimensions=8, prefix="p", layer=1)
    assert encoder_settings(config) == {
        "encoder": "lm",
        "dimensions": 8,
        "prefix": "p",
        "layer": 1,
    }


def test_a_directory_counts_by_its_bytes_and_a_name_by_itself(tmp_path: Path) -> None:
    """Law 1: where a model is cannot be seen by an identity."""
    found = []
    for place, weights in (("here", b"1"), ("there", b"1"), ("other", b"2")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "model.safetensors").write_bytes(weights)
        config = EncoderConfig(encoder=f"sentence-transformers:{tmp_path / place}", dimensions=7)
        found.append(encoder_settings(config))
    assert found[0] == found[1] != found[2]
    assert encoder_settings(EncoderConfig(encoder=ABROAD, prefix="query: ")) == {
        "encoder": ABROAD,
        "prefix": "query: ",
    }


def test_unknown_encoder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"pairs\.encoder: expected lsa, lm or .*, got 'bert'"):
        fit_encoder("bert", TEXTS, dimensions=4, seed=0)
    with pytest.raises(BadInput, match=r"pairs\.encoder: expected lsa, lm or .*, got 'bert'"):
        load_encoder("bert", tmp_path)


def test_lm_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="lm needs the directory of a causal LM"):
        fit_encoder("lm", TEXTS, dimensions=4, seed=0)
    with pytest.raises(BadInput, match="lm needs the directory of a causal LM"):
        load_encoder("lm", tmp_path)


def test_fingerprint_sees_names_sizes_and_bytes(tmp_path: Path) -> None:
    """Of a large file, any stretch that was sampled; hidden files are not seen."""
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "deep" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(bytes(17 << 20))
    seen = [fingerprint(tmp_path)]
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x").write_text("x")
    assert fingerprint(tmp_path) == seen[0]
    for place in (0, 5 << 20, (17 << 20) - 1):
        changed = bytearray(17 << 20)
        changed[place : place + (300 << 10)] = b"\1" * len(changed[place : place + (300 << 10)])
        weights.write_bytes(changed)
        seen.append(fingerprint(tmp_path))
    weights.write_bytes(bytes((17 << 20) + 1))
    seen.append(fingerprint(tmp_path))
    (tmp_path / "config.json").rename(tmp_path / "konfig.json")
    seen.append(fingerprint(tmp_path))
    assert len(set(seen)) == len(seen)


def test_fingerprint_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="found none"):
        fingerprint(tmp_path)
