"""What it costs to decide where a request is answered, with four endpoints and twenty models.

    python benchmarks/routing.py

A real runtime with twenty models, and a real server with the same that four endpoints stand for (four addresses of it).
Timed is the router's whole decision for a request of 16 bytes with 50 ms to live: the device's view, what the endpoints
are expected to take, and the choice; models in turn, so that no cache is warmer than in an application. `on the device`
is decided without the servers, since the queue is empty; `with the servers` with policy `prefer_server`, for which they
must be asked, and with a queue that is too long. The baseline is the pure policy on views that are there already.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from msgspec.structs import replace

# Not this folder, where a benchmark has the name of the package `converter`.
sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.far_scene import NARROW, Scene, ones  # noqa: E402
from edge_runtime import Runtime  # noqa: E402
from edge_runtime.routing.policy import DeviceView, ServerView, choose  # noqa: E402
from edge_runtime.routing.router import Router  # noqa: E402
from edge_runtime.types import InferRequest  # noqa: E402

ENDPOINTS, MODELS = 4, 20
DEADLINE_S = 0.05
TARGET_US = 5.0
Decide = Callable[[InferRequest], object]


def ways(runtime: Runtime, names: list[str]) -> dict[str, list[tuple[Decide, InferRequest]]]:
    """By kind of decision: for each model, what decides and of what request."""
    found: dict[str, list[tuple[Decide, InferRequest]]] = {
        "the policy alone": [], "on the device": [], "with the servers": [], "in a long queue": []
    }  # fmt: skip
    near, far = DeviceView(installed=True, predicted_s=0.04), ServerView(usable=True, expected_s=0.02)
    for name in names:
        target = runtime.model(name).target
        assert target is not None
        request = target.request(ones(NARROW), None, time.monotonic(), None)
        router = target.router
        found["the policy alone"].append((lambda _: choose(near, far, DEADLINE_S, "prefer_device"), request))
        found["on the device"].append((router._choose, request))  # noqa: SLF001
        found["with the servers"].append((router._choose, replace(request, policy="prefer_server")))  # noqa: SLF001
        found["in a long queue"].append((late(router), request))
    return found


def late(router: Router) -> Decide:
    """As the router decides while the device's prediction is past the deadline."""
    device = router._device  # noqa: SLF001
    assert device is not None
    view = DeviceView(installed=True, predicted_s=2 * DEADLINE_S)
    other = Router(device, router._remote, installed=list, clock=time.monotonic)  # noqa: SLF001
    true_view = router._view  # noqa: SLF001

    def measured_view(request: InferRequest) -> DeviceView:
        true_view(request)  # It is paid for; and then it says what a long queue would.
        return view

    other._view = measured_view  # type: ignore[method-assign]  # noqa: SLF001
    return other._choose  # noqa: SLF001


def timed(kinds: dict[str, list[tuple[Decide, InferRequest]]], rounds: int) -> dict[str, list[float]]:
    """Microseconds of each decision, by kind, in turn."""
    took_us: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number, (kind, ones_) in itertools.product(range(rounds), kinds.items()):
        decide, request = ones_[number % len(ones_)]
        request = replace(request, deadline_s=time.monotonic() + DEADLINE_S)
        before = time.perf_counter_ns()
        decide(request)
        took_us[kind].append((time.perf_counter_ns() - before) / 1e3)
    return took_us


def main() -> None:
    """Prints the decisions' times beside the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40_000, help="decisions of each kind (default 40000)")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    names = [f"model-{number:02}" for number in range(MODELS)]
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder), dict.fromkeys(names, NARROW))
        server = scene.server("--host=0.0.0.0", "--insecure")
        port = server.address.rpartition(":")[2]
        fallback = [f"127.0.0.{number}:{port}" for number in range(1, ENDPOINTS + 1)]
        try:
            with scene.runtime(fallback, delegates=["cpu"], engines=1, threads=1) as runtime:
                for name in names:
                    for _ in range(ENDPOINTS * 4):
                        runtime.model(name).predict(ones(NARROW), policy="prefer_server", deadline_ms=5000)
                kinds = ways(runtime, names)
                timed(kinds, arguments.rounds // 10)
                took_us = timed(kinds, arguments.rounds)
                print(f"{len(runtime.servers)} endpoints {runtime.servers}, {len(names)} models")
        finally:
            server.kill()
    base = float(np.median(took_us["the policy alone"]))
    print(f"{'':20}{'median':>9}{'p99':>9}{'ratio':>8}   us, {arguments.rounds} of each, in turn")
    for kind, values in took_us.items():
        median = float(np.median(values))
        print(f"{kind:20}{median:9.2f}{np.percentile(values, 99):9.2f}{median / base:8.2f}")
    worst = max(float(np.median(values)) for values in took_us.values())
    print(f"at the median at most {worst:.2f} us (target: {TARGET_US:.0f})")
    sys.exit(0 if worst <= TARGET_US else 1)


if __name__ == "__main__":
    main()
