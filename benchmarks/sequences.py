"""Steps a second of many live sequences, run together, over those of one sequence after another.

    python benchmarks/sequences.py

A server process with a GRU of two layers, to which this one speaks gRPC. A round lets 64 streams live, each
of which sends its next step as soon as the last is answered, and then the same streams one after another, so that each
step runs alone; rounds of both alternate, and the ratio is that of the medians. The client shares this machine with the
server, and so is one that costs next to nothing (`raw_streams.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Not this folder, where a benchmark has the name of the package `converter`.
ROOT = Path(__file__).parents[1]
sys.path[0] = str(ROOT / "tests")
sys.path.append(str(ROOT))
import numpy as np  # noqa: E402
import psutil  # noqa: E402
from support.fallback_process import ServerProcess  # noqa: E402
from support.sequence_streams import request  # noqa: E402

from benchmarks.raw_streams import RawStreams  # noqa: E402
from fallback_server.protocol import methods  # noqa: E402

TARGET = 5.0
STREAMS = 64
FEATURES = 64


def requests(length: int) -> list[bytes]:
    """The steps of a sequence, serialized."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((length, 1, FEATURES)).astype(np.float32)
    steps = [request(model="gru", x=x[0])]
    steps += [request(x=row, end=index == length - 1) for index, row in enumerate(x[1:], 1)]
    return [step.SerializeToString() for step in steps]


def together(client: RawStreams, steps: list[bytes], count: int) -> float:
    """Steps a second of so many live streams."""
    begun_s = time.perf_counter()
    client.run(steps, count)
    return count * len(steps) / (time.perf_counter() - begun_s)


def one_by_one(client: RawStreams, steps: list[bytes], count: int) -> float:
    """Steps a second of so many streams, one after another."""
    begun_s = time.perf_counter()
    for _ in range(count):
        client.run(steps, 1)
    return count * len(steps) / (time.perf_counter() - begun_s)


def measure(port: int, rounds: int, length: int, process: psutil.Process) -> tuple[list[float], list[float]]:
    """Steps a second of each round, together and one by one; prints the server's CPU time a step."""
    steps = requests(length)
    rates: dict[str, list[float]] = {"together": [], "one by one": []}
    cpu_s = dict.fromkeys(rates, 0.0)
    with contextlib.closing(RawStreams(port, methods.RUN_SEQUENCE.path)) as client:
        together(client, steps, STREAMS)
        one_by_one(client, steps, 2)
        for _ in range(rounds):
            for name, run, count in (("together", together, STREAMS), ("one by one", one_by_one, STREAMS // 4)):
                before_s = cpu_seconds(process)
                rates[name].append(run(client, steps, count))
                cpu_s[name] += (cpu_seconds(process) - before_s) / (rounds * length * count)
    for name, found in rates.items():
        print(
            f"{name:11}{statistics.median(found):9.0f} steps/s, from {min(found):.0f} to {max(found):.0f}; "
            f"{cpu_s[name] * 1e6:.0f} us of the server's CPU time a step"
        )
    return rates["together"], rates["one by one"]


def cpu_seconds(process: psutil.Process) -> float:
    """Of the server and the model's process."""
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def main() -> int:
    """Prints the rates and their ratio; 0 if that is as large as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=512, help="of each of the GRU's two layers (default 512)")
    parser.add_argument("--length", type=int, default=30, help="steps of a sequence (default 30)")
    parser.add_argument("--rounds", type=int, default=7, help="of both (default 7)")
    parser.add_argument("--flags", default="", help="more of the server's, with spaces")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = [sys.executable, str(ROOT / "tests/support/sequence_models.py"), folder]
        environment = {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"}
        sizes = [str(arguments.units), str(FEATURES), "2"]
        subprocess.run([*program, *sizes], check=True, capture_output=True, env=environment)
        flags = (f"--model_base_path={folder}/gru", "--model_name=gru", "--port=0", "--rest_api_port=0", "--mdns=false")
        server = ServerProcess(*flags, *arguments.flags.split())
        try:
            process = psutil.Process(server.process.pid)
            both = measure(server.port, arguments.rounds, arguments.length, process)
        finally:
            server.close()
    ratio = statistics.median(both[0]) / statistics.median(both[1])
    print(
        f"{STREAMS} live sequences of a GRU of 2 x {arguments.units}: {ratio:.1f} x the steps/s of one after another "
        f"(target: at least {TARGET:g})"
    )
    return 0 if ratio >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
