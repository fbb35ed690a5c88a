"""The total order of draws: which seed document the n-th draw of a run is from (law 3)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from synboot.core.rng import rng


@dataclass(frozen=True)
class DrawOrder:
    """Rounds over all seed documents, each in an order of its own. In a round every document is
    drawn from `draws_per_prompt` times in a row, so that an engine computes its prompt once.

    What comes of the last round, which a need may end anywhere, is thus a random sample of the
    documents (the paper draws seeds at random throughout).
    """

    num_seeds: int
    draws_per_prompt: int
    seed: int
    _rounds: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def place(self, index: int) -> tuple[int, int]:
        """(seed document, number of the draw from it) of the draw at `index`."""
        group, offset = divmod(index, self.draws_per_prompt)
        round_, rank = divmod(group, self.num_seeds)
        return int(self._round(round_)[rank]), round_ * self.draws_per_prompt + offset

    def size(self, draws_per_seed: int) -> int:
        """How many draws hold `draws_per_seed` of every document, in whole rounds."""
        rounds = -(-draws_per_seed // self.draws_per_prompt)
        return rounds * self.draws_per_prompt * self.num_seeds

    def _round(self, number: int) -> np.ndarray:
        if number not in self._rounds:
            self._rounds.clear()  # rounds follow each other
            shuffle = rng(self.seed, "seed documents", number)
            self._rounds[number] = shuffle.permutation(self.num_seeds)
        return self._rounds[number]
