"""Requests a second from 8 threads that call `predict()`, over the best that bare interpreters do.

    python benchmarks/throughput.py [--models NAME,...]

For each model, in one process and interleaved: a bare loop in one thread; a bare loop in each of 8 threads, with an
interpreter each; 8 threads that call `predict()` of one runtime with its default options; the same with batches
forbidden; and `predict_many` of one thread. The ratio is that of the medians. What Python itself costs a call (some
7 us of checks, locks and bookkeeping) is next to nothing beside a run of a millisecond and much beside one of 10 us.
Two more models are shown beside the five that the target is for, one of them with runs that short; the last column
says what this machine could do at best there, the GIL being one: 1 / (bare call + what `predict()` adds alone).
"""

from __future__ import annotations

import argparse
import logging
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# Not this folder, where a benchmark has the name of the package `converter`.
sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.real_models import BATCHED, as_package, bare, model_file  # noqa: E402
from edge_runtime import Runtime  # noqa: E402

FIVE = ("mobilenet-v2", "mobilenet-v2-int8", "face-landmark", "face-detection", "emotion-int8")
SHORT = ("face-detection-back", "digits-cnn")
THREADS = 8
TARGET = 0.95


def rate(calls: Sequence[Callable[[], object]], seconds: float) -> tuple[float, float]:
    """Calls a second, of a thread for each; and calls a second of processor time, all threads together.

    On a machine that others use too, more threads get more of it; the second figure does not know of that.
    """
    counts = [0] * len(calls)
    go, stop = threading.Barrier(len(calls) + 1), threading.Event()

    def loop(index: int, call: Callable[[], object]) -> None:
        go.wait()
        count = 0
        while not stop.is_set():
            call()
            count += 1
        counts[index] = count

    threads = [threading.Thread(target=loop, args=each) for each in enumerate(calls)]
    for thread in threads:
        thread.start()
    go.wait()
    before, used = time.perf_counter(), time.process_time()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - before), sum(counts) / (time.process_time() - used)


def many(model, inputs, seconds: float) -> tuple[float, float]:  # noqa: ANN001
    """Answers a second of `predict_many`; and a second of processor time."""
    until = time.perf_counter() + seconds

    def source():  # noqa: ANN202
        while time.perf_counter() < until:
            yield inputs

    before, used = time.perf_counter(), time.process_time()
    count = sum(1 for _ in model.predict_many(source()))
    return count / (time.perf_counter() - before), count / (time.process_time() - used)


def alone_us(call: Callable[[], object]) -> float:
    """The median microseconds of one call."""
    took = []
    for _ in range(300):
        before = time.perf_counter()
        call()
        took.append((time.perf_counter() - before) * 1e6)
    return statistics.median(took)


def measure(name: str, rounds: int, seconds: float, options: dict[str, object]) -> dict[str, float]:
    """The medians for one model."""
    path = model_file(name)
    calls = []
    for _ in range(THREADS):
        call, named = bare(path)
        calls.append(call)
    inputs = next(iter(named.values())) if len(named) == 1 else named
    with tempfile.TemporaryDirectory() as folder:
        source, opened = path, None
        if name in BATCHED:
            source, opened = Path(folder), name
            inputs = as_package(path, source, name)
        with Runtime.open(source, **options) as one, Runtime.open(source, batch_sizes=[1], **options) as other:
            model, unbatched = (each.model(*([opened] if opened else [])) for each in (one, other))
            for each in (model, unbatched):  # Under load the runtime makes the engines that it needs.
                rate([lambda each=each: each.predict(inputs)] * THREADS, 1.5)
            found: dict[str, list[tuple[float, float]]] = {}
            ways: list[tuple[str, Callable[[], tuple[float, float]]]] = [
                ("bare", lambda: rate(calls[:1], seconds)),
                ("bare-threads", lambda: rate(calls, seconds)),
                ("predict", lambda: rate([lambda: model.predict(inputs)] * THREADS, seconds)),
                ("unbatched", lambda: rate([lambda: unbatched.predict(inputs)] * THREADS, seconds)),
                ("many", lambda: many(model, inputs, seconds)),
            ]
            # Each comes first, and after each of the others: what came before is felt in caches and clock rates.
            order = random.Random(0)
            for _ in range(rounds):
                for key, way in order.sample(ways, len(ways)):
                    found.setdefault(key, []).append(way())
            result = {key: statistics.median(value for value, _ in values) for key, values in found.items()}
            result |= {f"{key}-cpu": statistics.median(value for _, value in values) for key, values in found.items()}
            result["bare-us"], result["predict-us"] = alone_us(calls[0]), alone_us(lambda: model.predict(inputs))
    return result


def main() -> None:
    """Prints a line a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(FIVE + SHORT), help="names, with commas")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (default 7)")
    parser.add_argument("--seconds", type=float, default=0.7, help="of each measurement (default 0.7)")
    parser.add_argument("--engines", type=int, help="interpreters, instead of the runtime's choice")
    parser.add_argument("--threads", type=int, help="threads of one, likewise")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    options = {key: value for key in ("engines", "threads") if (value := getattr(arguments, key)) is not None}
    print(f"requests a second, {THREADS} threads, medians of {arguments.rounds} interleaved rounds")
    heads = ("bare", "a thread", "predict", "ratio", "by CPU", "unbatched", "over it", "many", "ratio", "by CPU")
    print(f"{'':18}" + "".join(f"{head:>11}" for head in heads) + "   at best")
    ratios = {}
    for name in arguments.models.split(","):
        one = measure(name, arguments.rounds, arguments.seconds, options)
        best = max(one["bare"], one["bare-threads"])
        ratios[name] = one["predict"] / best
        best_cpu = max(one["bare-cpu"], one["bare-threads-cpu"])
        print(
            f"{name:18}{one['bare']:11.0f}{one['bare-threads']:11.0f}{one['predict']:11.0f}{ratios[name]:11.3f}"
            f"{one['predict-cpu'] / best_cpu:11.3f}"
            f"{one['unbatched']:11.0f}{one['predict'] / one['unbatched']:11.3f}{one['many']:11.0f}"
            f"{one['many'] / best:11.3f}{one['many-cpu'] / best_cpu:11.3f}{1e6 / one['predict-us']:10.0f}",
            flush=True,
        )
    five = {name: ratio for name, ratio in ratios.items() if name in FIVE}
    if five:
        worst = min(five, key=five.__getitem__)
        print(f"least of {len(five)} models: {worst}, {five[worst]:.3f} (target: at least {TARGET})")


if __name__ == "__main__":
    main()
