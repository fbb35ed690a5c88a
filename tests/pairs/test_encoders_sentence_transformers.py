from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from synboot.core.errors import BadInput
from synboot.pairs.encoders import sentence_transformers as module
from synboot.pairs.encoders.cost import reading_flops
from synboot.pairs.encoders.encoder import fit_encoder, load_encoder
from synboot.pairs.encoders.sentence_transformers import SentenceTransformersEncoder


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modules.json").write_text("[]")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(BadInput, match=r"not installed; pip install 'synboot\[encoders\]'"):
        SentenceTransformersEncoder.open(str(tmp_path))


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    """Refused before the package sees them; beside safetensors they are not read."""
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "2_Dense" / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(BadInput, match=r"2_Dense/pytorch_model\.bin: is a pickle; expected"):
        SentenceTransformersEncoder.open(str(tmp_path))


@pytest.mark.parametrize("inside", [".", "query_0"])
def test_code_of_the_model_is_not_run(tmp_path: Path, inside: str) -> None:
    (tmp_path / inside).mkdir(exist_ok=True)
    (tmp_path / "evil.py").write_text("raise SystemExit('was run')")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "evil.Module"}]
    (tmp_path / inside / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(BadInput, match=r"evil\.Module is code of the model's own"):
        SentenceTransformersEncoder.open(str(tmp_path))
    (tmp_path / inside / "modules.json").write_text('{"type": 1}')
    with pytest.raises(BadInput, match=r"modules\.json: expected a list of modules"):
        SentenceTransformersEncoder.open(str(tmp_path))


@pytest.mark.parametrize("name", ["no directory and no name", "../x", "/nowhere/at/all"])
def test_what_can_be_no_name(name: str) -> None:
    with pytest.raises(BadInput, match="is no directory, and no model of that name"):
        SentenceTransformersEncoder.open(name)


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="no sentence-transformers model"):
        SentenceTransformersEncoder.open(str(tmp_path))


def test_vectors_are_those_of_the_package(sentence_model: Path, topic_texts: list[str]) -> None:
    """Law 10; with the recipe's prefix and not the model's own default prompt."""
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(str(sentence_model), device="cpu")
    for prefix in ("", "common1: "):
        texts = [prefix + text for text in topic_texts]
        expected = model.encode(texts, normalize_embeddings=True)
        encoder = SentenceTransformersEncoder.open(str(sentence_model), prefix=prefix)
        np.testing.assert_allclose(encoder.encode(topic_texts), expected, atol=1e-5)


def test_default_prompt_of_the_model_is_not_used(
    sentence_model: Path, topic_texts: list[str], tmp_path: Path
) -> None:
    prompted = shutil.copytree(sentence_model, tmp_path / "prompted")
    path = prompted / "config_sentence_transformers.json"
    settings = json.loads(path.read_text())
    settings |= {"prompts": {"query": "common1 common2 common3 "}, "default_prompt_name": "query"}
    path.write_text(json.dumps(settings))
    found = SentenceTransformersEncoder.open(str(prompted)).encode(topic_texts)
    expected = SentenceTransformersEncoder.open(str(sentence_model)).encode(topic_texts)
    np.testing.assert_array_equal(found, expected)


def test_a_long_text_is_cut(sentence_model: Path, topic_texts: list[str]) -> None:
    encoder = SentenceTransformersEncoder.open(str(sentence_model))
    long = " ".join(topic_texts[:6])
    first, second = encoder.encode([long, long + " word7j" * 50])
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_cost_is_counted_without_padding(sentence_model: Path) -> None:
    encoder = SentenceTransformersEncoder.open(str(sentence_model))
    encoder.encode(["common1", "common1 common2 common3 common4", "", "common5 " * 99])
    transformer = encoder._model[0]
    config = next(m.config for m in transformer.modules() if hasattr(m, "config"))
    counted = [len(transformer.tokenizer(t)["input_ids"]) for t in ("common1", "common1 " * 4)]
    expected = reading_flops(transformer, config, [*counted, 32], causal=False)
    assert encoder.flops == expected > 0


def test_another_model_is_refused(
    sentence_model: Path, topic_texts: list[str], tmp_path: Path
) -> None:
    name = f"sentence-transformers:{sentence_model}"
    fit_encoder(name, topic_texts, dimensions=1, seed=0, prefix="p: ").save(tmp_path / "encoder")
    moved = shutil.copytree(sentence_model, tmp_path / "moved")
    load_encoder(f"sentence-transformers:{moved}", tmp_path / "encoder")
    settings = json.loads((tmp_path / "encoder" / "settings.json").read_text())
    assert settings["prefix"] == "p: "
    assert settings["name"] is None
    pooling = next(moved.glob("*Pooling/config.json"))
    pooling.write_text(pooling.read_text() + "\n")
    with pytest.raises(BadInput, match="is not the model that the encoder was made with"):
        load_encoder(f"sentence-transformers:{moved}", tmp_path / "encoder")


@pytest.mark.slow
def test_a_name_is_taken_from_the_local_cache_at_its_revision(
    sentence_model: Path, tmp_path: Path
) -> None:
    """In a process of its own, for where the cache is is read at import; without a network."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(sentence_model, cached / "snapshots" / revision)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    code = (
        "import sys; from pathlib import Path\n"
        "from synboot.pairs.encoders.encoder import fit_encoder, load_encoder\n"
        "name = 'sentence-transformers:someone/tiny'; where = Path(sys.argv[1])\n"
        "fit_encoder(name, [], dimensions=1, seed=0).save(where)\n"
        "Path(sys.argv[2]).write_text('f' * 40)  # the name moves on, the encoder does not\n"
        "print(load_encoder(name, where).encode(['common1 common2']).tobytes().hex())\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "encoder"), str(cached / "refs" / "main")],
        env=os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    settings = json.loads((tmp_path / "encoder" / "settings.json").read_text())
    assert settings["name"] == "someone/tiny"
    assert settings["revision"] == revision
    here = SentenceTransformersEncoder.open(str(sentence_model)).encode(["common1 common2"])
    assert found.strip() == here.tobytes().hex()


def test_nothing_that_is_code_or_a_pickle_is_fetched() -> None:
    for suffix in ("*.bin", "*.pkl", "*.pt", "*.py"):
        assert suffix in module._NOT_NEEDED
