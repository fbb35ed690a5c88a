"""Megadocuments: a seed document and several of its draws as one document (arXiv 2603.18534)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

BETWEEN = "\n\n"
"""Between the texts of one document."""


def groups_of_draws(seed_ids: Sequence[str], size: int) -> list[list[int]]:
    """Places of draws that go into one document: `size` of one seed, each once, in their order.

    `seed_ids` are of the kept draws in their order. Groups are in the order in which they became
    full; after all of them the rest of each seed, fewer than `size`, in the order of its first.
    """
    full: list[list[int]] = []
    open_: dict[str, list[int]] = {}
    for place, seed_id in enumerate(seed_ids):
        group = open_.setdefault(seed_id, [])
        group.append(place)
        if len(group) == size:
            full.append(open_.pop(seed_id))
    return full + sorted(open_.values())


def joined(seed_text: str, draws: Iterable[str]) -> str:
    """The text of one document."""
    return BETWEEN.join([seed_text, *draws])
