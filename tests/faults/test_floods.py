"""Floods of frames, over raw HTTP/2: no connection grows the server's memory, nor keeps others from their answers."""

import struct
import time

import grpc
import pytest
from support.bystanders import others_served
from support.raw_http2 import (
    CANCEL,
    END_HEADERS,
    END_STREAM,
    Kind,
    RawHttp2,
    call_headers,
    frame,
    header,
    message,
    settings,
)
from support.worker_servers import Connection, request

from fallback_server.protocol import methods
from fallback_server.transport.client_bounds import MAX_STREAMS

pytestmark = pytest.mark.slow

PREDICT = methods.PREDICT.path
HEADERS = call_headers(PREDICT)
REQUEST = message(request().SerializeToString())
REFUSED = {"grpcio": {11}, "native": {7}}
"""The codes of HTTP/2: ENHANCE_YOUR_CALM, REFUSED_STREAM."""


def begun(stream, *, headers=HEADERS, end=False):
    return frame(Kind.HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, headers)


def resets(draw):
    """Calls that are reset at once, some with their request."""
    for stream in range(1, 80_000, 2):
        asked = [frame(Kind.DATA, END_STREAM, stream, REQUEST)] if draw.random() < 0.5 else []
        yield b"".join((begun(stream), *asked, frame(Kind.RST_STREAM, 0, stream, struct.pack("!I", CANCEL))))


def calls_that_stay(draw):
    """Calls of which a part of the request comes."""
    for stream in range(1, 40_000, 2):
        part = message(bytes(draw.randrange(200)), length=draw.randrange(10_000, 10**9))
        yield begun(stream) + frame(Kind.DATA, 0, stream, part)


def pings(draw):
    for _ in range(500):
        yield frame(Kind.PING, 0, 0, draw.randbytes(8)) * 100


def many_settings(draw):
    for _ in range(500):
        yield settings(initial_window_size=draw.randrange(2**31)) * 100


def windows(_draw):
    yield begun(1)
    for _ in range(500):
        yield frame(Kind.WINDOW_UPDATE, 0, 1, struct.pack("!I", 1)) * 100


def nothing(_draw):
    yield begun(1)
    for _ in range(500):
        yield frame(Kind.DATA, 0, 1) * 100


def priorities(draw):
    for _ in range(500):
        yield frame(Kind.PRIORITY, 0, 2 * draw.randrange(1, 2**20) + 1, struct.pack("!IB", 0, 9)) * 100


def endless_headers(draw):
    """Of one call: 40 MB."""
    yield frame(Kind.HEADERS, 0, 1, HEADERS)
    for number in range(5000):
        yield frame(Kind.CONTINUATION, 0, 1, header(b"x-%d" % number, draw.randbytes(4).hex().encode() * 1000))


def empty_continuations(_draw):
    yield frame(Kind.HEADERS, 0, 1, HEADERS)
    for _ in range(500):
        yield frame(Kind.CONTINUATION, 0, 1) * 100


def headers_by_reference(_draw):
    """A header of 3.8 KB is sent once, and named 1000 times by a byte each: calls of 5 KB mean 3.8 MB."""
    yield begun(1, headers=HEADERS + header(b"x", b"y" * 3800, kept=True), end=True)
    for stream in range(3, 1003, 2):
        yield begun(stream, headers=HEADERS + b"\xbe" * 1000, end=True)


FLOODS = {
    resets: 200,
    calls_that_stay: 200,
    pings: 100,
    many_settings: 100,
    windows: 100,
    nothing: 100,
    priorities: 100,
    endless_headers: 200,
    empty_continuations: 100,
    headers_by_reference: 400,
}
"""By how many MiB each may grow the server: above what was measured, far below what it would be without bounds."""


def pour(client, pieces, piece_bytes=2**16):
    """Sends as fast as the server reads, until it has had enough."""
    waiting = []
    for piece in pieces:
        waiting.append(piece)
        if sum(map(len, waiting)) > piece_bytes:
            if not client.send(*waiting):
                return
            waiting = []
            client.frames()  # Otherwise what it says could fill its buffers, and it would read no more.
    client.send(*waiting)


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.__name__)
def test_a_flood_of_frames_harms_nobody_else(server, draw, flood):
    """Whether the server bears it or closes the connection: memory stays within bounds, and others are served."""
    with others_served(server, most_mib=FLOODS[flood]) as others, RawHttp2(server.port) as client:
        pour(client, flood(draw))
        others.served()


def test_a_connection_has_so_many_calls_and_no_more(server):
    """What a client begins beyond is reset at once, and what it has begun stays."""
    with others_served(server, most_mib=200) as others, RawHttp2(server.port) as client:
        client.send(*(begun(2 * number + 1) for number in range(MAX_STREAMS + 200)))
        reset = []
        end_s = time.monotonic() + 20
        while len(reset) < 200 and time.monotonic() < end_s:
            reset += [one for one in client.frames(wait_s=0.1) if one.kind == Kind.RST_STREAM]
        assert {one.stream for one in reset} == {2 * number + 1 for number in range(MAX_STREAMS, MAX_STREAMS + 200)}
        assert {int.from_bytes(one.payload, "big") for one in reset} == REFUSED[server.transport]
        others.served()


def test_an_honest_burst_beyond_that_waits_and_is_answered_whole(server):
    """None of 3000 calls at once over one connection is refused: a client waits until it may begin them."""
    connection = Connection(server.address)
    predict = methods.PREDICT.bind(connection.channel)
    try:
        calls = [predict.future(request(values=(number, 0, 0, 0)), timeout=120) for number in range(3000)]
        assert [call.result().outputs["y"].float_val[0] for call in calls] == [2.0 * number for number in range(3000)]
    finally:
        connection.close()


def test_large_metadata_are_refused_and_the_connection_goes_on(server):
    """By a status, not by a lost connection; which one the two servers say is documented."""
    connection = Connection(server.address)
    try:
        with pytest.raises(grpc.RpcError) as refused:
            methods.PREDICT.bind(connection.channel)(request(), timeout=30, metadata=[("x", "y" * 40_000)])
        assert refused.value.code() in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNKNOWN}
        assert connection.predict() == (1, 2.0)
    finally:
        connection.close()
