"""Documents drawn from hidden concepts, with every probability of theirs exact, token by token.

The paper's Bayesian reading, as a world: a concept c is drawn, a document is drawn from c, and the
documents of a pair share c. Each document also has a style s of its own, independent of c, which
moves as many of its words as c does: a reader that takes style for concept does worse than one that
ignores d1.

    c ~ p(c)    s ~ p(s)    n ~ p(n)    w_1 ... w_n ~ p(w|c, s)    d = w_1 ... w_n END

    p(d)      = p(n) sum_c p(c) sum_s p(s) prod_t p(w_t|c, s)
    p(c|d1)   ~ p(c) sum_s p(s) prod_t p(w1_t|c, s)
    p(d2|d1)  = p(n2) sum_c p(c|d1) sum_s p(s) prod_t p(w2_t|c, s)

Everything is summed in logarithms, in float64. Words are the tokens 1 to `num_words`; 0 is END.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pydantic import Field, model_validator
from scipy.special import logsumexp

from synboot.core.config import Config
from synboot.core.errors import BadInput
from synboot.core.rng import Key, rng

END = 0

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_DOCUMENTS_AT_ONCE = 1024  # [documents, tokens, concepts, styles] is held for so many


class ConceptConfig(Config):
    """What a world is drawn from; equal values give the same world."""

    seed: int = 0
    num_concepts: int = Field(default=8, ge=1)
    num_styles: int = Field(default=2, ge=1)
    num_words: int = Field(default=24, ge=2)
    prior_concentration: float = Field(default=10.0, ge=0.1)
    """Of the Dirichlet distribution that p(c) is drawn from: the higher, the more even."""
    word_concentration: float = Field(default=0.05, gt=0)
    """Of those that each concept's and each style's words are drawn from."""
    style_share: float = Field(default=0.5, ge=0, lt=1)
    """The probability that a word is the style's and not the concept's."""
    even_share: float = Field(default=0.03, gt=0, le=1)
    """The mass that is spread over all words, so that none is impossible."""
    min_words: int = Field(default=3, ge=0)
    max_words: int = Field(default=6, ge=1)
    end_probability: float = Field(default=0.2, ge=0, le=1)
    """That a document ends after a word, from `min_words` on; at `max_words` it does."""

    @model_validator(mode="after")
    def _lengths_are_in_order(self) -> ConceptConfig:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is more than max_words {self.max_words}")
        return self


@dataclass(frozen=True)
class Sample:
    """Documents drawn from the world, int64 each and without END, and what they were drawn from:
    numbers of concepts and of styles, int64 [documents]."""

    documents: list[np.ndarray]
    concepts: np.ndarray
    styles: np.ndarray


@dataclass(frozen=True)
class ConceptWorld:
    """p(c): `concepts`; p(s): `styles`; p(w|c, s): `words` [concepts, styles, words], all of them
    positive; `ends` [max_words + 1], the probability that a document ends after n words, which is 1
    at the last. Raises ValueError for anything else.

    Methods take documents as arrays of words without END. `weights` are log p(c, s) as believed
    before a document is read, [documents or 1, concepts, styles]: `prior`, or `given` another
    document.
    """

    concepts: np.ndarray
    styles: np.ndarray
    words: np.ndarray
    ends: np.ndarray

    def __post_init__(self) -> None:
        shape = self.concepts.size, self.styles.size
        if self.words.ndim != 3 or self.words.shape[:2] != shape:
            raise ValueError(f"words of shape {self.words.shape} for {shape} concepts and styles")
        for name in ("concepts", "styles", "words"):
            values = getattr(self, name)
            if not (np.all(values > 0) and np.allclose(values.sum(-1), 1, atol=1e-9)):
                raise ValueError(f"{name}: expected positive numbers that add up to 1")
        if not (
            len(self.ends) and np.all((self.ends >= 0) & (self.ends <= 1)) and self.ends[-1] == 1
        ):
            raise ValueError("ends: expected probabilities, the last of them 1")

    @classmethod
    def draw(cls, config: ConceptConfig) -> ConceptWorld:
        """The world of a config: word distributions drawn for every concept and every style,
        mixed by `style_share`; styles are equally likely."""

        def distributions(name: str, number: int) -> np.ndarray:
            source = rng(config.seed, "concept world", name)
            return source.dirichlet(np.full(config.num_words, config.word_concentration), number)

        concepts = distributions("concepts", config.num_concepts)[:, None]
        styles = distributions("styles", config.num_styles)
        words = (1 - config.style_share) * concepts + config.style_share * styles
        words = (1 - config.even_share) * words + config.even_share / config.num_words
        prior = np.full(config.num_concepts, config.prior_concentration)
        ends = np.zeros(config.max_words + 1)
        ends[config.min_words :] = config.end_probability
        ends[-1] = 1.0
        return cls(
            rng(config.seed, "concept world", "prior").dirichlet(prior),
            np.full(config.num_styles, 1 / config.num_styles),
            words / words.sum(-1, keepdims=True),
            ends,
        )

    @property
    def num_words(self) -> int:
        """Words, END not among them."""
        return int(self.words.shape[-1])

    @property
    def vocab_size(self) -> int:
        """Tokens, END among them."""
        return self.num_words + 1

    @property
    def max_words(self) -> int:
        """Of a document."""
        return len(self.ends) - 1

    def sample(self, number: int, *key: Key) -> Sample:
        """`number` documents of concepts drawn from p(c); a key's first documents are the same
        whatever the number."""
        drawn = _drawn(self.concepts, rng(*key, "concepts").random(number))
        return self.sample_of(drawn, *key)

    def sample_of(self, concepts: np.ndarray, *key: Key) -> Sample:
        """A document of each of these concepts, int64 [documents]."""
        number = len(concepts)
        styles = _drawn(self.styles, rng(*key, "styles").random(number))
        stops = rng(*key, "lengths").random((number, len(self.ends))) < self.ends
        uniforms = rng(*key, "words").random((number, self.max_words))
        words = np.empty(uniforms.shape, dtype=np.int64)
        for concept, style in np.ndindex(self.words.shape[:2]):
            here = (concepts == concept) & (styles == style)
            words[here] = 1 + _drawn(self.words[concept, style], uniforms[here])
        documents = [row[:n] for row, n in zip(words, stops.argmax(-1), strict=True)]
        return Sample(documents, np.asarray(concepts, dtype=np.int64), styles)

    def sample_given(self, first: Sequence[np.ndarray], *key: Key) -> Sample:
        """A document drawn from the exact p(d2|d1) for each of `first`."""
        beliefs = np.exp(self.log_concepts(first)).cumsum(-1)
        uniforms = rng(*key, "concepts").random((len(first), 1))
        return self.sample_of((uniforms * beliefs[:, -1:] >= beliefs).sum(-1), *key)

    @cached_property
    def prior(self) -> np.ndarray:
        """log p(c) p(s), [1, concepts, styles]."""
        weights: np.ndarray = np.log(self.concepts)[None, :, None] + np.log(self.styles)
        return weights

    def given(self, first: Sequence[np.ndarray]) -> np.ndarray:
        """log p(c|d1) p(s), [documents, concepts, styles]: what d1 says of a document of the same
        concept and of a style of its own."""
        weights: np.ndarray = self.log_concepts(first)[:, :, None] + np.log(self.styles)
        return weights

    def log_concepts(self, documents: Sequence[np.ndarray]) -> np.ndarray:
        """log p(c|d), float64 [documents, concepts]. Lengths say nothing of c and may be any."""
        beliefs: np.ndarray = logsumexp(self.log_origins(documents), axis=2)
        return beliefs

    def log_origins(self, documents: Sequence[np.ndarray]) -> np.ndarray:
        """log p(c, s|d), float64 [documents, concepts, styles]."""
        owners = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
        places = owners * self.vocab_size + self._joined(documents)
        counts = np.bincount(places, minlength=len(documents) * self.vocab_size)
        counts = counts.reshape(-1, self.vocab_size).astype(np.float64)
        seen = counts @ self._log_words.reshape(self.vocab_size, -1)
        joint = seen.reshape(-1, *self.words.shape[:2]) + self.prior
        origins: np.ndarray = joint - logsumexp(joint, axis=(1, 2), keepdims=True)
        return origins

    def log_probabilities(
        self, documents: Sequence[np.ndarray], weights: np.ndarray | None = None
    ) -> np.ndarray:
        """log p(token|tokens before it, weights), float64 [documents, longest + 1]: of each
        document's words and then of its END; 0 behind that. Rows add up to log p(d) with the
        weights `prior` (the default), to log p(d2|d1) with `given(first)`."""
        if weights is None:
            weights = self.prior
        weights = np.broadcast_to(weights, (len(documents), *self.words.shape[:2]))
        longest = max(map(len, documents), default=0)
        found = np.zeros((len(documents), longest + 1))
        for start in range(0, len(documents), _DOCUMENTS_AT_ONCE):
            here = slice(start, start + _DOCUMENTS_AT_ONCE)
            self._add_words(found[here], documents[here], weights[here])
        self._add_lengths(found, np.array([len(document) for document in documents], np.int64))
        return found

    def _add_words(
        self, found: np.ndarray, documents: Sequence[np.ndarray], weights: np.ndarray
    ) -> None:
        """Add log p(word|words before it): how much a word lowers the mass of all (c, s)."""
        lengths = np.array([len(document) for document in documents])
        padded = np.zeros((len(documents), found.shape[1] - 1), dtype=np.int64)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = self._joined(documents)
        if not padded.size:  # no document has a word
            return
        # [documents, tokens, concepts, styles]
        seen = self._log_words[padded].cumsum(1) + weights[:, None]
        mass = logsumexp(seen, axis=(2, 3))
        before = logsumexp(weights, axis=(1, 2))[:, None]
        found[:, :-1] += np.diff(mass, axis=1, prepend=before)

    def _add_lengths(self, found: np.ndarray, lengths: np.ndarray) -> None:
        """Add log p(it goes on) to every word and log p(it ends) to END, which make -inf of a
        document that is too long or too short."""
        beyond = np.ones(max(0, found.shape[1] - len(self.ends)))
        ends = np.concatenate([self.ends, beyond])[: found.shape[1]]
        places = np.arange(found.shape[1])
        with np.errstate(divide="ignore"):
            found += np.where(places < lengths[:, None], np.log1p(-ends), 0.0)
            found += np.where(places == lengths[:, None], np.log(ends), 0.0)

    @cached_property
    def _log_words(self) -> np.ndarray:
        """log p(w|c, s) by token, [1 + words, concepts, styles]; nothing is added by padding."""
        by_word = np.moveaxis(np.log(self.words), -1, 0)
        return np.concatenate([np.zeros_like(by_word[:1]), by_word])

    def text(self, document: np.ndarray) -> str:
        """The document as words of syllables, e.g. `bada gobi`."""
        return " ".join(self._names[number - 1] for number in self._joined([document]))

    def document(self, text: str) -> np.ndarray:
        """The document of a text, int64. Raises BadInput for a word that is not the world's."""
        numbers = {name: number for number, name in enumerate(self._names, 1)}
        if unknown := next((word for word in text.split() if word not in numbers), None):
            raise BadInput(f"text: {unknown!r} is no word of this world")
        return np.array([numbers[word] for word in text.split()], dtype=np.int64)

    @cached_property
    def _names(self) -> list[str]:
        """Of the words, in their order: numbers to the base 70, of two syllables at least."""
        syllables = [a + b for b in _VOWELS for a in _CONSONANTS]
        names = []
        for number in range(self.num_words):
            high, low = divmod(number, len(syllables))
            name = syllables[low]
            while high or len(name) < 4:
                high, digit = divmod(high, len(syllables))
                name = syllables[digit] + name
            names.append(name)
        return names

    def _joined(self, documents: Sequence[np.ndarray]) -> np.ndarray:
        """All words, one document after the other. Raises ValueError for what is no word."""
        words = np.concatenate([np.empty(0, dtype=np.int64), *documents])
        if len(words) and not (words.min() >= 1 and words.max() <= self.num_words):
            wrong = words[(words < 1) | (words > self.num_words)][0]
            raise ValueError(f"words are numbered 1 to {self.num_words}, got {wrong}")
        return words


def _drawn(probabilities: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """The first outcome at which the distribution function passes each uniform number, int64."""
    mass = probabilities.cumsum()
    found: np.ndarray = mass.searchsorted(uniforms * mass[-1], side="right")
    return found.clip(max=len(mass) - 1)
