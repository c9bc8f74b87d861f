"""How long several models take until all of them answer, beside one.

    python benchmarks/startup.py

A server with four models of 100 MB, and one with one of them, are started in turn. Each is timed from the start of its
process until every model is AVAILABLE; both pay once for starting, and for importing TensorFlow.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from served import Client, make_model, serve, wait_for

TARGET = 2.5
MODELS = 4


def took_s(repository: Path, names: list[str]) -> tuple[float, float]:
    """Seconds from the start of a server, and from the begin of its first load, until all models are AVAILABLE."""
    begin_s = time.monotonic()
    server = serve(repository)
    client = Client(server.address)
    try:
        ready_s = wait_for(lambda: all(client.states(name) == {1: "AVAILABLE"} for name in names))
    finally:
        client.close()
        server.terminate()
        server.wait()
    return ready_s - begin_s, loads_s("".join(server.log))


def loads_s(log: str) -> float:
    """From TensorFlow being imported to the last load's end, by the server's log."""
    stamps = [
        datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S,%f").astimezone()
        for line in log.splitlines()
        if "TensorFlow is imported" in line or " loaded {" in line
        if (found := re.match(r"(\S+ \S+) ", line))
    ]
    return (max(stamps) - min(stamps)).total_seconds()


def main() -> None:
    """Prints the figures beside their target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of starts (default 5)")
    parser.add_argument("--megabytes", type=int, default=100, help="of each model (default 100)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        names = [f"m{number}" for number in range(MODELS)]
        for name in names:
            make_model(Path(folder, "four", name, "1"), arguments.megabytes)
        one = Path(folder, "one")
        one.mkdir()
        (one / names[0]).symlink_to(Path(folder, "four", names[0]))
        four = Path(folder, "four")
        pairs = [(took_s(one, names[:1]), took_s(four, names)) for _ in range(arguments.rounds)]
    print(f"{'s, median of ' + str(arguments.rounds):24}{'one':>8}{'four':>8}{'ratio':>8}")
    for index, label in enumerate(("from the start", "from the import on")):
        alone_s, all_s = ([pair[which][index] for pair in pairs] for which in (0, 1))
        ratio = statistics.median(many / single for single, many in zip(alone_s, all_s, strict=True))
        target = f"   (target: at most {TARGET})" if index == 0 else ""
        print(f"{label:24}{statistics.median(alone_s):8.2f}{statistics.median(all_s):8.2f}{ratio:8.2f}{target}")


if __name__ == "__main__":
    main()
