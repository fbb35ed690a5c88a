"""The models of the benchmarks, S and M: every head has its own keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from synboot.model.architecture import new_model
from synboot.model.settings import Shape

END = 0


@dataclass(frozen=True)
class Size:
    """A model, and the rows that it is trained on."""

    shape: Shape
    vocab_size: int
    context: int
    rows: int

    def model(self, context: int | None = None) -> Any:
        """The same weights each time."""
        return new_model(
            self.shape,
            vocab_size=self.vocab_size,
            context=context or self.context,
            end_id=END,
            seed=0,
        )


SIZES = {
    "S": Size(Shape(6, 192, 6, 6, 32, 512), vocab_size=4096, context=256, rows=8),
    "M": Size(Shape(8, 384, 6, 6, 64, 1024), vocab_size=8192, context=512, rows=4),
}
"""2.65 and 14.2 million parameters beside the embedding."""
