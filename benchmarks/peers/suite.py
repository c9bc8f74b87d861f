"""Which servers are measured by which loads, and what their figures should come to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.peers.environment import Peers
from benchmarks.peers.in_process import InProcess
from benchmarks.peers.loads import Load, PerfAnalyzer
from benchmarks.peers.models import Model, make_mobilenet, repository
from benchmarks.peers.processes import NotThere
from benchmarks.peers.rounds import Key, Rounds, Row
from benchmarks.peers.servers import Echo, Ours, Server, Triton

GRPCIO, NATIVE = "ours, LiteRT, grpcio", "ours, LiteRT, native"
TF_GRPCIO, TF_NATIVE = "ours, SavedModel, grpcio", "ours, SavedModel, native"
TRITON_TF, TRITON = "Triton, SavedModel", "Triton, LiteRT"
SINKS = {"grpcio": "sink, grpcio aio", "native": "sink, pygrpc-native"}
"""Bare servers that take a large image and answer with ten scores."""

AIO, SYNC, NATIVE_ECHO = "echo, grpcio aio", "echo, grpcio sync", "echo, pygrpc-native"

ONE, MANY, MORE = "c=1", "c=32", "c=64"
"""Loads by perf_analyzer, of so many requests at a time."""

H2_ONE, H2_MANY = "h2load, c=1", "h2load, 4x8"
"""Loads by h2load: one request at a time, and 4 connections with 8 each."""

EIGHT = "MobileNetV2, c=8"

FLOOD = "two models"

GRUS = {"1 x 64": (1, 64), "2 x 256": (2, 256), "2 x 512": (2, 512)}
"""Layers and units of each."""

FORMS = (("litert", "grpcio"), ("litert", "native"), ("tensorflow", "grpcio"), ("tensorflow", "native"))

ALONE = (
    Row(text="c=32, grpcio, over a bare echo", load=H2_MANY, ours=GRPCIO, theirs=(AIO,), target=0.85),
    Row(
        text="CPU time a request, c=32, grpcio, over a bare echo's",
        load=H2_MANY,
        ours=GRPCIO,
        theirs=(AIO,),
        figure="cpu_us",
        target=1.25,
        at_most=True,
    ),
    *(
        Row(
            text=f"c=8, MobileNetV2, {form}, {transport}, over the executor in process",
            load=EIGHT,
            ours=f"ours, {form}, {transport}",
            theirs=(f"in process, {form}",),
            target=0.9,
        )
        for form in ("LiteRT", "SavedModel")
        for transport in ("grpcio", "native")
    ),
)
"""What needs no peers."""

TOGETHER = (
    Row(
        text="two models, one flooded at 10 x: the other's p99 over its p99 alone",
        load=FLOOD,
        ours="beside a flood",
        theirs=("alone",),
        figure="p99_ms",
        target=2.0,
        at_most=True,
    ),
    *(
        Row(
            text=f"64 live GRU streams of {size}, steps/s batched over unbatched",
            load=f"GRU {size}",
            ours="batched",
            theirs=("unbatched",),
            target=5.0,
        )
        for size in GRUS
    ),
)
"""What other benchmarks measure."""

BESIDE = (
    Row(text="c=1, grpcio, over Triton with TF", load=ONE, ours=GRPCIO, theirs=(TRITON_TF,), target=1.4),
    Row(text="c=1, native, over Triton with TF", load=ONE, ours=NATIVE, theirs=(TRITON_TF,), target=3.0),
    Row(text="c=1, native, over Triton with LiteRT", load=ONE, ours=NATIVE, theirs=(TRITON,), target=1.4),
    *(
        Row(
            text=f"c=1, {transport}, p99 over each Triton's",
            load=ONE,
            ours=ours,
            theirs=(TRITON_TF, TRITON),
            figure="p99_ms",
            target=1.0,
            at_most=True,
        )
        for transport, ours in (("grpcio", GRPCIO), ("native", NATIVE))
    ),
    Row(text="c=32, native, over Triton with TF", load=MANY, ours=NATIVE, theirs=(TRITON_TF,), target=1.9),
    Row(text="c=64, native, over Triton with TF", load=MORE, ours=NATIVE, theirs=(TRITON_TF,), target=1.9),
    Row(text="c=32, native, over Triton with LiteRT", load=MANY, ours=NATIVE, theirs=(TRITON,), target=1.1),
    Row(text="c=64, native, over Triton with LiteRT", load=MORE, ours=NATIVE, theirs=(TRITON,), target=1.3),
    Row(text="c=32, SavedModel, native, over Triton with TF", load=MANY, ours=TF_NATIVE, theirs=(TRITON_TF,), target=1),
    Row(
        text="c=32, SavedModel, grpcio, over Triton with TF", load=MANY, ours=TF_GRPCIO, theirs=(TRITON_TF,), target=0.6
    ),
)
"""What is measured beside Triton."""


def servers(folder: Path, model: Model) -> list[Server]:
    """Ours in its forms, and the echoes."""
    ours = [Ours(folder, model, executor=executor, transport=transport) for executor, transport in FORMS]
    return [*ours, *(Echo(kind) for kind in ("aio", "sync", "native"))]


def tritons(folder: Path, model: Model, peers: Peers) -> list[Server]:
    """Triton with each executor."""
    return [Triton(folder, model, executor=executor, peers=peers) for executor in ("litert", "tensorflow")]


@contextmanager
def started(all_of_them: Iterable[Server], rounds: Rounds) -> Iterator[list[Server]]:
    """Those that can be started, until the end of the block; `rounds` is told of the others.

    All are up all the time: idle ones take no processor time worth speaking of, and what is compared can be measured
    within seconds of each other.
    """
    with ExitStack() as stack:
        there = []
        for server in all_of_them:
            stack.callback(server.stop)
            try:
                server.start()
            except NotThere as error:
                rounds.absent[server.name] = str(error)
                print(f"{server.name}: not there: {error}", file=sys.stderr)
            except RuntimeError as error:
                rounds.absent[server.name] = "it FAILED to start"
                rounds.failed = True
                print(f"{server.name}: {error}", file=sys.stderr)
            else:
                there.append(server)
        yield there


def by_h2load(there: Sequence[Server], seconds: float) -> dict[Key, Callable[[], Load]]:
    """Ways to measure all by h2load."""
    return {
        (server.name, load): lambda server=server, concurrency=concurrency: server.h2load(concurrency, seconds)
        for load, concurrency in ((H2_ONE, 1), (H2_MANY, 32))
        for server in there
    }


def by_perf_analyzer(there: Sequence[Server], client: PerfAnalyzer, seconds: float) -> dict[Key, Callable[[], Load]]:
    """Ways to measure those with a model by perf_analyzer."""
    return {
        (server.name, load): lambda server=server, concurrency=concurrency: server.perf_analyzer(
            client, concurrency, seconds
        )
        for load, concurrency in ((ONE, 1), (MANY, 32), (MORE, 64))
        for server in there
        if not server.name.startswith("echo")
    }


def measure_mobilenet(
    folder: Path, rounds: Rounds, *, times: int, seconds: float, before: Callable[[], None] = lambda: None
) -> None:
    """Eight clients of a MobileNetV2, beside its executors without a server."""
    model = make_mobilenet(folder)
    ours: list[Server] = [Ours(folder, model, executor=executor, transport=transport) for executor, transport in FORMS]
    ours += [Echo(kind, model.shape) for kind in ("aio", "native")]
    elsewhere = Rounds(loads=rounds.loads, broken=rounds.broken)  # Its servers have the other model's names.
    with started(ours, elsewhere) as there, ExitStack() as stack:
        ways: dict[Key, Callable[[], Load]] = {
            (server.name, EIGHT): lambda server=server: server.h2load(8, seconds) for server in there
        }
        for executor, form in (("litert", "LiteRT"), ("tensorflow", "SavedModel")):
            if any(form in server.name for server in there):
                version = repository(folder, model, litert=executor == "litert") / model.name / "1"
                alone = InProcess(model, version, executor=executor)
                stack.callback(alone.stop)
                ways[f"in process, {form}", EIGHT] = lambda alone=alone: _bare(alone.rate(2 * seconds))
        elsewhere.measure(_grouped(ways), times, before)
    if elsewhere.absent:
        rounds.left_out[EIGHT] = "; ".join(f"{name}: {why}" for name, why in elsewhere.absent.items())
    rounds.failed |= elsewhere.failed


def bounds(rounds: Rounds) -> Iterator[str]:
    """What stands in the way of some targets, on this machine: what the transport takes with nothing behind it."""
    echo, triton = (rounds.median(name, H2_MANY, "rate") for name in (AIO, TRITON_TF))
    if echo and triton:
        yield f"- A bare echo of grpcio reaches {echo / triton:.2f} of Triton with TF, by h2load with 4x8 requests."
    for form in ("LiteRT", "SavedModel"):
        alone = rounds.median(f"in process, {form}", EIGHT, "rate")
        for transport, name in SINKS.items():
            sink = rounds.median(name, EIGHT, "rate")
            if alone and sink:
                yield (
                    f"- c=8, MobileNetV2, {form}, {transport}: a bare server takes {sink:.0f} such images a second and "
                    f"answers each with ten scores; beside an executor that does {alone:.0f}/s on the same CPUs, all "
                    f"of which both use, that leaves {sink / (sink + alone):.2f} of the executor's rate."
                )
    for size in GRUS:
        load = f"GRU {size}"
        echo, alone, unbatched = (rounds.median(name, load, "rate") for name in ("bare echo", "executor", "unbatched"))
        if echo and alone and unbatched:
            left = echo * alone / (echo + alone)
            yield (
                f"- {load}: a bare echo of 64 live streams answers {echo:.0f} steps/s; beside an executor that does "
                f"{alone:.0f} steps/s, 64 at a time, on the same CPUs, all of which both use, that leaves "
                f"{left / unbatched:.1f} x the steps/s of unbatched ones."
            )


def _grouped(ways: Mapping[Key, Callable[[], Load]]) -> dict[Key, Callable[[], Load]]:
    """Those of one form beside each other."""
    return dict(sorted(ways.items(), key=lambda way: "SavedModel" in way[0][0]))


def _bare(rate: float) -> Load:
    return Load(rate=rate, p50_ms=0.0, p95_ms=0.0, p99_ms=0.0)
