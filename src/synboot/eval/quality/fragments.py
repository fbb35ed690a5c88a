"""Extractive fragments: how much of a text is made of runs of words of its seed document.

Grusky, Naaman and Artzi (2018): read from the left, each fragment is the longest run of words at
its place that stands anywhere in the seed. Coverage is the share of words inside fragments,
density the sum of squared lengths of fragments over the number of words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from synboot.data.ngrams import Words
from synboot.eval.quality.figures import Floats, Integers


def coverage_and_density(texts: Words, seeds: Words, seed_of: Integers) -> tuple[Floats, Floats]:
    """Coverage and density of each text against its seed, float64 [texts] each; 0.0 for a text
    without words. `seed_of`: int64 [texts], numbers of `seeds`.

    Takes time in proportion to the words of texts and seeds, whatever they repeat.
    """
    coverage, density = np.zeros(len(texts)), np.zeros(len(texts))
    automaton, built = SuffixAutomaton([]), -1
    for text in np.argsort(seed_of, kind="stable").tolist():  # a seed's draws follow each other
        if seed_of[text] != built:
            built = int(seed_of[text])
            automaton = SuffixAutomaton(seeds.of(built)[::-1].tolist())
        own = texts.of(text).tolist()
        lengths = fragment_lengths(automaton.longest_ends(own[::-1])[::-1])
        if own:
            coverage[text] = sum(lengths) / len(own)
            density[text] = sum(length * length for length in lengths) / len(own)
    return coverage, density


def fragment_lengths(longest: Sequence[int]) -> list[int]:
    """The lengths of the fragments, from the longest shared run that begins at each place."""
    lengths, place = [], 0
    while place < len(longest):
        if longest[place]:
            lengths.append(longest[place])
        place += max(1, longest[place])
    return lengths


class SuffixAutomaton:
    """Knows every run of words of a sequence (Blumer et al., 1985): at most two states a word."""

    def __init__(self, words: Sequence[int]) -> None:
        self._next: list[dict[int, int]] = [{}]
        self._link = [-1]
        self._length = [0]
        last = 0
        for word in words:
            last = self._extend(last, word)

    def _extend(self, last: int, word: int) -> int:
        following, link, length = self._next, self._link, self._length
        new = len(following)
        following.append({})
        length.append(length[last] + 1)
        link.append(0)
        state = last
        while state >= 0 and word not in following[state]:
            following[state][word] = new
            state = link[state]
        if state < 0:
            return new
        target = following[state][word]
        if length[state] + 1 == length[target]:
            link[new] = target
            return new
        clone = len(following)
        following.append(following[target].copy())
        length.append(length[state] + 1)
        link.append(link[target])
        while state >= 0 and following[state].get(word) == target:
            following[state][word] = clone
            state = link[state]
        link[target] = link[new] = clone
        return new

    def longest_ends(self, words: Sequence[int]) -> list[int]:
        """For each place of `words` the length of the longest run that ends there and stands in the
        automaton's sequence. Of reversed sequences: that begins there."""
        following, link, length = self._next, self._link, self._length
        state = matched = 0
        found = []
        for word in words:
            while state and word not in following[state]:
                state = link[state]
                matched = length[state]
            if word in following[state]:
                state = following[state][word]
                matched += 1
            found.append(matched)
        return found
