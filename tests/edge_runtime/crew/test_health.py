from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.crew.health import (
    FIRST_DELAY_S,
    FORGIVEN_S,
    MAX_DELAY_S,
    MAX_DELAY_USEFUL_S,
    Health,
    healed,
    lost,
    returned,
)


def test_first_loss_is_tried_again_soon():
    """A device that was healthy is tried again after the first delay."""
    health = lost(Health(), 100.0, "crashed", "killed by SIGSEGV", answered=True)
    assert (health.healthy, health.losses, health.retry_s) == (False, 1, 100.0 + FIRST_DELAY_S)
    assert health.reason == "killed by SIGSEGV"


def test_delay_doubles_up_to_a_minute():
    """Tries that fail one after another come ever more rarely, and never more rarely than once a minute."""
    health, delays = Health(), []
    for _ in range(2000):
        health = lost(health, 0.0, "refused", "no device", answered=False)
        delays.append(health.retry_s)
    assert delays[:4] == [0.25, 0.5, 1.0, 2.0]
    assert max(delays) == MAX_DELAY_S


def test_device_that_answers_between_crashes_is_back_soon():
    """One that crashes every so often and answers in between never waits long; one that hangs does."""
    crashing, hanging = Health(), Health()
    for step in range(20):
        crashing = lost(healed(crashing, step), step, "crashed", "x", answered=True)
        hanging = lost(healed(hanging, step), step, "stuck", "x", answered=True)
    assert crashing.retry_s - crashing.changed_s == MAX_DELAY_USEFUL_S
    assert hanging.retry_s - hanging.changed_s == MAX_DELAY_S


def test_long_health_is_rewarded():
    """After a minute without a loss the delays begin anew."""
    health = Health()
    for _ in range(5):
        health = lost(health, 0.0, "stuck", "x", answered=False)
    health = healed(health, 10.0)
    assert lost(health, 11.0, "stuck", "x", answered=False).losses == 6
    assert lost(health, 10.0 + FORGIVEN_S, "stuck", "x", answered=False).losses == 1


def test_one_that_returns_need_not_wait():
    """A stick that is seen again is tried at once, whatever its delay was."""
    health = Health()
    for _ in range(9):
        health = lost(health, 0.0, "vanished", "pulled out", answered=True)
    assert returned(health, 7.0).retry_s == 7.0
    assert returned(Health(), 7.0) == Health()


def test_one_that_returns_begins_anew():
    """A try that began before the stick came fails after it was seen: the next one is not as far away as it was."""
    health = Health()
    for _ in range(9):
        health = lost(health, 0.0, "refused", "no device", answered=False)
    health = lost(returned(health, 7.0), 8.0, "refused", "no device", answered=False)
    assert (health.losses, health.retry_s) == (1, 8.0 + FIRST_DELAY_S)


@given(
    st.lists(
        st.tuples(st.sampled_from(["crashed", "stuck", "vanished", "failed", "refused"]), st.booleans(), st.booleans())
    )
)
def test_delays_are_bounded(events):
    """Whatever happens, the next try is at least the first delay and at most a minute away."""
    health, now_s = Health(), 0.0
    for cause, answered, heals in events:
        now_s += 1.0
        health = lost(health, now_s, cause, "x", answered=answered)
        assert FIRST_DELAY_S <= health.retry_s - now_s <= MAX_DELAY_S
        if heals:
            health = healed(health, now_s)
            assert health.healthy
