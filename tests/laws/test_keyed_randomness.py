"""Law 4: randomness is keyed, never global. (Batches and samplers are tested in their rooms.)"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import synboot
from synboot.core.rng import rng, seed_for, unit_interval

sys.path.append(str(Path(__file__).parents[1] / "pipeline"))

from toy import Toy

KEY = st.lists(st.one_of(st.integers(), st.text(max_size=5)), min_size=1, max_size=3).map(tuple)
DRAWS = """
import json
from synboot.core.rng import rng, seed_for, unit_interval
key = (3, "synthesize", "document 7", 2)
print(json.dumps([rng(*key).permutation(20).tolist(), rng(*key).random(3).tolist(),
                  seed_for(*key), unit_interval(*key)]))
"""


def draws(key: tuple[Any, ...]) -> list[Any]:
    stream = rng(*key)
    return [*stream.integers(0, 2**60, 4).tolist(), seed_for(*key), unit_interval(*key)]


class TestStreams:
    @settings(deadline=None)
    @given(st.lists(KEY, min_size=1, max_size=6), st.randoms())
    def test_do_not_depend_on_what_was_drawn_before(
        self, keys: list[tuple[Any, ...]], shuffle: random.Random
    ) -> None:
        alone = {key: draws(key) for key in keys}
        shuffle.shuffle(keys)
        for key in keys:
            rng(*key).random(shuffle.randrange(5))
            assert draws(key) == alone[key]

    @settings(deadline=None)
    @given(KEY, KEY)
    def test_of_other_keys_are_others(self, one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
        # Two streams of 60-bit numbers agree by chance with a probability of 2**-240.
        assert (draws(one) == draws(other)) == (one == other)

    def test_of_neighbouring_items_are_not_related(self) -> None:
        # Fixed keys: this can never fail by chance. 0.075 is 3.3 standard errors of 2,000 pairs.
        streams = np.array([rng(0, "draw", item).random(8) for item in range(2000)])
        assert abs(np.corrcoef(streams[:-1, 0], streams[1:, 0])[0, 1]) < 0.075
        assert abs(np.corrcoef(streams[:, 0], streams[:, 1])[0, 1]) < 0.075
        assert len(np.unique(streams)) == streams.size

    def test_are_the_same_in_every_process(self) -> None:
        outputs = {
            subprocess.run(
                [sys.executable, "-c", DRAWS],
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
            ).stdout
            for seed in ("0", "1")
        }
        (output,) = outputs
        key = (3, "synthesize", "document 7", 2)
        here = [rng(*key).permutation(20).tolist(), rng(*key).random(3).tolist()]
        assert json.loads(output) == [*here, seed_for(*key), unit_interval(*key)]


class TestGlobalState:
    def test_is_neither_read_nor_touched(self) -> None:
        random.seed(1)
        np.random.seed(1)
        one = draws((0, "a"))
        python, numpy = random.getstate(), repr(np.random.get_state())
        random.seed(2)
        np.random.seed(2)
        assert draws((0, "a")) == one
        random.seed(1)
        np.random.seed(1)
        draws((0, "b"))
        assert random.getstate() == python
        assert repr(np.random.get_state()) == numpy

    def test_no_module_draws_from_it(self) -> None:
        """Every generator of the project is made by `core.rng` or seeded by it."""
        forbidden = re.compile(
            r"^\s*(import random|from random import)\b"
            r"|np\.random\.(?!Generator\b|Philox\b)\w+"
            r"|\b(uuid4|urandom|secrets)\b",
            re.MULTILINE,
        )
        root = Path(synboot.__file__).parent
        files = sorted(root.rglob("*.py"))
        assert len(files) > 20
        found = {
            path.relative_to(root).as_posix(): match.group()
            for path in files
            if (match := forbidden.search(path.read_text(encoding="utf-8")))
        }
        assert found == {}


class TestRunner:
    @pytest.fixture(scope="class")
    def alone(self, tmp_path_factory: pytest.TempPathFactory) -> Toy:
        toy = Toy(tmp_path_factory.mktemp("alone"))
        assert toy.run(philox=True) == (0, "")
        return toy

    def test_draws_are_those_of_their_keys(self, alone: Toy) -> None:
        lines = (alone.directory(philox=True) / "numbers").read_text().splitlines()
        numbers = [int(line.split()[1]) for line in lines]
        expected = [10 + rng(1, "numbers", item).integers(1_000_000) for item in range(24)]
        assert numbers == expected

    def test_draws_do_not_depend_on_workers_or_restarts(self, alone: Toy, tmp_path: Path) -> None:
        toy = Toy(tmp_path)
        assert toy.run(philox=True, workers=2, faults={"part 3": "die"})[0] == 4
        assert toy.run(philox=True) == (0, "")
        assert toy.results() == alone.results()

    def test_draws_do_not_depend_on_the_size_of_parts(self, alone: Toy, tmp_path: Path) -> None:
        toy, options = Toy(tmp_path), {"philox": True, "parts": 3, "per_part": 8}
        assert toy.run(**options) == (0, "")
        numbers = [
            t.directory(**o) / "numbers" for t, o in ((toy, options), (alone, {"philox": True}))
        ]
        assert numbers[0].read_bytes() == numbers[1].read_bytes()
