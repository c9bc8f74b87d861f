"""What `--workers` brings, in answers a second and in memory, beside a server of one process.

    python benchmarks/workers.py [--workers=N]

Both servers run at once and are asked in turns by h2load, over many connections, since the system spreads connections
and not requests. Two models: one of microseconds, where all that is measured is the server, and one of about a
millisecond with 13 MB of weights. The client needs processor time as well, which is told: on two cores two processes
can't be twice as fast. Memory is what a server's processes hold, what they share counted once (PSS), over as many
servers of one process.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np

sys.path[0] = str(Path(__file__).parents[1])  # Not this folder, where a benchmark may have a package's name.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.fallback_process import ServerProcess  # noqa: E402
from support.interpreter_models import _File, tutorial_model  # noqa: E402

from benchmarks.peers.loads import h2load  # noqa: E402
from benchmarks.process_tree import processes, pss_mib  # noqa: E402
from fallback_server.protocol import methods  # noqa: E402
from fallback_server.protocol.proto import serving_pb2 as pb  # noqa: E402
from fallback_server.transport.native.choice import installed  # noqa: E402

CONCURRENCY = 128
"""Over sixteen connections: of fewer, one process may well get most."""

HIDDEN, LAYERS = 1024, 3


def dense_model() -> bytes:
    """From [-1, 64] through layers of 1024 to 10 numbers: 13 MB of weights, which each row reads."""
    random = np.random.default_rng(3)
    file = _File()
    graph = file.graph()
    first = last = file.tensor(graph, "x", (-1, 64))
    sizes = (64, *(HIDDEN for _ in range(LAYERS + 1)), 10)
    for index, (inside, outside) in enumerate(itertools.pairwise(sizes)):
        weights = random.normal(0, inside**-0.5, (outside, inside)).astype(np.float32)
        given = file.tensor(graph, f"w{index}", weights.shape, values=weights)
        offset = file.tensor(graph, f"b{index}", (outside,), values=np.zeros(outside, np.float32))
        found = file.tensor(graph, f"h{index}", (-1, outside))
        file.operator(graph, "FULLY_CONNECTED", [last, given, offset], [found])
        last = found
    graph.inputs, graph.outputs = [first], [last]
    file.sign("serving_default", 0, {"x": first}, {"y": last})
    return file.bytes()


CASES = {"small": ("image", (1, 28, 28, 1)), "dense": ("x", (1, 64))}
"""Model -> its input, and the shape of one row."""


def predict_message(name: str) -> bytes:
    """A Predict of one row."""
    key, shape = CASES[name]
    request = pb.PredictRequest()
    request.model_spec.name = name
    tensor = request.inputs[key]
    tensor.dtype = 1
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = np.random.default_rng(5).random(shape, np.float32).tobytes()
    return request.SerializeToString()


@contextmanager
def served(repository: Path, *flags: str) -> Iterator[ServerProcess]:
    """A server, ready."""
    server = ServerProcess("--port=0", "--no-mdns", f"--model_repository={repository}", *flags)
    try:
        yield server
    finally:
        server.close()


def cpu_s(root: int) -> float:
    """Processor time of a process and all below it."""
    ticks = 0
    for pid in processes(root):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def throughput(repository: Path, transport: str, workers: int, rounds: int, seconds: float) -> None:
    """Prints the rates of one process and of several, for both models."""
    with (
        served(repository, f"--transport={transport}") as one,
        served(repository, f"--transport={transport}", f"--workers={workers}") as several,
    ):
        check(one, several)
        for name in CASES:
            message = predict_message(name)
            rates: dict[ServerProcess, list[float]] = {one: [], several: []}
            busy: dict[ServerProcess, list[float]] = {one: [], several: []}
            for turn in range(rounds):
                for server in (one, several) if turn % 2 else (several, one):
                    before_s, begin_s = cpu_s(server.process.pid), time.monotonic()
                    load, _ = h2load(
                        server.address, methods.PREDICT.path, message, concurrency=CONCURRENCY, seconds=seconds
                    )
                    took_s = time.monotonic() - begin_s
                    rates[server].append(load.rate)
                    busy[server].append((cpu_s(server.process.pid) - before_s) / took_s)
            ratios = [there / here for here, there in zip(rates[one], rates[several], strict=True)]
            print(
                f"{transport}, {name}: {statistics.median(rates[one]):,.0f}/s by one process "
                f"({statistics.median(busy[one]):.2f} cores), {statistics.median(rates[several]):,.0f}/s by {workers} "
                f"({statistics.median(busy[several]):.2f} of {os.cpu_count()} cores): {statistics.median(ratios):.2f} x"
            )


def check(*servers: ServerProcess) -> None:
    """Both models answer at all servers: h2load doesn't look at gRPC's status."""
    for server in servers:
        with grpc.insecure_channel(server.address) as channel:
            for name in CASES:
                methods.PREDICT.bind(channel)(pb.PredictRequest.FromString(predict_message(name)), timeout=30)


def memory(repository: Path, transport: str, workers: int) -> None:
    """Prints what several processes hold, over as many servers of one."""
    with (
        served(repository, f"--transport={transport}") as one,
        served(repository, f"--transport={transport}", f"--workers={workers}") as several,
    ):
        for server in (one, several):
            for name in CASES:
                h2load(server.address, methods.PREDICT.path, predict_message(name), concurrency=64, seconds=1)
        alone, together = pss_mib(one.process.pid), pss_mib(several.process.pid)
    print(
        f"memory: {alone:.0f} MiB by one process, {together:.0f} MiB by {workers}: {together / (workers * alone):.2f} "
        f"of {workers} servers; {(together - alone) / (workers - 1):.0f} MiB for each further process"
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    asked = parser.parse_args()
    transports = ["grpcio", "native"] if installed() else ["grpcio"]
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        for name, content in (("small", tutorial_model()), ("dense", dense_model())):
            (repository / name / "1").mkdir(parents=True)
            (repository / name / "1" / "model.tflite").write_bytes(content)
        memory(repository, transports[-1], asked.workers)
        for transport in transports:
            throughput(repository, transport, asked.workers, asked.rounds, asked.seconds)


if __name__ == "__main__":
    main()
