"""Answers that nobody takes: how much of them is held, and whose."""

import contextlib
import json
import socket
import ssl
import time

from support.rest_stand import NumpyExecutor, standing
from support.tls_files import CERTIFICATE, KEY

from fallback_server.config import TlsFiles
from fallback_server.transport.rest.backend import BODY_STEP_BYTES, GROWTH
from fallback_server.transport.rest.connections import ConnectionLimits, Phase
from fallback_server.transport.rest.taking import Taking
from fallback_server.transport.tls import TlsKeeper

MIB = 2**20
SIZE_BYTES = 16 * MIB


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def wide():
    return NumpyExecutor(serving_default=({"x": (-1, -1)}, {"y": (-1, -1)}, lambda x: {"y": x}))


@contextlib.contextmanager
def asking(stand, size_bytes=SIZE_BYTES):
    """One who has asked for a large answer, and taken its beginning."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, size_bytes // 4]}
    tensor["parameters"] = {"binary_data_size": size_bytes}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    head = b"POST /v2/models/wide/infer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n" % (len(text), len(text) + size_bytes)
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.settimeout(60)
        one.connect(("127.0.0.1", stand.port))
        one.sendall(head + text + bytes(size_bytes))
        assert one.recv(15) == b"HTTP/1.1 200 OK"
        yield one


def read_all_bytes(one):
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
    count = 0
    with contextlib.suppress(ConnectionError):
        while piece := one.recv(MIB):
            count += len(piece)
    return count


def test_a_step_is_a_part_of_what_is_held():
    """16 KiB, or a 32nd; and the next answer behind one is none of what was not taken."""
    taking = Taking(lambda: None)
    taking.begin(2**17)
    assert not taking.stepped(2**17 - BODY_STEP_BYTES + 1)
    assert taking.stepped(2**17 - BODY_STEP_BYTES)
    assert not taking.stepped(2**17)
    assert taking.stepped(2**17 - BODY_STEP_BYTES)
    size_bytes = 2**26
    with taking.sending(size_bytes):
        taking.begin(0)
        taking.handed(size_bytes // GROWTH)
        assert not taking.stepped(BODY_STEP_BYTES)
        taking.handed(MIB)
        assert taking.stepped(MIB // 2)
        assert not taking.stepped(MIB // 2)
    assert taking.answer_bytes == 0


def test_answers_that_nobody_takes_have_a_bound_together(tmp_path):
    """Who has waited longest for its client goes; the others' answers are whole, and nothing stays counted."""
    limits = ConnectionLimits(answers_bytes=2 * SIZE_BYTES + 8 * MIB)
    with standing({("wide", 1): wide()}, tmp_path, limits=limits) as stand, contextlib.ExitStack() as stack:
        connections = stand.server.connections
        clients = []
        for count in (1, 2, 2):
            clients.append(stack.enter_context(asking(stand)))
            until(lambda count=count: len(connections._waiting[Phase.TAKE]) == count)
            assert SIZE_BYTES * count <= connections._held_bytes <= limits.answers_bytes
        assert read_all_bytes(clients[0]) < SIZE_BYTES
        for client in clients[1:]:
            assert read_all_bytes(client) > SIZE_BYTES
        until(lambda: not connections.connections)
        assert (connections._held_bytes, connections._held) == (0, {})


def test_an_answer_larger_than_the_bound_is_given_alone(tmp_path):
    """Else it could not be had at all."""
    limits = ConnectionLimits(answers_bytes=MIB)
    with standing({("wide", 1): wide()}, tmp_path, limits=limits) as stand, asking(stand) as one:
        assert read_all_bytes(one) > SIZE_BYTES


def test_who_takes_nothing_over_tls_is_given_up(tmp_path):
    """What waits below TLS counts: TLS itself has passed it on."""
    keeper = TlsKeeper(TlsFiles(key_pem=KEY, certificate_pem=CERTIFICATE, rest_clients="none"))
    limits = ConnectionLimits(stall_s=0.5)
    trusting = ssl.create_default_context(cadata=CERTIFICATE.decode())
    with standing({}, tmp_path, tls=keeper, limits=limits) as stand:
        plain = socket.create_connection(("127.0.0.1", stand.port), 30)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with trusting.wrap_socket(plain, server_hostname="127.0.0.1") as one:
            one.settimeout(1)
            with contextlib.suppress(OSError):
                one.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100_000)
            until(lambda: not stand.server.connections.connections)
