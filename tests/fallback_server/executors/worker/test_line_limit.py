from support.clock import FakeClock

from fallback_server.executors.worker.line_limit import LINES_A_SECOND, LineLimit


def test_lines_beyond_a_seconds_worth_are_left_out_and_counted():
    """So many in a second that begins with a line; then again so many, and what was left out is told once."""
    clock = FakeClock()
    limit = LineLimit(clock)
    assert [limit.admits() for _ in range(LINES_A_SECOND + 7)].count(True) == LINES_A_SECOND
    clock.advance(0.99)
    assert not limit.admits()
    clock.advance(0.02)
    assert limit.admits()
    assert limit.taken_left_out() == 8
    assert limit.taken_left_out() == 0
    clock.advance(30)
    assert [limit.admits() for _ in range(LINES_A_SECOND + 1)].count(True) == LINES_A_SECOND
