from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synboot.core.errors import BadInput
from synboot.core.rng import rng
from synboot.data.mixture import REAL, Mixture, Source, Stream
from synboot.data.tokens import TokenStore, write_token_store

END = 0
START = 70_000
VOCAB_SIZE = 1 << 17


@dataclass(frozen=True)
class Text:
    """A source to be: how long its documents are (without END), how many of them count."""

    lengths: list[int]
    num_documents: int
    budget_tokens: int

    @property
    def unique_tokens(self) -> int:
        return sum(length + 1 for length in self.lengths[: self.num_documents])

    def documents(self, source: int) -> list[list[int]]:
        """Every document is written in an id of its own, so that a stream tells what it holds."""
        return [
            [1 + 1000 * source + document] * length + [END]
            for document, length in enumerate(self.lengths)
        ]


@st.composite
def one_text(draw: st.DrawFn) -> Text:
    lengths = draw(st.lists(st.integers(0, 12), min_size=1, max_size=9))
    num_documents = draw(st.integers(1, len(lengths)))
    unique = sum(length + 1 for length in lengths[:num_documents])
    budget = draw(st.integers(1, 4 * unique) | st.sampled_from([unique, 2 * unique]))
    return Text(lengths, num_documents, budget)


cases = st.tuples(
    st.lists(one_text(), min_size=1, max_size=3), st.integers(1, 9), st.integers(0, 9)
)
Case = tuple[list[Text], int, int]


@contextmanager
def sources_of(texts: list[Text]) -> Iterator[list[Source]]:
    with tempfile.TemporaryDirectory() as name:
        sources = []
        for i, text in enumerate(texts):
            directory = Path(name) / str(i)
            write_token_store(directory, map(np.array, text.documents(i)), VOCAB_SIZE)
            store = TokenStore(directory)
            sources.append(Source(f"s{i}", store, text.num_documents, text.budget_tokens))
        yield sources


@contextmanager
def mixture_of(case: Case, start_id: int | None = None) -> Iterator[Mixture]:
    texts, context, seed = case
    with sources_of(texts) as sources:
        yield Mixture(sources, context, END, seed, start_id)


def rows_of(mixture: Mixture, source: int) -> list[int]:
    """Positions of the rows of a source, in the order of training."""
    return [p for p in range(mixture.num_rows) if mixture.locate(p)[0] == source]


def documents_in(tokens: list[int]) -> list[tuple[int, ...]]:
    """The documents that `tokens` ends with END each, in order; a last one without END too."""
    documents, current = [], []
    for token in tokens:
        current.append(token)
        if token == END:
            documents.append(tuple(current))
            current = []
    return [*documents, tuple(current)] if current else documents


@settings(deadline=None, max_examples=40)
@given(cases)
def test_targets_sum_to_the_budget_to_the_token(case: Case) -> None:
    texts, context, _ = case
    with mixture_of(case) as mixture:
        budget = sum(text.budget_tokens for text in texts)
        lengths = [mixture.num_targets(position) for position in range(mixture.num_rows)]
        assert sum(lengths) == mixture.num_tokens == budget
        assert all(1 <= length <= context for length in lengths)
        shapes = [tuple(map(len, mixture.row(p))) for p in range(mixture.num_rows)]
        assert shapes == [(length, length) for length in lengths]
        assert sum(entry["tokens"] for entry in mixture.plan()) == budget
        for source, text in enumerate(texts):
            own = [mixture.num_targets(p) for p in rows_of(mixture, source)]
            assert sum(own) == text.budget_tokens


@settings(deadline=None, max_examples=40)
@given(cases)
def test_every_token_of_every_document_is_a_target_once_a_pass(case: Case) -> None:
    texts, _, _ = case
    with mixture_of(case) as mixture:
        for source, text in enumerate(texts):
            rows = [mixture.row(position) for position in rows_of(mixture, source)]
            targets = [int(t) for _, row_targets in rows for t in row_targets]
            inputs = [int(t) for row_inputs, _ in rows for t in row_inputs]
            assert inputs == [END, *targets[:-1]]
            every = Counter(map(tuple, text.documents(source)[: text.num_documents]))
            size = text.unique_tokens
            for start in range(0, len(targets), size):
                found = documents_in(targets[start : start + size])
                if start + size <= len(targets):
                    assert Counter(found) == every
                else:  # the last pass is cut; what is there is a beginning of some permutation
                    cut = found.pop() if found[-1][-1] != END else ()
                    left = every - Counter(found)
                    assert Counter(found) <= every
                    assert not cut or any(doc[: len(cut)] == cut for doc in left)


@settings(deadline=None, max_examples=40)
@given(cases)
def test_a_start_token_of_its_own_stands_in_the_inputs_for_end(case: Case) -> None:
    """A document is the inputs start, text and the targets text, END; nothing else differs."""
    with mixture_of(case) as plain, mixture_of(case, START) as mixture:
        assert mixture.num_rows == plain.num_rows
        assert mixture.row_lengths() == plain.row_lengths()
        for position in range(mixture.num_rows):
            inputs, targets = mixture.row(position)
            expected, same = plain.row(position)
            assert targets.tolist() == same.tolist()
            assert START not in targets
            assert inputs.tolist() == [START if i == END else i for i in expected.tolist()]
            assert inputs.dtype == targets.dtype == np.int64


def test_rows_with_a_start_token_by_hand() -> None:
    """Documents of 2, 0 and 1 tokens, two passes, rows of 4."""
    lengths = [2, 0, 1]
    with sources_of([Text(lengths, 3, 12)]) as sources:
        orders = {}
        for index in range(2):
            shuffle = rng(8, "mixture", "s0", index)
            orders[index] = shuffle.permutation(3).tolist()
        stream = [
            (token, target)
            for index in range(2)
            for document in orders[index]
            for token, target in zip(
                [START, *[1 + document] * lengths[document]],
                [*[1 + document] * lengths[document], END],
                strict=True,
            )
        ]
        mixture = Mixture(sources, 4, END, 8, start_id=START)
        rows = [tuple(half.tolist() for half in mixture.row(p)) for p in range(3)]
    assert rows == [
        ([i for i, _ in stream[at : at + 4]], [t for _, t in stream[at : at + 4]])
        for at in (0, 4, 8)
    ]


@settings(deadline=None, max_examples=40)
@given(cases)
def test_rows_of_a_source_keep_its_order(case: Case) -> None:
    texts, context, _ = case
    with mixture_of(case) as mixture:
        for source in range(len(texts)):
            starts = [mixture.locate(p)[1] for p in rows_of(mixture, source)]
            assert starts == [context * i for i in range(len(starts))]


@settings(deadline=None, max_examples=40)
@given(cases)
def test_sources_are_spread_evenly_over_the_run(case: Case) -> None:
    """Row i of n lies in the i-th n-th of the run: no stretch starves a source."""
    texts, _, _ = case
    with mixture_of(case) as mixture:
        totals = [len(rows_of(mixture, source)) for source in range(len(texts))]
        seen = [0] * len(texts)
        for position in range(mixture.num_rows):
            source = mixture.locate(position)[0]
            seen[source] += 1
            # At the time of this row, within (seen - 1, seen) / total, every source is in step.
            low, high = (seen[source] - 1) / totals[source], seen[source] / totals[source]
            for other, total in enumerate(totals):
                assert low * total - 1 <= seen[other] <= high * total + 1


@settings(deadline=None, max_examples=40)
@given(cases, st.integers(0, 2))
def test_synthetic_first_moves_rows_and_changes_none(case: Case, real: int) -> None:
    """Real documents come after all others, which stay mixed; each row is what it was."""
    texts, context, seed = case
    real %= len(texts)
    with sources_of(texts) as sources:
        sources[real] = replace(sources[real], name=REAL)
        mixed = Mixture(sources, context, END, seed)
        first = Mixture(sources, context, END, seed, order="synthetic_first")
        assert first.num_tokens == mixed.num_tokens
        assert first.row_lengths() == mixed.row_lengths()
        own = [
            rows_of(mixture, source) for mixture in (mixed, first) for source in range(len(texts))
        ]
        of_mixed, of_first = own[: len(texts)], own[len(texts) :]
        assert of_first[real] == list(range(first.num_rows))[-len(of_first[real]) :]
        for before, after in zip(of_mixed, of_first, strict=True):
            assert [[half.tolist() for half in mixed.row(p)] for p in before] == [
                [half.tolist() for half in first.row(p)] for p in after
            ]
        others = [mixed.locate(p) for p in range(mixed.num_rows) if mixed.locate(p)[0] != real]
        assert [first.locate(p) for p in range(len(others))] == others


@settings(deadline=None, max_examples=40)
@given(cases, st.randoms(use_true_random=False), st.integers(0, 1000))
def test_a_row_depends_on_seed_and_position_alone(case: Case, random: object, later: int) -> None:
    with mixture_of(case) as mixture:
        positions = list(range(mixture.num_rows))
        expected = [[half.tolist() for half in mixture.row(p)] for p in positions]
    with mixture_of(case) as fresh:  # from a fresh object at a later position, as a resume does
        for position in range(later % fresh.num_rows, fresh.num_rows):
            assert [half.tolist() for half in fresh.row(position)] == expected[position]
    random.shuffle(positions)  # type: ignore[attr-defined]
    with mixture_of(case) as fresh:
        for position in positions:
            assert [half.tolist() for half in fresh.row(position)] == expected[position]


@settings(deadline=None, max_examples=40)
@given(cases)
def test_row_lengths_are_those_of_the_rows(case: Case) -> None:
    with mixture_of(case) as mixture:
        counted = Counter(len(mixture.row(p)[0]) for p in range(mixture.num_rows))
        assert mixture.row_lengths() == counted


@settings(deadline=None, max_examples=40)
@given(cases, st.data())
def test_any_range_of_a_stream_can_be_read(case: Case, data: st.DataObject) -> None:
    """More passes in reach than are cached, in any order."""
    with mixture_of(case) as mixture:
        source = mixture.sources[0]
        stream, size = Stream(source, case[2]), source.unique_tokens
        first_row = mixture.row(rows_of(mixture, 0)[0])[1]
        assert stream.read(0, len(first_row)).tolist() == first_row.tolist()
        whole = stream.read(0, 7 * size).tolist()
        for _ in range(5):
            start = data.draw(st.integers(0, 7 * size))
            stop = data.draw(st.integers(start, 7 * size))
            assert stream.read(start, stop).tolist() == whole[start:stop]


def document_by_document(source: Source, seed: int, passes: int) -> list[int]:
    """The stream as it is defined: every pass shuffled anew, its documents end to end."""
    tokens: list[int] = []
    for number in range(passes):
        shuffle = rng(seed, "mixture", source.name, number)
        for document in shuffle.permutation(source.num_documents).tolist():
            tokens += source.store[document].tolist()
    return tokens


@settings(deadline=None, max_examples=60)
@given(cases, st.data())
def test_a_stream_is_its_documents_one_by_one(case: Case, data: st.DataObject) -> None:
    with mixture_of(case) as mixture:
        for source in mixture.sources:
            size = 3 * source.unique_tokens
            whole = document_by_document(source, case[2], 3)
            start = data.draw(st.integers(0, size))
            stop = data.draw(st.integers(start, size))
            found = Stream(source, case[2]).read(start, stop)
            assert found.dtype == np.int64
            assert found.tolist() == whole[start:stop]


def test_passes_names_and_seeds_have_orders_of_their_own() -> None:
    text = Text([1] * 50, 50, 200)  # two passes of 100 tokens
    orders = []
    with sources_of([text]) as [source]:
        for name, seed in (("a", 0), ("b", 0), ("a", 1)):
            named = Source(name, source.store, 50, 200)
            mixture = Mixture([named], 100, END, seed)
            orders += [mixture.row(0)[1].tolist(), mixture.row(1)[1].tolist()]
    assert len({tuple(order) for order in orders}) == 6


@settings(deadline=None, max_examples=40)
@given(one_text(), st.floats(0.25, 3))
def test_more_passes_than_allowed_are_bad_input(text: Text, max_passes: float) -> None:
    with sources_of([text]) as [source]:
        limited = Source(
            "synthetic", source.store, text.num_documents, text.budget_tokens, max_passes
        )
        if text.budget_tokens <= max_passes * text.unique_tokens:
            assert Mixture([limited], 4, END, 0).num_tokens == text.budget_tokens
        else:
            with pytest.raises(BadInput, match=f"source synthetic: {text.budget_tokens} tokens"):
                Mixture([limited], 4, END, 0)


def test_a_source_without_budget_has_no_rows() -> None:
    with sources_of([Text([3], 1, 8), Text([3], 1, 0)]) as sources:
        mixture = Mixture(sources, 4, END, 0)
        assert [source.name for source in mixture.sources] == ["s0"]
        assert mixture.num_tokens == 8


@pytest.mark.parametrize("num_documents", [0, 1])
def test_nothing_to_train_on_is_bad_input(num_documents: int) -> None:
    with (
        sources_of([Text([3], num_documents, 0)]) as sources,
        pytest.raises(BadInput, match="no source has a token"),
    ):
        Mixture(sources, 4, END, 0)


def test_tokens_asked_of_an_empty_source_are_bad_input() -> None:
    with (
        sources_of([Text([3], 0, 5)]) as sources,
        pytest.raises(BadInput, match="5 tokens asked of 0"),
    ):
        Mixture(sources, 4, END, 0)


def test_a_negative_budget_is_not_passed_over() -> None:
    with (
        sources_of([Text([3], 1, 8), Text([3], 1, -2)]) as sources,
        pytest.raises(BadInput, match="-2 tokens"),
    ):
        Mixture(sources, 4, END, 0)
