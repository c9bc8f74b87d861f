"""A line to a server, over TCP through this process, whose faults a test sets while it is used."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_PIECE = 16 * 1024
_LINGER_NONE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What the line does from now on.

    Attributes:
        delay_s: Each piece is under way for so long, in each direction.
        jitter_s: And up to so much longer, by chance; the order stays, as TCP keeps it.
        loss: The share of pieces that a retransmission holds up for `retransmit_s`.
        retransmit_s: That.
        bytes_s: What passes in a second, in each direction; 0 for no bound.
        reset: The share of pieces at which the connection is reset.
        silent: Nothing passes and nobody is told: a partition, or a cable that was pulled.
        deaf: Nothing passes from the server to the client: half of a connection.
        closed: Who connects is refused.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    retransmit_s: float = 0.2
    bytes_s: float = 0.0
    reset: float = 0.0
    silent: bool = False
    deaf: bool = False
    closed: bool = False


class FaultyLine:
    """A port of loopback that goes on to a server's.

    Attributes:
        address: Where clients connect.
        target: `host:port` where new connections go on to; may be changed.
        faults: What it does; may be changed at any instant.
        passed: Bytes that have come through.
    """

    def __init__(self, target: str, seed: object = 0) -> None:
        self.target, self.faults, self.passed = target, Faults(), 0
        self._draw = random.Random(f"{seed}")
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty-line", daemon=True)
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._connected, "127.0.0.1", 0, limit=_PIECE))
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def reset(self) -> None:
        """Resets all connections that there are."""
        self._do(self._reset_all())

    def close(self) -> None:
        """Ends it, and all connections."""
        self.faults = Faults(closed=True)
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, coroutine: Coroutine[object, object, object]):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _reset_all(self) -> None:
        for writer in list(self._writers):
            _reset(writer)

    async def _end(self) -> None:
        self._server.close()
        await self._reset_all()
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=10)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        far: asyncio.StreamWriter | None = None
        try:
            # The handshake is this machine's doing; what follows it has no answer.
            while self.faults.silent:  # noqa: ASYNC110  another thread sets it
                await asyncio.sleep(0.01)
            if self.faults.closed:
                _reset(writer)
                return
            host, port = self.target.rsplit(":", 1)
            far_reader, far = await asyncio.open_connection(host, int(port), limit=_PIECE)
            self._writers.add(far)
            ways = [
                asyncio.create_task(self._pass(reader, far, lambda: self.faults.silent)),
                asyncio.create_task(self._pass(far_reader, writer, lambda: self.faults.silent or self.faults.deaf)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:  # Nobody listens there.
            _reset(writer)
        finally:
            for one in filter(None, (writer, far)):
                self._writers.discard(one)
                one.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, held: Callable[[], bool]) -> None:
        """One direction: what is read is due at an instant of its own, and later pieces never before earlier ones."""
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)
        clock = self._loop.time

        async def take() -> None:
            free_s = 0.0
            while data := await reader.read(_PIECE):
                faults, draw = self.faults, self._draw.random
                if draw() < faults.reset:
                    _reset(writer)
                    return
                late_s = faults.delay_s + draw() * faults.jitter_s
                late_s += faults.retransmit_s if draw() < faults.loss else 0.0
                free_s = max(free_s, clock())
                if faults.bytes_s:
                    free_s += len(data) / faults.bytes_s
                await due.put((free_s + late_s, data))
            await due.put((0.0, b""))

        taking = asyncio.create_task(take())
        try:
            while True:
                at_s, data = await due.get()
                if not data:
                    return
                await asyncio.sleep(max(at_s - clock(), 0))
                while held():  # noqa: ASYNC110  another thread sets it
                    await asyncio.sleep(0.01)
                writer.write(data)
                self.passed += len(data)
                await writer.drain()
        except (OSError, RuntimeError):  # The other side is gone.
            return
        finally:
            taking.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await taking


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection as a crashed host does: RST."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
    writer.transport.abort()


@contextmanager
def faulty_line(target: str, seed: object = 0) -> Iterator[FaultyLine]:
    """A FaultyLine for the length of a `with`."""
    line = FaultyLine(target, seed)
    try:
        yield line
    finally:
        line.close()
