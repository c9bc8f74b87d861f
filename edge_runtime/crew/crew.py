"""The crew of one version: the stations where it runs, opened in order, replaced when they are lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from edge_runtime.config import ModelOptions, RuntimeOptions
from edge_runtime.crew.device import Device, DeviceTable
from edge_runtime.crew.health import Cause, healed, lost, returned
from edge_runtime.crew.layout import Layout, layout
from edge_runtime.crew.opening import Opener
from edge_runtime.crew.roster import Roster
from edge_runtime.crew.station import Station, explained
from edge_runtime.crew.supervisor import Supervisor
from edge_runtime.engine.engine import Engine
from edge_runtime.errors import EdgeRuntimeError, EngineFailed, EngineLost, PackageRefused
from edge_runtime.scheduling.batcher import Batcher
from edge_runtime.scheduling.cost import CostTable
from edge_runtime.scheduling.gate import Gate
from edge_runtime.scheduling.slot import Slot
from edge_runtime.telemetry import EngineFaults, event
from edge_runtime.types import EngineReport

if TYPE_CHECKING:
    from devices import EdgeTpu

_log = logging.getLogger(__name__)

PATIENCE_S = 10.0
"""How long loading waits for a preferred device while another one is ready: an Edge TPU that loads its firmware takes
some seconds, a library that hangs in its trial half a minute."""

HOLD_S = 5.0
"""How long requests wait for the last device that a version had: a worker that crashed is back in one to three seconds.
What waits has deadlines of its own."""

CLOSED_S = 0.2
"""How often loading looks whether the runtime is being closed."""

DEATH_S = 0.05
"""How long after a worker's end whoever ran in it has to say why."""

FAILURES_IN_A_ROW = 3
"""Runs that an accelerator may fail before its engine is replaced: one may be the request's own fault."""


class Crew:
    """Thread-safe. Makes the version's batcher, and gives it slots and takes them away.

    Attributes:
        batcher: Where the version's requests go.
    """

    def __init__(
        self,
        opener: Opener,
        options: RuntimeOptions,
        *,
        devices: DeviceTable,
        supervisor: Supervisor,
        delegates: Sequence[str],
        target: str | None,
        cores: int,
        clock: Callable[[], float],
    ) -> None:
        """Opens nothing yet.

        Args:
            opener: Makes the version's engines.
            options: The runtime's.
            devices: The runtime's devices.
            supervisor: The runtime's.
            delegates: Device strings in order of preference.
            target: The device profile's name, for which the package may have chosen a variant.
            cores: The CPU's.
            clock: Monotonic seconds.
        """
        manifest = opener.package.manifest
        self._opener = opener
        self._options = options
        self._own: ModelOptions = options.of(manifest.model)
        self._supervisor = supervisor
        self._roster = Roster(manifest, self._own, devices=devices, delegates=delegates, target=target)
        self._layout: Layout = layout(self._own.engines, self._own.threads, cores)
        self._clock = clock
        self._lock = threading.RLock()
        self._decided = threading.Condition(self._lock)
        self._closed = False
        self._subject: dict[str, object] = {"model": manifest.model, "version": manifest.version}
        self.batcher = Batcher(
            manifest.signatures,
            version=manifest.version,
            max_queued_requests=options.max_queued_requests,
            max_queued_bytes=options.max_queued_bytes,
            clock=clock,
            weight=self._own.weight,
            on_failure=self._on_failure,
            on_pressure=self._on_pressure,
        )

    def __repr__(self) -> str:
        stations = ", ".join(f"{one.name} {one.state}" for one in self._roster.all())
        return f"<Crew of {self._opener.package}: {stations}; {self.batcher!r}>"

    @property
    def reports(self) -> tuple[EngineReport, ...]:
        """What runs where, what stands by, and why not elsewhere; in order of preference."""
        stations = self._roster.all()
        working = min((station.rank for station in stations if station.state == "ready"), default=None)
        return tuple(station.report(working) for station in stations)

    @property
    def faults(self) -> dict[str, EngineFaults]:
        """What went wrong, by device."""
        return {station.name: station.faults_so_far for station in self._roster.all()}

    def start(self, *, patient: bool = False) -> None:
        """Opens what is preferred, and the CPU that stands by for it; the rest in the background.

        Args:
            patient: Whether a version that no device can run now is kept, for one that may come back: there is a
                server meanwhile.

        Raises:
            EngineFailed, PackageRefused: nothing that was wanted can run the version; the text says why not.
        """
        seen = self._supervisor.watch(self) if self._roster.wants_edge_tpus else ()
        self._join_roster(seen)
        stations = [station for station in self._roster.all() if station.state == "starting"]
        here = [station for station in stations if station.devices[0].kind == "cpu"]
        for station in stations:
            if station not in here and not self._supervisor.start(partial(self._open, station)):
                station.state, station.reason = "unhealthy", "the runtime has been closed"
        # The CPU too, if it is wanted at all: what is preferred may fail at its first request, which must then be
        # answered at once.
        for station in here:
            self._open(station)
        self._await(stations)
        self._hope()
        ready = any(station.state == "ready" for station in stations)
        # What the CPU can't load is no matter of a device that may come back.
        hopeful = patient and any(one.state in ("unhealthy", "starting") for one in stations if one not in here)
        if not ready and not hopeful:
            error = self._nothing_runs()
            self.close()
            raise error

    def _await(self, stations: Sequence[Station]) -> None:
        """Waits until it is known whether what is preferred works; not for ever, where something else does."""
        until_s = self._clock() + PATIENCE_S
        with self._lock:
            while not (self._closed or self._supervisor.closed):
                ready = [station.rank for station in stations if station.state == "ready"]
                better = [one for one in stations if one.state == "starting" and (not ready or one.rank <= min(ready))]
                left_s = until_s - self._clock()
                if not better or (ready and left_s <= 0):
                    return
                # Nobody tells of the closing of a runtime that does not know this version yet.
                self._decided.wait(min(max(left_s, 0.0), CLOSED_S) if ready else CLOSED_S)

    def seen(self, present: tuple[EdgeTpu, ...], gone: frozenset[str], back: frozenset[str]) -> None:
        """See `Watcher`: sticks that were pulled out are used no more, those that return are taken back."""
        stations = self._roster.all()
        for station in stations:
            if back and station.state != "ready":
                self._roster.claim(station, present)
        for station in stations:
            places = {device.address for device in station.devices if device.address}
            if places & gone and station.state == "ready":
                self._lose(station, "vanished", f"the Edge TPU at {', '.join(sorted(places & gone))} was pulled out")
            elif back and station.state == "unhealthy" and station.devices[0].kind == "edgetpu":
                with self._lock:
                    station.health = returned(station.health, self._clock())
                self._supervisor.start(partial(self._open, station))
        if back:
            for station in self._join_roster(present):
                self._supervisor.start(partial(self._open, station))

    def renew(self) -> None:
        """Measures the CPU anew: something that its times depend on has changed. Requests go on meanwhile.

        What an accelerator takes is followed run by run, and measured when it is opened next.
        """
        for station in self._roster.all():
            if station.devices[0].kind != "cpu" or station.state != "ready":
                continue
            try:
                made = self._make(station)
            except EdgeRuntimeError as error:
                _log.warning("%s: could not be measured anew: %s", self._opener.package, error)
                continue
            with self._lock:
                usable = station.state == "ready" and not self._is_closed()
                old = station.slots
                if usable:
                    station.slots = {
                        engine: self._add(station, engine, costs, solo=solo) for engine, costs, solo in made
                    }
            if usable:
                self._retire(station, old)
            else:
                for engine, _, _ in made:
                    engine.close()

    def close(self) -> None:
        """Finishes what the batcher took, then frees every engine."""
        self._supervisor.unwatch(self)
        with self._lock:
            already, self._closed = self._closed, True
            self._decided.notify_all()
        self.batcher.close()
        if already:
            return
        for station in self._roster.all():
            with self._lock:
                engines = list(station.slots)
                station.slots.clear()
            for engine in engines:
                engine.close()
            for device in station.devices:
                device.leave(self)

    def _join_roster(self, seen: Sequence[EdgeTpu]) -> list[Station]:
        """Plans for what is attached now; the stations that are new."""
        with self._lock:
            new = [] if self._closed else self._roster.add(seen, self)
        for station in new:
            if station.state == "refused":
                self._tell_refused(station, logging.INFO)
        return new

    def _tell_refused(self, station: Station, level: int) -> None:
        text = f"{self._opener.package} does not run on {station.name}: {station.reason}"
        event(_log, level, "engine_refused", text, **self._subject, device=station.name, reason=station.reason)

    def _nothing_runs(self) -> EdgeRuntimeError:
        """The error that says why; the one that was raised, where there is only one reason."""
        reasons = [f"{station.name}: {station.reason}" for station in self._roster.all()]
        if len(reasons) == 1:
            station = self._roster.all()[0]
            kind = PackageRefused if station.state == "refused" else EngineFailed
            return kind(station.reason)
        return EngineFailed(f"{self._opener.package} can't run on any of its devices. " + "; ".join(reasons))

    def _open(self, station: Station) -> bool:
        """Opens a station's first engines; whether it is ready. What goes wrong is its state. One thread at a time."""
        with self._lock:
            if self._closed or station.opening or station.state in ("ready", "refused"):
                return False
            station.opening = True
        made: list[tuple[Engine, CostTable, bool]] = []
        try:
            made = self._make(station)
        except Exception as error:  # noqa: BLE001  whatever it is, whoever waits for the station is told
            named = error if isinstance(error, EdgeRuntimeError) else EngineFailed(f"{type(error).__name__}: {error}")
            self._not_opened(station, named)
            return False
        with self._lock:
            station.opening = False
            closed = self._is_closed()
            if not closed:
                after_s = None if station.lost_s is None else self._clock() - station.lost_s
                station.lost_s = None
                station.faults["restarts"] += after_s is not None
                station.state, station.reason = "ready", ""
                station.health = healed(station.health, self._clock())
                station.failures.clear()
                for engine, costs, solo in made:
                    station.slots[engine] = self._add(station, engine, costs, solo=solo)
            self._decided.notify_all()
        self._hope()
        if closed:
            for engine, _, _ in made:
                engine.close()
            for device in station.devices:
                device.settle()
            return False
        self._tell_ready(station, after_s)
        return True

    def _is_closed(self) -> bool:
        return self._closed

    def _tell_ready(self, station: Station, after_s: float | None) -> None:
        variant = station.variant.name if station.variant else ""
        text = f"{self._opener.package}, variant {variant}, runs on {station.name}"
        fields = {**self._subject, "device": station.name, "variant": variant, "threads": station.threads}
        if after_s is None:
            event(_log, logging.INFO, "engine_ready", text, **fields, isolation=station.isolation)
        else:
            event(
                _log, logging.WARNING, "engine_back", f"{text} again, after {after_s:.3g} s", **fields, after_s=after_s
            )

    def _make(self, station: Station) -> list[tuple[Engine, CostTable, bool]]:
        """The engines to begin with: each with its costs, and whether it is for requests that are alone."""
        assert station.variant is not None
        device, variant, plan_ = station.devices[0], station.variant, self._layout
        if device.kind != "cpu":
            engine = self._opener.open(station.devices, variant)
            return [(engine, self._measured(engine, station, 1), False)]
        engine, costs, threads = self._opener.first_on_cpu(device, variant, plan_)
        station.threads = threads
        made = [(engine, costs, plan_.solo and threads > plan_.grown_threads)]
        try:
            for _ in range(plan_.engines - 1):
                more = self._opener.open(station.devices, variant, plan_.grown_threads)
                made.append((more, costs, False))
                self._opener.warm(more)
        except BaseException:
            for one, _, _ in made:
                one.close()
            raise
        return made

    def _measured(self, engine: Engine, station: Station, threads: int) -> CostTable:
        assert station.variant is not None
        try:
            return self._opener.costs(engine, station.devices, station.variant, threads)
        except BaseException:
            engine.close()
            raise

    def _add(self, station: Station, engine: Engine, costs: CostTable, *, solo: bool) -> list[Slot]:
        """Gives the batcher an engine: one slot for each caller that may be in it."""
        gate = station.devices[0].gate if engine.slots == 1 else Gate(engine.slots, station.name)
        slots = [
            Slot(
                engine,
                gate=gate,
                costs=costs,
                rank=station.rank,
                solo=solo,
                limit_factor=self._options.watchdog_factor,
                limit_min_s=self._options.watchdog_min_s,
                left=station.isolation == "process" or station.devices[0].kind != "cpu",
            )
            for _ in range(engine.slots)
        ]
        for slot in slots:
            self.batcher.add(slot)
        return slots

    def _not_opened(self, station: Station, error: EdgeRuntimeError) -> None:
        """A package that is at fault is refused for good; a device is tried again."""
        with self._lock:
            station.opening = False
            self._decided.notify_all()
            if self._closed:
                for device in station.devices:
                    device.settle()
                return
            if isinstance(error, PackageRefused):
                station.state, station.reason = "refused", str(error)
        if station.state == "refused":
            self._tell_refused(station, logging.WARNING)
            return
        cause: Cause = error.cause if isinstance(error, EngineLost) else "refused"
        self._set_lost(station, cause, explained(station, str(error)), answered=False)

    def device_died(self, device: Device) -> None:
        """See `User`: what ran there is opened anew before a request has to find out."""
        for station in self._roster.all():
            if device in station.devices:
                # A run that was under way knows better why it ended, and says so first.
                call = partial(self._lose_dead, station, frozenset(station.slots), device)
                self._supervisor.at(self._clock() + DEATH_S, call)

    def _lose_dead(self, station: Station, engines: frozenset[Engine], device: Device) -> None:
        if engines == frozenset(station.slots):
            self._lose(station, "crashed", f"the worker process of {device.string.text} has ended")

    def _on_failure(self, slot: Slot, error: EdgeRuntimeError) -> None:
        """The batcher's word that a run failed. Called by whoever ran it; must return soon."""
        station = next((one for one in self._roster.all() if slot.engine in one.slots), None)
        if station is None:
            return
        if isinstance(error, EngineLost):
            self._lose(station, error.cause, str(error))
            return
        with self._lock:
            station.faults["failed"] += 1
        if station.devices[0].kind == "cpu":
            return  # The request's own fault, or the model's: another interpreter would fail as well.
        absent = [device.address for device in station.devices if self._supervisor.is_absent(device.address)]
        if absent:
            self._lose(station, "vanished", f"nothing is attached at {absent[0]} any more ({error})")
            return
        with self._lock:
            in_a_row = station.failed_again(slot.engine)
        if in_a_row >= FAILURES_IN_A_ROW:
            self._lose(station, "failed", f"{in_a_row} runs in a row failed, the last with: {error}")

    def _lose(self, station: Station, cause: Literal["crashed", "stuck", "vanished", "failed"], reason: str) -> None:
        """Takes a station's engines out of use, and has them tried again. Once for each loss, whoever notices."""
        with self._lock:
            if station.state != "ready" or self._closed:
                return
            engines, station.slots = station.slots, {}
            answered = any(engine.runs > 1 for engine in engines)
            self._set_lost(station, cause, reason, answered=answered)
        # A run that is under way may take until the watchdog ends it, and a process its time: nobody waits for that.
        self._supervisor.start(partial(self._retire, station, engines))
        self._supervisor.at(self._clock() + (0.0 if cause == "vanished" else HOLD_S), self._hope)

    def _hope(self) -> None:
        """Whether requests may wait for a device to come back: while one works, that is, and a while after its loss."""
        with self._lock:
            stations = self._roster.all()
            ready = any(station.state == "ready" for station in stations)
            # The CPU in this process can't be lost.
            lasting = all(one.isolation == "none" and one.devices[0].kind == "cpu" for one in stations)
            if not self._closed:
                # Under the lock: of two that decide, the later one's word holds.
                self.batcher.expect(slots=ready and not lasting)

    def _retire(self, station: Station, engines: dict[Engine, list[Slot]]) -> None:
        """Frees a lost station's engines, and the process that holds what is left of its device."""
        if station.isolation == "process":
            for device in station.devices:
                device.drop_worker()
        for engine, slots in engines.items():
            for slot in slots:
                self.batcher.remove(slot)
            engine.close()

    def _set_lost(self, station: Station, cause: Cause, reason: str, *, answered: bool) -> None:
        with self._lock:
            now_s = self._clock()
            first = station.lost_s is None
            station.lost_s = now_s if first else station.lost_s
            station.faults[cause] += cause != "failed"  # each failed run was counted by itself
            station.state, station.reason = "unhealthy", reason
            station.health = health = lost(station.health, now_s, cause, reason, answered=answered)
        event(
            _log,
            # Said aloud when it happens, not at each try that fails afterwards.
            logging.WARNING if first else logging.INFO,
            "engine_lost",
            f"{self._opener.package} does not run on {station.name} now ({cause}): {reason.rstrip('.')}. "
            f"Tried again in {health.retry_s - now_s:.3g} s.",
            **self._subject,
            device=station.name,
            cause=cause,
            reason=reason,
            losses=health.losses,
        )
        self._supervisor.at(health.retry_s, partial(self._open, station))

    def _on_pressure(self) -> None:
        """The batcher's word that requests wait while all engines run: the CPU may have room for one more."""
        for station in self._roster.all():
            with self._lock:
                solo = any(slot.solo for slots in station.slots.values() for slot in slots)
                room = self._layout.grows_to + (1 if solo else 0) - len(station.slots)
                if station.state != "ready" or station.devices[0].kind != "cpu" or station.growing or room <= 0:
                    continue
                if station.rank > min(one.rank for one in self._roster.all() if one.state == "ready"):
                    continue
                station.growing = True
            self._supervisor.start(partial(self._grow, station))

    def _grow(self, station: Station) -> None:
        """Makes one more interpreter, with one thread, and gives it to the batcher."""
        assert station.variant is not None
        threads = self._layout.grown_threads
        try:
            engine = self._opener.open(station.devices, station.variant, threads)
            costs = self._measured(engine, station, threads)
        except EdgeRuntimeError as error:
            # What runs goes on; for want of memory, say, no more are made.
            _log.warning("%s: no further interpreter could be made: %s", self._opener.package, error)
            return
        with self._lock:
            station.growing = False
            usable = station.state == "ready" and not self._closed
            if usable:
                station.slots[engine] = self._add(station, engine, costs, solo=False)
        if not usable:
            engine.close()
