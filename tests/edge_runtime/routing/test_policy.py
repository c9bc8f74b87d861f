import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.routing import policy as module
from edge_runtime.routing.policy import (
    HOPE,
    POLICIES,
    REASONS,
    DeviceView,
    Place,
    Route,
    ServerView,
    choose,
    needs_servers,
    predicted_s,
    tries_again,
    waits_in_vain,
)

ABSENT = DeviceView(installed=False)
DAMAGED = DeviceView(installed=False, absent="version-damaged")
QUICK = DeviceView(installed=True, predicted_s=0.010)
SLOW = DeviceView(installed=True, predicted_s=0.200)
TIGHT = DeviceView(installed=True, predicted_s=0.040)
SLOW_ALONE = DeviceView(installed=True, predicted_s=0.200, waits=False)
FULL = DeviceView(installed=True, full=True, predicted_s=0.5)
BROKEN = DeviceView(installed=True, predicted_s=0.010, healthy=False)
NO_SERVER = ServerView(usable=False)
SERVER = ServerView(usable=True, expected_s=0.020)
SLOWER_SERVER = ServerView(usable=True, expected_s=0.300)
FAR_SERVER = ServerView(usable=True, expected_s=19.0)

ON_DEVICE, ON_SERVER, NOWHERE = Place.DEVICE, Place.SERVER, Place.NOWHERE


@pytest.mark.parametrize(
    ("device", "server", "remaining_s", "place", "reason"),
    [
        (ABSENT, SERVER, None, ON_SERVER, "version-missing"),
        (ABSENT, FAR_SERVER, 0.050, ON_SERVER, "version-missing"),
        (ABSENT, NO_SERVER, None, NOWHERE, "version-missing"),
        (DAMAGED, SERVER, None, ON_SERVER, "version-damaged"),
        (QUICK, SERVER, 0.050, ON_DEVICE, "local"),
        (QUICK, NO_SERVER, 0.050, ON_DEVICE, "local"),
        (BROKEN, SERVER, 0.050, ON_SERVER, "engine-failed"),
        (BROKEN, NO_SERVER, 0.050, ON_DEVICE, "local"),
        (SLOW, SERVER, None, ON_DEVICE, "local"),
        (SLOW, SERVER, 0.050, ON_SERVER, "overloaded"),
        (SLOW, NO_SERVER, 0.050, ON_DEVICE, "local"),
        (SLOW, SLOWER_SERVER, 0.050, ON_DEVICE, "local"),
        (SLOW, SERVER, 0.015, ON_SERVER, "overloaded"),
        (SLOW, SERVER, 0.010, ON_DEVICE, "local"),
        (SLOW, FAR_SERVER, 0.050, ON_DEVICE, "local"),
        (TIGHT, SERVER, 0.050, ON_SERVER, "overloaded"),
        (TIGHT, ServerView(usable=True, expected_s=0.051), 0.050, ON_DEVICE, "local"),
        (SLOW_ALONE, SERVER, 0.050, ON_SERVER, "too-slow"),
        (FULL, SERVER, None, ON_SERVER, "overloaded"),
        (FULL, SERVER, 0.050, ON_SERVER, "overloaded"),
        (FULL, FAR_SERVER, 0.050, NOWHERE, "overloaded"),
        (FULL, NO_SERVER, None, NOWHERE, "overloaded"),
    ],
)
def test_prefer_device(device, server, remaining_s, place, reason):
    """The device keeps what it can answer in time; of the rest what a server can, and what may arrive, goes away."""
    assert choose(device, server, remaining_s) == Route(place, reason)


@pytest.mark.parametrize(
    ("device", "server", "remaining_s", "place", "reason"),
    [
        (QUICK, SERVER, 0.050, ON_SERVER, "policy"),
        (QUICK, SERVER, None, ON_SERVER, "policy"),
        (QUICK, NO_SERVER, 0.050, ON_DEVICE, "no-server"),
        (QUICK, FAR_SERVER, None, ON_SERVER, "policy"),
        (QUICK, FAR_SERVER, 0.050, ON_DEVICE, "no-server"),
        (SLOW, FAR_SERVER, 0.050, ON_DEVICE, "no-server"),
        (SLOW, SERVER, 0.015, ON_SERVER, "policy"),
        (FULL, SERVER, None, ON_SERVER, "policy"),
        (FULL, FAR_SERVER, 0.050, ON_SERVER, "policy"),
        (FULL, NO_SERVER, None, NOWHERE, "overloaded"),
        (BROKEN, SERVER, 0.010, ON_SERVER, "policy"),
        (BROKEN, NO_SERVER, 0.010, ON_DEVICE, "no-server"),
        (ABSENT, SERVER, 0.050, ON_SERVER, "version-missing"),
        (ABSENT, NO_SERVER, 0.050, NOWHERE, "version-missing"),
    ],
)
def test_prefer_server(device, server, remaining_s, place, reason):
    """A server answers where one is usable and in time, else the device, and the reason says that there was none."""
    assert choose(device, server, remaining_s, "prefer_server") == Route(place, reason)


@pytest.mark.parametrize(
    ("device", "server", "place", "reason"),
    [
        (QUICK, SERVER, ON_DEVICE, "local"),
        (SLOW, SERVER, ON_DEVICE, "local"),
        (BROKEN, SERVER, ON_DEVICE, "local"),
        (FULL, SERVER, NOWHERE, "overloaded"),
        (ABSENT, SERVER, NOWHERE, "version-missing"),
        (DAMAGED, SERVER, NOWHERE, "version-damaged"),
    ],
)
def test_only_device(device, server, place, reason):
    """No server is asked, whatever becomes of the request."""
    assert choose(device, server, 0.050, "only_device") == Route(place, reason)


@pytest.mark.parametrize(
    ("device", "server", "place", "reason"),
    [
        (QUICK, SERVER, ON_SERVER, "policy"),
        (QUICK, FAR_SERVER, ON_SERVER, "policy"),
        (QUICK, NO_SERVER, NOWHERE, "no-server"),
        (FULL, SERVER, ON_SERVER, "policy"),
        (ABSENT, SERVER, ON_SERVER, "version-missing"),
        (ABSENT, NO_SERVER, NOWHERE, "version-missing"),
    ],
)
def test_only_server(device, server, place, reason):
    """The device answers nothing, even where no server may be asked."""
    assert choose(device, server, 0.050, "only_server") == Route(place, reason)


times = st.floats(0, 1)
devices = st.builds(
    DeviceView,
    installed=st.booleans(),
    full=st.booleans(),
    predicted_s=times,
    waits=st.booleans(),
    healthy=st.booleans(),
)
servers = st.builds(ServerView, usable=st.booleans(), expected_s=times)
left = st.none() | st.floats(-1, 1)


@given(devices, servers, left, st.sampled_from(["prefer_device", "prefer_server"]))
def test_a_request_is_refused_only_where_nobody_can_take_it(device, server, remaining_s, policy):
    """NOWHERE means that the device can't take it, and no server is usable, or none within any hope of the deadline."""
    hopeless = remaining_s is not None and server.expected_s > remaining_s * HOPE
    if choose(device, server, remaining_s, policy).place is Place.NOWHERE:
        assert device.full or not device.installed
        assert not server.usable or hopeless


@given(devices, servers, left, st.sampled_from(POLICIES))
def test_policies_are_kept(device, server, remaining_s, policy):
    """What is for one place only never goes to the other, and nobody is sent where nobody is."""
    route = choose(device, server, remaining_s, policy)
    assert route.place is not Place.SERVER or (server.usable and policy != "only_device")
    assert route.place is not Place.DEVICE or (device.installed and not device.full and policy != "only_server")
    assert route.reason in REASONS


@given(devices, servers, left, st.sampled_from(POLICIES))
def test_servers_are_asked_for_only_where_they_matter(device, server, remaining_s, policy):
    """Where it is said that the servers' side is not needed, no state of theirs changes the route."""
    if not needs_servers(device, remaining_s, policy):
        alone = choose(device, ServerView(usable=False), remaining_s, policy)
        assert choose(device, server, remaining_s, policy) == alone


@pytest.mark.parametrize(
    ("server", "remaining_s", "since_s", "again"),
    [
        (SLOWER_SERVER, 0.050, 10.0, True),
        (SLOWER_SERVER, 0.050, 0.5, False),
        (SLOWER_SERVER, 0.050, 0.61, True),
        (SLOWER_SERVER, 0.020, 1e9, False),
        (FAR_SERVER, 0.050, 1e9, False),
        (SERVER, 0.010, 0.09, False),
        (SERVER, 0.010, 0.11, True),
        (NO_SERVER, 0.050, 1e9, False),
    ],
)
def test_what_is_lost_anyway_finds_out(server, remaining_s, since_s, again):
    """Now and then a request that nobody is expected to answer in time is sent; not on a line far too slow."""
    assert tries_again(server, remaining_s, since_s) is again


@pytest.mark.parametrize(
    ("device", "server", "policy", "in_vain"),
    [
        (SLOW, NO_SERVER, "prefer_device", True),
        (SLOW, FAR_SERVER, "prefer_device", True),
        (SLOW, SERVER, "prefer_device", False),
        (SLOW, SERVER, "only_device", True),
        (TIGHT, NO_SERVER, "prefer_device", True),
        (TIGHT, SERVER, "prefer_server", False),
        (QUICK, NO_SERVER, "prefer_device", False),
        (QUICK, NO_SERVER, "only_device", False),
        (DeviceView(installed=True, predicted_s=1.0, waits=False), NO_SERVER, "prefer_device", False),
    ],
)
def test_who_waits_for_nothing(device, server, policy, in_vain):
    """Who is predicted to be late on the device, or only just in time, where no server may be hoped for either."""
    assert waits_in_vain(device, server, 0.050, policy) is in_vain


@given(devices, servers, st.floats(0, 1), st.sampled_from(POLICIES))
def test_nobody_waits_in_vain_who_may_be_answered_by_a_server(device, server, remaining_s, policy):
    """Whom a device that could take it leaves to a server may hope for that."""
    able = device.installed and device.healthy and not device.full
    if able and policy == "prefer_device" and choose(device, server, remaining_s, policy).place is Place.SERVER:
        assert not waits_in_vain(device, server, remaining_s, policy)


@given(devices, servers, st.floats(0, 1))
def test_what_cannot_arrive_in_time_is_not_sent(device, server, remaining_s):
    """Where the device can take a request, none is sent to a server that is expected far behind the deadline."""
    if device.installed and device.healthy and server.expected_s > remaining_s * HOPE:
        assert choose(device, server, remaining_s).place is not Place.SERVER


def test_every_reason_is_explained():
    """Each reason that there is says what it stands for."""
    assert {value for name, value in vars(module).items() if name.startswith("REASON_")} == set(REASONS)


def test_prediction_counts_queue_run_and_own_time():
    """What waits is shared by the engines, what runs counts half, and the own run comes last."""
    assert predicted_s(queued_rows=6, running_rows=2, engines=2, row_s=0.01, own_s=0.02) == pytest.approx(0.055)


@pytest.mark.parametrize(("engines", "stalled", "seconds"), [(1, 1, 0.39), (2, 1, 0.09), (2, 2, 0.355)])
def test_prediction_counts_no_engine_that_is_stalled(engines, stalled, seconds):
    """The others do its work; where none is left, the run is expected to last as long again as it has."""
    assert predicted_s(6, 2, engines, 0.01, 0.02, stalled, 0.3) == pytest.approx(seconds)
