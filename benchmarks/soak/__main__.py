"""A long run: nothing may grow, and no answer be wrong.

    python -m benchmarks.soak [--seconds 600]

A server with models in its own process and in others, clients of every transport, and a device that asks it for what it
has not itself; each in a process of its own. Every few seconds a model has a next version, on the server or on the
device; now and then a model's process or a port worker is killed, a version that is none comes, a client leaves before
its answer, or takes it slowly. Each answer is checked against the version that it names. Seconds of a fault's
aftermath count for errors and latencies apart; for what grows, all do. Beside it a bare interpreter and an echo show by
how much the machine itself became slower; that is told, and excuses nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.process_tree import processes
from benchmarks.soak import device, reference, traffic
from benchmarks.soak.models import WIDTHS, Repository
from benchmarks.soak.outcomes import OK, WRONG, Seen
from benchmarks.soak.verdict import PERCENTILES, Verdict, calm, latency_growth, verdicts
from benchmarks.soak.watch import Levels, Watch

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from support.fallback_process import ServerProcess

FLAGS = ("--port=0", "--no-mdns", "--workers=2", "--log_level=warning")
CHANGE_S = 4.0
FAULT_S = 20.0
TELL_S = 10.0
WARM_UP = 0.2
LEAST_WARM_UP_S = 20.0


class Trouble:
    """What happens to the server and the device: versions, and faults.

    Args:
        repository: Whose versions change.
        server: The server's first process.
        seed: Of what is chosen.
    """

    def __init__(self, repository: Repository, server: int, seed: int) -> None:
        self.faults_s: list[float] = []
        self.changes = 0
        self._repository = repository
        self._server = server
        self._random = random.Random(seed)
        self._faults: list[Callable[[], None]] = [self._kill, self._corrupt]

    def change(self) -> None:
        """A next version of a model."""
        models = tuple(WIDTHS)
        self._repository.publish(models[self.changes % len(models)])
        self.changes += 1

    def fault(self) -> None:
        """The next fault."""
        self.faults_s.append(time.monotonic())
        self._faults[len(self.faults_s) % len(self._faults)]()

    def _kill(self) -> None:
        """Kills one of the processes that the server has started."""
        victims = processes(self._server)[1:]
        if victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._random.choice(victims), signal.SIGKILL)

    def _corrupt(self) -> None:
        """A version that can't be loaded: whoever served before goes on."""
        self._repository.corrupt(self._random.choice(("narrow", "wide")))


@contextlib.contextmanager
def _started(module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE)
    try:
        yield process
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()


def run(folder: Path, seconds: float, rate: float, seed: int, transport: str) -> tuple[Seen, Seen, Trouble, Levels]:
    """Runs it all.

    Args:
        folder: An empty one.
        seconds: How long.
        rate: Times the usual load.
        seed: Of what goes wrong when.
        transport: What speaks gRPC in the server.

    Returns:
        What became of the requests, and of the reference's; what was done, and what was taken of the machine.
    """
    repository = Repository(folder)
    server = ServerProcess(f"--model_repository={repository.served}", f"--transport={transport}", *FLAGS)
    clients, on_device, bare = (folder / f"{name}.bin" for name in ("clients", "device", "reference"))
    try:
        assert server.rest is not None
        with (
            _started("benchmarks.soak.traffic", server.address, server.rest, str(clients), str(rate)) as client,
            _started("benchmarks.soak.device", str(repository.store), server.address, str(on_device), str(rate)) as own,
            _started("benchmarks.soak.reference", str(bare), str(rate)) as machine,
        ):
            trouble = Trouble(repository, server.process.pid, seed)
            watch = Watch({"server": server.process.pid, "device": own.pid, "clients": client.pid})
            _go_on(trouble, watch, seconds, lambda: all(each.poll() is None for each in (client, own, machine)))
            levels = watch.stop()
    finally:
        server.close()
        (folder / "server.log").write_text("".join(server.log))
    (folder / "levels.json").write_text(json.dumps(levels))
    seen = Seen.read(clients, traffic.KINDS).and_also(Seen.read(on_device, device.KINDS))
    return seen, Seen.read(bare, reference.KINDS), trouble, levels


def _go_on(trouble: Trouble, watch: Watch, seconds: float, alive: Callable[[], bool]) -> None:
    begun_s = time.monotonic()
    change_s, fault_s, tell_s = begun_s + CHANGE_S, begun_s + FAULT_S, begun_s + TELL_S
    while (now_s := time.monotonic()) < begun_s + seconds:
        if not alive():
            raise RuntimeError("a client has ended")
        if now_s >= change_s:
            trouble.change()
            change_s += CHANGE_S
        if now_s >= fault_s and begun_s + seconds - now_s > FAULT_S / 2:
            trouble.fault()
            fault_s += FAULT_S
        if now_s >= tell_s:
            _tell(now_s - begun_s, seconds, trouble, watch.last())
            tell_s += TELL_S
        time.sleep(0.1)


def _tell(passed_s: float, seconds: float, trouble: Trouble, last: dict[str, float]) -> None:
    """Progress, in one line."""
    kinds = {"memory, MiB": "MiB", "file descriptors": "files", "threads": "threads"}
    told = "; ".join(
        program + "".join(f" {last.get(f'{program}: {kind}', 0):.0f} {unit}" for kind, unit in kinds.items())
        for program in ("server", "device")
    )
    done = f"{trouble.changes} versions, {len(trouble.faults_s)} faults"
    print(f"{passed_s:6.0f} of {seconds:.0f} s: {done}; {told}", flush=True)


def table(seen: Seen, faults_s: list[float]) -> list[str]:
    """What became of each kind of request, and how long it took where no fault had just been."""
    quiet = seen.kept(calm(seen, faults_s))
    lines = [
        f"{'':20}{'requests':>10}{'answered':>10}{'wrong':>7}{'errors':>8}"
        + "".join(f"{f'p{p}':>9}" for p in PERCENTILES)
    ]
    for number, kind in enumerate(seen.kinds):
        outcome = seen.outcome[seen.kind == number]
        took_ms = quiet.took_ms[(quiet.kind == number) & (quiet.outcome == OK)]
        right, wrong = int((outcome == OK).sum()), int((outcome == WRONG).sum())
        times = "".join(f"{np.percentile(took_ms, each):9.2f}" if len(took_ms) else "" for each in PERCENTILES)
        lines.append(f"{kind:20}{len(outcome):10d}{right:10d}{wrong:7d}{len(outcome) - right - wrong:8d}{times}")
    return lines


def warm_from_s(seen: Seen) -> float:
    """When the warm-up was over."""
    begun_s, ended_s = float(seen.at_s.min()), float(seen.at_s.max())
    return begun_s + max(LEAST_WARM_UP_S, WARM_UP * (ended_s - begun_s))


def of_the_machine(bare: Seen, faults_s: list[float], from_s: float) -> list[str]:
    """By how much what is none of ours became slower meanwhile; no verdict."""
    warm = bare.kept(bare.at_s >= from_s)
    grown = latency_growth(warm.kept(calm(warm, faults_s)))
    return [f"     latency of the bare reference, percentile {each}: {share:+.1%}" for each, share in grown.items()]


def judged(seen: Seen, trouble: Trouble, levels: Levels) -> list[Verdict]:
    """The verdicts, of what came after the warm-up; clients are no part of what is judged."""
    from_s = warm_from_s(seen)
    after = {
        name: ([at for at in times if at >= from_s], values[len(times) - sum(at >= from_s for at in times) :])
        for name, (times, values) in levels.items()
        if not name.startswith("clients")
    }
    return verdicts(seen.kept(seen.at_s >= from_s), trouble.faults_s, after)


def main() -> None:
    """Prints progress, a table and verdicts; exit code 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long (default 600)")
    parser.add_argument("--rate", type=float, default=1.0, help="times the usual load (default 1)")
    parser.add_argument("--seed", type=int, default=8, help="of what goes wrong when (default 8)")
    parser.add_argument("--transport", default="grpcio", help="as of the server (default grpcio)")
    parser.add_argument("--keep", type=Path, help="an empty folder for what was seen, in place of a temporary one")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    with contextlib.ExitStack() as stack:
        folder = arguments.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        given = (arguments.seconds, arguments.rate, arguments.seed, arguments.transport)
        seen, bare, trouble, levels = run(folder, *given)
        log = (folder / "server.log").read_text().splitlines()
    print(f"\n{trouble.changes} versions, {len(trouble.faults_s)} faults; times in ms, where no fault had just been")
    print("\n".join([*table(seen, trouble.faults_s), *table(bare, trouble.faults_s)[1:]]))
    for text, count in sorted(seen.texts.items(), key=lambda each: -each[1])[:20]:
        print(f"{count:8d} {text}")
    print(f"{len(log)} lines in the server's log")
    found = judged(seen, trouble, levels)
    print()
    for what, said, held in found:
        print(f"{'ok  ' if held else 'MISS'} {what}: {said}")
    print("\n".join(of_the_machine(bare, trouble.faults_s, warm_from_s(seen))))
    sys.exit(not all(held for _, _, held in found))


if __name__ == "__main__":
    main()
