"""Which training documents are the unique budget, in which order the others follow.

The tokenizer may see the unique budget only (law 13), and the budget is counted in the
tokenizer's tokens, so both are found together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from synboot.core.errors import BadInput
from synboot.core.rng import key_digest
from synboot.data.tokenizer import TextTokenizer, train_tokenizer

_ROUNDS = 8
_FILL_TRIES = 200
_BATCH = 1024  # documents


@dataclass(frozen=True)
class UniqueBudget:
    """A tokenizer, and an order of all documents that begins with the unique ones.

    `order`: int64 [documents], rows of the corpus, whole groups together; `order[:num_unique]`
    is the unique budget. `num_tokens` counts its tokens, one END for each document included.
    `num_tokenizer_documents` of them, the first ones, trained the tokenizer.
    """

    tokenizer: TextTokenizer
    order: np.ndarray
    num_unique: int
    num_tokens: int
    num_tokenizer_documents: int


def keyed_groups(keys: Sequence[str], seed: int) -> list[np.ndarray]:
    """Rows that share a key, together, in an order that depends on seed and keys alone.

    `keys[i]` is the group of row i (its own id where it has no group). Returns int64 arrays.
    """
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    ranked = sorted(rows, key=lambda key: key_digest(seed, "unique order", key))
    return [np.asarray(rows[key], dtype=np.int64) for key in ranked]


def fit_budget(
    groups: Sequence[np.ndarray],
    text_bytes: np.ndarray,
    read: Callable[[np.ndarray], list[str]],
    *,
    budget_tokens: int,
    make_tokenizer: Callable[[list[str]], TextTokenizer],
) -> UniqueBudget:
    """Take whole groups in order while they fit into `budget_tokens`.

    `text_bytes`: int64 [documents]; `read(rows)` gives their texts. The tokenizer is trained on
    about 98% of the budget, a subset of it by construction; the groups that fill the rest are
    taken by their exact count. Raises BadInput if not even the smallest group fits.
    """
    if not groups:
        raise BadInput("the corpus has no training document to take the unique budget from")
    sizes = np.array([int(text_bytes[rows].sum()) for rows in groups], dtype=np.int64)
    budget_bytes = 3.0 * budget_tokens
    best: tuple[int, TextTokenizer, list[int]] | None = None
    before: list[int] = []

    def attempt(taken: list[int]) -> tuple[int, TextTokenizer, list[int]]:
        texts = read(np.concatenate([groups[g] for g in taken]))
        tokenizer = make_tokenizer(texts)
        return _count_tokens(tokenizer, texts), tokenizer, taken

    for _ in range(_ROUNDS):
        taken = _take(sizes, budget_bytes)
        if not taken or taken == before:
            break
        found = attempt(taken)
        if found[0] <= budget_tokens and (best is None or found[0] > best[0]):
            best = found
            if found[0] >= 0.95 * budget_tokens:
                break
        budget_bytes = 0.98 * budget_tokens * int(sizes[taken].sum()) / found[0]
        before = taken
    if best is None:  # the estimates may have been too careful: ask the smallest group itself
        best = attempt([int(sizes.argmin())])
    if best[0] > budget_tokens:
        raise BadInput(
            f"field budget.unique_tokens: {budget_tokens} tokens hold no whole group of documents "
            f"(the smallest has {best[0]}, {int(sizes.min())} bytes); raise it"
        )
    used, tokenizer, taken = best
    return _fill(groups, sizes, read, tokenizer, taken, used, budget_tokens)


def _take(sizes: np.ndarray, budget: float) -> list[int]:
    taken, left = [], budget
    smallest = int(sizes.min())
    for group, size in enumerate(sizes.tolist()):
        if left < smallest:
            break
        if size <= left:
            taken.append(group)
            left -= size
    return taken


def _fill(
    groups: Sequence[np.ndarray],
    sizes: np.ndarray,
    read: Callable[[np.ndarray], list[str]],
    tokenizer: TextTokenizer,
    taken: list[int],
    used: int,
    budget_tokens: int,
) -> UniqueBudget:
    """Add the groups that still fit, by their exact number of tokens."""
    num_tokenizer_documents = sum(len(groups[g]) for g in taken)
    in_tokenizer = set(taken)
    chosen = list(taken)
    tries = 0
    for group in range(len(groups)):
        left = budget_tokens - used
        if tries == _FILL_TRIES or left < 0.001 * budget_tokens:
            break
        # Hardly a group has more than 16 bytes a token: the larger ones need not be encoded.
        if group in in_tokenizer or sizes[group] > 16 * left:
            continue
        tries += 1
        cost = _count_tokens(tokenizer, read(groups[group]))
        if cost <= left:
            chosen.append(group)
            used += cost
    unique = set(chosen)
    rest = [group for group in range(len(groups)) if group not in unique]
    order = np.concatenate([groups[g] for g in (*chosen, *rest)])
    num_unique = sum(len(groups[g]) for g in chosen)
    return UniqueBudget(tokenizer, order, num_unique, used, num_tokenizer_documents)


def _count_tokens(tokenizer: TextTokenizer, texts: list[str]) -> int:
    batches = (texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH))
    return sum(len(ids) for batch in batches for ids in tokenizer.encode_documents(batch))


def fit_budget_with_bpe(
    groups: Sequence[np.ndarray],
    text_bytes: np.ndarray,
    read: Callable[[np.ndarray], list[str]],
    *,
    budget_tokens: int,
    vocab_size: int,
) -> UniqueBudget:
    """`fit_budget` with a byte-level BPE of at most `vocab_size` entries."""
    return fit_budget(
        groups,
        text_bytes,
        read,
        budget_tokens=budget_tokens,
        make_tokenizer=lambda texts: train_tokenizer(texts, vocab_size),
    )
