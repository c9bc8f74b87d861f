"""Times a package's variants on this device: each call as an application's, one sample, warm."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from converter.artifact import Package, PackageError, Signature, Variant
from converter.artifact.bench import BENCH_FORMAT, Bench, Latency
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.delegates import open_session
from edge_runtime.engine.engine import Engine
from edge_runtime.errors import EdgeRuntimeError, EngineFailed, InvalidConfig, PackageRefused
from edge_runtime.inputs import default_signature
from edge_runtime.inputs import zeros

MIN_RUNS = 5
"""Fewer say nothing of the p90; a model of ten seconds is timed for that long."""

MAX_RUNS = 10_000
"""More make no median better, and would be kept for nothing."""

WARM_UP_RUNS = 3
"""The first call packs weights and plans memory, the next ones fill caches."""

MAX_SECONDS = 3_600.0
MAX_THREADS = 256


def bench(
    package: Package,
    *,
    host: str,
    clock: Callable[[], float],
    variants: Sequence[str] = (),
    threads: Sequence[int] = (1,),
    seconds: float = 1.0,
) -> Bench:
    """Times the variants that run on a CPU, one after another; one that fails is told and stops no other.

    Args:
        package: An opened package.
        host: This device, in words.
        clock: Monotonic seconds.
        variants: Which ones; empty for all that run on a CPU.
        threads: Each variant is timed with each of these numbers of threads.
        seconds: For each of them, after the warm-up.

    Raises:
        InvalidConfig: `threads`, `seconds` or a variant's name is impossible.
        PackageRefused: the variant that was asked for needs an accelerator.
        EngineFailed: none of them runs.
    """
    chosen = _chosen(package, variants)
    _check(threads, seconds)
    found: dict[str, tuple[Latency, ...]] = {}
    failed: dict[str, str] = {}
    for variant in chosen:
        try:
            found[variant.name] = _times(package, variant, threads, seconds, clock)
        except (EdgeRuntimeError, PackageError) as error:
            failed[variant.name] = " ".join(str(error).split())
    if not found:
        reasons = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise EngineFailed(f"{package}: no variant can be timed here: {reasons or 'none runs on a CPU'}")
    manifest = package.manifest
    return Bench(
        format=BENCH_FORMAT,
        package=manifest.model,
        version=manifest.version,
        digest=package.digest,
        host=host,
        variants=found,
        failed=failed,
    )


def _chosen(package: Package, names: Sequence[str]) -> list[Variant]:
    """In the package's order."""
    variants = package.manifest.variants
    for name in names:
        known = {one.name: one for one in variants}
        if name not in known:
            raise InvalidConfig(f"variant: {package} has no {name!r}; there are {', '.join(known)}")
        if known[name].delegate != "cpu":
            raise PackageRefused(f"{package}: variant {name!r} needs the delegate {known[name].delegate!r}, not a CPU")
    return [one for one in variants if one.delegate == "cpu" and (not names or one.name in names)]


def _check(threads: Sequence[int], seconds: float) -> None:
    for count in threads:
        if not 1 <= count <= MAX_THREADS:
            raise InvalidConfig(f"threads: must be from 1 to {MAX_THREADS}, got {count}")
    if not threads or len(set(threads)) != len(threads):
        raise InvalidConfig(f"threads: different numbers are needed, got {list(threads)}")
    if not 0 < seconds <= MAX_SECONDS:
        raise InvalidConfig(f"seconds: must be above 0 and at most {MAX_SECONDS:g}, got {seconds:g}")


def _times(
    package: Package, variant: Variant, threads: Sequence[int], seconds: float, clock: Callable[[], float]
) -> tuple[Latency, ...]:
    content = package.read(variant.file)
    signature = default_signature(package.manifest.signatures)
    times = []
    for count in threads:
        spec = SessionSpec(subject=f"{package}, {variant.name}", signatures=variant.signatures, threads=count)
        engine = Engine(open_session(spec, content), variant, package.manifest.signatures)
        try:
            times.append(summary(count, time_calls(_call(engine, signature), seconds, clock)))
        finally:
            engine.close()
    return tuple(times)


def _call(engine: Engine, signature: Signature) -> Callable[[], object]:
    inputs = zeros(signature, 1)
    return lambda: engine.run(signature.name, inputs)


def time_calls(call: Callable[[], object], seconds: float, clock: Callable[[], float]) -> list[float]:
    """Seconds that each call took, for as long as `seconds` and within `MIN_RUNS` and `MAX_RUNS`, after a warm-up."""
    for _ in range(WARM_UP_RUNS):
        call()
    taken: list[float] = []
    end_s = clock() + seconds
    while len(taken) < MAX_RUNS:
        start_s = clock()
        if len(taken) >= MIN_RUNS and start_s >= end_s:
            break
        call()
        taken.append(clock() - start_s)
    return taken


def summary(threads: int, taken_s: Sequence[float]) -> Latency:
    """Median and p90 (nearest rank) of at least one call, in microseconds with four significant digits.

    A call below the clock's step counts as a nanosecond.
    """
    ordered = sorted(max(one, 1e-9) for one in taken_s)
    p90_s = ordered[math.ceil(0.9 * len(ordered)) - 1]
    median_s = statistics.median(ordered)
    return Latency(threads=threads, median_us=_rounded(median_s), p90_us=_rounded(p90_s), runs=len(ordered))


def _rounded(value_s: float) -> float:
    return float(f"{value_s * 1e6:.4g}")
