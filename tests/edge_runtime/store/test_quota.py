import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import InvalidConfig
from edge_runtime.store.quota import Held, make_room, read_size, size_text


def held(version, recent_s, size_bytes=10, **flags):
    return Held(model="m", version=version, size_bytes=size_bytes, recent_s=recent_s, **flags)


@pytest.mark.parametrize(
    ("there", "coming_bytes", "quota_bytes", "removed", "missing_bytes"),
    [
        ([], 10, None, [], 0),
        ([], 10, 10, [], 0),
        ([], 11, 10, [], 1),
        ([held(1, 5.0), held(2, 3.0)], 10, 30, [], 0),
        ([held(1, 5.0), held(2, 3.0)], 10, 29, [2], 0),
        ([held(1, 5.0), held(2, 3.0)], 10, 10, [2, 1], 0),
        ([held(1, 5.0), held(2, 3.0, labelled=True)], 10, 20, [1], 0),
        ([held(1, 5.0), held(2, 3.0, open=True)], 10, 20, [1], 0),
        ([held(1, 5.0), held(2, 3.0, latest=True)], 10, 20, [1], 0),
        ([held(1, 5.0, open=True), held(2, 3.0, latest=True)], 10, 25, [], 5),
        ([held(1, 5.0), held(2, 3.0, latest=True)], 10, 15, [], 5),
        ([held(1, 3.0), held(2, 3.0)], 10, 25, [1], 0),
        ([held(1, 1.0, 1), held(2, 2.0, 100)], 0, 50, [1, 2], 0),
    ],
)
def test_the_least_recently_used_make_room(there, coming_bytes, quota_bytes, removed, missing_bytes):
    """In the order of their use, as few as will do; never what is labelled, open or the latest; and all or none."""
    room = make_room(there, coming_bytes, quota_bytes)
    assert [one.version for one in room.removed] == removed
    assert room.missing_bytes == missing_bytes


VERSIONS = st.lists(
    st.builds(
        Held,
        model=st.sampled_from("ab"),
        version=st.integers(1, 9),
        size_bytes=st.integers(0, 100),
        recent_s=st.floats(0, 100),
        labelled=st.booleans(),
        open=st.booleans(),
        latest=st.booleans(),
    ),
    max_size=8,
)


@given(VERSIONS, st.integers(0, 100), st.integers(1, 500))
def test_room_is_made_exactly_where_it_can_be(there, coming_bytes, quota_bytes):
    """What stays fits, none goes in vain, what may not go stays, and none that stays was used before one that goes."""
    room = make_room(there, coming_bytes, quota_bytes)
    assert all(one.may_go for one in room.removed)
    left = room.held_bytes - sum(one.size_bytes for one in room.removed)
    if room.missing_bytes:
        assert not room.removed
        assert room.kept_bytes - room.missing_bytes == quota_bytes
        return
    assert left <= quota_bytes
    if room.removed:
        assert left + room.removed[-1].size_bytes > quota_bytes
        stay = [one for one in there if one.may_go and one not in room.removed]
        assert all(one.recent_s >= room.removed[-1].recent_s for one in stay)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("2GiB", 2**31),
        ("500MB", 500_000_000),
        ("1.5 k", 1536),
        ("7", 7),
        ("1tb", 10**12),
        ("none", None),
        ("None", None),
    ],
)
def test_sizes_are_read(text, size_bytes):
    """With the units of both kinds, in either case."""
    assert read_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "0", "-1", "GiB", "1 XB", "1e9", "nan", "9" * 16, "\uff11GB", "100000000TiB"])
def test_sizes_that_are_none_are_refused(text):
    """With what was given."""
    with pytest.raises(InvalidConfig, match="quota"):
        read_size(text)


def test_sizes_are_shown_with_three_digits():
    """In the unit that makes it a number below 1,000."""
    assert [size_text(one) for one in (0, 999, 1000, 1536, 15 * 2**20, 2**31)] == [
        "0 B", "999 B", "0.98 KiB", "1.50 KiB", "15.0 MiB", "2.00 GiB",
    ]  # fmt: skip
