"""Makes the engines of one version: the right file on the right device, in the right process, measured."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec.structs import replace

from converter.artifact import Package, PackageError, Signature, Variant
from edge_runtime.config import Isolation, RuntimeOptions
from edge_runtime.crew.device import Device, pace_of
from edge_runtime.crew.layout import Layout
from edge_runtime.engine.base import Session, SessionSpec
from edge_runtime.engine.delegates import open_session
from edge_runtime.engine.engine import Engine, one_row_at_a_time
from edge_runtime.engine.file_tensors import file_tensors
from edge_runtime.engine.library import installed
from edge_runtime.environment import EngineKey, Environment
from edge_runtime.errors import EdgeRuntimeError, EngineFailed, PackageRefused
from edge_runtime.inputs import default_signature, zeros
from edge_runtime.pixels import Pixels
from edge_runtime.profiles import EngineProfile, ProfileBook, choose_threads, measure_profile
from edge_runtime.scheduling.cost import CostTable

if TYPE_CHECKING:
    from edge_runtime.probing import Prober

MEASURE_BUDGET_S = 0.5
"""How long batch sizes are tried at load. What is too slow to be measured in it gains nothing from batches."""

WORTH_THREADS_S = 0.0002
"""Runs that are shorter with one thread are not tried with more: to wake a second thread takes a tenth of that."""

OPEN_LIMIT_S = 60.0
"""An Edge TPU that loads its firmware takes seconds; one that is stuck says so after 12 s."""

FIRST_RUN_LIMIT_S = 30.0
"""Of a run that has not been measured yet."""


_KINDS: Mapping[str, Literal["cpu", "edgetpu", "gpu", "npu", "external"]] = {
    "cpu": "cpu",
    "edgetpu": "edgetpu",
    "gpu": "gpu",
    "npu": "npu",
    "external": "external",
}


def isolated(kind: str, isolation: Isolation | None) -> bool:
    """Whether an engine of a delegate of that kind runs in a process of its own."""
    if isolation in (None, "auto"):
        return kind != "cpu"
    return isolation == "process"


class Made(NamedTuple):
    """An engine that is ready for a batcher.

    Attributes:
        engine: It.
        costs: What its runs take.
        threads: Of one run.
        solo: Whether it is for requests that are alone.
    """

    engine: Engine
    costs: CostTable
    threads: int = 1
    solo: bool = False


class Opener:
    """Opens engines of one version. Thread-safe."""

    def __init__(
        self,
        package: Package,
        options: RuntimeOptions,
        *,
        pixels: Pixels,
        prober: Callable[[], Prober],
        book: ProfileBook,
        environment: Callable[[], Environment],
        clock: Callable[[], float],
        locate: Callable[[Device], str] = lambda device: device.string.address,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        """Reads nothing yet.

        Args:
            package: What is opened.
            options: The runtime's.
            pixels: The inputs that take pixels.
            prober: Tries libraries before they are loaded into this process.
            book: What was measured of this package.
            environment: What measurements depend on besides the engine.
            clock: Monotonic seconds.
            locate: What an Edge TPU's library is to be asked for, just before it is opened; EngineLost if it is away.
            look: Brings the devices' paces up to date: called when something has just been measured.
        """
        self.package = package
        self._locate = locate
        self._look = look
        self._options = options
        self._own = options.of(package.manifest.model)
        self._pixels = pixels
        self._prober = prober
        self._book = book
        self._environment = environment
        self._clock = clock
        self._lock = threading.Lock()
        self._contents: dict[str, bytes] = {}

    def open(
        self, devices: tuple[Device, ...], variant: Variant, threads: int = 1, *, keeps_state: bool = False
    ) -> Engine:
        """An engine of the variant on a device, or on several in a row where it is cut into segments.

        Args:
            devices: One, or one for each segment.
            variant: What is to run there.
            threads: Of one run.
            keeps_state: Whether what a model remembers goes from a run to the next, as a stream wants it. Else each
                run begins anew: requests of many callers share the engine.

        Raises:
            EngineFailed: the device or its delegate is not to be had, or can't run the variant.
            PackageRefused: a file differs from its digest, or its tensors from the manifest.
        """
        try:
            if variant.segments:
                session: Session = self._pipeline(devices, variant)
            else:
                session = self._session(devices[0], variant.file, variant.signatures, threads, keeps_state=keeps_state)
            name = "+".join(device.string.text for device in devices)
            return Engine(session, variant, self.package.manifest.signatures, device=name, pixels=self._pixels)
        except EdgeRuntimeError:
            raise
        except PackageError as error:
            raise PackageRefused(f"{self.package}: {error}") from error
        except Exception as error:  # whatever a damaged file does to LiteRT is that package's fault, not the store's
            raise EngineFailed(f"{self.package}, variant {variant.name!r}: {type(error).__name__}: {error}") from error

    def first(self, devices: tuple[Device, ...], variant: Variant, layout: Layout) -> list[Made]:
        """The engines to begin with: one on an accelerator, as many as the layout says on the CPU.

        Raises:
            EngineFailed, PackageRefused: as `open`.
        """
        if devices[0].kind != "cpu":
            return [self.one(devices, variant)]
        engine, costs, threads = self.first_on_cpu(devices[0], variant, layout)
        made = [Made(engine, costs, threads, layout.solo and threads > layout.grown_threads)]
        try:
            for _ in range(layout.engines - 1):
                more = self.open(devices, variant, layout.grown_threads)
                made.append(Made(more, costs, layout.grown_threads))
                self.warm(more)
        except BaseException:
            for one in made:
                one.engine.close()
            raise
        return made

    def one(self, devices: tuple[Device, ...], variant: Variant, threads: int = 1, *, solo: bool = False) -> Made:
        """One engine, measured.

        Raises:
            EngineFailed, PackageRefused: as `open`.
        """
        engine = self.open(devices, variant, threads)
        try:
            return Made(engine, self.costs(engine, devices, variant, threads), threads, solo)
        except BaseException:
            engine.close()
            raise

    def costs(self, engine: Engine, devices: tuple[Device, ...], variant: Variant, threads: int) -> CostTable:
        """What runs on the engine cost: from an earlier measurement on this device, else from one made now.

        Kept at full clock: a board that was hot when it was measured is not slow for good.

        Raises:
            EngineFailed: the engine can't run.
        """
        pace = pace_of(devices)
        key = self.key(devices, variant, threads)
        profile = self._book.read(key)
        signature = default_signature(self.package.manifest.signatures)
        sizes = self._sizes(variant, signature)
        seconds = None if profile is None else profile.of(sizes)
        if seconds is None:

            def run(rows: int) -> None:
                engine.run(signature.name, zeros(signature, rows), FIRST_RUN_LIMIT_S)

            measured = measure_profile(run, sizes, self._clock, MEASURE_BUDGET_S)
            self._look()
            profile = _at_full_clock(measured, pace.factor)
            self._book.write(key, profile)
            seconds = dict(profile.seconds)
        else:
            self.warm(engine)
        return CostTable(seconds, self._clock, pace)

    def warm(self, engine: Engine) -> None:
        """The first run plans the graph and touches the weights: no request should pay for that.

        Raises:
            EngineFailed: the engine can't run.
        """
        signature = default_signature(self.package.manifest.signatures)
        engine.run(signature.name, zeros(signature, 1), FIRST_RUN_LIMIT_S)

    def first_on_cpu(self, device: Device, variant: Variant, layout: Layout) -> tuple[Engine, CostTable, int]:
        """The first interpreter on the CPU, with the number of threads that suits it.

        Raises:
            EngineFailed, PackageRefused: as `open`.
        """
        made: dict[int, tuple[Engine, CostTable]] = {}
        chosen = self._threads_known(device, variant, layout)
        try:
            for threads in layout.threads if chosen is None else (chosen,):
                engine = self.open((device,), variant, threads)
                try:
                    made[threads] = (engine, self.costs(engine, (device,), variant, threads))
                except BaseException:
                    engine.close()
                    raise
                if made[threads][1].seconds(1) < WORTH_THREADS_S:
                    break
            best = choose_threads({threads: costs.seconds(1) for threads, (_, costs) in made.items()})
            engine, costs = made.pop(best)
        finally:
            for unused, _ in made.values():
                unused.close()
        return engine, costs, best

    def key(self, devices: tuple[Device, ...], variant: Variant, threads: int) -> EngineKey:
        """What a measurement is kept under."""
        interpreter, version = installed()
        library = self._library(devices[0])
        return EngineKey(
            device="+".join(device.string.text for device in devices),
            variant=variant.name,
            variant_sha256=self.package.manifest.files[variant.file].sha256,
            threads=threads,
            isolation="process" if isolated(devices[0].kind, self._own.isolation) else "none",
            interpreter=interpreter,
            interpreter_version=version,
            library_digest=self._prober().digest(library) if library else "",
            environment=self._environment(),
        )

    def _threads_known(self, device: Device, variant: Variant, plan: Layout) -> int | None:
        """What earlier measurements say of the number of threads; None if one is missing."""
        known = self._book.read_threads(self.key((device,), variant, 1), plan.threads)
        if known.get(1, WORTH_THREADS_S) < WORTH_THREADS_S:
            return 1
        return choose_threads(known) if len(known) == len(plan.threads) else None

    def _sizes(self, variant: Variant, signature: Signature) -> list[int]:
        """The batch sizes that may pay: one, where the file takes one row or rows can't be joined."""
        own = next(one for one in variant.signatures if one.name == signature.name)
        if signature.batch_axis is None or one_row_at_a_time(signature, own):
            return [1]
        return sorted({1, *self._options.batch_sizes})

    def _content(self, file: str) -> bytes:
        """The file's bytes, verified as they are read; kept, so that what was verified is what runs, also later."""
        with self._lock:
            content = self._contents.get(file)
            if content is None:
                content = self._contents[file] = self.package.read(file)
            return content

    def _library(self, device: Device) -> str:
        if device.kind == "edgetpu":
            return self._options.edgetpu_library or device.string.delegate.library() or ""
        return device.string.library

    def _asked(self, device: Device) -> dict[str, str]:
        """What the delegate's library is given."""
        if device.kind != "edgetpu":
            return dict(device.string.options)
        located = self._locate(device)
        return {"device": located} if located else {}

    def _session(
        self, device: Device, file: str, signatures: tuple[Signature, ...], threads: int, *, keeps_state: bool = False
    ) -> Session:
        kind = device.kind
        apart = isolated(kind, self._own.isolation)
        spec = SessionSpec(
            subject=f"{self.package}, {file}",
            delegate=_KINDS[device.string.delegate.name],
            device=device.string.text,
            signatures=signatures,
            library=self._library(device),
            options=self._asked(device),
            threads=threads,
            keeps_state=keeps_state,
            weight_cache=_folder(self._options.cache, "weights") if apart and kind == "cpu" else "",
        )
        content = self._content(file)
        if spec.library:
            # Also where a worker is to load it: one that is known to crash need not take another worker with it.
            trial = self._prober().probe(device.string, spec.library)
            if not trial.ok:
                raise EngineFailed(f"{device.string.text}: {trial.error}")

        if apart and kind == "cpu":
            return _AloneInWorker(spec, content, self._clock, device.worker_ended)
        if apart:
            return device.open_in_worker(spec, content, OPEN_LIMIT_S)
        session = open_session(spec, content)
        if kind == "cpu":
            return session
        # A segment's tensors are asked for by the pipeline; other files have signatures.
        tensors = None if signatures else file_tensors(content, spec.subject)
        return _given_up_when_stuck(session, device, tensors)

    def _pipeline(self, devices: tuple[Device, ...], variant: Variant) -> Session:
        from edge_runtime.engine.pipeline import PipelineSession  # noqa: PLC0415  only who has several devices pays

        sessions: list[Session] = []
        try:
            for device, file in zip(devices, variant.segments, strict=True):
                sessions.append(self._session(device, file, (), 1))
            return PipelineSession(sessions, variant.signatures, subject=f"{self.package}, {variant.name}")
        except BaseException:
            for session in sessions:
                session.close()
            raise


def _given_up_when_stuck(session: Session, device: Device, tensors: Signature | None) -> Session:
    """The session on a thread of its own.

    Raises:
        EngineFailed: too many such threads hang in devices already.
    """
    from edge_runtime.engine.supervised import ThreadSession  # noqa: PLC0415  only who asks for it pays

    try:
        return ThreadSession(session, device.string.text, tensors)
    except BaseException:
        session.close()
        raise


class _AloneInWorker:
    """A CPU's session in a process of its own, which ends with it.

    Attributes:
        slots: 1.
        workers: The process.
    """

    slots = 1

    def __init__(
        self, spec: SessionSpec, content: bytes, clock: Callable[[], float], on_death: Callable[[], None]
    ) -> None:
        from edge_runtime.engine.process import WorkerProcess  # noqa: PLC0415  only who asks for it pays

        self._worker = WorkerProcess(spec.device, clock=clock, on_death=on_death)
        try:
            self._session = self._worker.open(spec, content, OPEN_LIMIT_S)
        except BaseException:
            self._worker.close()
            raise
        self.run = self._session.run
        self.workers = (self._worker,)

    def __repr__(self) -> str:
        return repr(self._worker)

    def close(self) -> None:
        self._session.close()
        self._worker.close()


def _folder(cache: Path | None, name: str) -> str:
    return "" if cache is None else str(cache / name)


def _at_full_clock(profile: EngineProfile, factor: float) -> EngineProfile:
    """What was measured while runs took `factor` times as long as at full clock."""
    return replace(profile, seconds={rows: value / factor for rows, value in profile.seconds.items()})
