"""What our server adds to a bare gRPC echo and to a bare executor, by h2load.

    python benchmarks/serving.py

The tutorial net in each of its forms and over each transport that this server has, bare echoes of 3,136 bytes, and a
MobileNetV2 beside its executors in a process without a server; in interleaved rounds. `python -m benchmarks.peers` has
the same beside Triton.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

# Not this folder, where a benchmark has the name of the package `converter`.
sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.peers import suite  # noqa: E402
from benchmarks.peers.loads import require_h2load  # noqa: E402
from benchmarks.peers.models import make_cnn  # noqa: E402
from benchmarks.peers.processes import NotThere  # noqa: E402
from benchmarks.peers.rounds import Rounds, figures, table  # noqa: E402


def main() -> None:
    """Prints the targets, and every server's figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement (default 2)")
    parser.add_argument("--no-mobilenet", action="store_true", help="leaves the larger model out")
    arguments = parser.parse_args()
    try:
        require_h2load()
    except NotThere as error:
        print(f"not measured: {error}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that no server is left behind.
    rounds = Rounds()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        candidates = suite.servers(folder, make_cnn(folder))
        names = [server.name for server in candidates]
        with suite.started(candidates, rounds) as there:
            rounds.measure(suite.by_h2load(there, arguments.seconds), arguments.rounds)
        if not arguments.no_mobilenet:
            suite.measure_mobilenet(folder, rounds, times=arguments.rounds, seconds=arguments.seconds)
    print(f"medians of {arguments.rounds} interleaved rounds of {arguments.seconds:g} s")
    print(
        "\n".join(
            [
                *table(rounds, suite.ALONE),
                "",
                *suite.bounds(rounds),
                "",
                *figures(rounds, names, (suite.H2_ONE, suite.H2_MANY)),
            ]
        )
    )
    if rounds.failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
