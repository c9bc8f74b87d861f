"""Answers a second that one device gets from a server: coalesced, over one request an RPC.

    python benchmarks/coalescing.py

A real server in a process of its own has the TensorFlow Serving tutorial's net; the device has nothing, so that all
goes there. Bursts of 1,000 requests of a row each are sent at once, as an application does that has a backlog, and by
64 threads of which each waits for its answer before it asks again. Both ways take turns, in one process and on one
connection. The baseline's requests are told to be of a signature without rows to join: each is a call of its own, as it
was before there was anything to join them. The server's batching is its default, and the same for both.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from msgspec.structs import replace

# Not this folder, where a benchmark has the name of the package `converter`.
sys.path[0] = str(Path(__file__).parents[1])
sys.path.append(str(Path(__file__).parents[1] / "tests"))
from benchmarks.served import make_model, serve  # noqa: E402
from edge_runtime import Runtime  # noqa: E402
from edge_runtime.routing.router import Router  # noqa: E402
from edge_runtime.types import Array, InferRequest  # noqa: E402

TARGET = 4.0
WAIT_S = 120.0
THREADS = 64


class Sender:
    """Sends requests one way."""

    def __init__(self, router: Router, template: InferRequest, *, joined: bool) -> None:
        """Takes a request as the model makes them."""
        self._router = router
        self._template = replace(template, batched=joined)

    def request(self, picture: Array) -> InferRequest:
        """One request of a row."""
        name = next(iter(self._template.inputs))
        return replace(self._template, inputs={name: picture}, start_s=time.monotonic())

    def burst(self, pictures: Array) -> float:
        """All at once; answers a second."""
        before = time.perf_counter()
        pending = [self._router.submit(self.request(pictures[i : i + 1])) for i in range(len(pictures))]
        for one in pending:
            one.result(WAIT_S)
        return len(pictures) / (time.perf_counter() - before)

    def threads(self, pictures: Array) -> float:
        """Threads that each wait for an answer before they ask again; answers a second."""
        go = threading.Barrier(THREADS + 1)
        each = len(pictures) // THREADS

        def loop(first: int) -> None:
            go.wait()
            for i in range(first, first + each):
                self._router.infer(self.request(pictures[i : i + 1]))

        workers = [threading.Thread(target=loop, args=(i * each,)) for i in range(THREADS)]
        for worker in workers:
            worker.start()
        go.wait()
        before = time.perf_counter()
        for worker in workers:
            worker.join()
        return each * THREADS / (time.perf_counter() - before)


def measure(rounds: int, count: int) -> dict[str, tuple[list[float], list[float]]]:
    """Answers a second of each round, coalesced and one request an RPC."""
    found: dict[str, tuple[list[float], list[float]]] = {"burst": ([], []), f"{THREADS} threads": ([], [])}
    pictures = np.random.default_rng(0).random((count, 28, 28, 1), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder, "served", "fashion", "1"), 0)
        store = Path(folder, "store")
        store.mkdir()
        server = serve(Path(folder, "served"))
        try:
            with Runtime.open(store, fallback=server.address) as runtime:
                model = runtime.model("fashion")
                expected = model.predict(pictures[:1]).outputs["y"]
                target = model.described()
                template = target.request(pictures[:1], None, time.monotonic(), None)
                senders = [Sender(target.router, template, joined=joined) for joined in (True, False)]
                for sender in senders:
                    reply = target.router.infer(sender.request(pictures[:1]))
                    np.testing.assert_allclose(reply.outputs["y"], expected, rtol=1e-5)
                ways: list[Callable[[Sender], float]] = [
                    lambda sender: sender.burst(pictures),
                    lambda sender: sender.threads(pictures),
                ]
                for one in range(rounds + 1):
                    for way, results in zip(ways, found.values(), strict=True):
                        order = (0, 1) if one % 2 else (1, 0)
                        for index in order:
                            rate = way(senders[index])
                            if one:  # The first round warms both up.
                                results[index].append(rate)
        finally:
            server.close()
    return found


def main() -> None:
    """Prints a line a way of asking."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (default 7)")
    parser.add_argument("--requests", type=int, default=1000, help="requests of a round (default 1000)")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    print(f"answers a second, {arguments.requests} requests of one row, medians of {arguments.rounds} rounds")
    print(f"{'':14}{'coalesced':>12}{'an RPC each':>14}{'ratio':>9}   of the rounds")
    for name, (joined, single) in measure(arguments.rounds, arguments.requests).items():
        ratio = statistics.median(joined) / statistics.median(single)
        each = sorted(one / other for one, other in zip(joined, single, strict=True))
        print(
            f"{name:14}{statistics.median(joined):12.0f}{statistics.median(single):14.0f}{ratio:9.2f}"
            f"   {each[0]:.1f} to {each[-1]:.1f} (target: at least {TARGET:.0f})"
        )


if __name__ == "__main__":
    main()
