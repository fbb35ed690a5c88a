"""Mean hidden states of a causal LM: what each of its layers makes of a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from synboot.core.errors import BadInput
from synboot.data.tokenizer import TextTokenizer
from synboot.model.architecture import load_model
from synboot.pairs.encoders.cost import reading_flops

MAX_WINDOWS = 8
"""A document is read in so many windows at most, each alone; what follows is not read. With one
window of 256 in place of eight, 0.26 in place of 0.30 of the first halves of news articles find
their second half (LOG.md)."""
_MAX_WINDOW = 1024
_BATCH_POSITIONS = 8192


class _Window(NamedTuple):
    length: int
    document: int
    ids: np.ndarray


class HiddenStates:
    """A causal LM and its tokenizer, reading documents behind `prefix`.

    A window is the start token, the prefix and as much of the document as the context (1,024
    positions of it at most) holds.
    """

    def __init__(self, model_directory: Path, *, prefix: str, device: str) -> None:
        """Raises BadInput if the prefix leaves less than half of a window to the text."""
        model = load_model(model_directory).eval().to(device)
        self._model = model.base_model  # without the output layer
        self._config = model.config
        self._device = device
        self._tokenizer = TextTokenizer.load(model_directory)
        context = getattr(model.config, "max_position_embeddings", None) or _MAX_WINDOW
        (prefix_ids,) = self._tokenizer.encode([prefix])
        self._start = np.concatenate([[self._tokenizer.start_id], prefix_ids]).astype(np.int64)
        window = min(context, _MAX_WINDOW)
        self._room = window - len(self._start)
        if 2 * self._room < window:
            raise BadInput(
                f"field pairs.prefix: takes {len(prefix_ids)} of a window's {window} tokens; "
                "expected less than half"
            )
        self.num_layers: int = model.config.num_hidden_layers + 1
        self.flops = 0

    def tokenize(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, int64; none of a blank one."""
        encoded = self._tokenizer.encode(texts)
        return [ids if text.strip() else ids[:0] for ids, text in zip(encoded, texts, strict=True)]

    def means(self, documents: Sequence[np.ndarray], layers: Sequence[int]) -> np.ndarray:
        """float32 [documents, layers, width]: the mean hidden state over the tokens of each
        document (start and prefix excluded), 0 for one without tokens. Layer 0 is the embeddings,
        the last one stands behind the final norm."""
        width = self._config.hidden_size
        sums = np.zeros((len(documents), len(layers), width), dtype=np.float64)
        for batch in self._batches(documents):
            for window, states in zip(batch, self._sums(batch, layers), strict=True):
                sums[window.document] += states
        most = MAX_WINDOWS * self._room
        read = np.array([min(len(ids), most) for ids in documents]).reshape(-1, 1, 1)
        return np.asarray(sums / np.maximum(read, 1), dtype=np.float32)

    def stop_at(self, layer: int) -> None:
        """Read no layer above `layer` from here on: blocks that only those need are dropped, if the
        model keeps them in a list. One more stays, so that the final norm is behind that one."""
        for name, blocks in self._model.named_children():
            if isinstance(blocks, torch.nn.ModuleList) and len(blocks) == self.num_layers - 1:
                setattr(self._model, name, blocks[: layer + 1])
                self._config.num_hidden_layers = len(getattr(self._model, name))

    def _batches(self, documents: Sequence[np.ndarray]) -> Iterator[list[_Window]]:
        """Windows of like length together, so that little is padded."""
        windows = [
            _Window(len(ids), document, ids)
            for document, tokens in enumerate(documents)
            for start in range(0, min(len(tokens), MAX_WINDOWS * self._room), self._room)
            if len(ids := tokens[start : start + self._room])
        ]
        windows.sort(key=lambda window: (window.length, window.document))
        batch: list[_Window] = []
        for window in windows:
            if batch and (len(batch) + 1) * (window.length + len(self._start)) > _BATCH_POSITIONS:
                yield batch
                batch = []
            batch.append(window)
        if batch:
            yield batch

    @torch.inference_mode()
    def _sums(self, batch: Sequence[_Window], layers: Sequence[int]) -> np.ndarray:
        """float64 [windows, layers, width]: sums over the text's positions.

        Padding stands to the right: no position sees it, and the sum leaves it out.
        """
        before = len(self._start)
        longest = before + max(window.length for window in batch)
        ids = np.full((len(batch), longest), self._tokenizer.end_id, dtype=np.int64)
        counted = np.zeros((len(batch), 1, longest))
        for row, window in enumerate(batch):
            ids[row, :before] = self._start
            ids[row, before : before + window.length] = window.ids
            counted[row, 0, before : before + window.length] = 1
        output = self._model(
            input_ids=torch.from_numpy(ids).to(self._device),
            output_hidden_states=True,
            use_cache=False,
        )
        self.flops += reading_flops(
            self._model, self._config, (before + window.length for window in batch), causal=True
        )
        weights = torch.from_numpy(counted).to(self._device)
        pooled = [weights @ output.hidden_states[layer].double() for layer in layers]
        return torch.cat(pooled, dim=1).cpu().numpy()
