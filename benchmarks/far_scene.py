"""What the benchmarks of the far half are played with: a device, a network, real servers, and a load that is counted.

The device is a real delegate (`tests/support/edge_delegate.c`, loaded by LiteRT in a worker process) whose runs last so
long as an accelerator's and take no processor time, so that machines with few cores can play all parts at once.
"""

from __future__ import annotations

import asyncio
import gc
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support import edge_delegates
from support.edge_models import publish_scale

from benchmarks.lates import Lates
from edge_runtime import EdgeRuntimeError, Runtime
from edge_runtime.model import Model
from edge_runtime.types import Array, Reply

RUN_MS = 10
"""What one run takes on the device."""

DEADLINE_MS = 50.0

NARROW, WIDE = 4, 37_500
"""Float32 values in an input: 16 bytes, and 150 KB."""

SLACK_MS = 10.0
"""What an outcome may come after its deadline: who waits has to be woken, and Python may look for garbage before."""

LATE_MS = 5.0
"""A machine on which a part of this waits so long for a core has too much else to do for these figures."""

SAVED = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf

for each in sys.argv[1:]:
    path, width = each.split("=")
    module = tf.Module()
    signature = tf.TensorSpec([None, int(width)], tf.float32, name="x")
    module.call = tf.function(lambda x: {"y": x * 2.0}, input_signature=[signature])
    tf.saved_model.save(module, path, signatures={"serving_default": module.call})
"""


READY = re.compile(r"fallback-server listening on (\S+) \(id \S+\), REST on (\S+)\n")


class Server:
    """A real server's process. This one's knows nothing of TensorFlow, as a device's.

    Attributes:
        address: `host:port` of gRPC.
        rest: The same of REST.
    """

    def __init__(self, *flags: str) -> None:
        """Starts it, and waits until it serves; it ends with this process."""
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fallback_server", *flags], stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        assert self._process.stdout is not None
        found = READY.fullmatch(self._process.stdout.readline())
        if found is None:
            self.kill()
            self._log.seek(0)
            raise RuntimeError(f"the server does not serve:\n{self._log.read()}")
        self.address, self.rest = found[1], found[2]

    def kill(self) -> None:
        """Ends it at once, if it has not ended."""
        self._process.kill()
        self._process.wait()


class Scene:
    """Models for both sides, the delegate's library, and the servers' processes.

    Attributes:
        store: The device's packages.
    """

    def __init__(self, folder: Path, models: Mapping[str, int]) -> None:
        """Makes the models, in a process of their own as far as TensorFlow is needed: y = 2 * x.

        Args:
            folder: An empty one.
            models: By name, the values in a row; version 1 of each is installed, and served.
        """
        self.store = folder / "store"
        self._library = edge_delegates.build(folder)
        saved = {width: folder / "saved" / str(width) for width in sorted(set(models.values()))}
        subprocess.run(
            [sys.executable, "-c", SAVED, *(f"{path}/1={width}" for width, path in saved.items())],
            check=True,
            capture_output=True,
        )
        for name, width in models.items():
            publish_scale(self.store, 1, 2.0, model=name, width=width)
        self._config = folder / "models.config"
        entries = (
            f'config {{ name: "{name}" base_path: "{saved[width]}" model_platform: "tensorflow" }}'
            for name, width in models.items()
        )
        self._config.write_text(f"model_config_list {{ {' '.join(entries)} }}")

    def delegate(self, **options: object) -> str:
        """The device string of a device; `delay_ms` is `RUN_MS` if it is not given."""
        return edge_delegates.device(self._library, **{"delay_ms": RUN_MS, **options})

    def server(self, *flags: str) -> Server:
        """A server with every model."""
        return Server(
            f"--model_config_file={self._config}", "--port=0", "--no-mdns", "--file_system_poll_wait_seconds=0", *flags
        )

    def runtime(self, fallback: str | Sequence[str] | None, **options: Any) -> Runtime:
        """A runtime on the device, one row a run, with that server or none."""
        given = {"delegates": [self.delegate()], "batch_sizes": (1,), "cache": None, **options}
        return Runtime.open(self.store, fallback=fallback, **given)


@dataclass(frozen=True)
class Outcome:
    """What became of one request.

    Attributes:
        due_s: The monotonic instant at which it was to be sent.
        asked_s: The one at which it was.
        took_ms: From then until the caller had the answer or the error.
        place: `device`, `server`; `error` for an error with a name, `crash` for another.
        reason: The reply's reason, or the error's class.
    """

    due_s: float
    asked_s: float
    took_ms: float
    place: str
    reason: str

    @property
    def in_time(self) -> bool:
        """Whether the caller had an answer before its deadline."""
        return self.place in ("device", "server") and self.took_ms <= DEADLINE_MS


@dataclass
class Tally:
    """Outcomes of a load."""

    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: Tally) -> None:
        """Takes another load's outcomes."""
        self.outcomes += other.outcomes
        self.seconds += other.seconds

    def between(self, from_s: float, until_s: float) -> Tally:
        """Those of requests that were due in that time."""
        kept = [one for one in self.outcomes if from_s <= one.due_s < until_s]
        return Tally(kept, until_s - from_s)

    @property
    def rate(self) -> float:
        """The share of requests that were answered in time."""
        return sum(one.in_time for one in self.outcomes) / max(len(self.outcomes), 1)

    @property
    def goodput(self) -> float:
        """Answers in time, a second."""
        return sum(one.in_time for one in self.outcomes) / max(self.seconds, 1e-9)

    @property
    def untold(self) -> int:
        """Requests that ended otherwise than by an answer or a named error by their deadline, or a moment later."""
        return sum(one.place == "crash" or one.took_ms > DEADLINE_MS + SLACK_MS for one in self.outcomes)

    def punctual(self, lates: Lates) -> Tally:
        """Those during which the machine itself was never late."""
        kept = [one for one in self.outcomes if lates.worst_ms(one.due_s, one.asked_s + one.took_ms / 1e3) < LATE_MS]
        return Tally(kept, self.seconds)

    @property
    def latest_ms(self) -> float:
        """The longest that a caller was kept."""
        return max((one.took_ms for one in self.outcomes), default=0.0)

    @property
    def lag_ms(self) -> float:
        """By how much the load itself was late, at the 99th percentile: this machine's doing, not the runtime's."""
        return percentile([(one.asked_s - one.due_s) * 1e3 for one in self.outcomes], 99)

    def ways(self) -> str:
        """What became of how many, by place and reason; those that came too late apart."""
        found = Counter(
            f"{one.place} ({one.reason})" + ("" if one.in_time or one.place == "error" else " late")
            for one in self.outcomes
        )
        return ", ".join(f"{name} {count}" for name, count in found.most_common())


def percentile(values: Sequence[float], share: float) -> float:
    """Of any number of values, 0 for none."""
    return float(np.percentile(values, share)) if values else 0.0


def load(model: Model, inputs: Array, rate_hz: float, seconds: float, began_s: float | None = None) -> Tally:
    """Requests at an even rate, none waiting for another, each with `DEADLINE_MS` to live; waits for all of them.

    What is loaded is kept from Python's garbage collector first, as a program with deadlines does: a look at all of it
    takes tens of milliseconds, in which no thread of the process runs.

    Args:
        model: Who is asked, by `predict_async`.
        inputs: One row.
        rate_hz: Requests a second.
        seconds: How long.
        began_s: The monotonic instant of the first; None for now.
    """
    outcomes: list[Outcome] = []

    async def ask(due_s: float) -> None:
        asked_s = time.monotonic()
        end: Reply | BaseException
        try:
            end = await model.predict_async(inputs, deadline_ms=DEADLINE_MS)
        except Exception as error:  # noqa: BLE001  an error without a name is a finding
            end = error
        outcomes.append(_outcome(due_s, asked_s, end))

    async def run() -> None:
        first_s = time.monotonic() if began_s is None else began_s
        tasks: set[asyncio.Task[None]] = set()
        for number in range(int(rate_hz * seconds)):
            due_s = first_s + number / rate_hz
            if (wait_s := due_s - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            task = asyncio.create_task(ask(due_s))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            if number % 16 == 0:
                await asyncio.sleep(0)  # Also a load that is behind lets the answers in.
        await asyncio.gather(*tasks)

    gc.collect()
    gc.freeze()
    asyncio.run(run())
    return Tally(outcomes, seconds)


def _outcome(due_s: float, asked_s: float, end: Reply | BaseException) -> Outcome:
    took_ms = (time.monotonic() - asked_s) * 1e3
    if isinstance(end, Reply):
        return Outcome(due_s, asked_s, took_ms, end.place.partition(":")[0], end.reason)
    place = "error" if isinstance(end, EdgeRuntimeError) else "crash"
    return Outcome(due_s, asked_s, took_ms, place, type(end).__name__)


def steady(models: Sequence[Model], inputs: Array, every_s: float, seconds: float) -> dict[str, list[Outcome]]:
    """By model, what became of requests without a deadline: one each so many seconds from a thread of its own."""
    began_s = time.monotonic()

    def ask(index: int) -> list[Outcome]:
        found = []
        for number in range(int(seconds / every_s)):
            due_s = began_s + (number + index / len(models)) * every_s
            time.sleep(max(due_s - time.monotonic(), 0.0))
            asked_s = time.monotonic()
            end: Reply | BaseException
            try:
                end = models[index].predict(inputs)
            except EdgeRuntimeError as error:
                end = error
            found.append(_outcome(due_s, asked_s, end))
        return found

    with ThreadPoolExecutor(len(models)) as threads:
        return dict(zip((one.name for one in models), threads.map(ask, range(len(models))), strict=True))


def capacity(model: Model, inputs: Array, seconds: float) -> float:
    """Answers a second to a caller who asks again as soon as it is answered."""
    count, began_s = 0, time.monotonic()
    while time.monotonic() - began_s < seconds:
        model.predict(inputs)
        count += 1
    return count / (time.monotonic() - began_s)


def in_thread(work: Callable[[], None]) -> threading.Thread:
    """Starts it."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def served(server: Server, prefix: str) -> int:
    """Requests that the server has counted for models whose names begin so."""
    with urllib.request.urlopen(f"http://{server.rest}/monitoring/prometheus/metrics", timeout=10) as page:
        text = page.read().decode()
    return sum(
        int(float(line.rsplit(" ", 1)[1]))
        for line in text.splitlines()
        if line.startswith(":tensorflow:serving:request_count{") and f'model_name="{prefix}' in line
    )


def ones(width: int) -> Array:
    """One row."""
    return np.ones((1, width), np.float32)
