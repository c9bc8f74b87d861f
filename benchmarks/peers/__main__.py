"""Our server beside Triton and beside bare echoes, in one run: a table, and a figure.

    python -m benchmarks.peers [--into docs]

All servers are up; each round measures each of them at each load, in turn, by clients in C: perf_analyzer (in TF
Serving mode for ours, in Open Inference mode for Triton) and h2load, whose runs also tell the processor time that a
server's processes took for a request. A ratio is the median of the rounds' ratios. What can't be had on this machine is
a row that says what would bring it. Triton's wheel, perf_analyzer and what its models need come into an environment of
their own, under `.venv/share/peers`; h2load is Debian's `nghttp2-client`.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers import suite
from benchmarks.peers.environment import DEFAULT, Peers
from benchmarks.peers.loads import PerfAnalyzer, require_h2load
from benchmarks.peers.models import make_cnn
from benchmarks.peers.processes import NotThere
from benchmarks.peers.rounds import Rounds, figures, table
from benchmarks.peers.servers import Server

LOADS = (suite.ONE, suite.MANY, suite.MORE)
TITLE = "The server beside its peers"


def main(before: Callable[[], None] = lambda: None) -> None:
    """Measures, and tells.

    Args:
        before: Called before each measurement.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement (default 2)")
    parser.add_argument("--into", type=Path, help="a folder: writes peers.md and peers.png there, too")
    parser.add_argument("--environment", type=Path, default=DEFAULT, help=f"of the peers (default {DEFAULT})")
    parser.add_argument("--no-mobilenet", action="store_true", help="leaves the larger model out")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that no server is left behind.
    rounds = Rounds()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_cnn(folder)
        candidates = suite.servers(folder, model)
        client = _peers(arguments.environment, rounds)
        if client is not None:
            candidates += suite.tritons(folder, model, Peers(arguments.environment))
        names = [server.name for server in candidates]
        with suite.started(candidates, rounds) as there:
            _measure(there, client, rounds, arguments, before)
        if not arguments.no_mobilenet and _has_h2load(rounds):
            suite.measure_mobilenet(folder, rounds, times=arguments.rounds, seconds=arguments.seconds, before=before)
    text = _text(rounds, names, arguments.rounds, arguments.seconds)
    print(text)
    if arguments.into is not None:
        from benchmarks.peers.figure import draw  # noqa: PLC0415  matplotlib takes a second

        arguments.into.mkdir(parents=True, exist_ok=True)
        (arguments.into / "peers.md").write_text(f"# {TITLE}\n\n{text}\n\n![the same as bars](peers.png)\n")
        draw(rounds, [name for name in names if "echo" not in name], LOADS, arguments.into / "peers.png")
    if rounds.failed:
        sys.exit(1)


def _peers(folder: Path, rounds: Rounds) -> PerfAnalyzer | None:
    try:
        peers = Peers(folder)
        peers.make()
        return peers.perf_analyzer()
    except NotThere as error:
        for name in (suite.TRITON, suite.TRITON_TF):
            rounds.absent[name] = str(error)
        return None


def _has_h2load(rounds: Rounds) -> bool:
    try:
        require_h2load()
    except NotThere as error:
        rounds.absent[suite.AIO] = str(error)
        print(error, file=sys.stderr)
        return False
    return True


def _measure(
    there: list[Server],
    client: PerfAnalyzer | None,
    rounds: Rounds,
    arguments: argparse.Namespace,
    before: Callable[[], None],
) -> None:
    ways = {}
    if client is not None:
        ways |= suite.by_perf_analyzer(there, client, arguments.seconds)
    if _has_h2load(rounds):
        ways |= suite.by_h2load(there, arguments.seconds)
    rounds.measure(ways, arguments.rounds, before)


def _text(rounds: Rounds, names: list[str], times: int, seconds: float) -> str:
    machine = f"{os.cpu_count()} CPUs ({platform.machine()}), shared by clients and servers"
    head = (
        f"TensorFlow Serving's tutorial net, one image a request, closed loops, {machine}; medians of {times} "
        f"interleaved rounds of {seconds:g} s."
    )
    loads = (*LOADS, suite.H2_ONE, suite.H2_MANY)
    return "\n".join([head, "", *table(rounds, (*suite.BESIDE, *suite.ALONE)), "", *figures(rounds, names, loads)])


if __name__ == "__main__":
    main()
