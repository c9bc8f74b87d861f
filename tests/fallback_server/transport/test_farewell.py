import asyncio

from fallback_server.transport import farewell
from fallback_server.transport.farewell import Farewell, is_quiet


async def held(told, count, left_s=None):
    """So many calls that wait, begun."""
    calls = [asyncio.ensure_future(told.wait(left_s)) for _ in range(count)]
    await asyncio.sleep(0)
    return calls


def test_calls_wait_for_the_end():
    """What comes is held until clients were told, and then goes on; later nothing is held any more."""

    async def story():
        told = Farewell()
        assert not told.holding
        gathering = asyncio.ensure_future(told.gather(most_s=60))
        await asyncio.sleep(0)
        assert told.holding
        calls = await held(told, 3)
        await gathering
        assert not any(call.done() for call in calls)
        told.end()
        await asyncio.gather(*calls)
        assert not told.holding
        await told.wait(None)

    asyncio.run(story())


def test_who_has_no_time_is_not_held():
    """A caller without time to spare is answered at once, and one with little keeps a half of it."""

    async def story():
        told = Farewell()
        await told.gather(most_s=0)
        await told.wait(0)
        calls = await held(told, 1, left_s=1e-3)
        await asyncio.gather(*calls)
        assert told.holding
        told.end()

    asyncio.run(story())


def test_a_bounded_number_is_held(monkeypatch):
    """Further calls are refused at once."""
    monkeypatch.setattr(farewell, "MAX_HELD", 2)

    async def story():
        told = Farewell()
        await told.gather(most_s=0)
        calls = await held(told, 2)
        await told.wait(None)
        assert not any(call.done() for call in calls)
        told.end()
        await asyncio.gather(*calls)

    asyncio.run(story())


def test_quiet_is_when_nothing_runs_and_nobody_came_lately():
    """What is under way is waited for; who asks for ever is not."""
    assert not is_quiet(True, 60, 60)
    assert not is_quiet(False, 0.01, 0.5)
    assert is_quiet(False, 0.06, 0)
    assert is_quiet(False, 0, 1.1)
