"""Bytes of bodies: who may hold how many."""

import socket
import time

import httpx
import pytest
from support.rest_stand import halves, standing

from fallback_server.core.errors import QueueFull
from fallback_server.transport.rest.held import HeldBodies

BODY = b'{"inputs": [[2, 4]]}'


def test_one_address_holds_no_more_than_is_free():
    """Half of all where it is alone, half of the rest where another has that; and what is given back is free again."""
    held = HeldBodies(800)
    held.hold("a", 400)
    with pytest.raises(QueueFull, match=r"the bodies of a's requests take 401 bytes, .* as stay free: 399 of 800"):
        held.hold("a", 1)
    held.hold("b", 200)
    with pytest.raises(QueueFull, match="of b's"):
        held.hold("b", 1)
    held.hold("c", 100)
    assert held.bytes == 700
    held.let_go("a", 400)
    held.hold("b", 100)
    for address, size_bytes in (("b", 300), ("c", 100)):
        held.let_go(address, size_bytes)
    assert (held.bytes, len(held._of)) == (0, 0)


def test_bodies_of_one_address_leave_room_for_those_of_another(tmp_path):
    """However much of them it sends, and however slowly the rest comes."""
    with standing({("half", 1): halves()}, tmp_path) as stand:
        held = stand.server._backend.held
        held.max_bytes = 8 * len(BODY)
        url = f"{stand.url}/v1/models/half:predict"
        with socket.create_connection(("127.0.0.1", stand.port), 30) as one:
            one.sendall(b"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
            one.sendall(b" " * (4 * len(BODY)))
            deadline = time.monotonic() + 30
            while held.bytes < 4 * len(BODY):
                assert time.monotonic() < deadline
                time.sleep(0.005)
            assert httpx.post(url, content=BODY, timeout=30).status_code == 429
            with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as other:
                assert other.post(url, content=BODY, timeout=30).json() == {"outputs": [[1.0, 2.0]]}
