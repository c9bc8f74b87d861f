"""The client of the overload benchmark reads what gRPC's servers write."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
import pytest

from benchmarks.raw_calls import DEADLINE_EXCEEDED, Failed, Load, due, status_of


@contextmanager
def serving(behaviour):
    handler = grpc.method_handlers_generic_handler("a.B", {"C": grpc.unary_unary_rpc_method_handler(behaviour)})
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None)


@pytest.mark.parametrize(("code", "huffman"), [(0, "07"), (4, "6b"), (8, "7b"), (16, "0b9f")])
def test_a_status_is_found_plain_and_in_huffmans_code(code, huffman):
    """As gRPC's servers in C write it, and those in Rust."""
    plain = b"\x40\x0bgrpc-status" + bytes([len(str(code))]) + str(code).encode()
    value = bytes.fromhex(huffman)
    short = b"\x40" + bytes.fromhex("889acac8b21234da8f") + bytes([0x80 | len(value)]) + value
    assert status_of(plain) == status_of(short) == code
    with pytest.raises(Failed):
        status_of(b"\x40\x0bgrpc-")


@pytest.mark.slow
def test_every_call_ends_with_what_the_server_said():
    """Answers, refusals, and calls that are given up at their deadline, which the server is told of; in order."""
    asked, hold = [], threading.Event()

    def behaviour(message, context):
        asked.append(message)
        number = len(asked)
        if number == 3:
            hold.wait(20)
        if number == 2:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return b"answer"

    with serving(behaviour) as port:
        began_s = time.monotonic() + 1
        load = Load(port, "/a.B/C", b"x" * 40_000, phases=[(10, 0.5)], deadline_ms=400, began_s=began_s)
        calls = load.result()
        hold.set()
    assert asked == [b"x" * 40_000] * 5
    assert calls.status.tolist() == [0, 8, DEADLINE_EXCEEDED, 0, 0]
    assert calls.took_ms[2] >= 400
    assert np.all(calls.lag_ms >= 0)


def test_calls_are_due_at_even_rates():
    """One phase after the other."""
    assert due(5.0, [(2.0, 1.0), (4.0, 0.5)]).tolist() == [5.0, 5.5, 6.0, 6.25]
