import os
import socket
import subprocess
import sys

import pytest

from edge_runtime.engine import wire
from edge_runtime.engine.shared import Arena

pytestmark = pytest.mark.slow

LIMIT_S = 60.0


@pytest.fixture
def started():
    """Starts a worker by hand: its process and our end of the connection."""
    processes, ends = [], []

    def start(parent):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arenas = [Arena.make("test"), Arena.make("test")]
        descriptors = [theirs.fileno(), *(arena.descriptor for arena in arenas)]
        command = [sys.executable, "-P", "-m", "edge_runtime.engine.worker", *map(str, descriptors), str(parent)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        processes.append(subprocess.Popen(command, pass_fds=descriptors, env=environment))
        ends.extend([ours, *arenas])
        theirs.close()
        ours.settimeout(LIMIT_S)
        return processes[-1], ours

    yield start
    for process in processes:
        process.kill()
        process.wait()
    for end in ends:
        end.close()


def test_it_ends_at_once_if_its_application_has_ended_already(started):
    """A worker whose application ended while it started has nobody who would end it: it ends by itself."""
    process, ours = started(parent=1)
    assert process.wait(LIMIT_S) == 1
    assert not ours.recv(wire.HEADER_BYTES)


def test_it_ends_when_the_connection_is_closed(started):
    """An application that goes on but has let go of it needs no signal to end it."""
    process, ours = started(parent=os.getpid())
    assert wire.unpack(ours.recv(wire.HEADER_BYTES)).kind == wire.READY
    ours.close()
    assert process.wait(LIMIT_S) == 0


@pytest.mark.parametrize(
    "question", [wire.Header(99, 7), wire.Header(wire.RUN, 7, session=5), wire.Header(wire.RUN, 7, arena_bytes=2**40)]
)
def test_what_it_does_not_understand_is_answered(started, question):
    """A question that makes no sense gets an error for an answer, by its number, and the worker goes on."""
    _, ours = started(parent=os.getpid())
    ours.recv(wire.HEADER_BYTES)
    for _ in range(2):
        ours.send(wire.pack(question))
        answer = wire.unpack(ours.recv(wire.HEADER_BYTES))
        assert (answer.kind, answer.sequence) == (wire.FAILED, 7)
        assert answer.table_bytes > 0
