"""Times a package's engines on this device, each in turn with the bare interpreter: warm, one call after another."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from converter.artifact import VARIABLE, Package, PackageError, Signature
from converter.artifact.bench import BENCH_FORMAT, Bench, EngineTime, Latency, Refused
from edge_runtime.bench_bare import bare_call
from edge_runtime.bench_engines import Candidate, Engines, candidates, single_devices, with_streams
from edge_runtime.config import MAX_ENGINES
from edge_runtime.engine.engine import Engine
from edge_runtime.environment import EngineKey
from edge_runtime.errors import EdgeRuntimeError, EngineFailed, InvalidConfig
from edge_runtime.inputs import default_signature, zeros
from edge_runtime.profiles import EngineProfile
from edge_runtime.thermal import WORTH_SAYING

MIN_RUNS = 5
"""Fewer say nothing of the p90; a model of ten seconds is timed for that long."""

MAX_RUNS = 10_000
"""More make no median better, and would be kept for nothing."""

WARM_UP_RUNS = 3
"""The first call packs weights and plans memory, the next ones fill caches."""

RUN_LIMIT_S = 60.0
"""A call that an accelerator has not answered by then is stuck."""

MAX_SECONDS = 3_600.0
MAX_BATCH = 1_024

_FAILURES = (EdgeRuntimeError, PackageError, RuntimeError, ValueError)
"""The runtime's, and LiteRT's own where it is called directly."""


@dataclass
class Measured:
    """What was found.

    Attributes:
        bench: The bench file.
        profiles: The same for the runtime, by engine: at full clock, as it keeps them.
        notes: What must be known to read the times, a sentence or two each.
    """

    bench: Bench
    profiles: dict[EngineKey, EngineProfile] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def bench(
    package: Package,
    *,
    host: str,
    clock: Callable[[], float],
    devices: Sequence[str] = ("cpu",),
    variants: Sequence[str] = (),
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (1,),
    seconds: float = 0.5,
    cache: Path | None = None,
    root: Path = Path("/"),
    progress: Callable[[int, int, str], None] = lambda _done, _all, _what: None,
) -> Measured:
    """Times the engines one after another; one that fails is told and stops no other.

    Args:
        package: An opened package.
        host: This device, in words.
        clock: Monotonic seconds.
        devices: Device strings; `edgetpu` stands for all that are attached.
        variants: Which ones; empty for all that run on a CPU, and elsewhere for the one that the runtime would run.
        threads: Each variant is timed on a CPU with each of these numbers of threads.
        batches: Rows of a call; only 1 where rows can't be joined.
        seconds: For each engine and number of rows, after the warm-up; the bare interpreter takes half of it.
        cache: Where what was probed is kept.
        root: Where the files of the machine's heat and clocks begin.
        progress: Told before each engine and number of rows: how many are done, of how many, and which it is.

    Raises:
        InvalidConfig: `devices`, `threads`, `batches`, `seconds` or a variant's name is impossible.
        EngineFailed: none of them runs.
    """
    known = [one.name for one in package.manifest.variants]
    for name in variants:
        if name not in known:
            raise InvalidConfig(f"variant: {package} has no {name!r}; there are {', '.join(known)}")
    _check(threads, batches, seconds)
    found, refused = candidates(package, single_devices(devices), variants, threads)
    found = with_streams(package, found)
    run = _Run(package, clock, seconds, progress, refused)
    engines = Engines(package, cache, clock, root)
    try:
        run.time(engines, found, batches)
    finally:
        engines.close()
    if not run.times:
        reasons = "; ".join(f"{' on '.join(filter(None, (one.variant, one.device)))}: {one.reason}" for one in refused)
        hint = "" if all(_kind(one.device) == "cpu" for one in refused) else " (edge-run doctor says what to do)"
        raise EngineFailed(f"{package}: no variant can be timed here: {reasons or 'no device was given'}{hint}")
    streamed = sorted({one.variant.name for one in found if one.streamed})
    notes = (*map(_stateful_note, streamed), *map(_throttled_note, run.factors, run.factors.values()))
    return Measured(_as_bench(package, host, run), run.profiles, notes)


def _stateful_note(variant: str) -> str:
    return (
        f"{variant} keeps state: each run of an engine begins anew, with a fresh interpreter, which costs its loading; "
        "the bare one goes on. `cpu stream` is what a frame of model.stream() takes, where the state goes on."
    )


def _throttled_note(device: str, factor: float) -> str:
    return (
        f"{device} was throttled: runs took up to {factor:.1f} times as long as at full clock. The times are as they "
        "were measured; what is saved for the runtime is at full clock."
    )


def _check(threads: Sequence[int], batches: Sequence[int], seconds: float) -> None:
    for name, counts, most in (("threads", threads, MAX_ENGINES), ("batch", batches, MAX_BATCH)):
        for count in counts:
            if not 1 <= count <= most:
                raise InvalidConfig(f"{name}: must be from 1 to {most}, got {count}")
        if not counts or len(set(counts)) != len(counts):
            raise InvalidConfig(f"{name}: different numbers are needed, got {list(counts)}")
    if not 0 < seconds <= MAX_SECONDS:
        raise InvalidConfig(f"seconds: must be above 0 and at most {MAX_SECONDS:g}, got {seconds:g}")


class _Run:
    """Collects what is timed.

    Attributes:
        times: What was timed.
        profiles: The same for the runtime.
        refused: What can't be timed.
        factors: By what runs took longer than at full clock, at most, for devices that were throttled.
    """

    def __init__(
        self,
        package: Package,
        clock: Callable[[], float],
        seconds: float,
        progress: Callable[[int, int, str], None],
        refused: list[Refused],
    ) -> None:
        self.times: list[EngineTime] = []
        self.profiles: dict[EngineKey, EngineProfile] = {}
        self.refused = refused
        self.factors: dict[str, float] = {}
        self._package = package
        self._clock = clock
        self._seconds = seconds
        self._progress = progress
        self._signature = default_signature(package.manifest.signatures)
        self._done = self._total = 0

    def time(self, engines: Engines, found: Sequence[Candidate], batches: Sequence[int]) -> None:
        """Times the engines, each with the numbers of rows that it takes."""
        plans = [(one, self._rows(one, batches)) for one in found]
        done, self._total = 0, sum(len(sizes) for _, sizes in plans)
        for one, sizes in plans:
            self._done = done
            try:
                self._time_engine(engines, one, sizes)
            except _FAILURES as error:
                self._refuse(one, str(error))
            done += len(sizes)
        self._progress(done, self._total, "")

    def _time_engine(self, engines: Engines, one: Candidate, sizes: Sequence[int]) -> None:
        self._progress(self._done, self._total, f"{one.device}: opening {one.variant.name}")
        engine = engines.open(one)
        seconds: dict[int, float] = {}
        runs = 0
        try:
            for rows in sizes:
                try:
                    taken_s = self._time_rows(engine, one, rows)
                except _FAILURES as error:
                    if not seconds:
                        raise
                    # What runs is worth its line; more rows than these would fail as well.
                    self._refuse(one, f"batch {rows}: {error}")
                    break
                factor = engines.factor(one)
                if factor >= WORTH_SAYING:
                    self.factors[one.device] = max(factor, self.factors.get(one.device, factor))
                seconds[rows] = _rounded(max(min(taken_s) / factor, 1e-9))
                runs += len(taken_s)
        finally:
            engine.close()
        if 1 in seconds and not one.streamed:
            self.profiles[engines.key(one)] = EngineProfile(seconds=seconds, runs=runs)

    def _time_rows(self, engine: Engine, one: Candidate, rows: int) -> list[float]:
        what = f"{one.device}: {one.variant.name}, {one.threads} threads, batch {rows}"
        self._progress(self._done, self._total, what)
        taken_s, bare_s = time_pairs(self._call(engine, rows), self._bare(one, rows), self._seconds, self._clock)
        self.times.append(engine_time(one.device, one.variant.name, one.threads, rows, taken_s=taken_s, bare_s=bare_s))
        self._done += 1
        return taken_s

    def _refuse(self, one: Candidate, reason: str) -> None:
        said = " ".join(reason.split())
        self.refused.append(Refused(device=one.device, variant=one.variant.name, reason=said))

    def _rows(self, one: Candidate, batches: Sequence[int]) -> list[int]:
        """The numbers of rows that the file takes at once."""
        if one.streamed:
            return [1]
        own = self._own(one)
        axis = self._signature.batch_axis
        joined = axis is not None and all(spec.shape[axis] == VARIABLE for spec in own.inputs)
        return sorted(batches) if joined else [1]

    def _own(self, one: Candidate) -> Signature:
        """The default signature with the file's own dtypes."""
        return next(own for own in one.variant.signatures if own.name == self._signature.name)

    def _call(self, engine: Engine, rows: int) -> Callable[[], object]:
        name, inputs = self._signature.name, zeros(self._signature, rows)
        return lambda: engine.run(name, inputs, RUN_LIMIT_S)

    def _bare(self, one: Candidate, rows: int) -> Callable[[], object] | None:
        if not one.on_cpu:
            return None
        return bare_call(self._package.read(one.variant.file), self._own(one), rows, one.threads)


def time_pairs(
    call: Callable[[], object], bare: Callable[[], object] | None, seconds: float, clock: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Seconds that each call took, and each of the bare interpreter's, in turn: what disturbs meets both.

    For as long as `seconds` and within `MIN_RUNS` and `MAX_RUNS`, after a warm-up.
    """
    begun_s = clock()
    for run in range(WARM_UP_RUNS):
        if run and clock() - begun_s > seconds:
            break
        call()
        if bare is not None:
            bare()
    taken: list[float] = []
    bare_taken: list[float] = []
    end_s = clock() + seconds
    while len(taken) < MAX_RUNS:
        start_s = clock()
        if len(taken) >= MIN_RUNS and start_s >= end_s:
            break
        call()
        done_s = clock()
        taken.append(done_s - start_s)
        if bare is not None:
            bare()
            bare_taken.append(clock() - done_s)
    return taken, bare_taken


def engine_time(
    device: str, variant: str, threads: int, rows: int, *, taken_s: Sequence[float], bare_s: Sequence[float]
) -> EngineTime:
    """The statistics of at least one call: percentiles by nearest rank, with four significant digits.

    A call below the clock's step counts as a nanosecond.
    """
    ordered = sorted(max(one, 1e-9) for one in taken_s)
    median_s = statistics.median(ordered)
    bare_median_s = max(statistics.median(bare_s), 1e-9) if bare_s else None
    return EngineTime(
        device=device,
        variant=variant,
        threads=threads,
        rows=rows,
        median_us=_rounded(median_s * 1e6),
        p90_us=_rounded(percentile(ordered, 0.9) * 1e6),
        p99_us=_rounded(percentile(ordered, 0.99) * 1e6),
        rows_per_s=_rounded(rows * len(ordered) / sum(ordered)),
        runs=len(ordered),
        bare_median_us=None if bare_median_s is None else _rounded(bare_median_s * 1e6),
        ratio=None if bare_median_s is None else _rounded(median_s / bare_median_s),
        added_us=None if bare_median_s is None else _rounded((median_s - bare_median_s) * 1e6),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the ascending values that this share of them does not exceed."""
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _as_bench(package: Package, host: str, run: _Run) -> Bench:
    manifest = package.manifest
    at_home = {one.name: one.delegate for one in manifest.variants}
    variants: dict[str, dict[int, Latency]] = {}
    for one in run.times:
        if one.rows == 1 and _kind(one.device) == at_home[one.variant]:
            # Of several sticks the first.
            variants.setdefault(one.variant, {}).setdefault(
                one.threads,
                Latency(threads=one.threads, median_us=one.median_us, p90_us=one.p90_us, runs=one.runs),
            )
    failed = {
        one.variant: one.reason
        for one in run.refused
        if one.variant and one.variant not in variants and _kind(one.device) == at_home[one.variant]
    }
    return Bench(
        format=BENCH_FORMAT,
        package=manifest.model,
        version=manifest.version,
        digest=package.digest,
        host=host,
        variants={name: tuple(times.values()) for name, times in variants.items()},
        failed=failed,
        engines=tuple(run.times),
        refused=tuple(run.refused),
    )


def _kind(device: str) -> str:
    return device.partition(":")[0]
