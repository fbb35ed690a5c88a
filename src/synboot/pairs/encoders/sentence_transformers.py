"""sentence-transformers: an embedding model from outside. No closed system: what such a model
knows, the run did not learn from the corpus."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from synboot.core.errors import BadInput
from synboot.core.storage import read_json, write_json
from synboot.pairs.encoders.cost import reading_flops
from synboot.pairs.encoders.fingerprint import fingerprint

_BATCH_TEXTS = 32
_NOT_NEEDED = ["*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.h5", "*.msgpack", "*.ot", "*.py",
               "onnx/*", "openvino/*"]  # fmt: skip
"""Pickles and code are not even fetched."""


class SentenceTransformersEncoder:
    """A sentence-transformers model as it is: nothing is fitted. A text longer than the model's
    maximum is cut by it."""

    def __init__(self, model: Any, settings: dict[str, Any]) -> None:
        self._model = model
        self._settings = settings
        self.flops = 0
        self._dimensions = self._vectors(["a"]).shape[1]
        model[0].register_forward_pre_hook(self._count)

    @classmethod
    def open(
        cls, source: str, *, prefix: str = "", device: str = "cpu"
    ) -> SentenceTransformersEncoder:
        """The model in the directory `source`, or of that name on the hub or in its local cache.

        Raises BadInput if the package is not installed, if there is no such model, if its weights
        are pickles and if it needs code of its own.
        """
        directory, revision = _locate(source, None)
        settings = {
            # A path would say where this machine has the model, which is nobody's business.
            "name": None if revision is None else source,
            "revision": revision,
            "model": fingerprint(directory),
            "prefix": prefix,
        }
        return cls(_load_model(directory, device), settings)

    @classmethod
    def load(
        cls, directory: Path, source: str, *, device: str = "cpu"
    ) -> SentenceTransformersEncoder:
        """The encoder that `save` wrote; a name is taken at the revision it had then. Raises
        BadInput for another model."""
        settings = read_json(directory / "settings.json")
        model_directory, _ = _locate(source, settings["revision"])
        found = fingerprint(model_directory)
        if found != settings["model"]:
            raise BadInput(
                f"field pairs.encoder: {source} is not the model that the encoder was made with "
                f"(fingerprint {found}, expected {settings['model']})"
            )
        return cls(_load_model(model_directory, device), settings)

    def save(self, directory: Path) -> None:
        """Write settings.json: name and revision, the model's fingerprint, prefix."""
        write_json(directory / "settings.json", self._settings)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [texts, dimensions], unit rows; 0 for a blank text."""
        vectors = np.zeros((len(texts), self._dimensions), dtype=np.float32)
        written = [place for place, text in enumerate(texts) if text.strip()]
        if written:
            vectors[written] = self._vectors([texts[place] for place in written])
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.where(norms > 0, norms, np.float32(1))

    def _vectors(self, texts: list[str]) -> np.ndarray:
        found = self._model.encode(
            texts,
            prompt=self._settings["prefix"] or None,
            batch_size=_BATCH_TEXTS,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.asarray(found, dtype=np.float32)

    def _count(self, module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        """Add the cost of a batch that the model is about to read."""
        mask = arguments[0].get("attention_mask")
        if mask is not None:  # a table of word vectors multiplies nothing
            config = next((m.config for m in module.modules() if hasattr(m, "config")), None)
            lengths = mask.sum(dim=1).tolist()
            self.flops += reading_flops(module, config, lengths, causal=False)


def _locate(source: str, revision: str | None) -> tuple[Path, str | None]:
    """The directory of a model, and its revision if it has a name on the hub."""
    if Path(source).is_dir():
        return Path(source), None
    try:
        found = snapshot_download(source, revision=revision, ignore_patterns=_NOT_NEEDED)
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(
            f"field pairs.encoder: {source} is no directory, and no model of that name was found "
            f"on the hub or in its cache: {reason}"
        ) from None
    return Path(found), Path(found).name


def _load_model(directory: Path, device: str) -> Any:
    _refuse_code_and_pickles(directory)
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise BadInput(
            "field pairs.encoder: sentence-transformers is not installed; "
            "pip install 'synboot[encoders]'"
        ) from None
    try:
        model = SentenceTransformer(
            str(directory),
            device=device,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(f"{directory}: no sentence-transformers model: {reason}") from None
    model.default_prompt_name = None  # the recipe's prefix and no other
    return model.float().eval()


def _refuse_code_and_pickles(directory: Path) -> None:
    """Some versions of the package import what a local model names, trusted or not, and load a
    pickle where there are no safetensors."""
    for path in sorted(directory.rglob("modules.json")):
        try:
            types = [module["type"] for module in json.loads(path.read_text(encoding="utf-8"))]
        except (ValueError, TypeError, KeyError):
            raise BadInput(f"{path}: expected a list of modules with a type") from None
        for name in types:
            if not str(name).startswith("sentence_transformers."):
                raise BadInput(f"{path}: {name} is code of the model's own, which is not run")
    for path in sorted(directory.rglob("pytorch_model*.bin")):
        if not list(path.parent.glob("*.safetensors")):
            raise BadInput(f"{path}: is a pickle; expected model.safetensors")
