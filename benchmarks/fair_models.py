"""What a served model's 99th percentile suffers when another one on the same server is flooded.

    python benchmarks/fair_models.py

Two models of equal cost (some milliseconds of arithmetic a row), each in a worker process of its own, behind one data
plane. One is asked evenly, a row at a time, at a fifth of what the server answers of it; the other either rests or gets
ten times the rate at which the server, batches full, can answer it. Both states alternate, and the ratio is that of the
percentiles over all rounds. Asking comes from this process too: what that takes is taken from the models.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path[0] = str(Path(__file__).parents[1])  # Not this folder, where a benchmark may have a package's name.
from fallback_server.batching.options import BatchingOptions  # noqa: E402
from fallback_server.core.handle import ServableHandle  # noqa: E402
from fallback_server.core.manager import Manager, ManagerOptions  # noqa: E402
from fallback_server.core.servable import ServableId  # noqa: E402
from fallback_server.core.source import AspiredVersion  # noqa: E402
from fallback_server.core.target import ModelTarget  # noqa: E402
from fallback_server.dataplane import Answer, DataPlane, PredictCall, PredictReply  # noqa: E402
from fallback_server.executors.registry import default_registry  # noqa: E402
from fallback_server.executors.saved_model import SavedModelOptions  # noqa: E402
from fallback_server.served_model import ServedModel, ServedModelLoader  # noqa: E402

TARGET = 2.0
SHARE = 0.2
FLOOD = 10.0
OUTSTANDING = 128
"""Requests that wait at a time while capacity is measured: batches are full then."""


def write_model(path: Path, steps: int) -> None:
    """A model whose rows cost alike, and whose batches cost as much as their rows together."""
    import tensorflow as tf  # noqa: PLC0415  in a process of its own

    matrix = tf.constant(np.random.default_rng(7).normal(size=(96, 96)) / 10, tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, 96], tf.float32, name="x")])
    def run(x: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.repeat(x[:, None, :], 96, axis=1)
        for _ in range(steps):
            rows = tf.tanh(rows @ matrix)
        return {"y": tf.reduce_mean(rows, axis=1)}

    module = tf.Module()
    module.run = run
    tf.saved_model.save(module, str(path), signatures=run)


class Versions:
    """The manager's versions as they are."""

    def __init__(self, manager: Manager[ServedModel]) -> None:
        self._manager = manager

    def acquire(self, target: ModelTarget, client_key: bytes = b"") -> ServableHandle[ServedModel]:
        """See `Versions` of the data plane."""
        del client_key
        return self._manager.acquire(target.name, target.version)

    def shadow(self, name: str, answered: int) -> None:
        """None."""


class Asker:
    """Asks one model, and notes what came of it."""

    def __init__(self, plane: DataPlane, name: str) -> None:
        self._plane = plane
        self._target = ModelTarget(name=name)
        self._row = np.full((1, 96), 0.5, np.float32)
        self._lock = threading.Lock()
        self.took_ms: list[float] = []
        self.refused = 0
        self.open = 0
        self.settled = threading.Condition(self._lock)

    def ask(self) -> None:
        """One request, whatever becomes of it."""
        with self._lock:
            self.open += 1
        self._plane.predict([PredictCall(target=self._target, inputs={"x": self._row})], self._settle)

    def _settle(self, answers: Sequence[tuple[PredictCall, Answer]]) -> None:
        now_s = time.monotonic()
        with self._lock:
            self.open -= len(answers)
            for call, answer in answers:
                if isinstance(answer, PredictReply):
                    self.took_ms.append((now_s - call.started_s) * 1e3)
                else:
                    self.refused += 1
            self.settled.notify_all()

    def wait(self, most: int) -> None:
        """Until no more than so many are open."""
        with self._lock:
            self.settled.wait_for(lambda: self.open <= most)

    def evenly(self, rate_hz: float, seconds: float, stop: threading.Event | None = None) -> None:
        """Asks at an even rate, none waiting for another."""
        begun, count = time.monotonic(), 0
        while count < rate_hz * seconds and not (stop is not None and stop.is_set()):
            if (wait_s := begun + count / rate_hz - time.monotonic()) > 0:
                time.sleep(wait_s)
            self.ask()
            count += 1

    def capacity_hz(self, outstanding: int, seconds: float) -> float:
        """Answers a second while so many are always open."""
        begun = time.monotonic()
        self.took_ms.clear()
        while time.monotonic() < begun + seconds:
            self.ask()
            self.wait(outstanding - 1)
        rate = len(self.took_ms) / seconds
        self.wait(0)
        self.took_ms.clear()
        return rate


def measure(plane: DataPlane, rounds: int, seconds: float) -> None:
    """Prints the percentiles and their ratio."""
    light, heavy = Asker(plane, "light"), Asker(plane, "heavy")
    for asker in (light, heavy):
        asker.capacity_hz(4, 0.5)
    single_hz = light.capacity_hz(1, 1.0)
    full_hz = heavy.capacity_hz(OUTSTANDING, 2.0)
    print(f"a row takes {1e3 / single_hz:.1f} ms alone; batches are answered at {full_hz:.0f} rows/s")
    rate_hz = SHARE * single_hz
    alone: list[float] = []
    beside: list[float] = []
    heavy.refused = answered = 0
    gc.collect()
    gc.freeze()
    for _ in range(rounds):
        light.evenly(rate_hz, seconds)
        light.wait(0)
        alone += light.took_ms
        light.took_ms.clear()
        stop = threading.Event()
        flooding = threading.Thread(target=heavy.evenly, args=(FLOOD * full_hz, 3600.0, stop))
        flooding.start()
        time.sleep(0.2)
        before = len(heavy.took_ms)
        light.evenly(rate_hz, seconds)
        light.wait(0)
        answered += len(heavy.took_ms) - before
        beside += light.took_ms
        light.took_ms.clear()
        stop.set()
        flooding.join()
        heavy.wait(0)
        heavy.took_ms.clear()
    print(f"of the flood {answered / rounds / seconds:.0f} rows/s answered, {heavy.refused} requests refused")
    print(f"{'':20}{'median':>10}{'p90':>10}{'p99':>10}   ms, of {len(alone)} and {len(beside)} requests")
    for name, values in (("alone", alone), ("the other flooded", beside)):
        print(f"{name:20}" + "".join(f"{np.percentile(values, share):10.2f}" for share in (50, 90, 99)))
    ratio = np.percentile(beside, 99) / np.percentile(alone, 99)
    print(f"p99 over p99 alone: {ratio:.2f} (target: at most {TARGET:g})")


def main() -> None:
    """Makes the models, serves them, and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="of both states (default 15)")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each (default 1.5)")
    parser.add_argument("--steps", type=int, default=150, help="of arithmetic in a row (default 150)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="batches at a time")
    parser.add_argument("--intra", type=int, default=0, help="threads of one operation; 0: TensorFlow chooses")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write is not None:
        write_model(arguments.write, arguments.steps)
        return
    logging.basicConfig(level=logging.WARNING)
    # Few batches wait, so that a flood is over soon after it has ended.
    options = BatchingOptions(num_batch_threads=arguments.threads, max_enqueued_batches=4)
    registry = default_registry(SavedModelOptions(intra_op_parallelism=arguments.intra))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1"
        command = [sys.executable, __file__, f"--write={path}", f"--steps={arguments.steps}"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        registry.start()
        manager: Manager[ServedModel] = Manager(
            make_loader=lambda servable_id, path, on_lost: ServedModelLoader(
                servable_id, path, registry=registry, options=options, on_lost=on_lost
            ),
            options=ManagerOptions(),
        )
        plane = DataPlane(versions=Versions(manager), options=options, clock=time.monotonic)
        plane.scheduler.start()
        try:
            version = AspiredVersion(path=path, fingerprint=())
            manager.set_aspired({ServableId(name, 1): version for name in ("light", "heavy")})
            if not manager.wait_idle(timeout_s=120):
                raise SystemExit("the models are not loaded after 120 s")
            measure(plane, arguments.rounds, arguments.seconds)
        finally:
            plane.scheduler.stop(timeout_s=10)
            manager.set_aspired({})
            manager.stop(timeout_s=10)
            registry.close()


if __name__ == "__main__":
    main()
