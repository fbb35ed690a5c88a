"""Law 9: one conformance suite, run against every encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from synboot.core.storage import describe_files
from synboot.pairs.encoders.encoder import Encoder, fit_encoder, load_encoder

TOLERANCE = 1e-5
"""Of a coordinate, where texts are grouped otherwise: a batch of another shape may round in the
last bits (6e-8 of a hidden state's length), and centring and whitening make more of it."""


@dataclass(frozen=True)
class Kind:
    """An encoder's name, the model that it reads with, and what it does with a prefix."""

    name: str
    model_directory: Path | None
    takes_prefix: bool

    def fit(self, texts: list[str], prefix: str = "", seed: int = 0) -> Encoder:
        return fit_encoder(
            self.name,
            texts,
            dimensions=12,
            seed=seed,
            model_directory=self.model_directory,
            prefix=prefix,
        )

    def load(self, directory: Path) -> Encoder:
        return load_encoder(self.name, directory, model_directory=self.model_directory)


@pytest.fixture(scope="module", params=["lsa", "lm", "sentence-transformers"])
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param == "lsa":
        return Kind("lsa", None, takes_prefix=False)
    if request.param == "lm":
        return Kind("lm", request.getfixturevalue("language_model"), takes_prefix=True)
    model = request.getfixturevalue("sentence_model")
    return Kind(f"sentence-transformers:{model}", None, takes_prefix=True)


@pytest.fixture(scope="module")
def encoder(kind: Kind, topic_texts: list[str]) -> Encoder:
    return kind.fit(topic_texts)


STRANGE = [
    "",
    " \n\t",
    "unheard",
    "ΩЖ漢🦊",
    "<|endoftext|> [SEP]",
    "null\x00byte",
    "y" * 5000,
    "word3a " * 4000,
]


def assert_unit_or_zero(vectors: np.ndarray) -> None:
    norms = np.linalg.norm(vectors, axis=1)
    assert np.all((np.abs(norms - 1) < 1e-5) | (norms == 0))


class TestEveryEncoder:
    def test_gives_unit_float32_rows(self, encoder: Encoder, topic_texts: list[str]) -> None:
        vectors = encoder.encode(topic_texts)
        assert vectors.dtype == np.float32
        assert vectors.shape[0] == len(topic_texts)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert len(np.unique(vectors, axis=0)) == len(topic_texts)

    def test_of_no_texts(self, encoder: Encoder, topic_texts: list[str]) -> None:
        vectors = encoder.encode([])
        assert vectors.dtype == np.float32
        assert vectors.shape == (0, encoder.encode(topic_texts[:1]).shape[1])

    def test_of_strange_texts(self, encoder: Encoder, topic_texts: list[str]) -> None:
        vectors = encoder.encode([*STRANGE, topic_texts[0]])
        assert np.isfinite(vectors).all()
        assert_unit_or_zero(vectors)
        np.testing.assert_array_equal(vectors[:2], 0)
        assert np.linalg.norm(vectors[-1]) > 0
        assert not encoder.encode(STRANGE[:2]).any()

    def test_of_a_text_longer_than_any_context(
        self, encoder: Encoder, topic_texts: list[str]
    ) -> None:
        endless = " ".join(topic_texts * 20)
        (vector,) = encoder.encode([endless])
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)

    def test_is_deterministic(self, kind: Kind, encoder: Encoder, topic_texts: list[str]) -> None:
        again = kind.fit(list(topic_texts))
        np.testing.assert_array_equal(again.encode(topic_texts), encoder.encode(topic_texts))
        assert again.encode(topic_texts).tobytes() == again.encode(topic_texts).tobytes()

    def test_does_not_depend_on_what_shares_a_call(
        self, encoder: Encoder, topic_texts: list[str]
    ) -> None:
        texts = [*topic_texts, *STRANGE]
        whole = encoder.encode(texts)
        for size in (1, 7, 40):
            parts = [encoder.encode(texts[i : i + size]) for i in range(0, len(texts), size)]
            np.testing.assert_allclose(np.concatenate(parts), whole, atol=TOLERANCE)
        np.testing.assert_allclose(encoder.encode(texts[::-1])[::-1], whole, atol=TOLERANCE)

    def test_saved_and_loaded_encodes_alike(
        self, kind: Kind, encoder: Encoder, topic_texts: list[str], tmp_path: Path
    ) -> None:
        encoder.save(tmp_path / "encoder")
        encoder.save(tmp_path / "again")
        files = describe_files(tmp_path / "encoder")
        assert files
        assert files == describe_files(tmp_path / "again")
        loaded = kind.load(tmp_path / "encoder")
        texts = [*topic_texts, *STRANGE]
        np.testing.assert_array_equal(loaded.encode(texts), encoder.encode(texts))

    def test_says_no_path_in_what_it_saves(
        self, kind: Kind, encoder: Encoder, tmp_path: Path
    ) -> None:
        encoder.save(tmp_path)
        saved = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert str(tmp_path.parent).encode() not in saved
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 100_000

    def test_prefix_matters_and_is_kept(
        self, kind: Kind, encoder: Encoder, topic_texts: list[str], tmp_path: Path
    ) -> None:
        if not kind.takes_prefix:
            pytest.skip(f"{kind.name} takes no prefix")
        told = kind.fit(topic_texts, prefix="common3 common4: ")
        vectors = told.encode(topic_texts)
        assert_unit_or_zero(vectors)
        assert np.abs(vectors - encoder.encode(topic_texts)).max() > 10 * TOLERANCE
        assert not told.encode([""]).any()
        told.save(tmp_path)
        np.testing.assert_array_equal(kind.load(tmp_path).encode(topic_texts), vectors)

    def test_counts_its_cost(self, kind: Kind, topic_texts: list[str], tmp_path: Path) -> None:
        fresh = kind.fit(topic_texts)
        start = fresh.flops
        assert start >= 0
        assert isinstance(start, int)
        fresh.encode(topic_texts[:4])
        few = fresh.flops - start
        assert few > 0
        fresh.encode(topic_texts[:4])
        assert fresh.flops - start == 2 * few
        fresh.encode(topic_texts)
        assert fresh.flops - start > 4 * few
        fresh.save(tmp_path)
        assert kind.load(tmp_path).flops == 0
