import os

import pytest
from support.clock import FakeClock
from support.edge_models import publish_scale
from support.privileges import unprivileged
from support.vanishing import while_folders_vanish

from edge_runtime.store.uses import EVERY_S, UseLog, next_s, record, used_s


@pytest.fixture
def root(tmp_path):
    for version in (1, 2):
        package = publish_scale(tmp_path, version, 1.0)
        os.utime(package.path / "manifest.json", (1.0, 1.0))
    return tmp_path


def test_what_is_used_now_was_used_last(root):
    """Also where the clock has gone back meanwhile; a version that is gone leaves no trace."""
    record(root, "scale", 1, 1000.0)
    record(root, "scale", 2, 5.0)
    folder = root / "scale"
    assert used_s(folder, 1) == 1000.0
    assert used_s(folder, 2) > 1000.0
    record(root, "scale", 3, 2000.0)
    assert used_s(folder, 3) is None


@pytest.mark.slow
def test_folders_that_go_while_uses_are_read_stop_nobody(root):
    """Others install and remove in the same store: what they stage is not looked into, and what is gone counts not."""
    (root / ".staging-x" / "tree").mkdir(parents=True)

    def look():
        assert next_s(root, 5.0) == 5.0
        assert (root / ".staging-x").exists()

    assert while_folders_vanish(root, look) == 0
    assert not (root / "scale").exists()


def test_use_is_written_down_once_a_minute_at_most(root):
    """At the loading, then after a minute in which there were requests, and at the unloading."""
    clock, wall, count = FakeClock(), FakeClock(), 0
    wall.advance(1000.0)
    log = UseLog(root, clock, now=wall)

    def after(seconds, requests):
        nonlocal count
        count += requests
        clock.advance(seconds)
        wall.advance(seconds)
        log.goes_on("scale", 1, lambda: count)
        return used_s(root / "scale", 1) == pytest.approx(wall(), abs=0.01)

    log.begins("scale", 1)
    assert after(0.0, 0)
    assert [after(1.0, 5), after(EVERY_S - 1.5, 5), after(1.0, 0)] == [False, False, True]
    assert [after(EVERY_S, 0), after(EVERY_S, 1)] == [False, True]
    wall.advance(1.0)
    log.ends("scale", 1)
    assert after(0.0, 0)


def test_where_nothing_can_be_written_the_runtime_goes_on(root, caplog):
    """Said once."""
    log = UseLog(root, FakeClock())
    (root / "scale").chmod(0o555)
    caplog.set_level("INFO")
    with unprivileged():
        log.begins("scale", 1)
        log.ends("scale", 1)
    (root / "scale").chmod(0o755)
    assert caplog.text.count("written down nowhere") == 1
    UseLog(None, FakeClock()).begins("scale", 1)
