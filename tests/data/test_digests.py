"""The set of digests is a set."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from synboot.data.digests import DIGEST_BYTES, Digests, digest

KEYS = st.lists(st.integers(1, 60).map(lambda i: i.to_bytes(8, "little") * 2), max_size=200)


@given(KEYS, KEYS)
def test_it_is_a_set(added: list[bytes], asked: list[bytes]) -> None:
    found, known = Digests(), set()
    for key in added:
        assert (key in found) == (key in known)
        found.add(key)
        known.add(key)
    assert len(found) == len(known)
    assert [key in found for key in asked] == [key in known for key in asked]


def test_it_grows_and_stays_small() -> None:
    found = Digests()
    keys = [digest(str(i)) for i in range(50_000)]
    for key in keys[:40_000]:
        found.add(key)
    assert len(found) == 40_000
    assert all(key in found for key in keys[:40_000])
    assert not any(key in found for key in keys[40_000:])
    assert sys.getsizeof(found._table) <= 48 * 40_000 + 100
    assert {len(key) for key in keys} == {DIGEST_BYTES}
