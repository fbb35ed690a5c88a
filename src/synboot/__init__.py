"""synboot: synthetic bootstrapped pretraining (arXiv 2509.15248), from a corpus to the proof."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synboot.verbs.evaluation import evaluate as evaluate
    from synboot.verbs.pairing import find_pairs as find_pairs
    from synboot.verbs.quality import quality as quality
    from synboot.verbs.reporting import report as report
    from synboot.verbs.splitting import split_corpus as split_corpus
    from synboot.verbs.synthesis import synthesize as synthesize
    from synboot.verbs.training import pretrain as pretrain
    from synboot.verbs.training import tune as tune

__version__ = "0.1.0"

_FUNCTIONS = {
    "split_corpus": "splitting",
    "find_pairs": "pairing",
    "tune": "training",
    "synthesize": "synthesis",
    "pretrain": "training",
    "evaluate": "evaluation",
    "quality": "quality",
    "report": "reporting",
}
"""The public functions and the module of `synboot.verbs` that has each: loaded when first used, so
that importing synboot loads no torch."""

__all__ = ["__version__", *_FUNCTIONS]


def __getattr__(name: str) -> Any:
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"synboot.verbs.{_FUNCTIONS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
