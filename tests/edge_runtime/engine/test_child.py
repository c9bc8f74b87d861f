import logging
import os
import signal
import sys
import threading

import pytest

from edge_runtime import EngineFailed
from edge_runtime.engine.child import Child

pytestmark = pytest.mark.slow

LIMIT_S = 30.0


def child(*arguments, on_end=lambda: None, module="support.printing_child"):
    return Child("a device", module, [str(one) for one in arguments], (), on_end)


def test_the_end_of_what_it_printed_says_why():
    """A child that prints a lot is neither blocked nor kept in full: how it ended and its last lines are."""
    one = child(20_000, "abort")
    assert one.wait(LIMIT_S)
    said = one.ending(" (in a test)")
    assert said.startswith("was killed by SIGABRT (in a test); it printed: ...")
    assert said.endswith("x | the reason why")
    assert len(said) < 500
    assert len(one._printed) <= 4096


def test_a_status_is_said():
    """An exit of its own is told by its status."""
    one = child(0, "exit")
    assert one.wait(LIMIT_S)
    assert one.ending() == "ended with status 3, and printed nothing"


def test_a_pipe_that_stays_open_is_not_waited_for():
    """A child is reaped when it has ended, even if a child of its own still could print."""
    one = child(1, "grandchild")
    assert one.wait(LIMIT_S)
    assert one.ending().startswith("was killed by SIGKILL; it printed: line 0")


def test_its_end_is_told_once_and_nothing_is_left():
    """Killing ends it, calls back after it was reaped, and leaves neither thread nor zombie; again does nothing."""
    told = []
    one = child(0, "sleep", on_end=lambda: told.append(one.alive))
    one.kill()
    assert one.wait(LIMIT_S)
    one.kill()
    assert told == [False]
    with pytest.raises(ProcessLookupError):
        os.kill(one.pid, 0)
    assert not [thread for thread in threading.enumerate() if "a device" in thread.name]


def test_what_is_called_last_is_waited_for_by_nobody():
    """Who waits for the end goes on while what `on_end` returned still runs."""
    held, entered = threading.Event(), threading.Event()

    def last():
        entered.set()
        assert held.wait(LIMIT_S)

    one = child(0, "exit", on_end=lambda: last)
    assert one.wait(LIMIT_S)
    assert entered.wait(LIMIT_S)
    held.set()
    one._watcher.join()


def test_it_outlives_the_thread_that_asked_for_it():
    """Linux ends a process with the thread that started it, if so asked: the child has a thread that stays."""
    made = []
    starter = threading.Thread(target=lambda: made.append(child(0, "sleep")))
    starter.start()
    starter.join()
    assert made[0].alive
    os.kill(made[0].pid, signal.SIGKILL)
    assert made[0].wait(LIMIT_S)


def test_lines_are_logged(caplog):
    """What it prints is in the log, line by line, at the level of debugging."""
    with caplog.at_level(logging.DEBUG, "edge_runtime.engine.child"):
        one = child(2, "exit")
        assert one.wait(LIMIT_S)
    assert [record.getMessage()[:20] for record in caplog.records] == ["a device (worker pro"] * 2
    assert "line 1 xxx" in caplog.text


def test_without_an_interpreter_it_is_refused(monkeypatch):
    """A program that holds Python inside can't start another: it is told so, instead of being started again."""
    monkeypatch.setattr("sys.executable", "")
    with pytest.raises(EngineFailed, match="no Python interpreter"):
        child(0, "exit")
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(EngineFailed, match="No such file"):
        child(0, "exit")


def test_a_current_directory_that_is_gone_is_told(tmp_path, monkeypatch):
    """Whatever goes wrong before there is a process is an error, and nobody waits for one."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr("sys.path", ["", *sys.path])
    with pytest.raises(EngineFailed, match="no worker can be started"):
        child(0, "exit")
