"""What `predict()` adds to the bare interpreter on an idle engine, and what importing the runtime costs.

    python benchmarks/overhead.py

One process, one model, calls interleaved: every round times a bare `set_tensor / invoke / get_tensor` and a
`predict()`, so that whatever else the machine does meets both. A trivial model shows what is added, a MobileNetV2 what
share of a call that is: on the very interpreter that the runtime has, since two of one model differ by up to 4 % by
where in memory their weights came to lie. What is added there is more than with the trivial model: a run over 14 MB of
weights leaves the processor's caches cold, and Python's own code and objects come back from memory. Import time is the
median of fresh interpreters that import numpy and LiteRT first.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
from ai_edge_litert import interpreter as litert
from ai_edge_litert.interpreter import Interpreter

# Not this folder, where a benchmark has the name of the package `converter`.
sys.path[0] = str(Path(__file__).parents[1] / "tests")
sys.path.append(str(Path(__file__).parents[1]))
from support.edge_models import publish_scale, rows  # noqa: E402

from benchmarks.real_models import as_package, model_file  # noqa: E402
from edge_runtime import Runtime  # noqa: E402

TURNS = tuple(itertools.permutations(range(3)))
TARGET_ADDED_US = 10.0
TARGET_LARGE = 1.01
TARGET_IMPORT_MS = 150.0

IMPORT = """
import time, numpy, ai_edge_litert.interpreter
before = time.perf_counter()
import edge_runtime
print((time.perf_counter() - before) * 1e3)
"""


def bare(path: Path, x: np.ndarray) -> Callable[[], object]:
    """One bare call on an interpreter that is ready."""
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], x.shape)
    interpreter.allocate_tensors()
    return direct(interpreter, x)


def direct(interpreter: Interpreter, x: np.ndarray) -> Callable[[], object]:
    """One bare call on this interpreter."""
    index = interpreter.get_input_details()[0]["index"]
    output = interpreter.get_output_details()[0]["index"]

    def call() -> object:
        interpreter.set_tensor(index, x)
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return call


def timed_us(call: Callable[[], object]) -> float:
    """Microseconds of one call."""
    before = time.perf_counter()
    call()
    return (time.perf_counter() - before) * 1e6


def overhead(rounds: int) -> tuple[list[float], list[float]]:
    """Microseconds of each bare call and of each `predict()`, interleaved."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        package = publish_scale(store, 1, 2.0)
        x = rows(1)
        with Runtime.open(store, threads=1) as runtime:
            model = runtime.model("scale")
            one = bare(package.file(package.manifest.variants[0]), x)

            def two() -> object:
                return model.predict(x)

            for _ in range(1000):
                one(), two()
            pairs = [(timed_us(one), timed_us(two)) for _ in range(rounds)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


class Recorded(Interpreter):
    """LiteRT's interpreter, which is remembered."""

    made: ClassVar[list[Interpreter]] = []

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        Recorded.made.append(self)


def large_model(rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Microseconds of each bare call and of each `predict()` of a MobileNetV2 of float32, on one interpreter.

    The third list is of another bare interpreter of the same file: how far two of them are apart.
    """
    path = model_file("mobilenet-v2")
    with tempfile.TemporaryDirectory() as folder:
        store = store_of(path, folder)
        litert.Interpreter = Recorded
        try:
            with Runtime.open(store, threads=1, batch_sizes=[1]) as runtime:
                model = runtime.model("mobilenet-v2")
                (spec,) = model.signature.inputs
                x = np.zeros((1, *spec.shape[1:]), np.float32)
                model.predict(x)
                one = direct(next(each for each in Recorded.made if fits(each, x)), x)
                other = bare(path, x)

                def two() -> object:
                    return model.predict(x)

                for _ in range(20):
                    one(), two(), other()
                # Whichever comes after which finds warmer or colder caches: they take turns.
                took: dict[Callable[[], object], list[float]] = {one: [], two: [], other: []}
                for step in range(rounds):
                    for call in TURNS[step % len(TURNS)]:
                        which = (one, two, other)[call]
                        took[which].append(timed_us(which))
        finally:
            litert.Interpreter = Interpreter
            Recorded.made.clear()
    return took[one], took[two], took[other]


def fits(interpreter: Interpreter, x: np.ndarray) -> bool:
    """Whether it takes inputs of this shape now."""
    return tuple(interpreter.get_input_details()[0]["shape"]) == x.shape


def store_of(path: Path, folder: str) -> Path:
    """A store with the model as a package."""
    as_package(path, Path(folder), "mobilenet-v2")
    return Path(folder)


def import_ms(times: int) -> float:
    """Median milliseconds that `import edge_runtime` takes beyond numpy's and LiteRT's."""
    command = [sys.executable, "-c", IMPORT]
    return statistics.median(
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(times)
    )


def main() -> None:
    """Prints the figures beside their targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20_000, help="pairs of calls (default 20000)")
    parser.add_argument("--imports", type=int, default=9, help="fresh interpreters (default 9)")
    parser.add_argument("--large", type=int, default=600, help="pairs of calls of the large model (default 600)")
    arguments = parser.parse_args()
    alone, through = overhead(arguments.rounds)
    added = float(np.median(through) - np.median(alone))
    print(f"{'':24}{'median':>10}{'p99':>10}   us, {arguments.rounds} interleaved pairs, MUL of [1, 4]")
    for name, values in (("bare interpreter", alone), ("predict()", through)):
        print(f"{name:24}{np.median(values):10.2f}{np.percentile(values, 99):10.2f}")
    ratio = np.median(through) / np.median(alone)
    print(f"{'ratio':24}{ratio:10.2f}{np.percentile(through, 99) / np.percentile(alone, 99):10.2f}")
    print(f"added at the median: {added:.2f} us (target: at most {TARGET_ADDED_US:.0f})")
    alone, through, other = large_model(arguments.large)
    ratio = np.median(through) / np.median(alone)
    print(
        f"mobilenet-v2: bare {np.median(alone) / 1e3:.3f} ms, predict() {np.median(through) / 1e3:.3f} ms, "
        f"{arguments.large} rounds: {ratio:.4f} x (target: at most {TARGET_LARGE}); "
        f"another bare interpreter: {np.median(other) / np.median(alone):.4f} x"
    )
    took_ms = import_ms(arguments.imports)
    print(
        f"import edge_runtime beyond numpy and LiteRT: {took_ms:.0f} ms, median of {arguments.imports} "
        f"(target: at most {TARGET_IMPORT_MS:.0f})"
    )


if __name__ == "__main__":
    main()
