"""Cached forward passes of Llama-layout models in C, on one core of a CPU (decode.c).

A row is one token of one sequence; prompts and sequences that go on are the same thing. No row's
numbers depend on the other rows of a call, to the last bit, so what shares a batch cannot change
what is sampled (law 4). Keys and values live in pages that sequences with the same prompt share.
Held to transformers' own forward by a test (law 10).
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synboot.core.errors import BadInput, SynbootError
from synboot.core.native import fingerprint, load
from synboot.model.decode import check_understood, rotary
from synboot.model.settings import CacheType

PAGE = 16
"""Positions of a page."""

_SOURCE = Path(__file__).with_name("decode.c")
_ADVICE = "set a smaller runtime.slots"
_POINTERS = (
    "input_norm",
    "qkv",
    "qkv_bias",
    "query_norm",
    "key_norm",
    "output",
    "output_bias",
    "feed_forward_norm",
    "gate_up",
    "gate_up_bias",
    "down",
    "down_bias",
)
ROW = np.dtype(
    [
        (name, np.int32)
        for name in (
            "id",
            "position",
            "prefix_pages",
            "prefix_length",
            "own_pages",
            "own_length",
        )
    ]
)
"""A row: its token and its position; where in the page table the pages of its prefix begin, and
how many positions that has; the same for its own pages, the row itself included and last."""


class _Layer(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in _POINTERS]


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("layers", "width", "heads", "kv_heads")),
        *((name, ctypes.c_int64) for name in ("feed_forward", "vocabulary", "pages")),
        ("epsilon", ctypes.c_float),
        ("embedding", ctypes.c_void_p),
        ("layer", ctypes.POINTER(_Layer)),
        *((name, ctypes.c_void_p) for name in ("final_norm", "head", "head_bias")),
        *((name, ctypes.c_void_p) for name in ("cosines", "sines", "keys", "values")),
    ]


def library_fingerprint() -> str:
    """What stands for the compiled code in numerics: another compiler, or another processor, may
    round otherwise. Raises SynbootError if there is no C compiler."""
    return fingerprint(_SOURCE)


def check_served(config: Any) -> None:
    """Raises BadInput for a model whose numbers `NativeDecoder` would get wrong, or that it does
    not serve."""
    check_understood(config)
    if _head_dim(config) % 4:
        raise BadInput(f"the native engine reads heads of a multiple of 4, not {_head_dim(config)}")


def _head_dim(config: Any) -> int:
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


class NativeDecoder:
    """A model's weights, packed for products on this processor, and `num_pages` pages of keys and
    values for sequences of at most `capacity` positions.

    Raises BadInput for a model that `check_served` refuses or that is not on a CPU, and
    SynbootError where C cannot be compiled or the pages do not fit into memory.
    """

    def __init__(
        self,
        model: Any,
        *,
        capacity: int,
        num_pages: int,
        cache: CacheType = "float32",
    ) -> None:
        config = model.config
        check_served(config)
        head_dim = _head_dim(config)
        if next(model.parameters()).device.type != "cpu":
            raise BadInput("the native engine samples on a CPU")
        macros = {"HEAD_DIM": str(head_dim), "PAGE": str(PAGE)} | (
            {"KV_BFLOAT16": "1"} if cache == "bfloat16" else {}
        )
        self._library = load(_SOURCE, tuple(macros.items()))
        self._kept: list[np.ndarray] = []
        self._panel = int(self._library.panel_columns())
        self.num_pages = num_pages
        shape = (
            config.num_hidden_layers,
            num_pages,
            config.num_key_value_heads,
            head_dim * PAGE,
        )
        kind = np.float32 if cache == "float32" else np.uint16
        keys, values = _zeros(shape, kind), _zeros(shape, kind)
        frequencies = model.model.rotary_emb.inv_freq
        cosines, sines = rotary(capacity, frequencies)
        self._width = int(config.hidden_size)
        self.vocabulary = len(model.lm_head.weight)
        self._model = _Model(
            layers=config.num_hidden_layers,
            width=self._width,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            feed_forward=config.intermediate_size,
            vocabulary=self.vocabulary,
            pages=num_pages,
            epsilon=float(config.rms_norm_eps),
            embedding=self._plain(model.model.embed_tokens.weight),
            layer=(_Layer * config.num_hidden_layers)(
                *(_Layer(**self._layer(layer)) for layer in model.model.layers)
            ),
            final_norm=self._plain(model.model.norm.weight),
            head=self._packed(model.lm_head.weight),
            head_bias=self._bias(model.lm_head.bias),
            cosines=self._keep(cosines[:, : head_dim // 2].numpy()),
            sines=self._keep(sines[:, : head_dim // 2].numpy()),
            keys=self._keep(keys),
            values=self._keep(values),
        )

    def forward(self, rows: np.ndarray, table: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Compute `rows` [count] of `ROW`, keep their keys and values, and return the final hidden
        states of the rows numbered `wanted`, int64 ascending: float32 [wanted, width].

        `table` int32 [entries] has the numbers of pages that rows refer to. Rows of one sequence
        may come in one call, if later ones count the earlier ones in their `own_length`. Raises
        SynbootError if memory runs out.
        """
        out = np.empty((len(wanted), self._width), np.float32)
        rows, table = np.ascontiguousarray(rows, ROW), np.ascontiguousarray(table, np.int32)
        wanted = np.ascontiguousarray(wanted, np.int64)
        if self._library.forward(
            ctypes.byref(self._model),
            _place(rows),
            ctypes.c_int64(len(rows)),
            _place(table),
            _place(wanted),
            ctypes.c_int64(len(wanted)),
            _place(out),
        ):
            raise SynbootError(f"no memory for a forward pass of {len(rows)} rows; {_ADVICE}")
        return out

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """Of hidden states [rows, width]: float32 [rows, vocabulary and some more columns]."""
        hidden = np.ascontiguousarray(hidden, np.float32)
        out = np.empty((len(hidden), self._padded(self.vocabulary)), np.float32)
        self._library.logits(
            ctypes.byref(self._model), _place(hidden), ctypes.c_int64(len(hidden)), _place(out)
        )
        return out

    def choose(
        self,
        logits: np.ndarray,
        row_of: np.ndarray,
        uniforms: np.ndarray,
        *,
        num_tokens: int,
        temperature: float,
        top_p: float,
        top_k: int,
    ) -> np.ndarray:
        """A token for each draw, int64 [draws], as `synboot.synth.engine.choose` defines it: draw i
        is from row `row_of[i]` (int64) of `logits`, among the first `num_tokens` ids, with
        `uniforms[i]` (float32)."""
        logits = np.ascontiguousarray(logits, np.float32)
        row_of = np.ascontiguousarray(row_of, np.int64)
        uniforms = np.ascontiguousarray(uniforms, np.float32)
        drawn = np.empty(len(row_of), np.int64)
        room = np.empty(4 * num_tokens, np.float32)
        self._library.choose(
            _place(logits),
            ctypes.c_int64(logits.shape[1]),
            _place(row_of),
            ctypes.c_int64(len(row_of)),
            ctypes.c_int64(num_tokens),
            _place(uniforms),
            ctypes.c_float(temperature),
            ctypes.c_float(top_p),
            ctypes.c_int64(top_k),
            _place(room),
            _place(drawn),
        )
        return drawn

    def _layer(self, layer: Any) -> Mapping[str, int | None]:
        attention, feed_forward = layer.self_attn, layer.mlp
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        gate, up = feed_forward.gate_proj, feed_forward.up_proj
        norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
        query_norm, key_norm = (None if n is None else self._plain(n.weight) for n in norms)
        return {
            "input_norm": self._plain(layer.input_layernorm.weight),
            "qkv": self._packed(torch.cat([part.weight for part in parts])),
            "qkv_bias": self._bias(
                None if parts[0].bias is None else torch.cat([part.bias for part in parts])
            ),
            "query_norm": query_norm,
            "key_norm": key_norm,
            "output": self._packed(attention.o_proj.weight),
            "output_bias": self._bias(attention.o_proj.bias),
            "feed_forward_norm": self._plain(layer.post_attention_layernorm.weight),
            "gate_up": self._packed(self._interleaved(gate.weight, up.weight)),
            "gate_up_bias": self._bias(
                None if gate.bias is None else self._interleaved(gate.bias, up.bias)
            ),
            "down": self._packed(feed_forward.down_proj.weight),
            "down_bias": self._bias(feed_forward.down_proj.bias),
        }

    def _interleaved(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Half a panel of the one beside half a panel of the other, so that a tile of products has
        what it multiplies."""
        half = self._panel // 2
        missing = -len(gate) % half
        padded = [
            torch.cat([part, part.new_zeros(missing, *part.shape[1:])]).reshape(
                -1, half, *part.shape[1:]
            )
            for part in (gate, up)
        ]
        return torch.stack(padded, dim=1).flatten(0, 2)

    def _padded(self, columns: int) -> int:
        return -(-columns // self._panel) * self._panel

    def _packed(self, weight: torch.Tensor) -> int:
        source = np.ascontiguousarray(weight.detach().float().numpy())
        columns, inner = source.shape
        out = np.empty(self._padded(columns) * inner, np.float32)
        self._library.pack(
            _place(source), ctypes.c_int64(columns), ctypes.c_int64(inner), _place(out)
        )
        return self._keep(out)

    def _bias(self, bias: torch.Tensor | None) -> int | None:
        if bias is None:
            return None
        return self._plain(
            torch.nn.functional.pad(bias.detach(), (0, self._padded(len(bias)) - len(bias)))
        )

    def _plain(self, tensor: torch.Tensor) -> int:
        return self._keep(tensor.detach().float().numpy())

    def _keep(self, array: np.ndarray) -> int:
        """The address of an array that lives as long as this decoder."""
        self._kept.append(np.ascontiguousarray(array))
        return int(self._kept[-1].ctypes.data)


def _zeros(shape: tuple[int, ...], kind: type[np.generic]) -> np.ndarray:
    """Zeros, so that what no row has written yet is finite: memory that is taken when it is used,
    in large pages where the system has them, as it is read in small pieces all over. Raises
    SynbootError if there is not so much."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    try:
        if not hasattr(mmap, "MADV_HUGEPAGE"):
            return np.zeros(shape, kind)
        memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, MemoryError, OverflowError, ValueError) as error:
        raise SynbootError(
            f"no memory for {size / 1e9:,.1f} GB of keys or values; {_ADVICE}"
        ) from error
    with contextlib.suppress(OSError):  # a kernel may be built without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, kind, math.prod(shape)).reshape(shape)


def _place(array: np.ndarray) -> ctypes.c_void_p:
    """The address of an array, which the caller must keep: a pointer does not."""
    return ctypes.c_void_p(array.ctypes.data)
