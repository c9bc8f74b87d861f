"""What each transport adds to a bare echo over it: the tutorial net in LiteRT, one request at a time and 32.

    python benchmarks/transports.py

By h2load, in interleaved rounds: `fallback_server` over grpcio and over the native server of the extra `fast`, and a
server of each kind that gives the same 3,136 bytes back. A native run in the thread that received it costs no hand-over
to another one, so that what is left beside the echo's time is parsing, checking, the net, and writing.
`python benchmarks/serving.py` has every executor, `python -m benchmarks.peers` other people's servers.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

# Not this folder, where a benchmark has the name of the package `converter`.
sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.peers.loads import framed, require_h2load  # noqa: E402
from benchmarks.peers.models import make_cnn  # noqa: E402
from benchmarks.peers.processes import NotThere  # noqa: E402
from benchmarks.peers.servers import Echo, Ours, Server  # noqa: E402

LOADS = {"c=1": (1, 1), "c=32": (4, 8)}
"""Connections, and requests at a time on each."""

TRANSPORTS = {"grpcio": "aio", "native": "native"}
"""Each with its echo."""

_TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def load(server: Server, connections: int, streams: int, requests: int, body: Path) -> tuple[float, float]:
    """Requests a second, and mean milliseconds of one, by h2load."""
    body.write_bytes(framed(server.message()))
    said = subprocess.run(
        [
            "h2load",
            f"--clients={connections}",
            f"--max-concurrent-streams={streams}",
            f"--requests={requests}",
            f"--data={body}",
            "--header=content-type: application/grpc",
            "--header=te: trailers",
            f"http://{server.address}{server.path}",
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    if f"{requests} succeeded" not in said:
        raise RuntimeError(f"not every request was answered: {said}")
    rate = re.search(r"finished in .*?, ([0-9.]+) req/s", said)
    took = re.search(r"time for request: +\S+ +\S+ +([0-9.]+)(us|ms|s) ", said)
    if rate is None or took is None:
        raise RuntimeError(f"h2load says something else than expected: {said}")
    return float(rate[1]), float(took[1]) * _TIMES[took[2]]


Key = tuple[str, int, str]
"""The transport, 0 for ours and 1 for the echo, and the load."""


def measure(folder: Path, rounds: int, requests: int) -> dict[Key, list[tuple[float, float]]]:
    """What `load` tells of each server and load, a round."""
    model = make_cnn(folder)
    servers: list[tuple[str, int, Server]] = []
    for transport, echo in TRANSPORTS.items():
        servers += [(transport, 0, Ours(folder, model, executor="litert", transport=transport))]
        servers += [(transport, 1, Echo(echo))]
    told: dict[Key, list[tuple[float, float]]] = {}
    with contextlib.ExitStack() as stack:
        there: list[tuple[str, int, Server]] = []
        for transport, place, server in servers:
            stack.callback(server.stop)
            try:
                server.start()
                there.append((transport, place, server))
            except NotThere as error:
                print(f"{server.name} is not measured: {error}")
        for step in range(rounds + 1):
            for (transport, place, server), (said, (connections, streams)) in itertools.product(there, LOADS.items()):
                count = requests if streams > 1 else requests // 4
                took = load(server, connections, streams, count, folder / "body")
                if step:  # The first round warms them up.
                    told.setdefault((transport, place, said), []).append(took)
    return told


def main() -> None:
    """Prints each server's rate, its share of its echo's, and the mean time of a request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--requests", type=int, default=8000, help="of each measurement at c=32, a quarter at c=1")
    arguments = parser.parse_args()
    try:
        require_h2load()
    except NotThere as error:
        print(f"not measured: {error}")
        return
    with tempfile.TemporaryDirectory() as name:
        told = measure(Path(name), arguments.rounds, arguments.requests)
    print(f"medians of {arguments.rounds} interleaved rounds")
    print(f"{'':20}{'answers/s':>12}{'echoes/s':>12}{'ratio':>8}{'mean ms':>10}")
    for said, transport in itertools.product(LOADS, TRANSPORTS):
        both = [told.get((transport, place, said)) for place in (0, 1)]
        if both[0] and both[1]:
            ours, echo = (statistics.median(rate for rate, _ in each or ()) for each in both)
            mean_ms = statistics.median(mean for _, mean in both[0])
            print(f"{f'{said}, {transport}':20}{ours:12.0f}{echo:12.0f}{ours / echo:8.2f}{mean_ms:10.3f}")


if __name__ == "__main__":
    main()
