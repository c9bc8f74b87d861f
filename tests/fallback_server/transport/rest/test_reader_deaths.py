"""Processes that read large JSON die, or nobody waits for them: what it costs, whom, and what the log says."""

import contextlib
import logging
import os
import select
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import orjson
import psutil
import pytest
from support.fallback_fakes import signature
from support.rest_stand import halves, standing

from fallback_server.core.errors import RequestCancelled, ServerStopping
from fallback_server.transport.rest import json_codec, pickles
from fallback_server.transport.rest.backend import JSON_BYTES
from fallback_server.transport.rest.json_readers import JsonReaders, Reading
from fallback_server.transport.rest.refusals import HttpRefused

pytestmark = pytest.mark.slow

FOREVER = (select.select, bytearray(), [], [])
"""A call that waits for no descriptor, without a bound."""


@pytest.fixture
def pool():
    with ThreadPoolExecutor() as pool:
        yield pool


@pytest.fixture
def readers(pool):  # Closed before the pool, whose threads may wait for them.
    with contextlib.closing(JsonReaders(at_once=2)) as readers:
        readers.read(json_codec.check, bytearray(b"{}"))
        yield readers


def until(holds):
    deadline = time.monotonic() + 30
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def program(readers):
    return psutil.Process(readers._program._process.pid)


def forks(readers, count=1):
    """The forks, once there are so many that have nothing else to do than to wait."""
    return until(lambda: len(found := program(readers).children()) == count and found)


def test_a_read_that_is_given_up_ends_its_process(readers, pool):
    """Also one that is stopped; whoever waited is told, and nothing is logged."""
    reading = Reading(*FOREVER)
    answer = pool.submit(readers.run, reading)
    (fork,) = forks(readers)
    fork.suspend()
    reading.give_up()
    with pytest.raises(RequestCancelled):
        answer.result(30)
    until(lambda: not fork.is_running())
    with pytest.raises(RequestCancelled):
        readers.run(reading)


def test_a_body_whose_reader_was_killed_is_read_again(readers, pool, caplog):
    """Once; a second time it is 503, and not the body's fault. One line is logged for both."""
    once = pool.submit(readers.read, select.select, bytearray(), [], [], 1.0)
    forks(readers)[0].kill()
    assert once.result(30) == ([], [], [])
    until(lambda: not program(readers).children())
    twice = pool.submit(readers.read, *FOREVER)
    for _ in range(2):
        (fork,) = forks(readers)
        fork.kill()
        until(lambda fork=fork: not fork.is_running())
    with pytest.raises(HttpRefused, match="the request's body of 0 bytes were killed: ask again later") as refused:
        twice.result(30)
    assert refused.value.status == 503
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "a process that read a body of 0 bytes was killed"
    ]


def test_a_fork_that_is_killed_at_once_is_not_taken_for_the_program(readers):
    """The program says that it has forked, also where the other end of the fork's pipe was closed before."""
    here, theirs = socket.socketpair()
    lifeline, other = os.pipe()
    os.close(other)
    with here, theirs:
        socket.send_fds(readers._program.control, [b"."], [theirs.fileno(), lifeline])
        os.close(lifeline)
        theirs.close()
        here.settimeout(30)
        assert here.recv(10) == pickles.FORKED
        assert here.recv(10) == b""


def test_a_program_that_was_killed_takes_no_read_with_it(readers, pool, caplog):
    """What its forks have begun is finished, what comes is read by the next program; the log says what ended how."""
    answers = [pool.submit(readers.read, select.select, bytearray(), [], [], 1.0) for _ in range(3)]
    begun = forks(readers, 3)
    program(readers).kill()
    assert readers.read(json_codec.check, bytearray(b"{}")) is None
    assert [answer.result(30) for answer in answers] == [([], [], [])] * 3
    until(lambda: not any(fork.is_running() and fork.status() != psutil.STATUS_ZOMBIE for fork in begun))
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "the process that forks readers of large bodies ended (signal 9), and is started anew"
    ]


def test_what_a_parser_crashes_of_is_too_large():
    """Where memory is short the parser may end with a signal, or name another cause: it is 413, and read once."""
    spec = signature({"x": (-1,)}, {"y": (-1,)}, name="serving_default")
    refused = []
    with contextlib.closing(JsonReaders(at_once=1, free=lambda: 0)) as readers:
        for item in (b"1.5, ", b'"ab", ', b'{"a":1}, '):
            for size_bytes in (2**25, 2**26):
                body = bytearray(b'{"instances": [' + item * (size_bytes // len(item)) + b"1]}")
                with pytest.raises(HttpRefused) as error:
                    readers.read(json_codec.read_predict, body, {"serving_default": spec})
                refused.append(error.value.status)
    assert refused == [413] * 6


def test_closing_ends_what_is_read(readers, pool):
    """Whoever waits hears that the server stops."""
    answer = pool.submit(readers.read, *FOREVER)
    (fork,) = forks(readers)
    readers.close()
    with pytest.raises(ServerStopping):
        answer.result(30)
    until(lambda: not fork.is_running() or fork.status() == psutil.STATUS_ZOMBIE)


def test_clients_that_leave_hold_no_others_up(tmp_path):
    """More of them than bodies are read at a time: what is read for them ends, and nothing of theirs stays held."""
    rows = np.arange(2 * 2**16, dtype=np.float32).reshape(-1, 2)
    text = orjson.dumps({"inputs": rows}, option=orjson.OPT_SERIALIZE_NUMPY)
    assert len(text) > JSON_BYTES
    with standing({("half", 1): halves()}, tmp_path) as stand:
        backend = stand.server._backend
        url = httpx.URL(f"{stand.url}/v1/models/half:predict")
        httpx.post(url, content=text, timeout=30)
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (url.raw_path, len(text))
        reader = backend._readers._program._process
        os.kill(reader.pid, signal.SIGSTOP)
        try:
            clients = [socket.create_connection((url.host, url.port)) for _ in range(16)]
            for client in clients:
                client.sendall(head + text)
            until(lambda: backend.held.bytes == len(clients) * len(text))
            for client in clients:
                client.close()
            until(lambda: not backend.held.bytes and not backend._readers._forks)
            until(lambda: not backend._pool._work_queue.qsize())
        finally:
            os.kill(reader.pid, signal.SIGCONT)
        assert np.array_equal(httpx.post(url, content=text, timeout=30).json()["outputs"], rows / 2)
