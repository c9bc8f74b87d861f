import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.routing.policy import DeviceView, Place, Route, ServerView, choose, predicted_s

ABSENT = DeviceView(installed=False)
QUICK = DeviceView(installed=True, predicted_s=0.010)
SLOW = DeviceView(installed=True, predicted_s=0.200)
SLOW_ALONE = DeviceView(installed=True, predicted_s=0.200, waits=False)
FULL = DeviceView(installed=True, full=True, predicted_s=0.5)
NO_SERVER = ServerView(usable=False)
SERVER = ServerView(usable=True, expected_s=0.020)
SLOWER_SERVER = ServerView(usable=True, expected_s=0.300)


@pytest.mark.parametrize(
    ("device", "server", "remaining_s", "place", "reason"),
    [
        (ABSENT, SERVER, None, Place.SERVER, "version-missing"),
        (ABSENT, NO_SERVER, None, Place.NOWHERE, "version-missing"),
        (QUICK, SERVER, 0.050, Place.DEVICE, "local"),
        (QUICK, NO_SERVER, 0.050, Place.DEVICE, "local"),
        (SLOW, SERVER, None, Place.DEVICE, "local"),
        (SLOW, SERVER, 0.050, Place.SERVER, "overloaded"),
        (SLOW, NO_SERVER, 0.050, Place.DEVICE, "local"),
        (SLOW, SLOWER_SERVER, 0.050, Place.DEVICE, "local"),
        (SLOW, SERVER, 0.010, Place.SERVER, "overloaded"),
        (SLOW_ALONE, SERVER, 0.050, Place.SERVER, "too-slow"),
        (FULL, SERVER, None, Place.SERVER, "overloaded"),
        (FULL, NO_SERVER, None, Place.NOWHERE, "overloaded"),
    ],
)
def test_table(device, server, remaining_s, place, reason):
    """The device keeps what it can answer in time; the rest goes where it is answered sooner."""
    assert choose(device, server, remaining_s) == Route(place, reason)


@given(st.booleans(), st.booleans(), st.floats(0, 1), st.booleans(), st.floats(0, 1), st.none() | st.floats(-1, 1))
def test_a_request_is_refused_only_where_nobody_can_take_it(installed, full, local_s, usable, remote_s, remaining_s):
    """NOWHERE means no usable server, and a device that lacks the version or is full; never a prediction."""
    route = choose(DeviceView(installed, full, local_s), ServerView(usable, remote_s), remaining_s)
    assert (route.place is Place.NOWHERE) == (not usable and (full or not installed))


def test_prediction_counts_queue_run_and_own_time():
    """What waits is shared by the engines, what runs counts half, and the own run comes last."""
    assert predicted_s(queued_rows=6, running_rows=2, engines=2, row_s=0.01, own_s=0.02) == pytest.approx(0.055)
