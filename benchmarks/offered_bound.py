"""What refusals leave of a machine, over bare transports: the limit of goodput under overload.

A bare server refuses every call, as many a second as come beside those that are answered; beside it the net is run with
nothing before it, on all cores. What is left of its rate is what the transport alone leaves.

As a program, `python -m benchmarks.offered_bound refuse KIND PORT` is such a server, and `… run FILE SECONDS` runs the
net, and prints rows a second.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.offered_models import SHAPE
from benchmarks.peers.processes import Started, free_port
from benchmarks.raw_calls import RESOURCE_EXHAUSTED, Load

PATH = "/bench.Refuse/Call"
KINDS = {"grpcio": "aio", "native": "native"}
_SECONDS = 4.0
_BEGIN_S = 1.0
_WHY = "the queue is too full to answer in time: 8 rows wait, and 43 ms are left"


class Left(NamedTuple):
    """What a bare server that refuses leaves, and does.

    Attributes:
        rate: Of the rows a second that the net's runs reach alone, what they reach beside it.
        refused: Of the calls that come, how many it refuses within a second.
        p99_ms: How long the slowest hundredth of these refusals takes at least.
    """

    rate: float
    refused: float
    p99_ms: float


def refusals_leave(file: Path, transport: str, message: bytes, rate_hz: float) -> Left | None:
    """What refusals over a bare transport leave; None where it ends its client's connections, being too late with them.

    Args:
        file: The net, in LiteRT.
        transport: `grpcio` or `native`.
        message: A request.
        rate_hz: How many are to be refused in a second.
    """
    alone_hz = _Runs(file).rate()
    port = free_port()
    server = Started([sys.executable, "-m", __name__, "refuse", KINDS[transport], str(port)])
    try:
        server.listens(port)
        runs = _Runs(file)
        began_s = time.monotonic() + _BEGIN_S / 2
        phases = [(rate_hz, 2 * _BEGIN_S + _SECONDS)]
        load = Load(port, PATH, message, phases=phases, deadline_ms=1000, began_s=began_s)
        try:
            calls = load.result()
        except RuntimeError:
            return None
        finally:
            left_hz = runs.rate()
        refused = calls.status == RESOURCE_EXHAUSTED
        p99_ms = float(np.percentile(calls.took_ms[refused], 99)) if refused.any() else math.nan
        return Left(left_hz / alone_hz, float(refused.mean()), p99_ms)
    finally:
        server.stop()


class _Runs:
    """The net, run in a process of its own, which begins at once."""

    def __init__(self, file: Path) -> None:
        command = [sys.executable, "-m", __name__, "run", str(file), str(_SECONDS)]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).parents[1],
            start_new_session=True,  # As the server and the client: a machine may share out its cores by sessions.
        )

    def rate(self) -> float:
        """Rows a second, once it has ended."""
        return float(self._process.communicate()[0])


def _run(file: str, seconds: float) -> float:
    """Rows a second, one at a time in as many threads as there are cores; the first second is not counted."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415  the servers have no need of it

    counts = [0] * len(os.sched_getaffinity(0))

    def work(index: int) -> None:
        interpreter = Interpreter(file, num_threads=1)
        interpreter.allocate_tensors()
        at = interpreter.get_input_details()[0]["index"]
        row = np.ones((1, *SHAPE), np.float32)
        while True:
            interpreter.set_tensor(at, row)
            interpreter.invoke()
            counts[index] += 1

    for index in range(len(counts)):
        threading.Thread(target=work, args=(index,), daemon=True).start()
    time.sleep(_BEGIN_S)
    before, begun_s = sum(counts), time.monotonic()
    time.sleep(seconds)
    return (sum(counts) - before) / (time.monotonic() - begun_s)


def _refuse_aio(port: int) -> None:
    import asyncio  # noqa: PLC0415  each kind imports what it measures and nothing else

    import grpc  # noqa: PLC0415

    async def refuse(_request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, _WHY)

    async def main() -> None:
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(refuse)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Refuse", {"Call": handler}),))
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()

    asyncio.run(main())


def _refuse_native(port: int) -> None:
    from pygrpc_native._native import EVENT_CALL, NativeGrpcFront  # noqa: PLC0415

    front = NativeGrpcFront(f"127.0.0.1:{port}", [(PATH, False)])
    front.start()
    while (events := front.recv_batch(64)) is not None:
        for kind, call, _method, _payload, _key in events:
            if kind == EVENT_CALL:
                front.fail(call, RESOURCE_EXHAUSTED, _WHY)


def main(words: Sequence[str]) -> None:
    """One of the two programs."""
    if words[0] == "run":
        print(_run(words[1], float(words[2])), flush=True)
        os._exit(0)  # Its threads run on.
    {"aio": _refuse_aio, "native": _refuse_native}[words[1]](int(words[2]))


if __name__ == "__main__":
    main(sys.argv[1:])
