"""When what waits for a server may leave, and how much of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.far_servers import row_request

from edge_runtime.remote.lanes import MAX_BYTES, MAX_ROWS, load, may_leave, patience_s
from edge_runtime.remote.parcel import Member, Parcel, key_of
from edge_runtime.types import Reply


@pytest.mark.parametrize(
    ("ages_s", "usual_s", "servers", "leaves"),
    [
        ([], None, 0, True),
        ([0.0], None, 1, True),
        ([0.0, 0.0], None, 1, False),
        ([0.0, 0.0], None, 2, True),
        ([0.0] * 4, None, 2, False),
        ([0.09, 0.0], None, 1, False),
        ([0.11, 0.0], None, 1, True),
        ([0.05, 0.0], 0.01, 1, True),
        ([0.019, 0.0], 0.001, 1, False),
        ([9.0] * 7, 0.01, 1, True),
        ([9.0] * 8, 0.01, 1, False),
        ([0.01, 0.0029], 0.024, 1, False),
        ([0.01, 0.003], 0.024, 1, True),
        ([0.01, 0.003], 0.08, 1, False),
        ([0.01] * 15, 0.08, 1, True),
        ([0.01] * 16, 0.08, 1, False),
        ([0.01, 0.0], 0.001, 1, False),
    ],
)
def test_leave(ages_s: list[float], usual_s: float | None, servers: int, leaves: bool) -> None:
    """Two calls a server at a time, and more one after the other; those that are late don't count, up to a bound."""
    assert may_leave(ages_s, usual_s, servers) is leaves


def test_patience_follows_what_calls_take() -> None:
    """A slow model's calls are not taken for lost after a fast one's time."""
    assert patience_s(1.0) > 1.0 > patience_s(None) > patience_s(0.0) > 0


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 3_000_000)), min_size=1, max_size=300))
def test_load_is_the_most_that_fits(sizes: list[tuple[int, int]]) -> None:
    """At least one leaves, and as many more as stay within rows and bytes."""
    count = load(sizes, MAX_ROWS)
    rows, size = (sum(values) for values in zip(*sizes[:count], strict=True))
    assert count == 1 or (rows <= MAX_ROWS and size <= MAX_BYTES)
    if 1 <= count < len(sizes):
        assert rows + sizes[count][0] > MAX_ROWS or size + sizes[count][1] > MAX_BYTES


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_each_member_gets_its_own_rows_back(counts: list[int]) -> None:
    """Whatever rows the members have, joined and cut apart they come back as they went."""
    members = [Member(row_request(i * 1000, count=count), 0) for i, count in enumerate(counts)]
    parcel = Parcel(members)
    joined = parcel.request()
    assert joined.rows == len(joined.inputs["x"]) == sum(counts)
    reply = Reply(outputs={"y": joined.inputs["x"]}, version=1, place="server:a:1", reason="local", latency_ms=1)
    parcel.answer(reply, (), members[0].request.start_s + 1)
    for member in members:
        np.testing.assert_array_equal(member.future.result(0).outputs["y"], member.request.inputs["x"])


def test_the_calls_deadline_is_the_latest() -> None:
    """It ends when nobody can use its answer any more: never, where one has no deadline."""
    soon, later, never = (Member(row_request(start_s=1.0, deadline_s=one), 0) for one in (2.0, 3.0, None))
    assert Parcel([soon, later]).deadline_s == 3.0
    assert Parcel([soon, never]).deadline_s is None


def test_odd_shapes_go_alone() -> None:
    """An input without the request's rows along its first axis can't be joined."""
    assert key_of(row_request(), patient=False) is not None
    assert key_of(row_request(inputs={"x": np.float32(1)}), patient=False) is None
    assert key_of(row_request(inputs={"x": np.ones((2, 4))}), patient=False) is None
    assert key_of(row_request(batched=False), patient=False) is None
