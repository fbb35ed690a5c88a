from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from synboot.core.errors import BadInput
from synboot.worlds.concept import ConceptConfig, ConceptWorld

# Sums of some dozen float64 terms, in another order.
EXACT = {"rtol": 1e-10, "atol": 1e-12}


def tiny(seed: int, concepts: int = 3, styles: int = 2, words: int = 3) -> ConceptWorld:
    """A world of at most 3 words a document, whose documents can be listed."""
    source = np.random.default_rng(seed)
    return ConceptWorld(
        source.dirichlet(np.ones(concepts)),
        source.dirichlet(np.ones(styles)),
        source.dirichlet(np.ones(words), (concepts, styles)),
        np.array([*source.random(3), 1.0]),
    )


def every_document(world: ConceptWorld) -> list[np.ndarray]:
    numbers = range(1, world.num_words + 1)
    return [
        np.array(words, dtype=np.int64)
        for length in range(world.max_words + 1)
        for words in itertools.product(numbers, repeat=length)
    ]


def by_hand(world: ConceptWorld, document: np.ndarray) -> list[float]:
    """p(d|c) of every concept, by the story of how a document comes about."""
    found = []
    for concept in range(len(world.concepts)):
        of_concept = 0.0
        for style, probability in enumerate(world.styles.tolist()):
            for place, word in enumerate(document.tolist()):
                goes_on = 1 - float(world.ends[place])
                probability *= goes_on * float(world.words[concept, style, word - 1])
            of_concept += probability * float(world.ends[len(document)])
        found.append(of_concept)
    return found


worlds = st.builds(
    tiny,
    st.integers(0, 2**32 - 1),
    concepts=st.integers(1, 4),
    styles=st.integers(1, 3),
    words=st.integers(2, 3),
)


@settings(max_examples=20, deadline=None)
@given(worlds)
def test_formulas_are_those_of_a_list_of_all_documents(world: ConceptWorld) -> None:
    """p(d), p(c|d1), p(d2|d1), and every token's p(token|tokens before it, d1)."""
    documents = every_document(world)
    of_concept = np.array([by_hand(world, document) for document in documents])
    joint = of_concept * world.concepts  # [documents, concepts]
    marginal = joint.sum(1)
    assert marginal.sum() == pytest.approx(1)
    found = np.exp(world.log_probabilities(documents).sum(1))
    np.testing.assert_allclose(found, marginal, **EXACT)

    pairs = of_concept @ np.diag(world.concepts) @ of_concept.T  # p(d1, d2)
    np.testing.assert_allclose(pairs.sum(1), marginal, **EXACT)
    possible = np.flatnonzero(marginal > 0)
    posterior = joint[possible] / marginal[possible, None]
    beliefs = np.exp(world.log_concepts([documents[i] for i in possible]))
    np.testing.assert_allclose(beliefs, posterior, **EXACT)

    prefixes = {tuple(d.tolist()): number for number, d in enumerate(documents)}
    for first in possible[:: max(1, len(possible) // 4)]:
        conditional = pairs[first] / marginal[first]
        begins = np.zeros(len(documents))  # p(d2 begins with these words|d1)
        for number, document in enumerate(documents):
            for length in range(len(document) + 1):
                begins[prefixes[tuple(document[:length].tolist())]] += conditional[number]
        weights = world.given([documents[first]])
        tokens = np.exp(world.log_probabilities(documents, weights))
        np.testing.assert_allclose(tokens.prod(1), conditional, **EXACT)
        for number, document in enumerate(documents):
            for place, length in enumerate(range(len(document))):
                before = begins[prefixes[tuple(document[:length].tolist())]]
                after = begins[prefixes[tuple(document[: length + 1].tolist())]]
                if before > 1e-9:  # else a quotient of rounding
                    assert tokens[number, place] == pytest.approx(after / before, rel=1e-6)
            if begins[number] > 1e-9:
                end = conditional[number] / begins[number]
                assert tokens[number, len(document)] == pytest.approx(end, rel=1e-6)
            assert (tokens[number, len(document) + 1 :] == 1).all()


@settings(max_examples=20, deadline=None)
@given(worlds)
def test_beliefs_average_to_the_prior(world: ConceptWorld) -> None:
    """What the concepts of synthetic documents are judged by: sum p(d) p(c|d) = p(c)."""
    documents = every_document(world)
    probabilities = np.exp(world.log_probabilities(documents).sum(1))
    average = probabilities @ np.exp(world.log_concepts(documents))
    np.testing.assert_allclose(average, world.concepts, **EXACT)
    given_first = world.given(documents[1:2])
    np.testing.assert_allclose(np.exp(given_first).sum(), 1, **EXACT)
    # The style of d1 says nothing of d2's.
    styles = np.exp(given_first).sum(1)[0]
    np.testing.assert_allclose(styles, world.styles, **EXACT)


def test_entropies_by_fresh_documents_are_those_of_the_list() -> None:
    world = tiny(5)
    documents = every_document(world)
    log_marginal = world.log_probabilities(documents).sum(1)
    exact = -float((np.exp(log_marginal) * log_marginal).sum())
    bayes = 0.0
    for number, first in enumerate(documents):
        logs = world.log_probabilities(documents, world.given([first])).sum(1)
        bayes -= math.exp(log_marginal[number]) * float((np.exp(logs) * logs).sum())
    assert 0 < bayes < exact
    size = 20_000
    first_drawn = world.sample(size, 0, "first")
    second = world.sample_of(first_drawn.concepts, 0, "second").documents
    weights = world.given(first_drawn.documents)
    for logs, expected in (
        (world.log_probabilities(second).sum(1), exact),
        (world.log_probabilities(second, weights).sum(1), bayes),
    ):
        error = float(logs.std()) / math.sqrt(size)
        assert abs(-float(logs.mean()) - expected) < 6 * error  # fails by chance: 2e-9


@pytest.mark.parametrize("conditional", [False, True], ids=["p(d)", "p(d2|d1)"])
def test_sampled_documents_have_their_probabilities(conditional: bool) -> None:
    world = tiny(11)
    documents = every_document(world)
    size = 50_000
    if conditional:
        first = documents[7:8]
        drawn = world.sample_given(first * size, 3, "given").documents
        logs = world.log_probabilities(documents, world.given(first)).sum(1)
    else:
        drawn = world.sample(size, 3, "documents").documents
        logs = world.log_probabilities(documents).sum(1)
    number = {tuple(d.tolist()): i for i, d in enumerate(documents)}
    counts = np.bincount([number[tuple(d.tolist())] for d in drawn], minlength=len(documents))
    expected = size * np.exp(logs)
    often = expected >= 5
    observed = np.append(counts[often], counts[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum())
    used = wanted > 0
    # Chance of a false failure: 1e-6, once, as the key is fixed.
    assert stats.chisquare(observed[used], wanted[used]).pvalue > 1e-6


def test_concepts_and_styles_are_drawn_apart() -> None:
    world = ConceptWorld.draw(ConceptConfig())
    sample = world.sample(20_000, 0, "apart")
    shares = np.bincount(sample.concepts, minlength=len(world.concepts)) / 20_000
    errors = np.sqrt(world.concepts * (1 - world.concepts) / 20_000)
    assert (abs(shares - world.concepts) < 6 * errors).all()  # fails by chance: 16 x 2e-9
    table = np.zeros((len(world.concepts), len(world.styles)))
    np.add.at(table, (sample.concepts, sample.styles), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-6  # fails by chance: 1e-6


def test_a_sample_depends_on_its_key_and_not_on_its_size() -> None:
    world = ConceptWorld.draw(ConceptConfig(seed=3))
    few, many = world.sample(10, 0, "a"), world.sample(500, 0, "a")
    for own, other in zip(few.documents, many.documents[:10], strict=True):
        np.testing.assert_array_equal(own, other)
    np.testing.assert_array_equal(few.concepts, many.concepts[:10])
    others = world.sample(10, 0, "b").documents
    assert any(a.tolist() != b.tolist() for a, b in zip(few.documents, others, strict=True))
    again = ConceptWorld.draw(ConceptConfig(seed=3))
    np.testing.assert_array_equal(world.words, again.words)
    assert (world.words != ConceptWorld.draw(ConceptConfig(seed=4)).words).any()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    num_concepts=st.integers(1, 40),
    num_styles=st.integers(1, 8),
    num_words=st.integers(2, 300),
    concentration=st.floats(1e-3, 100),
    style_share=st.floats(0, 0.99),
    min_words=st.integers(0, 9),
    more_words=st.integers(1, 9),
    end_probability=st.floats(0, 1),
)
def test_worlds_of_any_config_are_consistent(
    seed: int,
    num_concepts: int,
    num_styles: int,
    num_words: int,
    concentration: float,
    style_share: float,
    min_words: int,
    more_words: int,
    end_probability: float,
) -> None:
    world = ConceptWorld.draw(
        ConceptConfig(
            seed=seed,
            num_concepts=num_concepts,
            num_styles=num_styles,
            num_words=num_words,
            word_concentration=concentration,
            style_share=style_share,
            min_words=min_words,
            max_words=min_words + more_words,
            end_probability=end_probability,
        )
    )
    sample = world.sample(30, seed, "documents")
    lengths = np.array([len(document) for document in sample.documents])
    assert lengths.min() >= min_words
    assert lengths.max() <= min_words + more_words
    logs = world.log_probabilities(sample.documents)
    assert np.isfinite(logs).all()
    assert (logs <= 1e-12).all()
    np.testing.assert_allclose(np.exp(world.log_concepts(sample.documents)).sum(1), 1)
    origins = np.exp(world.log_origins(sample.documents))
    np.testing.assert_allclose(origins.sum(2), np.exp(world.log_concepts(sample.documents)))
    # What a document says of itself: reading it a second time cannot make it less likely.
    again = world.log_probabilities(sample.documents, world.log_origins(sample.documents))
    assert (again.sum(1) >= logs.sum(1) - 1e-9).all()
    for document in sample.documents:
        text = world.text(document)
        assert len(text.split()) == len(document)
        np.testing.assert_array_equal(world.document(text), document)


def test_documents_may_all_be_empty() -> None:
    world = ConceptWorld.draw(ConceptConfig(min_words=0, end_probability=0.25))
    logs = world.log_probabilities([np.empty(0, dtype=np.int64)] * 3)
    np.testing.assert_allclose(logs, np.log([[0.25]] * 3))


def test_documents_at_once_do_not_change_a_number() -> None:
    world = ConceptWorld.draw(ConceptConfig(min_words=1, max_words=5))
    sample = world.sample(2_500, 0, "many")
    weights = world.given(sample.documents[::-1])
    together = world.log_probabilities(sample.documents, weights)
    for i in (0, 1023, 1024, 2499):
        alone = world.log_probabilities(sample.documents[i : i + 1], weights[i : i + 1])[0]
        np.testing.assert_allclose(together[i, : len(alone)], alone, rtol=1e-12)


def test_long_documents_stay_finite() -> None:
    """5,000 words have a probability of about 1e-6000, which no float64 holds."""
    config = ConceptConfig(min_words=5_000, max_words=5_001)
    world = ConceptWorld.draw(config)
    sample = world.sample(3, 0, "long")
    assert (world.log_probabilities(sample.documents).sum(1) < -5_000).all()
    beliefs = np.exp(world.log_concepts(sample.documents))
    np.testing.assert_allclose(beliefs.sum(1), 1)
    assert (beliefs.argmax(1) == sample.concepts).all()


def test_the_default_world_is_worth_measuring() -> None:
    """d1 says much of d2 and does not settle the concept, and taking style for concept misleads:
    margins of dozens of standard errors."""
    world = ConceptWorld.draw(ConceptConfig())
    first = world.sample(3_000, 0, "d1")
    second = world.sample_of(first.concepts, 0, "d2").documents
    marginal = world.log_probabilities(second).sum(1)
    bayes = world.log_probabilities(second, world.given(first.documents)).sum(1)
    misled = world.log_probabilities(second, world.log_origins(first.documents)).sum(1)
    assert (bayes - marginal).mean() > 1.5  # nats
    assert misled.mean() < marginal.mean()
    beliefs = world.log_concepts(first.documents)
    left_open = -(np.exp(beliefs) * beliefs).sum(1)
    assert 0.2 < left_open.mean() < 1.0
    assert 0.75 < (beliefs.argmax(1) == first.concepts).mean() < 0.95


def test_impossible_documents_and_words() -> None:
    world = ConceptWorld.draw(ConceptConfig(min_words=2, max_words=3))
    documents = [np.ones(length, dtype=np.int64) for length in range(6)]
    logs = world.log_probabilities(documents).sum(1)
    assert np.isneginf(logs).tolist() == [True, True, False, False, True, True]
    assert np.isfinite(world.log_concepts(documents)).all()
    np.testing.assert_allclose(np.exp(world.log_concepts(documents[:1])[0]), world.concepts)
    for wrong in (0, world.num_words + 1):
        with pytest.raises(ValueError, match=f"1 to {world.num_words}, got {wrong}"):
            world.log_probabilities([np.array([1, wrong])])
    with pytest.raises(BadInput, match="'nonsense' is no word"):
        world.document(f"{world.text(np.array([1]))} nonsense")


def test_what_is_no_world_is_refused() -> None:
    good = tiny(0)
    for name, values in (
        ("concepts", np.array([0.5, 0.5, 0.5])),
        ("concepts", np.array([1.0, 0.0, 0.0])),
        ("styles", np.array([1.5, -0.5])),
        ("words", good.words[:2]),
        ("words", np.zeros_like(good.words)),
        ("ends", np.array([0.5, 0.5])),
        ("ends", np.array([])),
        ("ends", np.array([-0.1, 1.0])),
    ):
        parts = {key: getattr(good, key) for key in ("concepts", "styles", "words", "ends")}
        with pytest.raises(ValueError, match=name):
            ConceptWorld(**(parts | {name: values}))
    with pytest.raises(ValidationError, match="min_words 5 is more than max_words 4"):
        ConceptConfig(min_words=5, max_words=4)
