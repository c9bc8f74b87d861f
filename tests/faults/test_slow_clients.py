"""Clients that send half of something, or take nothing: what they have begun is bounded, and others are served."""

import contextlib
import json
import socket
import ssl
import time
import zlib

import httpx
import pytest
from support.bystanders import DEADLINE_S, MIB, memory_mib, others_served, serve
from support.raw_http2 import END_HEADERS, END_STREAM, Kind, RawHttp2, call_headers, frame, message
from support.secure_servers import Caller, Site
from support.worker_servers import request

from fallback_server.protocol import methods
from fallback_server.transport.arrivals import MAX_READS, MAX_UNREAD

pytestmark = pytest.mark.slow

HEADERS = call_headers(methods.PREDICT.path)
REQUEST = message(request().SerializeToString())
NESTED = 100_000


def whole_calls(first, many):
    for number in range(first, first + many):
        yield frame(Kind.HEADERS, END_HEADERS, 2 * number + 1, HEADERS)
        yield frame(Kind.DATA, END_STREAM, 2 * number + 1, REQUEST)


@pytest.mark.parametrize("window_bytes", [0, 2**31 - 1], ids=["closed-window", "reads-nothing"])
def test_who_takes_no_answer_has_so_many_waiting_and_no_more(server, window_bytes):
    """By HTTP/2's windows, or by TCP's: answers that nobody takes do not pile up beyond a connection's calls."""
    with (
        others_served(server, most_mib=200) as others,
        RawHttp2(server.port, initial_window_size=window_bytes, receive_bytes=2048, timeout_s=0.5) as client,
    ):
        end_s = time.monotonic() + 8
        for first in range(0, 20_000, 50):
            if time.monotonic() > end_s or not client.send(*whole_calls(first, 50)):
                break
            if not window_bytes:
                client.frames()
        others.served()


def test_half_requests_on_many_connections_keep_nobody(server, draw):
    """Of 20 connections, each with 200 calls without a deadline of which a part has come, at whatever point."""
    with others_served(server, most_mib=300) as others, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawHttp2(server.port)) for _ in range(20)]
        for stream in range(1, 401, 2):
            for client in clients:
                whole = message(bytes(200), length=10**6)
                begun = frame(Kind.HEADERS, END_HEADERS, stream, HEADERS) + frame(Kind.DATA, 0, stream, whole)
                client.send(begun if stream < 399 else begun[: draw.randrange(len(begun))])
        others.served()


def test_half_requests_of_all_connections_have_a_bound_together(tmp_path):
    """Ten connections with 800 calls each: who has waited longest is refused, and as many stay as the bound says."""
    server = serve(tmp_path)
    part = message(bytes(200), length=10**6)
    with (
        contextlib.closing(server),
        others_served(server, most_mib=300) as others,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(RawHttp2(server.port)) for _ in range(10)]
        for client in clients:
            for stream in range(1, 1601, 2):
                client.send(frame(Kind.HEADERS, END_HEADERS, stream, HEADERS), frame(Kind.DATA, 0, stream, part))
        refused, most = 0, 8000 - MAX_UNREAD - MAX_READS
        end_s = time.monotonic() + DEADLINE_S
        while refused < most and time.monotonic() < end_s:
            refused += sum(one.kind == Kind.HEADERS for client in clients for one in client.frames())
        assert refused >= most
        others.served()


def test_bytes_that_trickle_hold_nobody_up(server, draw):
    """A request that comes byte by byte is answered like any other when it is whole."""
    with others_served(server, most_mib=100), RawHttp2(server.port) as client:
        for piece in whole_calls(0, 1):
            for byte in piece:
                client.send(bytes([byte]))
                time.sleep(draw.random() / 100)
        kinds, end_s = [], time.monotonic() + DEADLINE_S
        while Kind.DATA not in kinds and time.monotonic() < end_s:
            kinds += [one.kind for one in client.frames(wait_s=0.2)]
        assert Kind.DATA in kinds


def test_what_a_few_packed_bytes_mean_is_bounded(tmp_path):
    """Where there is a bound on messages, `auto` has grpcio unpack: no further than to that bound."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    whole = message(packer.compress(bytes(60 * MIB)) + packer.flush(), packed=True)
    assert len(whole) < 2**16 - 1  # What a connection may send at once.
    server = serve(tmp_path, "--transport=auto", f"--max_message_bytes={MIB}")
    headers = call_headers(methods.PREDICT.path, (b"grpc-encoding", b"gzip"))
    with contextlib.closing(server), contextlib.ExitStack() as stack:
        others = stack.enter_context(others_served(server, most_mib=40))
        before_mib, most_mib = memory_mib(server), 0.0
        clients = [stack.enter_context(RawHttp2(server.port)) for _ in range(8)]
        for client in clients:
            client.send(frame(Kind.HEADERS, END_HEADERS, 1, headers))
            for at in range(0, len(whole), 16_000):
                ends = END_STREAM if at + 16_000 >= len(whole) else 0
                client.send(frame(Kind.DATA, ends, 1, whole[at : at + 16_000]))
        waiting, end_s = list(clients), time.monotonic() + DEADLINE_S
        while waiting and time.monotonic() < end_s:
            waiting = [one for one in waiting if all(got.kind != Kind.HEADERS for got in one.frames())]
            most_mib = max(most_mib, memory_mib(server) - before_mib)
        assert not waiting
        assert most_mib < 40
        others.served()


@pytest.mark.parametrize("server", ["grpcio"], indirect=True)
@pytest.mark.parametrize("model", [":predict", "/infer"])
def test_json_nested_without_end_is_refused(server, model):
    """A hundred thousand levels deep, closed or not: it is its sender's fault, and costs nobody anything."""
    path = f"http://{server.rest}" + ("/v1/models/lite:predict" if model == ":predict" else "/v2/models/lite/infer")
    bodies = [
        b'{"instances": ' + b"[" * NESTED + b"]" * NESTED + b"}",
        b'{"instances": ' + b"[" * NESTED,
        b'{"inputs": ' * NESTED,
        b'{"inputs": ' * NESTED + b"1" + b"}" * NESTED,
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": '
        + b"[" * NESTED
        + b"]" * NESTED
        + b"}]}",
    ]
    with others_served(server, most_mib=200):
        for body in bodies:
            answer = httpx.post(path, content=body, timeout=DEADLINE_S)
            assert answer.status_code in {400, 413}, answer.text[:200]
            assert "error" in json.loads(answer.content)


@pytest.mark.parametrize("server", ["grpcio"], indirect=True)
def test_half_requests_over_rest_give_way_to_whole_ones(server):
    """Heads and bodies that do not come: more than there are places for, and who asks is answered."""
    host, port = server.rest.rsplit(":", 1)
    head = b"POST /v1/models/lite:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
    with others_served(server, most_mib=300), contextlib.ExitStack() as stack:
        for number in range(4500):
            client = stack.enter_context(socket.create_connection((host, int(port)), DEADLINE_S))
            with contextlib.suppress(OSError):
                client.sendall(head if number % 2 else head + b'\r\n{"instances": [')
        body = {"instances": [[1.0, 2.0, 3.0, 4.0]]}
        answer = httpx.post(f"http://{server.rest}/v1/models/lite:predict", json=body, timeout=DEADLINE_S)
        assert answer.json() == {"predictions": [[2.0, 4.0, 6.0, 8.0]]}


def test_handshakes_of_tls_that_are_not_ended_are_closed(tmp_path):
    """Of gRPC's port: after their time, and those who speak TLS are served meanwhile."""
    site = Site(tmp_path)
    server = site.serve_tls("--tls_clients=none", "--grpc_channel_arguments=grpc.server_handshake_timeout_ms=2000")
    with contextlib.closing(server), contextlib.ExitStack() as stack:
        halves = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 30)) for _ in range(500)]
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="x").do_handshake()
        hello = outgoing.read()
        for number, half in enumerate(halves):
            half.sendall(hello[: number % len(hello)])
        with Caller(server, trusts=site.server) as caller:
            assert caller.predict()[0] == "OK"
        for half in halves:
            half.settimeout(DEADLINE_S)
            with contextlib.suppress(ConnectionError):
                while half.recv(2**16):
                    pass
