"""What is answered in time of what is asked, from half of what can be borne to four times that; server and device.

    python benchmarks/offered.py [--figure docs/overload.png]

Requests come evenly, none waits for another, and each has 50 ms to live. Of the server: over both transports, a net of
some 4 ms a row in LiteRT, and a model that takes no core, as one on an accelerator doesn't (it waits 5 ms a row). The
client (`raw_calls.py`) is a process of its own on the same machine; "late" says by how much it sent its requests late
itself, which is in its figures and not the server's doing. Of the device: the same net in a `Runtime`, asked in the
same process.

The capacity is the best of a load that is doubled until not all is answered; what is offered is a multiple of it. The
peak is the best that was answered in time at any load. Then, of each: half the load, four times the capacity, and half
the load again; by how much the memory grew in the second half of the flood, and how long after its end requests were
still answered late or not at all. Beside the net's goodput stands its limit: what a bare server that refuses as many
as are over leaves of the net's rate on the same cores, and how long its refusals take (`offered_bound.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

# Not this folder, where a benchmark has the name of the package `converter`.
sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.offered_bound import Left, refusals_leave  # noqa: E402
from benchmarks.offered_device import device_load  # noqa: E402
from benchmarks.offered_models import make_net, make_waiting, predict_message  # noqa: E402
from benchmarks.process_tree import pss_mib  # noqa: E402
from benchmarks.raw_calls import Calls, Load  # noqa: E402
from edge_runtime import Runtime  # noqa: E402

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.fallback_process import ServerProcess  # noqa: E402

DEADLINE_MS = 50
LOADS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
MOST = 4.0
GOODPUT = 0.9
REFUSED_MS = 5.0
BACK_S = 2.0
GROWTH = 0.02
PREDICT = "/tensorflow.serving.PredictionService/Predict"

_BEGIN_S = 0.7
"""What a client takes to start."""

_FIRST_HZ = 25.0
_MISSED = 2
_BIN_S = 0.1

Asked = Callable[[Sequence[tuple[float, float]]], Calls]
"""Sends a load, by phases of a rate and seconds, and tells what became of it."""


@dataclass
class Subject:
    """Who is asked, and what became of it.

    Attributes:
        name: For people.
        ask: How.
        memory_mib: What it needs of memory now.
        capacity_hz: What it bears.
        goodput_hz: By load, of each round.
        refused_ms: How long each refusal took, from twice the capacity on.
        told: Of the rest of what was not answered in time then: how many were told so otherwise, or not at all.
        late_ms: How late the client was at the 99th percentile, in each measurement.
        growth: Of memory in the second half of the flood over the first.
        back_s: When the last request was not answered as before, after the flood.
        bound: Of the peak, what bare refusals leave at the greatest load; None where that is not measured.
    """

    name: str
    ask: Asked
    memory_mib: Callable[[], float]
    capacity_hz: float = 0.0
    goodput_hz: dict[float, list[float]] = field(default_factory=dict)
    refused_ms: list[float] = field(default_factory=list)
    told: int = 0
    late_ms: list[float] = field(default_factory=list)
    growth: float = math.nan
    back_s: float = math.nan
    bound: Left | None = None

    def find_capacity(self, seconds: float) -> None:
        """Doubles the load until twice in a row not all was answered in time; the best is what is borne."""
        rate_hz, missed = _FIRST_HZ, 0
        while missed < _MISSED:
            good_hz = in_time(self.ask([(rate_hz, seconds)])) / seconds
            self.capacity_hz = max(self.capacity_hz, good_hz)
            missed = missed + 1 if good_hz < GOODPUT * rate_hz else 0
            rate_hz *= 2

    def offer(self, load: float, seconds: float) -> None:
        """Offers a multiple of the capacity."""
        calls = self.ask([(load * self.capacity_hz, seconds)])
        self.goodput_hz.setdefault(load, []).append(in_time(calls) / seconds)
        self.late_ms.append(float(np.percentile(calls.lag_ms, 99)))
        if load >= MOST / 2:
            refused = calls.took_ms[calls.status == 8]
            self.refused_ms += refused.tolist()
            self.told += len(calls.status) - in_time(calls) - len(refused)

    def flood(self, seconds: float) -> None:
        """Half the capacity, four times that for so long, and half again."""
        half_hz = self.capacity_hz / 2
        began_s = time.monotonic() + _BEGIN_S
        with _watched(self.memory_mib) as seen:
            calls = self.ask([(half_hz, 2), (MOST * self.capacity_hz, seconds), (half_hz, 2 * BACK_S)])
        begin_s, middle_s, end_s = (began_s + each for each in (2, 2 + seconds / 2, 2 + seconds))
        first = [mib for at_s, mib in seen if begin_s <= at_s < middle_s]
        second = [mib for at_s, mib in seen if middle_s <= at_s < end_s]
        self.growth = max(second) / max(first) - 1 if first and second else math.nan
        self.back_s = _back_s(calls, calls.due_s[0] + 2, calls.due_s[0] + 2 + seconds)

    @property
    def ratio(self) -> float:
        """What was answered in time at the greatest load, over the best at any."""
        medians = {load: statistics.median(rates) for load, rates in self.goodput_hz.items()}
        return medians[max(medians)] / max(medians.values())

    @property
    def refused_p99_ms(self) -> float:
        """Of the refusals; NaN where there were none."""
        return float(np.percentile(self.refused_ms, 99)) if self.refused_ms else math.nan

    def verdicts(self) -> list[tuple[str, str, bool]]:
        """What was to be held, how it is, and whether it was."""
        kept = not self.refused_p99_ms > REFUSED_MS
        told = f"{self.refused_p99_ms:.2f} ms" if self.refused_ms else "none was refused"
        return [
            (f"goodput at {MOST:g} x over the peak, at least {GOODPUT}", f"{self.ratio:.3f}", self.ratio >= GOODPUT),
            (f"refusals, 99th percentile, at most {REFUSED_MS:g} ms", told, kept),
            (f"memory's growth in a flood, at most {GROWTH:.0%}", f"{self.growth:.1%}", self.growth <= GROWTH),
            (f"back to normal within {BACK_S:g} s", f"{self.back_s:.1f} s", self.back_s <= BACK_S),
        ]


def in_time(calls: Calls) -> int:
    """How many were answered by their deadline."""
    return int(((calls.status == 0) & (calls.took_ms <= DEADLINE_MS)).sum())


def _back_s(calls: Calls, flood_s: float, end_s: float) -> float:
    """From the end of the flood to the last tenth of a second in which more failed than before it, or were slow."""
    before, after = calls.due(-math.inf, flood_s), calls.due(end_s, math.inf)
    lost = 1 - in_time(before) / max(len(before.status), 1)
    usual_ms = float(np.percentile(before.took_ms, 95))
    last_s = 0.0
    for at_s in np.arange(end_s, after.due_s[-1], _BIN_S):
        some = after.due(at_s, at_s + _BIN_S)
        count = len(some.status)
        if count and (in_time(some) < (1 - lost) * count - 1 or np.median(some.took_ms) > 2 * usual_ms):
            last_s = at_s + _BIN_S - end_s
    return last_s


@contextlib.contextmanager
def _watched(memory_mib: Callable[[], float]) -> Iterator[list[tuple[float, float]]]:
    """Instants and the memory at them, as long as this is open."""
    seen: list[tuple[float, float]] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(_BIN_S):
            seen.append((time.monotonic(), memory_mib()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def _server(name: str, repository: Path, model: str, transport: str) -> Iterator[Subject]:
    flags = "--port=0", "--rest_api_port=0", "--mdns=false", f"--transport={transport}"
    server = ServerProcess(f"--model_repository={repository}", *flags)
    message = predict_message(model)

    def ask(phases: Sequence[tuple[float, float]]) -> Calls:
        began_s = time.monotonic() + _BEGIN_S
        load = Load(server.port, PREDICT, message, phases=phases, deadline_ms=DEADLINE_MS, began_s=began_s)
        return load.result()

    try:
        yield Subject(name, ask, lambda: pss_mib(server.process.pid))
    finally:
        server.close()


@contextlib.contextmanager
def _device(file: Path) -> Iterator[Subject]:
    with Runtime.open(file) as runtime:
        model = runtime.model()
        yield Subject("device", lambda phases: device_load(model, phases, DEADLINE_MS), lambda: pss_mib(os.getpid()))


def measure(subject: Subject, rounds: int, seconds: float) -> None:
    """All loads, in turn, and the flood."""
    subject.ask([(_FIRST_HZ, 1.0)])
    subject.find_capacity(1.0)
    for number in range(rounds):
        for load in LOADS if number % 2 == 0 else reversed(LOADS):
            subject.offer(load, seconds)
    subject.flood(4 * seconds)


def _tell(subject: Subject) -> None:
    """Prints a table and the verdicts."""
    late_ms = statistics.median(subject.late_ms), max(subject.late_ms)
    print(f"\n{subject.name}: {subject.capacity_hz:.0f}/s are borne", end="; ")
    print(f"of the client's calls 1 in 100 was late by {late_ms[0]:.1f} ms or more, {late_ms[1]:.1f} ms at worst")
    for load, rates in sorted(subject.goodput_hz.items()):
        print(f"{load:8g} x {load * subject.capacity_hz:8.0f}/s offered {statistics.median(rates):8.0f}/s in time")
    print(f"  from {MOST / 2:g} x on: {len(subject.refused_ms)} refused, {subject.told} late or told at their deadline")
    for what, how, kept in subject.verdicts():
        print(f"  {'ok  ' if kept else 'MISS'} {what}: {how}")
    if subject.bound is not None:
        left = subject.bound
        print(
            f"  a bare server that is to refuse {MOST - 1:g} x the capacity leaves {left.rate:.2f} of the net's rate",
            end="",
        )
        print(f", and refuses {left.refused:.0%}, with a 99th percentile of {left.p99_ms:.1f} ms")


def main() -> None:
    """Prints tables and verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of all loads, there and back (default 3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load (default 3)")
    parser.add_argument("--only", help="of the subjects those whose name holds this")
    parser.add_argument("--figure", type=Path, help="a PNG file to write: goodput over offered load")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    subjects: list[Subject] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        net = make_net(folder / "net")
        make_waiting(folder / "waiting")
        makers: dict[str, Callable[[], contextlib.AbstractContextManager[Subject]]] = {
            f"server, {what}, {transport}": lambda what=what, transport=transport: _server(
                f"server, {what}, {transport}", folder / what, what, transport
            )
            for what in ("net", "waiting")
            for transport in ("grpcio", "native")
        }
        makers["device"] = lambda: _device(net)
        for title, made in makers.items():
            if arguments.only and arguments.only not in title:
                continue
            with made() as subject:
                measure(subject, arguments.rounds, arguments.seconds)
            if title.startswith("server, net, "):
                rate_hz = (MOST - 1) * subject.capacity_hz
                subject.bound = refusals_leave(net, title.split(", ")[2], predict_message("net"), rate_hz)
            subjects.append(subject)
    for subject in subjects:
        _tell(subject)
    if arguments.figure:
        from benchmarks.offered_figure import draw  # noqa: PLC0415  matplotlib is for who draws

        draw(subjects, arguments.figure)


if __name__ == "__main__":
    main()
