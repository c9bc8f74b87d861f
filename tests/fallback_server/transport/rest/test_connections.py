"""Connections over real sockets: which are closed, and when."""

import contextlib
import json
import resource
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import httpx
import pytest
from support.rest_stand import Gate, halves, standing

from fallback_server.transport.rest import connections
from fallback_server.transport.rest.connections import ConnectionLimits, Connections, Phase

BODY = b'{"inputs": [[2, 4]]}'
HALF_A_HEAD = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n"
LIVE = HALF_A_HEAD + b"\r\n"


@contextlib.contextmanager
def connected(stand, *, count=1, sending=b""):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection(("127.0.0.1", stand.port), 30)) for _ in range(count)]
        for one in sockets:
            with contextlib.suppress(ConnectionError):  # It may have made room already.
                one.sendall(sending)
        yield sockets


def read_all(one):
    """What comes until the server closes."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := one.recv(65536):
            data += piece
    return data


def read_answer(one):
    """One answer with a Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += one.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line[16:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(body) < length:
        body += one.recv(65536)
    return head, body


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def counts(stand):
    return {phase: len(waiting) for phase, waiting in stand.server.connections._waiting.items()}


@pytest.mark.parametrize("sending", [b"", HALF_A_HEAD, LIVE + HALF_A_HEAD])
def test_a_head_that_does_not_come_ends_the_connection(tmp_path, sending):
    """Nothing, half a head, or half of a second one: each has the same time."""
    limits = ConnectionLimits(head_s=0.3, idle_s=1000)
    with standing({}, tmp_path, limits=limits) as stand, connected(stand, sending=sending) as (one,):
        read_all(one)


def test_a_connection_that_is_not_used_is_closed(tmp_path):
    """Also one on which something came after the answer, and no request."""
    with standing({}, tmp_path, limits=ConnectionLimits(head_s=1000, idle_s=0.3)) as stand:
        with connected(stand, sending=LIVE) as (one,):
            assert b"200 OK" in read_all(one)
        asked = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
        with connected(stand, sending=asked) as (one,):
            assert b"404" in read_answer(one)[0]
            one.sendall(b"{}")
            read_all(one)


def test_the_rest_of_a_body_that_nobody_waits_for_must_come_soon(tmp_path):
    """Its request was answered without it."""
    with standing({}, tmp_path, limits=ConnectionLimits(head_s=0.3, idle_s=1000)) as stand:
        asked = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{"
        with connected(stand, sending=asked) as (one,):
            assert b"404" in read_all(one)


def drop_by_drop(one, end, every_s=0.05, size_bytes=4096):
    """Takes a little now and then until something is so."""
    deadline = time.monotonic() + 30
    one.settimeout(30)
    while not end():
        assert time.monotonic() < deadline
        with contextlib.suppress(ConnectionError):
            one.recv(size_bytes)
        time.sleep(every_s)


@contextlib.contextmanager
def flooding_with_answers(stand, path=b"/openapi.json", many=100_000):
    """A client that asks without end, and has not taken an answer yet."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(("127.0.0.1", stand.port))
        one.settimeout(1)
        with contextlib.suppress(OSError):
            one.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path * many)
        until(lambda: counts(stand)[Phase.TAKE] == 1)
        yield one


def test_who_takes_little_of_an_answer_is_given_up(tmp_path):
    """A step is asked for, as of bodies: a little now and then would hold the answer for ever."""
    with (
        standing({}, tmp_path, limits=ConnectionLimits(stall_s=1)) as stand,
        flooding_with_answers(stand) as one,
    ):
        drop_by_drop(one, lambda: not stand.server.connections.connections, every_s=0.4, size_bytes=1000)


def test_who_takes_little_of_an_answer_makes_room(tmp_path, monkeypatch):
    """It waits for no server: whoever comes has its place."""
    monkeypatch.setattr(connections, "_STEP_PAUSE_S", 0.5)
    with (
        standing({}, tmp_path, limits=ConnectionLimits(connections=1)) as stand,
        flooding_with_answers(stand) as one,
    ):
        live = f"{stand.url}/v2/health/live"

        def answered():
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(live, timeout=30).status_code == 200
            return False

        drop_by_drop(one, answered, size_bytes=100)


def test_a_client_that_takes_nothing_is_given_up(tmp_path):
    """Its answer would be held for ever."""
    with standing({}, tmp_path, limits=ConnectionLimits(stall_s=0.3)) as stand:
        metrics = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
        with connected(stand) as (one,):
            until(lambda: stand.server.connections.connections)
            (connection,) = stand.server.connections.connections
            with contextlib.suppress(OSError, TimeoutError):
                one.settimeout(5)
                one.sendall(metrics * 100_000)
            until(lambda: not stand.server.connections.connections)
            assert connection.transport.is_closing()


def test_who_waits_makes_room_for_who_comes(tmp_path):
    """Those that have asked nothing, the oldest first, where they are more than those that are idle."""
    with (
        standing({}, tmp_path, limits=ConnectionLimits(connections=4)) as stand,
        connected(stand, sending=LIVE) as (idle,),
        connected(stand, sending=HALF_A_HEAD, count=3) as heads,
    ):
        read_answer(idle)
        until(lambda: counts(stand) == {Phase.HEAD: 3, Phase.IDLE: 1, Phase.BODY: 0, Phase.TAKE: 0})
        assert httpx.get(f"{stand.url}/v2/health/live").status_code == 200
        read_all(heads[0])
        heads[1].sendall(b"\r\n")
        assert b"200 OK" in read_answer(heads[1])[0]
        idle.sendall(LIVE)
        assert b"200 OK" in read_answer(idle)[0]


def test_a_flood_of_half_requests_leaves_the_others_their_answers(tmp_path):
    """However many come, and however long they stay."""
    with (
        standing({("half", 1): halves()}, tmp_path, limits=ConnectionLimits(connections=50)) as stand,
        connected(stand, sending=HALF_A_HEAD, count=300),
    ):
        for _ in range(3):
            answer = httpx.post(f"{stand.url}/v1/models/half:predict", content=BODY, timeout=30)
            assert answer.json() == {"outputs": [[1.0, 2.0]]}
        assert len(stand.server.connections.connections) <= 50


def test_where_all_are_at_work_the_next_are_told_so(tmp_path):
    """In JSON, as all refusals are; and what comes beyond even those is closed."""
    gate = Gate()
    asked = b"POST /v1/models/slow:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n" + b'{"inputs": [1]}'
    with (
        standing({("slow", 1): gate.executor}, tmp_path, limits=ConnectionLimits(connections=3)) as stand,
        connected(stand, sending=asked, count=3) as working,
    ):
        until(lambda: len(stand.server._backend._waiting) == 3)
        answer = httpx.get(f"{stand.url}/v2/health/live", timeout=30)
        assert answer.status_code == 503
        assert answer.json()["error"] == "the server has as many connections as it takes, and all are in use"
        gate.opened.set()
        for one in working:
            assert json.loads(read_answer(one)[1]) == {"outputs": [1.0]}
        assert httpx.get(f"{stand.url}/v2/health/live", timeout=30).status_code == 200


def test_who_gives_way():
    """A table: what came no step further; else the oldest of whom there are most, but not who has just come."""

    class Fake:
        def __init__(self):
            self.transport = SimpleNamespace(abort=lambda: None)
            self.phase = Phase.HEAD

    def table(*phases):
        places, fakes = Connections(ConnectionLimits(connections=8)), [Fake() for _ in phases]
        for now_s, (fake, phase) in enumerate(zip(fakes, phases, strict=True)):
            places.connections.add(fake)
            fake.phase = phase
            places.moved(fake, Phase.BUSY, phase, float(now_s))
        return places, fakes

    head, idle, body, take, busy = Phase.HEAD, Phase.IDLE, Phase.BODY, Phase.TAKE, Phase.BUSY
    crowd = [head] * 5
    for phases, now_s, goes in (
        ([idle, body, head, head], 4, 2),
        ([idle, body, head, head], 7, 1),
        ([body, idle, busy, idle], 4, 1),
        ([head, idle, idle], 9, 1),
        ([busy, body, body], 3, None),
        ([busy, body, body], 7, 1),
        ([head, take, body], 7, 1),
        ([head, body, take], 7, 1),
        ([busy, busy], 100, None),
        ([busy, head], 1.5, None),
        ([busy, head], 3, 1),
        ([idle, head, head], 2, 0),
        ([busy, *crowd[1:]], 0, None),
        ([busy, *crowd], 0, 1),
        ([], 0, None),
    ):
        places, fakes = table(*phases)
        if not now_s:
            for fake in fakes[1:]:
                places.moved(fake, head, head, now_s)  # All have just come.
        assert places.make_room(now_s) is (goes is not None)
        gone = [index for index, fake in enumerate(fakes) if fake not in places.connections]
        assert gone == ([] if goes is None else [goes])
    places, fakes = table(body, head, take)
    places.moved(fakes[0], body, body, 9.0)
    places.moved(fakes[2], take, take, 8.0)  # Both go on.
    assert places.make_room(9)
    assert fakes[1] not in places.connections
    assert not places.make_room(12)
    assert places.make_room(13.5)
    assert places.connections == {fakes[0]}


def test_what_is_no_http_is_refused_in_json(tmp_path):
    """Also in the middle of a body; and nothing of it is in the log."""
    with standing({("half", 1): halves()}, tmp_path) as stand:
        chunked = b"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        for sending in (b"nonsense\r\n\r\n", chunked + b"zz\r\n", LIVE + b"\r\n" * 3 + b"\x00\r\n\r\n"):
            with connected(stand, sending=sending) as (one,):
                said = read_all(one)
                assert b"400 Bad Request" in said
                assert said.endswith(b'{"error":"Invalid HTTP request received."}')


def test_a_body_of_two_lengths_is_refused(tmp_path):
    """It could hide a request from what stands before the server: RFC 9112, section 6.1."""
    with standing({("half", 1): halves()}, tmp_path, cors=True) as stand:
        for version, length in ((b"1.1", b"Content-Length: 5\r\n"), (b"1.0", b"")):
            asked = b"POST /v1/models/half:predict HTTP/%s\r\nHost: x\r\n%sTransfer-Encoding: chunked\r\n\r\n"
            with connected(stand, sending=asked % (version, length) + b"0\r\n\r\n" + LIVE) as (one,):
                said = read_all(one)
                assert said.startswith(b"HTTP/1.1 400 ")
                assert said.count(b"HTTP/1.1") == 1


_STARVED = """
import logging, resource, sys, tempfile, pathlib
sys.path[:0] = sys.argv[1:]
from support.rest_stand import halves, standing
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
logging.basicConfig()
with standing({}, pathlib.Path(tempfile.mkdtemp())) as stand:
    print(stand.server.connections.limits.connections, stand.port, flush=True)
    held = []
    try:
        while True:
            held.append(open("/dev/null"))
    except OSError:
        pass
    print("out", flush=True)
    sys.stdin.readline()
    held.clear()
    print("in", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.slow
def test_a_process_out_of_descriptors_closes_what_comes_and_goes_on(tmp_path):
    """It takes half of them at most for REST; without any it says so once, and serves as soon as there are some."""
    script = tmp_path / "starved.py"
    script.write_text(_STARVED)
    with subprocess.Popen(
        [sys.executable, script, *sys.path], stdin=-1, stdout=-1, stderr=-1, text=True, bufsize=1
    ) as process:
        limit, port = map(int, process.stdout.readline().split())
        assert limit == 32
        stand = SimpleNamespace(port=port)
        assert process.stdout.readline() == "out\n"
        for _ in range(3):
            with connected(stand, sending=LIVE, count=20) as sockets:
                assert {read_all(one) for one in sockets} == {b""}
        process.stdin.write("\n")
        assert process.stdout.readline() == "in\n"
        assert httpx.get(f"http://127.0.0.1:{port}/v2/health/live", timeout=30).status_code == 200
        _, log = process.communicate("\n", timeout=30)
        assert log.count("\n") == 1
        assert "no descriptors are left" in log


def test_the_limit_of_descriptors_is_raised_as_far_as_allowed():
    """The soft one to the hard one, but not beyond a bound."""
    code = (
        "import resource; from fallback_server.descriptors import raise_descriptor_limit;"
        "hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 500);"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard)); print(raise_descriptor_limit())"
    )
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 500
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert run.stdout == b"500\n"
