"""Our server beside Triton and beside bare echoes, in one run: a table, and a figure.

    python -m benchmarks.peers [--quick] [--into docs]

All servers are up; each round measures each of them at each load, in turn, by clients in C: perf_analyzer (in TF
Serving mode for ours, in Open Inference mode for Triton) and h2load, whose runs also tell the processor time that a
server's processes took for a request. A ratio is the median of the rounds' ratios. Then come what our server is held to
by itself: a larger net beside its executors, two models of which one is flooded, and sequences.

What can't be had on this machine is told first, with what would bring it, and the rest is measured. Triton's wheel,
perf_analyzer and what its models need come into an environment of their own, under `.venv/share/peers`; h2load is
Debian's `nghttp2-client`.
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

from benchmarks.peers import others, suite
from benchmarks.peers.environment import DEFAULT, Peers
from benchmarks.peers.loads import PerfAnalyzer, require_h2load
from benchmarks.peers.models import make_cnn
from benchmarks.peers.processes import NotThere
from benchmarks.peers.rounds import Rounds, figures, table

LOADS = (suite.ONE, suite.MANY, suite.MORE)
H2_LOADS = (suite.H2_ONE, suite.H2_MANY)
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
    parser.add_argument("--no-others", action="store_true", help="leaves out what other benchmarks measure")
    parser.add_argument("--quick", action="store_true", help="one short round of everything: shows that all works")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 2.0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that no server is left behind.
    rounds = Rounds()
    peers, client = _peers(arguments.environment, rounds)
    h2load = _has_h2load(rounds)
    for name, why in {**rounds.absent, **rounds.left_out}.items():
        print(f"not measured: {name}: {why}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_cnn(folder)
        candidates = suite.servers(folder, model)
        if peers is not None:
            candidates += suite.tritons(folder, model, peers)
        names = [server.name for server in candidates]
        with suite.started(candidates, rounds) as there:
            ways = {} if client is None else suite.by_perf_analyzer(there, client, arguments.seconds)
            ways |= suite.by_h2load(there, arguments.seconds) if h2load else {}
            rounds.measure(ways, arguments.rounds, before)
        _measure_ours(folder, rounds, arguments, before, h2load=h2load)
    text = _text(rounds, names, arguments.rounds, arguments.seconds)
    print(text)
    if arguments.into is not None:
        from benchmarks.peers.figure import draw  # noqa: PLC0415  matplotlib takes a second

        arguments.into.mkdir(parents=True, exist_ok=True)
        (arguments.into / "peers.md").write_text(f"# {TITLE}\n\n{text}\n\n![the same as bars](peers.png)\n")
        shown = [name for name in names if "echo" not in name]
        # Without perf_analyzer what h2load measured is better than nothing.
        draw(rounds, shown, H2_LOADS if client is None else LOADS, arguments.into / "peers.png")
    if rounds.failed:
        sys.exit(1)


def _peers(folder: Path, rounds: Rounds) -> tuple[Peers | None, PerfAnalyzer | None]:
    """Triton's environment and the load generator in it, each if it can be had."""
    try:
        peers = Peers(folder)
        peers.make()
    except NotThere as error:
        rounds.absent |= dict.fromkeys((suite.TRITON, suite.TRITON_TF), str(error))
        rounds.left_out |= dict.fromkeys(LOADS, str(error))
        return None, None
    try:
        return peers, peers.perf_analyzer()
    except NotThere as error:
        rounds.left_out |= dict.fromkeys(LOADS, str(error))
        return peers, None


def _has_h2load(rounds: Rounds) -> bool:
    try:
        require_h2load()
    except NotThere as error:
        rounds.left_out |= dict.fromkeys((*H2_LOADS, suite.EIGHT), str(error))
        return False
    return True


def _measure_ours(
    folder: Path, rounds: Rounds, arguments: argparse.Namespace, before: Callable[[], None], *, h2load: bool
) -> None:
    """What our server is held to by itself."""
    if arguments.no_mobilenet:
        rounds.left_out[suite.EIGHT] = "left out by --no-mobilenet"
    elif h2load:
        suite.measure_mobilenet(folder, rounds, times=arguments.rounds, seconds=arguments.seconds, before=before)
    if arguments.no_others:
        left_out = [row.load for row in suite.TOGETHER]
        rounds.left_out |= dict.fromkeys(left_out, "left out by --no-others")
        return
    before()
    others.measure_flood(rounds, times=2 if arguments.quick else 3 * arguments.rounds, seconds=1.5)
    before()
    others.measure_sequences(rounds, times=arguments.rounds, length=10 if arguments.quick else 30)


def _text(rounds: Rounds, names: list[str], times: int, seconds: float) -> str:
    machine = f"{os.cpu_count()} CPUs ({platform.machine()}), shared by clients and servers"
    head = (
        f"TensorFlow Serving's tutorial net, one image a request, closed loops, {machine}; medians of {times} "
        f"interleaved rounds of {seconds:g} s."
    )
    rows = (*suite.BESIDE, *suite.ALONE, *suite.TOGETHER)
    return "\n".join(
        [head, "", *table(rounds, rows), "", *suite.bounds(rounds), "", *figures(rounds, names, (*LOADS, *H2_LOADS))]
    )


if __name__ == "__main__":
    main()
