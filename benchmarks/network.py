"""A network between a device and a server: a TCP proxy in a process of its own, with delay, bandwidth and failures.

    python benchmarks/network.py 127.0.0.1:8500 --delay-ms 10 --kbit-s 64

prints the address to use in the server's place, and then does what it reads on its standard input, a line each:

    open            passes bytes on
    refuse          the server's process is gone: connections are reset, new ones refused
    silence         the cable is out: nothing arrives any more, in neither direction, and nobody is told
    set MS KBIT_S   another delay each way, and another bandwidth (0: unbounded)
    to HOST:PORT    another server from the next connection on

and ends when that is closed. `Network` is that process for a program. Each direction is one line that all connections
share: bytes leave it at its bandwidth, in their order, and arrive after the delay. What waits to leave is bounded, as
in a router; past it the sender's own buffers fill.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

QUEUE_BYTES = 32 * 1024
"""What waits before a line of bounded bandwidth: a modem's or a cheap router's queue."""

PIECE_BYTES = 1400
"""What leaves a line of bounded bandwidth at a time: about a packet."""

READ_BYTES = 64 * 1024


class Line:
    """One direction: when what is sent now arrives."""

    def __init__(self, delay_s: float, bytes_s: float) -> None:
        """Takes its delay, and its bandwidth in bytes a second; 0 for unbounded."""
        self.delay_s = delay_s
        self.bytes_s = bytes_s
        self.free_s = 0.0

    def takes(self, size: int, now_s: float) -> float:
        """Puts so many bytes onto the line; the instant at which they arrive."""
        self.free_s = max(self.free_s, now_s) + (size / self.bytes_s if self.bytes_s else 0.0)
        return self.free_s + self.delay_s

    def room_s(self, now_s: float) -> float:
        """Seconds until the queue before the line takes more."""
        if not self.bytes_s:
            return 0.0
        return max(self.free_s - now_s - QUEUE_BYTES / self.bytes_s, 0.0)


class Proxy:
    """Listens, and passes on; in an event loop."""

    def __init__(self, target: str, delay_s: float, bytes_s: float) -> None:
        """Takes the server's `host:port`, and both lines' delay and bandwidth."""
        self._target = _split(target)
        self._up, self._down = Line(delay_s, bytes_s), Line(delay_s, bytes_s)
        self._passing = asyncio.Event()
        self._passing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._port = 0

    @property
    def address(self) -> str:
        """Where it listens; the same from the first `open` on."""
        return f"127.0.0.1:{self._port}"

    async def do(self, line: str) -> None:
        """One command."""
        words = line.split()
        if words == ["open"]:
            await self.open()
        elif words == ["refuse"]:
            self._refuse()
        elif words == ["silence"]:
            self._passing.clear()
        elif len(words) == 3 and words[0] == "set":
            for one in (self._up, self._down):
                one.delay_s, one.bytes_s = float(words[1]) / 1e3, float(words[2]) * 1e3 / 8
        elif len(words) == 2 and words[0] == "to":
            self._target = _split(words[1])
        else:
            raise ValueError(f"open, refuse, silence, `set MS KBIT_S` or `to HOST:PORT` is expected, got {line!r}")

    async def open(self) -> None:
        """Passes bytes on from now on."""
        if not self._passing.is_set():
            self._reset()  # What was sent into the silence is lost.
            self._passing.set()
        if self._server is None:
            listener = _listener(self._port, small=bool(self._up.bytes_s))
            self._port = listener.getsockname()[1]
            limit = PIECE_BYTES if self._up.bytes_s else READ_BYTES
            self._server = await asyncio.start_server(self._connected, sock=listener, limit=limit)

    def _refuse(self) -> None:
        self._passing.set()
        if self._server is not None:
            self._server.close()
            self._server = None
        self._reset()

    def _reset(self) -> None:
        for writer in list(self._writers):
            # To linger for no time means that the other side is told by a reset.
            taken: socket.socket = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):  # Closed by its own side since.
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target, limit=READ_BYTES)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self._writers |= both
        try:
            await asyncio.gather(self._pump(reader, far_writer, self._up), self._pump(far_reader, writer, self._down))
        except (OSError, asyncio.CancelledError):
            pass  # Reset, or all ends.
        finally:
            self._writers -= both
            for one in both:
                one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: Line) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        arriving = asyncio.create_task(self._arrive(under_way, writer))
        try:
            while data := await reader.read(PIECE_BYTES if line.bytes_s else READ_BYTES):
                await self._passing.wait()
                under_way.put_nowait((line.takes(len(data), time.monotonic()), data))
                await asyncio.sleep(line.room_s(time.monotonic()))
            under_way.put_nowait((time.monotonic() + line.delay_s, b""))
            await arriving
        finally:
            arriving.cancel()

    async def _arrive(self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            at_s, data = await under_way.get()
            wait_s = at_s - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            await self._passing.wait()
            if not data:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _listener(port: int, *, small: bool) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if small:
        # The kernel would take megabytes off the sender's hands, which no slow line does.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listener.bind(("127.0.0.1", port))
    return listener


async def _run(target: str, delay_s: float, bytes_s: float) -> None:
    proxy = Proxy(target, delay_s, bytes_s)
    await proxy.open()
    print(proxy.address, flush=True)
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        await proxy.do(line.decode())
        print("ok", flush=True)


class Network:
    """The proxy as a process, which ends with this one.

    Attributes:
        address: `host:port` to use in the server's place.
    """

    def __init__(self, target: str, *, delay_ms: float = 0.0, kbit_s: float = 0.0) -> None:
        """Starts it, passing on.

        Args:
            target: The server's `host:port`; it may come later.
            delay_ms: Milliseconds each way.
            kbit_s: Bandwidth each way, in 1000 bit/s; 0 for unbounded.
        """
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), target, f"--delay-ms={delay_ms}", f"--kbit-s={kbit_s}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self._said()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Passes bytes on again; what was sent into a silence is lost, and its connections are reset."""
        self._tell("open")

    def refuse(self) -> None:
        """As where the server's process is gone: connections are reset, and new ones are refused."""
        self._tell("refuse")

    def silence(self) -> None:
        """As where the cable is out: nothing arrives, and nobody is told."""
        self._tell("silence")

    def change(self, *, delay_ms: float, kbit_s: float) -> None:
        """Another delay and bandwidth, from now on; bandwidth is bounded well only where it was from the start."""
        self._tell(f"set {delay_ms} {kbit_s}")

    def to(self, target: str) -> None:
        """Leads to another server from the next connection on."""
        self._tell(f"to {target}")

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tell(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        self._said()

    def _said(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError("the network's process has ended")
        return line


def main() -> None:
    """The proxy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="the server's host:port")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="each way (default 0)")
    parser.add_argument("--kbit-s", type=float, default=0.0, help="each way; 0: unbounded (default 0)")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(arguments.target, arguments.delay_ms / 1e3, arguments.kbit_s * 1e3 / 8))


if __name__ == "__main__":
    main()
