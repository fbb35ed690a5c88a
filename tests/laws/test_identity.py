"""Law 1: a stage's id is a hash of its name, version, canonical config, input ids and seed, and of
nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from synboot.core.events import EventLog, QuietDisplay
from synboot.core.storage import canonical_json, digest
from synboot.pipeline.runner import Runner
from synboot.pipeline.stage import Context, Counts, Stage

TEXT = st.one_of(st.text(max_size=4), st.text(st.characters(), max_size=4))
SCALAR = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT
)
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)
HASH_ORDER = """
import json, sys
from synboot.pipeline.stage import Stage

class Toy(Stage):
    name = "toy"
    version = 1
    def finish(self, context, parts):
        return {}

names = {f"key {i}" for i in range(50)}  # a set: its order follows PYTHONHASHSEED
source = Toy({name: name for name in names}, {}, seed=0)
inputs = {name: source for name in names}
print(json.dumps([Toy({"nested": [{name: 1 for name in names}]}, inputs, seed=0).id, list(names)]))
"""


class Toy(Stage):
    name = "toy"
    version = 1

    def num_parts(self, context: Context) -> int:
        return 3

    def run_part(self, context: Context, index: int, directory: Path) -> Counts:
        (directory / "text").write_text(f"{index}")
        return {}

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        text = "".join((part / "text").read_text() for part in parts)
        (context.directory / "text").write_text(text)
        return {}


class Newer(Toy):
    version = 2


class Other(Toy):
    name = "other"


def toy(kind: type[Toy] = Toy, config: Any = None, **options: Any) -> Toy:
    inputs = options.pop("inputs", {})
    config = {"threshold": 0.3} if config is None else config
    return kind(config, inputs, **({"seed": 0} | options))


def typed(value: Any) -> Any:
    """`value` with the type of everything in it, so that 1, 1.0, True and "1" differ."""
    if isinstance(value, list):
        return ["list", *map(typed, value)]
    if isinstance(value, dict):
        return ["dict", sorted((key, repr(typed(item))) for key, item in value.items())]
    return [type(value).__name__, repr(value)]


class TestCanonicalText:
    @settings(deadline=None, max_examples=300)
    @given(VALUE)
    def test_the_value_can_be_read_back_so_no_two_share_a_text(self, value: Any) -> None:
        assert typed(json.loads(canonical_json(value))) == typed(value)

    @settings(deadline=None, max_examples=300)
    @given(SCALAR, SCALAR)
    @example(1, True)
    @example(1, 1.0)
    @example(1, "1")
    @example(0, False)
    @example(None, "null")
    @example(0.1, 0.1 + 1e-17)
    @example(1e16, 10**16)
    @example("\ud83d\ude00", "\U0001f600")
    def test_one_text_means_one_value_at_any_depth(self, one: Any, other: Any) -> None:
        same = typed(one) == typed(other)
        assert (canonical_json([{"a": one}]) == canonical_json([{"a": other}])) == same
        assert (digest({"a": {"b": one}}) == digest({"a": {"b": other}})) == same

    @settings(deadline=None)
    @given(st.dictionaries(TEXT, VALUE, max_size=6), st.randoms())
    def test_the_order_of_keys_does_not_matter(self, value: dict[str, Any], random: Any) -> None:
        names = list(value)
        random.shuffle(names)
        assert canonical_json({name: value[name] for name in names}) == canonical_json(value)

    @settings(deadline=None)
    @given(st.lists(st.integers(), min_size=2, unique=True))
    def test_the_order_of_lists_does(self, value: list[int]) -> None:
        assert canonical_json(value) != canonical_json(value[::-1])

    @settings(deadline=None)
    @given(st.lists(SCALAR, max_size=4))
    def test_a_tuple_is_a_list(self, value: list[Any]) -> None:
        assert canonical_json({"a": tuple(value)}) == canonical_json({"a": value})


class TestForks:
    @pytest.mark.parametrize(
        "config",
        [
            {"threshold": 0.31},
            {"threshold": "0.3"},
            {"Threshold": 0.3},
            {"threshold": 0.3, "more": None},
            {},
        ],
    )
    def test_another_config(self, config: Any) -> None:
        assert toy(config=config).id != toy().id

    def test_another_version_name_or_seed(self) -> None:
        others = [toy(Newer), toy(Other), toy(seed=1)]
        assert len({toy().id, *(other.id for other in others)}) == 4

    def test_another_input_or_an_input_by_another_name(self) -> None:
        a, b = toy(seed=1), toy(seed=2)
        variants = [{}, {"x": a}, {"x": b}, {"y": a}, {"x": a, "y": b}, {"x": b, "y": a}]
        assert len({toy(inputs=inputs).id for inputs in variants}) == len(variants)
        assert toy(inputs={"x": a, "y": b}).id == toy(inputs={"y": b, "x": a}).id

    def test_a_change_far_upstream(self) -> None:
        def chain(threshold: float) -> Stage:
            stage = toy(config={"threshold": threshold})
            for _ in range(3):
                stage = toy(inputs={"before": stage})
            return stage

        assert chain(0.3).id == chain(0.3).id != chain(0.31).id


class TestDoesNotSee:
    def test_label_and_numerics(self) -> None:
        others = [
            toy(label="pretrain sbp, seed 0"),
            toy(numerics={"device": "cuda", "threads": 7}),
            toy(numerics={"device": "cpu"}),
        ]
        assert {other.id for other in others} == {toy().id}

    def test_hash_order_of_a_process(self) -> None:
        found = []
        for seed in ("0", "1", "2"):
            output = subprocess.run(
                [sys.executable, "-c", HASH_ORDER],
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
            ).stdout
            found.append(json.loads(output))
        ids, orders = zip(*found, strict=True)
        assert len(set(ids)) == 1
        assert len({tuple(order) for order in orders}) > 1, "the orders were the same by chance"

    def test_store_workers_log_and_display(self, tmp_path: Path) -> None:
        ids, bytes_ = set(), set()
        for number in range(3):
            store, log = tmp_path / f"store {number}", EventLog(tmp_path / f"log {number}")
            stage = toy(label=f"label {number}")
            runner = Runner(store, 1, log if number else EventLog(None), QuietDisplay())
            ids.add(runner.run([stage])[stage.id].id)
            bytes_.add((stage.directory(store) / "text").read_bytes())
        assert ids == {toy().id}
        assert bytes_ == {b"012"}

    def test_the_id_is_the_same_on_every_machine(self) -> None:
        def written_out(inputs: str, seed: int) -> str:
            text = f'"inputs":{{{inputs}}},"seed":{seed},"stage":"toy","version":1'
            text = '{"config":{"threshold":0.3},' + text + "}"
            return hashlib.sha256(text.encode()).hexdigest()[:24]

        source = written_out("", 1)
        assert toy(seed=1).id == source
        assert toy(inputs={"a": toy(seed=1)}).id == written_out(f'"a":"{source}"', 0)


class TestRefuses:
    @pytest.mark.parametrize("value", [Path("/tmp"), {1}, object(), b"a", float("nan"), {1: 2}])
    def test_a_config_without_a_canonical_form(self, value: Any) -> None:
        with pytest.raises((TypeError, ValueError), match=r"value\.config\.deep\[0\]"):
            toy(config={"deep": [value]})

    def test_a_seed_without_a_canonical_form(self) -> None:
        with pytest.raises(TypeError, match=r"value\.seed"):
            toy(seed=Path("0"))


def test_the_manifest_shows_what_the_id_stands_for(tmp_path: Path) -> None:
    source = toy(seed=1)
    stage = toy(inputs={"source": source}, numerics={"threads": 2})
    runner = Runner(tmp_path, 1, EventLog(None), QuietDisplay())
    manifest = runner.run([source, stage])[stage.id].manifest
    assert manifest["numerics"] == {"threads": 2}
    assert digest(
        {
            "stage": manifest["stage"],
            "version": manifest["version"],
            "config": manifest["config"],
            "inputs": manifest["inputs"],
            "seed": manifest["seed"],
        }
    ) == stage.id == manifest["id"]  # fmt: skip
