"""What the server keeps of models that it has unloaded.

    python benchmarks/unloads.py

A model of 300 MB is shown to a running server and taken away again, twenty times. After each time the proportional set
sizes of all the server's processes are added up; what counts is the sum after the last beside that after the second.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from process_tree import processes, pss_mib
from served import Client, asker, make_model, serve, wait_for

TARGET = 1.1
SETTLED_S = 0.5
"""Between the end of a version and the look at the memory: what a caller sees a moment later."""


def main() -> None:
    """Prints the figures beside their target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=20, help="loads and unloads (default 20)")
    parser.add_argument("--megabytes", type=int, default=300, help="of the model (default 300)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder, "models")
        make_model(repository / "a" / "1", 0)
        hidden = make_model(Path(folder, "b", "1"), arguments.megabytes)
        (repository / "b").mkdir()
        shown = repository / "b" / "1"
        server = serve(repository)
        client = Client(server.address)
        ask_b = asker(client, "b", (4, 1000))

        def available() -> bool:
            try:
                return client.states("b").get(1) == "AVAILABLE"
            except Exception:  # noqa: BLE001  it is not known yet, or no more
                return False

        def ended() -> bool:
            return not available() and len(processes(server.process.pid)) == before

        before = len(processes(server.process.pid))
        loaded = []
        try:
            sums = [pss_mib(server.process.pid)]
            for _ in range(arguments.cycles):
                hidden.rename(shown)
                wait_for(available)
                for _ in range(20):
                    ask_b()
                loaded.append(pss_mib(server.process.pid))
                shown.rename(hidden)
                wait_for(ended)
                time.sleep(SETTLED_S)
                sums.append(pss_mib(server.process.pid))
        finally:
            client.close()
            server.close()
    print(f"MiB (sum of PSS): at first {sums[0]:.0f}, with the model {max(loaded):.0f} at most, after each unload:")
    print(" ".join(f"{value:.0f}" for value in sums[1:]))
    print(f"after {arguments.cycles} / after 2: {sums[-1] / sums[2]:.3f} (target: at most {TARGET})")


if __name__ == "__main__":
    main()
