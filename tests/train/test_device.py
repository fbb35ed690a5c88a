from __future__ import annotations

import pytest
import torch

from synboot.core.errors import BadInput
from synboot.model.architecture import new_model
from synboot.model.settings import Shape
from synboot.train.device import autocast, resolve_device, resolve_precision, tokens_at_once


@pytest.mark.parametrize(
    ("name", "has_cuda", "expected"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_auto_takes_cuda_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, name: str, has_cuda: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    assert resolve_device(name).type == expected  # type: ignore[arg-type]


def test_cuda_asked_of_a_machine_without_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match=r"field runtime\.device"):
        resolve_device("cuda")


def test_auto_precision_follows_the_device() -> None:
    assert resolve_precision("auto", torch.device("cuda")) == "bfloat16"
    assert resolve_precision("auto", torch.device("cpu")) == "float32"
    assert resolve_precision("float32", torch.device("cuda")) == "float32"
    assert resolve_precision("bfloat16", torch.device("cpu")) == "bfloat16"


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_products_run_in_the_precision_asked_for(precision: str, dtype: torch.dtype) -> None:
    cast = autocast(torch.device("cpu"), precision)
    weight = torch.ones(2, 2)
    for _ in range(2):  # the factory can be used again
        with cast():
            assert torch.nn.functional.linear(torch.ones(1, 2), weight).dtype == dtype
    assert weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("vocab_size", "on_cuda"), [(256, 32_768), (8192, 32_768), (32_768, 8192), (131_072, 4096)]
)
def test_a_gpu_reads_more_tokens_at_once_but_no_more_logits(vocab_size: int, on_cuda: int) -> None:
    model = new_model(Shape(1, 8, 1, 1, 8, 8), vocab_size=vocab_size, context=8, end_id=0, seed=0)
    assert tokens_at_once(model, torch.device("cpu")) == 4096
    assert tokens_at_once(model, torch.device("cuda")) == on_cuda
    assert on_cuda == 4096 or on_cuda * vocab_size * 4 <= 2**30
