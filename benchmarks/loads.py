"""What a load of a large model does to another model's latency.

    python benchmarks/loads.py

The server runs as a process of its own, and is asked over gRPC, one image of the TensorFlow Serving tutorial's net at a
time (model A). Every round measures A alone, A while a model B of 300 MB is loaded, and A while B is unloaded; rounds
follow each other, so that whatever else the machine does meets all three. The ratio of the 99th percentiles counts.
B's state is asked for after every tenth answer, also when A is alone: what that costs is in all of the figures.

What the machine itself leaves to be reached is measured along with them: A beside a process that has nothing to do with
the server, is as nice as a load, and copies memory in one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parent))
from served import Client, asker, make_model, serve

TARGET = 1.5

COPIES = """
import os
import numpy
os.nice(10)
source = numpy.ones(300 << 20, numpy.uint8)
target = source.copy()
print(flush=True)
while True:
    target[:] = source
"""
"""What a process does that is nothing but busy."""

BESIDE_COPIES = 400
"""Requests: about as many as a load lasts."""


def p99_ms(taken_s: list[float]) -> float:
    """The 99th percentile, in milliseconds."""
    return float(np.percentile(taken_s, 99)) * 1e3


def asked_while(ask: Callable[[], float], busy: Callable[[], bool]) -> list[float]:
    """Asks while something is so; it is looked at after every tenth answer."""
    taken = [ask()]
    while busy():
        taken += [ask() for _ in range(10)]
    return taken


def asked(ask: Callable[[], float], look: Callable[[], object], count: int) -> list[float]:
    """Asks so often, and looks as `asked_while` does."""
    taken: list[float] = []
    while len(taken) < count:
        look()
        taken += [ask() for _ in range(10)]
    return taken


@contextlib.contextmanager
def copying() -> Iterator[None]:
    """A process copies memory meanwhile."""
    with subprocess.Popen([sys.executable, "-c", COPIES], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def main() -> None:
    """Prints the figures beside their target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="loads and unloads (default 10)")
    parser.add_argument("--megabytes", type=int, default=300, help="of model B (default 300)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder, "models")
        make_model(repository / "a" / "1", 0)
        hidden = make_model(Path(folder, "b", "1"), arguments.megabytes)
        (repository / "b").mkdir()
        shown = repository / "b" / "1"
        server = serve(repository)
        client = Client(server.address)
        ask = asker(client, "a", (1, 28, 28, 1))

        def state() -> str:
            try:
                return client.states("b").get(1, "END")
            except Exception:  # noqa: BLE001  it is not known yet, or no more
                return "END"

        def measure_round() -> tuple[list[float], ...]:
            alone = asked(ask, state, 1500)
            hidden.rename(shown)
            asked_while(ask, lambda: state() == "END")
            loading = asked_while(ask, lambda: state() != "AVAILABLE")
            alone += asked(ask, state, 500)
            shown.rename(hidden)
            asked_while(ask, lambda: state() == "AVAILABLE")
            unloading = asked_while(ask, lambda: state() != "END")
            with copying():
                beside = asked(ask, state, BESIDE_COPIES)
            return alone, loading, unloading, beside

        try:
            for _ in range(300):
                ask()
            rounds = [measure_round() for _ in range(arguments.rounds)]
        finally:
            client.close()
            server.close()
    report(rounds)


def report(rounds: list[tuple[list[float], ...]]) -> None:
    """Prints percentiles over all rounds, and the median of the rounds' ratios."""
    pooled = [[value for one in rounds for value in one[index]] for index in range(4)]
    print(f"{'model A':24}{'requests':>10}{'p50 ms':>10}{'p99 ms':>10}{'p99 / alone':>14}")
    labels = ("alone", "while B loads", "while B unloads", "beside a nice process")
    for label, taken in zip(labels, pooled, strict=True):
        ratio = p99_ms(taken) / p99_ms(pooled[0])
        print(f"{label:24}{len(taken):10}{statistics.median(taken) * 1e3:10.2f}{p99_ms(taken):10.2f}{ratio:14.2f}")
    ratios = [p99_ms(loading) / p99_ms(alone) for alone, loading, *_ in rounds]
    print(f"while B loads, median of {len(rounds)} rounds: {statistics.median(ratios):.2f} (target: at most {TARGET})")


if __name__ == "__main__":
    main()
