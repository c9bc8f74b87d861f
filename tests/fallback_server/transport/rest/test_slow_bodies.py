"""Bodies that come slowly, over real sockets: which are waited for, and which are not."""

import asyncio
import contextlib
import socket
import time
import zlib

import httpx
import pytest
from support.rest_stand import Gate, halves, standing

from fallback_server.transport.rest import connections
from fallback_server.transport.rest.backend import BODY_STEP_BYTES
from fallback_server.transport.rest.connections import ConnectionLimits

HEAD = b"POST /v1/models/%s:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"


@contextlib.contextmanager
def asking(stand, length, model=b"half"):
    with socket.create_connection(("127.0.0.1", stand.port), 30) as client:
        client.sendall(HEAD % (model, length))
        yield client


def read_all(client):
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := client.recv(65536):
            data += piece
    return data


def trickle(client, every_s=0.02, what=b" "):
    """Sends a byte now and then until the server has had enough; what it says."""
    deadline = time.monotonic() + 30
    client.settimeout(every_s)
    said = b""
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < deadline:
            try:
                if not (piece := client.recv(65536)):
                    return said
                said += piece
            except TimeoutError:
                client.sendall(what)
    assert time.monotonic() < deadline
    return said


def wait_s(seconds):
    """Longer than a time that the server must not have kept."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        time.sleep(0.01)


def test_a_body_that_goes_on_coming_is_waited_for(tmp_path):
    """However long it takes in all: neither the time for the answer runs yet, nor is any one step too slow."""
    options = {"timeout_s": 3, "limits": ConnectionLimits(stall_s=3)}
    body = b'{"inputs": [[2, 4]]' + b" " * 4 * BODY_STEP_BYTES + b"}"
    with standing({("half", 1): halves()}, tmp_path, **options) as stand, asking(stand, len(body)) as client:
        for begin in range(0, len(body), BODY_STEP_BYTES):
            client.sendall(body[begin : begin + BODY_STEP_BYTES])
            wait_s(0.8)
        assert read_all(client).startswith(b"HTTP/1.1 200 ")


def test_the_time_for_the_answer_starts_when_the_body_is_there(tmp_path):
    """Then it is as long as for any other request, and the answer says what was late."""
    gate = Gate()
    with standing({("slow", 1): gate.executor}, tmp_path, timeout_s=0.5) as stand:
        with asking(stand, 15, b"slow") as client:
            client.sendall(b'{"inputs":')
            wait_s(1)
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(1)
            client.settimeout(30)
            client.sendall(b" [1]}")
            said = read_all(client)
        gate.opened.set()
    assert said.startswith(b"HTTP/1.1 504 ")
    assert said.endswith(b'{"error":"the answer took longer than 500 ms"}')


@pytest.mark.parametrize("timeout_s", [None, 30.0])
def test_a_body_that_trickles_is_given_up(tmp_path, timeout_s):
    """A byte now and then is no progress; the answer says what was late, and the connection is closed."""
    limits = ConnectionLimits(stall_s=0.5)
    with standing({}, tmp_path, timeout_s=timeout_s, limits=limits) as stand, asking(stand, 10**6) as client:
        said = trickle(client)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"the request's body stalled after " in said
    assert b"neither 16384 more nor its end came within 0.5 s" in said


def test_a_body_that_holds_much_must_go_on_as_fast(tmp_path):
    """A step now and then would do for a small one: a large one holds what others want."""
    limits = ConnectionLimits(stall_s=1)
    with standing({}, tmp_path, limits=limits) as stand, asking(stand, 10**9) as client:
        client.sendall(b" " * 2**22)
        said = trickle(client, every_s=0.4, what=b" " * BODY_STEP_BYTES)
    assert said.startswith(b"HTTP/1.1 408 ")
    needed_bytes = int(said.partition(b"neither ")[2].partition(b" more")[0])
    assert 100_000 < needed_bytes <= 2**23 // 32


def test_a_packed_body_that_unpacks_to_nothing_is_given_up(tmp_path):
    """However many bytes come: they hold what was unpacked before."""
    head = (HEAD % (b"half", 10**9)).replace(b"Host: x", b"Host: x\r\nContent-Encoding: gzip")
    packer = zlib.compressobj(wbits=31)
    empty = b"\0\0\0\xff\xff" * (BODY_STEP_BYTES // 5 + 1)
    with contextlib.ExitStack() as stack:
        stand = stack.enter_context(standing({}, tmp_path, limits=ConnectionLimits(stall_s=1)))
        client = stack.enter_context(socket.create_connection(("127.0.0.1", stand.port), 30))
        client.sendall(head + packer.compress(b" " * 2**20) + packer.flush(zlib.Z_SYNC_FLUSH))
        assert trickle(client, every_s=0.2, what=empty).startswith(b"HTTP/1.1 408 ")


def test_a_stop_waits_for_no_body(tmp_path):
    """A request that is not there is none in flight: its client is told, also where it goes on sending."""
    with contextlib.ExitStack() as stack:
        stand = stack.enter_context(standing({("half", 1): halves()}, tmp_path))
        silent, sending = (stack.enter_context(asking(stand, 10**6)) for _ in range(2))
        silent.sendall(b'{"inputs":')
        until_s = time.monotonic() + 30
        while len(stand.server._backend._arriving) < 2:
            assert time.monotonic() < until_s
            time.sleep(0.005)
        stopping = asyncio.run_coroutine_threadsafe(stand.server.stop(grace_s=600), stand.loop)
        assert trickle(sending).startswith(b"HTTP/1.1 503 ")
        assert read_all(silent).endswith(b'{"error":"the server is stopping"}')
        stopping.result(30)


def test_a_body_that_trickles_makes_room(tmp_path, monkeypatch):
    """For a new connection where there are too many: as one that has gone silent does."""
    monkeypatch.setattr(connections, "_STEP_PAUSE_S", 0.5)
    with standing({}, tmp_path, limits=ConnectionLimits(connections=1)) as stand, asking(stand, 10**6) as client:
        deadline = time.monotonic() + 30
        with contextlib.suppress(ConnectionError):
            while True:
                assert time.monotonic() < deadline
                client.sendall(b" ")
                with contextlib.suppress(httpx.TransportError):
                    httpx.get(f"{stand.url}/v2/health/live", timeout=30)
        assert httpx.get(f"{stand.url}/v2/health/live", timeout=30).status_code == 200
