"""What callers notice when a label moves: `stable` goes from one version to another and back, under load.

    python benchmarks/switching.py

One server process with two versions of a small model; four threads ask for `stable`, 500 requests a second together,
each at its time whether others have come back or not; now and then the label is moved over gRPC. A switch is effective
when no request that is sent later is answered by the old version: the delay is counted from the instant at which the
operator's call was sent. Beside that, how long requests take in the seconds with switches over those without, in the
same run.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np

# Not this folder, where a benchmark has the name of the package `converter`.
sys.path[0] = str(Path(__file__).parents[1])
sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.fallback_process import ServerProcess  # noqa: E402

from fallback_server.protocol import methods  # noqa: E402
from fallback_server.protocol.proto import edge_pb2  # noqa: E402
from fallback_server.protocol.proto import serving_pb2 as pb  # noqa: E402
from fallback_server.protocol.tensors import encode  # noqa: E402

THREADS = 4
TARGET_S = 0.1
MODELS = Path(__file__).parents[1] / "tests" / "support" / "fallback_models.py"


class Asked(NamedTuple):
    """One request: when it was due, sent and answered, and by which version; 0 if it failed."""

    due_s: float
    sent_s: float
    done_s: float
    version: int


def load(address: str, rate: float, seconds: float) -> tuple[list[Asked], list[str]]:
    """Requests at so many a second, in time with the clock; and what failed."""
    asked: list[Asked] = []
    failures: list[str] = []
    began_s = time.perf_counter() + 0.1

    def ask(first: int) -> None:
        with grpc.insecure_channel(address) as channel:
            call = methods.PREDICT.bind(channel)
            request = pb.PredictRequest(inputs={"x": encode(np.ones((1, 3), np.float32))})
            request.model_spec.name, request.model_spec.version_label = "scale", "stable"
            for step in range(first, int(rate * seconds), THREADS):
                due_s = began_s + step / rate
                time.sleep(max(due_s - time.perf_counter(), 0))
                sent_s, version = time.perf_counter(), 0
                try:
                    version = call(request, timeout=10).model_spec.version.value
                except grpc.RpcError as error:
                    failures.append(f"{error.code().name}: {error.details()}")
                asked.append(Asked(due_s, sent_s, time.perf_counter(), version))

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return asked, failures


def switcher(address: str, stop: threading.Event, every_s: float) -> Callable[[], list[tuple[float, float, int]]]:
    """Moves the label to and fro; afterwards gives when each call was sent, when it returned, and the new version."""
    moved: list[tuple[float, float, int]] = []

    def work() -> None:
        with grpc.insecure_channel(address) as channel:
            call = methods.SET_LABEL.bind(channel)
            version = 1
            while not stop.wait(every_s):
                version = 3 - version
                sent_s = time.perf_counter()
                call(edge_pb2.SetLabelRequest(model="scale", label="stable", version=version), timeout=10)
                moved.append((sent_s, time.perf_counter(), version))

    thread = threading.Thread(target=work)
    thread.start()

    def ended() -> list[tuple[float, float, int]]:
        stop.set()
        thread.join()
        return moved

    return ended


def effective_s(asked: list[Asked], moved: list[tuple[float, float, int]]) -> list[float]:
    """For each switch, how long after its call was sent the last request went out that the old version answered.

    Of those that came back before the next switch was sent: which of two switches an answer follows can't be told
    where it came after both.
    """
    delays = []
    for index, (sent_s, _, version) in enumerate(moved):
        until_s = moved[index + 1][0] if index + 1 < len(moved) else float("inf")
        these = [one for one in asked if sent_s <= one.sent_s and one.done_s < until_s]
        late = [one.sent_s for one in these if one.version not in (version, 0)]
        delays.append(max(late, default=sent_s) - sent_s)
    return delays


def p99_ms(asked: list[Asked]) -> float:
    """Of the time from when a request was due until it was answered."""
    return float(np.percentile([(one.done_s - one.due_s) * 1e3 for one in asked], 99))


def main() -> None:
    """Prints the figures beside their targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=500, help="requests a second (default 500)")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement (default 5)")
    parser.add_argument("--rounds", type=int, default=3, help="with and without switches in turn (default 3)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, MODELS, folder], check=True, capture_output=True)
        config = Path(folder) / "models.config"
        config.write_text(
            f'model_config_list {{ config {{ name: "scale" base_path: "{folder}/scale" model_platform: "tensorflow" '
            "model_version_policy { specific { versions: 1 versions: 2 } } "
            'version_labels { key: "stable" value: 1 } } }'
        )
        flags = [
            f"--model_config_file={config}",
            "--port=0",
            "--no-mdns",
            "--allow_remote_control",
            "--allow_version_labels_for_unavailable_models",
        ]
        server = ServerProcess(*flags)
        try:
            load(server.address, arguments.rate, 1)
            still, moving, delays, failures = [], [], [], []
            for _ in range(arguments.rounds):
                asked, failed = load(server.address, arguments.rate, arguments.seconds)
                still.append(p99_ms(asked))
                failures += failed
                ended = switcher(server.address, threading.Event(), 0.25)
                asked, failed = load(server.address, arguments.rate, arguments.seconds)
                delays += effective_s(asked, ended())
                moving.append(p99_ms(asked))
                failures += failed
        finally:
            server.close()
    count = int(arguments.rate * arguments.seconds) * 2 * arguments.rounds
    print(f"{count} requests at {arguments.rate:.0f}/s, {len(delays)} switches: {len(failures)} failed (target: none)")
    for text in sorted(set(failures))[:5]:
        print(f"  {text}")
    print(
        f"effective after {statistics.median(delays) * 1e3:.1f} ms, at most {max(delays) * 1e3:.1f} ms "
        f"(target: within {TARGET_S * 1e3:.0f} ms)"
    )
    print(
        f"p99 with switches {statistics.median(moving):.2f} ms, without {statistics.median(still):.2f} ms: "
        f"{statistics.median(moving) / statistics.median(still):.2f} x"
    )


if __name__ == "__main__":
    main()
