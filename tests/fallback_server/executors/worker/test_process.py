"""What a worker prints, with real pipes."""

import logging
import os
import socket

import pytest
from support.clock import FakeClock

from fallback_server.executors.worker.line_limit import LINES_A_SECOND
from fallback_server.executors.worker.process import Worker


@pytest.fixture
def printing():
    """A worker, the end of the pipe that it prints to, and the clock that its lines are counted by."""
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    output, printed = os.pipe()
    os.set_blocking(output, False)
    os.set_blocking(printed, False)
    clock = FakeClock()
    worker = Worker("m/1", control, output, clock=clock)
    yield worker, printed, clock
    if not worker.gone.is_set():
        worker.ended(0)
    theirs.close()
    os.close(printed)


def test_a_flood_of_lines_is_cut_and_told_of(printing, caplog):
    """The first of a second come into the log, then how many were left out; its last words come in any case."""
    worker, printed, clock = printing
    with caplog.at_level(logging.INFO):
        os.write(printed, b"".join(b"line %d\n" % number for number in range(200)))
        assert worker.read_output()
        assert caplog.messages == [f"m/1: line {number}" for number in range(LINES_A_SECOND)]
        caplog.clear()
        clock.advance(1)
        os.write(printed, b"later\n" + b"again\n" * LINES_A_SECOND)
        assert worker.read_output()
        assert caplog.messages[:2] == ["m/1: ... 150 lines left out", "m/1: later"]
        assert len(caplog.messages) == LINES_A_SECOND + 1
        caplog.clear()
        os.write(printed, b"Check failed")
        worker.ended(-6)
    assert caplog.messages == ["m/1: ... 2 lines left out; the last ones: again | again | again | again | Check failed"]


def test_one_look_reads_one_pipe_full(printing):
    """A worker that prints as fast as it is read leaves the thread that reads to the other workers."""
    worker, printed, _ = printing
    first = os.write(printed, b"x" * 2**16)
    assert worker.read_output()
    assert os.write(printed, b"y" * 2**16) == first
    with pytest.raises(BlockingIOError):
        os.write(printed, b"z")
    worker.ended(0)
