"""Steps a second of many live sequences, run together, over those of the same sequences run alone.

    python benchmarks/sequences.py

GRUs of three sizes, served by two servers: one that merges steps and one that doesn't (`--enable_batching=false`). A
round lets 64 streams live, each of which sends its next step as soon as the last is answered, on either server in turn;
the ratio is that of the medians. Beside them are the same streams one after another, and the bare messages: streams
of grpc.aio that answer with what they get, which bound what any model can reach over them; and the model's executor
without a server, on batches of all streams, which takes its part of the same processors. The client shares this machine
with the servers, and so is one that costs next to nothing (`raw_streams.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

# Not this folder, where a benchmark has the name of the package `converter`.
ROOT = Path(__file__).parents[1]
sys.path[0] = str(ROOT / "tests")
sys.path.append(str(ROOT))
import numpy as np  # noqa: E402
import psutil  # noqa: E402
from support.fallback_process import ServerProcess  # noqa: E402
from support.sequence_streams import request  # noqa: E402

from benchmarks.peers import echo  # noqa: E402
from benchmarks.peers.processes import Started, free_port  # noqa: E402
from benchmarks.raw_streams import RawStreams  # noqa: E402
from benchmarks.step_executor import StepExecutor  # noqa: E402
from fallback_server.protocol import methods  # noqa: E402

TARGET = 5.0
STREAMS = 64
FEATURES = 64

SIZES = ((1, 64), (2, 256), (2, 512))
"""Layers and units of each."""

BATCHED, UNBATCHED, ALONE, ECHO = "batched", "unbatched", "one by one", "bare echo"
EXECUTOR = "executor"


def requests(length: int) -> list[bytes]:
    """The steps of a sequence, serialized."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((length, 1, FEATURES)).astype(np.float32)
    steps = [request(model="gru", x=x[0])]
    steps += [request(x=row, end=index == length - 1) for index, row in enumerate(x[1:], 1)]
    return [step.SerializeToString() for step in steps]


class Asked:
    """A server whose streams are asked.

    Args:
        port: Where it listens.
        path: The method's.
        pid: Of its main process.
    """

    def __init__(self, port: int, path: str, pid: int) -> None:
        self._client = RawStreams(port, path)
        self._process = psutil.Process(pid)

    def together(self, steps: list[bytes], count: int) -> float:
        """Steps a second of so many live streams."""
        begun_s = time.perf_counter()
        self._client.run(steps, count)
        return count * len(steps) / (time.perf_counter() - begun_s)

    def one_by_one(self, steps: list[bytes], count: int) -> float:
        """Steps a second of so many streams, one after another."""
        begun_s = time.perf_counter()
        for _ in range(count):
            self._client.run(steps, 1)
        return count * len(steps) / (time.perf_counter() - begun_s)

    def cpu_s(self) -> float:
        """Processor time of the server and the model's process."""
        times = [each.cpu_times() for each in (self._process, *self._process.children(recursive=True))]
        return sum(each.user + each.system for each in times)

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()


def measure(servers: Mapping[str, Asked], executor: StepExecutor, rounds: int, length: int) -> dict[str, list[float]]:
    """Steps a second of each round by what was measured; says the processor time of a step of the servers."""
    steps = requests(length)
    few = STREAMS // 4
    ways: dict[str, tuple[Asked, Callable[[list[bytes], int], float], int]] = {
        BATCHED: (servers[BATCHED], servers[BATCHED].together, STREAMS),
        UNBATCHED: (servers[UNBATCHED], servers[UNBATCHED].together, STREAMS),
        ALONE: (servers[BATCHED], servers[BATCHED].one_by_one, few),
        ECHO: (servers[ECHO], servers[ECHO].together, STREAMS),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    used_s = dict.fromkeys(ways, 0.0)
    for _, run, count in ways.values():
        run(steps, count)
    executor.rate()
    rates[EXECUTOR] = []
    for _ in range(rounds):
        rates[EXECUTOR].append(executor.rate())
        for name, (server, run, count) in ways.items():
            before_s = server.cpu_s()
            rates[name].append(run(steps, count))
            used_s[name] += (server.cpu_s() - before_s) / (rounds * length * count)
    for name, found in rates.items():
        cpu = f"; {used_s[name] * 1e6:.0f} us of the server's CPU time a step" if name in used_s else ""
        print(
            f"  {name:11}{statistics.median(found):9.0f} steps/s, from {min(found):.0f} to {max(found):.0f}{cpu}",
            file=sys.stderr,
        )
    return rates


def bound(median: Mapping[str, float]) -> str:
    """What the messages and the model leave, on processors that both use: by each one's steps a second alone."""
    echo, executor = median[ECHO], median[EXECUTOR]
    left = echo * executor / (echo + executor)
    return (
        f"a bare echo of such streams answers {echo:.0f} steps/s; beside an executor that does {executor:.0f} steps/s, "
        f"{STREAMS} at a time, on the same CPUs, all of which both use, that leaves {left:.0f} steps/s, "
        f"{left / median[UNBATCHED]:.1f} x those of unbatched ones"
    )


def measure_size(layers: int, units: int, *, rounds: int, length: int, flags: list[str]) -> dict[str, list[float]]:
    """As `measure`, of a GRU of some size."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        program = [sys.executable, str(ROOT / "tests/support/sequence_models.py"), folder]
        environment = {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"}
        sizes = [str(units), str(FEATURES), str(layers)]
        subprocess.run([*program, *sizes], check=True, capture_output=True, env=environment)
        common = (
            f"--model_base_path={folder}/gru",
            "--model_name=gru",
            "--port=0",
            "--rest_api_port=0",
            "--mdns=false",
        )
        servers: dict[str, Asked] = {}
        for name, own in ((BATCHED, []), (UNBATCHED, ["--enable_batching=false"])):
            server = ServerProcess(*common, *own, *flags)
            stack.callback(server.close)
            servers[name] = Asked(server.port, methods.RUN_SEQUENCE.path, server.process.pid)
        port = free_port()
        bare = Started([sys.executable, echo.__file__, "aio-streams", str(port)])
        stack.callback(bare.stop)
        bare.listens(port)
        servers[ECHO] = Asked(port, echo.PATH, bare.pid)
        for each in servers.values():
            stack.callback(each.close)
        executor = StepExecutor(Path(folder) / "gru" / "1", STREAMS)
        stack.callback(executor.close)
        return measure(servers, executor, rounds, length)


def main() -> int:
    """Prints the rates and their ratios; 0 if these are as large as they should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="", help='of GRUs, such as "2x512,1x64" (default: three)')
    parser.add_argument("--length", type=int, default=30, help="steps of a sequence (default 30)")
    parser.add_argument("--rounds", type=int, default=7, help="of all (default 7)")
    parser.add_argument("--flags", default="", help="more of the servers', with spaces")
    parser.add_argument("--json", action="store_true", help="prints every round's steps/s, and is content with any")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that no server is left behind.
    sizes = SIZES
    if arguments.sizes:
        sizes = tuple(
            (int(layers), int(units)) for layers, units in (one.split("x") for one in arguments.sizes.split(","))
        )
    told: dict[str, dict[str, list[float]]] = {}
    met = True
    for layers, units in sizes:
        print(f"a GRU of {layers} x {units}:", file=sys.stderr)
        rates = measure_size(
            layers, units, rounds=arguments.rounds, length=arguments.length, flags=arguments.flags.split()
        )
        told[f"{layers} x {units}"] = rates
        median = {name: statistics.median(found) for name, found in rates.items()}
        ratio = median[BATCHED] / median[UNBATCHED]
        met = met and ratio >= TARGET
        print(
            f"{STREAMS} live sequences of a GRU of {layers} x {units}: {ratio:.1f} x the steps/s of unbatched ones "
            f"(target: at least {TARGET:g}); {median[BATCHED] / median[ALONE]:.1f} x those of one after another, "
            f"{median[BATCHED] / median[ECHO]:.2f} of a bare echo's",
            file=sys.stderr if arguments.json else sys.stdout,
        )
        print(f"  {bound(median)}", file=sys.stderr if arguments.json else sys.stdout)
    if arguments.json:
        print(json.dumps(told))
    return 0 if met or arguments.json else 1


if __name__ == "__main__":
    sys.exit(main())
