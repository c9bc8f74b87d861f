"""The network that the benchmarks of the far half measure over does what it says."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from benchmarks.network import QUEUE_BYTES, Line, Network

WAIT_S = 30.0


@pytest.mark.parametrize(
    ("bytes_s", "sent", "arrives_s"),
    [
        (0.0, [(0.0, 1000), (0.0, 1000)], [0.01, 0.01]),
        (1000.0, [(0.0, 500), (0.0, 500), (2.0, 100)], [0.51, 1.01, 2.11]),
    ],
)
def test_bytes_leave_a_line_one_after_the_other_and_arrive_after_its_delay(bytes_s, sent, arrives_s):
    """At its bandwidth, for all who use it together; an idle line owes nobody anything."""
    line = Line(0.01, bytes_s)
    assert [line.takes(size, at_s) for at_s, size in sent] == pytest.approx(arrives_s)


def test_a_slow_line_holds_its_queue_and_no_more():
    """Past the queue the sender waits until there is room again."""
    line = Line(0.0, 1000.0)
    line.takes(QUEUE_BYTES, 0.0)
    assert line.room_s(0.0) == 0
    line.takes(2000, 0.0)
    assert line.room_s(0.0) == pytest.approx(2.0)
    assert line.room_s(2.0) == 0


class Echo:
    """A real TCP server that sends back what it is sent."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                one, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(one,), daemon=True).start()

    def _answer(self, one):
        with one:
            try:
                while data := one.recv(65536):
                    one.sendall(data)
            except OSError:
                return

    def close(self):
        self._listener.close()


@pytest.fixture
def echo():
    server = Echo()
    yield server
    server.close()


def asked(address, text=b"hello"):
    """What comes back of a text over a connection of its own."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), WAIT_S) as one:
        one.sendall(text)
        one.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: one.recv(65536), b""))


@pytest.mark.slow
def test_a_network_that_is_cut_resets_and_refuses_until_it_is_open_again(echo):
    """At the same address, and then to another server where it is told so."""
    text = bytes(range(256)) * 1000
    with Network(echo.address, delay_ms=1) as network:
        host, port = network.address.split(":")
        assert asked(network.address, text) == text
        with socket.create_connection((host, int(port)), WAIT_S) as held:
            held.sendall(b"x")
            assert held.recv(1) == b"x"
            network.refuse()
            with pytest.raises(ConnectionResetError):
                held.recv(1)
        with pytest.raises(ConnectionRefusedError):
            asked(network.address)
        other = Echo()
        network.to(other.address)
        network.open()
        echo.close()
        assert asked(network.address) == b"hello"
        other.close()


@pytest.mark.slow
def test_nobody_is_told_of_a_silence(echo):
    """What is sent into it never arrives; connections made after it are well."""
    with Network(echo.address) as network:
        host, port = network.address.split(":")
        with socket.create_connection((host, int(port)), WAIT_S) as held:
            held.sendall(b"x")
            assert held.recv(1) == b"x"
            network.silence()
            held.sendall(b"y")
            held.settimeout(0.2)
            with pytest.raises(TimeoutError):
                held.recv(1)
            network.open()
            held.settimeout(WAIT_S)
            with pytest.raises(ConnectionResetError):
                held.recv(1)
        assert asked(network.address) == b"hello"


@pytest.mark.slow
def test_a_slow_network_takes_little_off_the_senders_hands(echo):
    """A sender that goes on without reading soon blocks: neither proxy nor kernel swallows megabytes."""
    with Network(echo.address, kbit_s=64) as network:
        host, port = network.address.split(":")
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            one.connect((host, int(port)))
            one.settimeout(0.5)
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < 2**20:
                    sent += one.send(bytes(4096))
            assert sent < 256 * 1024
