"""Two hosts on one machine, and the wire between them, which delays, loses and reorders packets as a test says.

Each host is a network namespace with a TUN interface; what goes into one comes out of the other, through this process.
It is what `tc netem` would do, which few kernels have; it takes root, and /dev/net/tun.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import random
import selectors
import struct
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

_TUNSETIFF, _TUN_WITHOUT_HEADER = 0x400454CA, 0x0001 | 0x1000

_MOST_WAITING = 10_000
"""Packets under way; more are lost, as a router does it."""

_UDP, _PROTOCOL_AT = 17, 9


@dataclass(frozen=True, kw_only=True)
class Wire:
    """What the wire does from now on, in each direction.

    Attributes:
        delay_s: Each packet is under way for so long.
        reordered: The share of packets that are under way three times as long: those behind them overtake.
        loss: The share of packets that are lost.
        doubled: The share of packets that come twice.
        bytes_s: What passes in a second; 0 for no bound.
        cut: Nothing passes.
        without_udp: No UDP passes: what is announced by mDNS is not heard.
    """

    delay_s: float = 0.0
    reordered: float = 0.0
    loss: float = 0.0
    doubled: float = 0.0
    bytes_s: float = 0.0
    cut: bool = False
    without_udp: bool = False


class Hosts:
    """Two hosts, `near` and `far`.

    Attributes:
        wire: What the wire does; may be changed at any instant.
        near_address, far_address: Of each, as the other sees it.
        passed: Packets that came through.
    """

    near_address, far_address = "10.88.0.1", "10.88.0.2"

    def __init__(self, seed: object, ends: ExitStack) -> None:
        self.wire, self.passed = Wire(), 0
        self._draw = random.Random(f"{seed}")
        name = f"faults-{uuid.uuid4().hex[:8]}"
        self._names = {"near": f"{name}-a", "far": f"{name}-b"}
        self._files = {}
        for host, address in (("near", self.near_address), ("far", self.far_address)):
            _run("ip", "netns", "add", self._names[host])
            ends.callback(_run, "ip", "netns", "del", self._names[host])
            self._files[host] = _tun(self._names[host])
            ends.callback(os.close, self._files[host])
            peer = self.far_address if host == "near" else self.near_address
            for words in (
                ("link", "set", "lo", "up"),
                ("addr", "add", address, "peer", peer, "dev", "wire"),
                ("link", "set", "wire", "up", "multicast", "on"),
                ("route", "add", "224.0.0.0/4", "dev", "wire"),
            ):
                _run("ip", "-n", self._names[host], *words)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._pass, name="packet-wire", daemon=True)
        self._thread.start()
        ends.callback(self._end)

    def before(self, host: str) -> list[str]:
        """What a command line begins with that runs on a host."""
        return ["ip", "netns", "exec", self._names[host]]

    def move(self, host: str, old: str, new: str) -> None:
        """Gives a host another address, as DHCP does: what goes to the old one is answered by nobody."""
        other = "near" if host == "far" else "far"
        peer = self.near_address if host == "far" else self.far_address
        _run("ip", "-n", self._names[host], "addr", "del", old, "peer", peer, "dev", "wire")
        _run("ip", "-n", self._names[host], "addr", "add", new, "peer", peer, "dev", "wire")
        _run("ip", "-n", self._names[host], "route", "replace", "224.0.0.0/4", "dev", "wire")
        _run("ip", "-n", self._names[other], "route", "replace", new, "dev", "wire")

    def _end(self) -> None:
        self._over.set()
        self._thread.join()

    def _pass(self) -> None:
        free_s = dict.fromkeys(self._files, 0.0)
        waiting: list[tuple[float, int, int, bytes]] = []
        numbers = itertools.count()
        with selectors.DefaultSelector() as selector:
            for host, file in self._files.items():
                selector.register(file, selectors.EVENT_READ, host)
            while not self._over.is_set():
                now_s = time.monotonic()
                while waiting and waiting[0][0] <= now_s:
                    _, _, file, packet = heapq.heappop(waiting)
                    with suppress(OSError):  # The host takes none just now: a packet is lost.
                        os.write(file, packet)
                        self.passed += 1
                for key, _ in selector.select(min(max(waiting[0][0] - now_s, 0), 0.05) if waiting else 0.05):
                    packet = os.read(key.fd, 65536)
                    target = self._files["far" if key.data == "near" else "near"]
                    for due_s in self._due(key.data, packet, free_s):
                        if len(waiting) < _MOST_WAITING:
                            heapq.heappush(waiting, (due_s, next(numbers), target, packet))

    def _due(self, host: str, packet: bytes, free_s: dict[str, float]) -> list[float]:
        """When it comes through, and again; empty for never."""
        wire, draw = self.wire, self._draw.random
        if wire.cut or draw() < wire.loss or (wire.without_udp and _protocol(packet) == _UDP):
            return []
        free_s[host] = max(free_s[host], time.monotonic())
        if wire.bytes_s:
            free_s[host] += len(packet) / wire.bytes_s
        due_s = free_s[host] + wire.delay_s * (3 if draw() < wire.reordered else 1)
        return [due_s, due_s] if draw() < wire.doubled else [due_s]


def _protocol(packet: bytes) -> int:
    return packet[_PROTOCOL_AT] if packet[:1] and packet[0] >> 4 == 4 else 0  # version 4


def _tun(namespace: str) -> int:
    """The file of a TUN interface `wire` in a namespace: a descriptor keeps the namespace that it was opened in."""
    made: list[int | OSError] = []

    def make() -> None:  # In a thread that ends: it stays in the namespace.
        try:
            with Path("/run/netns", namespace).open() as place:
                os.setns(place.fileno(), os.CLONE_NEWNET) if hasattr(os, "setns") else _setns(place.fileno())
            file = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
            fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH22x", b"wire", _TUN_WITHOUT_HEADER))
            made.append(file)
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


def _setns(file: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(file, 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


@contextmanager
def two_hosts(seed: object) -> Iterator[Hosts]:
    """Two hosts for the length of a `with`; skips where there can be none."""
    with ExitStack() as ends:
        try:
            hosts = Hosts(seed, ends)
        except (OSError, subprocess.CalledProcessError) as error:
            said = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
            pytest.skip(f"no networks of one's own: {said}")
        yield hosts
