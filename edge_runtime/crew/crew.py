"""The crew of one version: the stations where it runs, opened in order, replaced when they are lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from edge_runtime.config import ModelOptions, RuntimeOptions
from edge_runtime.crew.device import Device, DeviceTable
from edge_runtime.crew.health import Cause, healed, lost, returned
from edge_runtime.crew.journal import Journal
from edge_runtime.crew.layout import Layout, layout
from edge_runtime.crew.opening import Made, Opener
from edge_runtime.crew.roster import Roster
from edge_runtime.crew.station import Station, explained, nothing_runs
from edge_runtime.crew.supervisor import Supervisor
from edge_runtime.crew.supply import Supply
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.origin import Origin
from edge_runtime.errors import EdgeRuntimeError, EngineFailed, EngineLost, PackageRefused
from edge_runtime.scheduling.batcher import Batcher
from edge_runtime.scheduling.slot import Slot
from edge_runtime.telemetry import EngineFaults
from edge_runtime.types import EngineReport

if TYPE_CHECKING:
    from devices import EdgeTpu

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
        self._own: ModelOptions = options.of(manifest.model)
        self._supervisor = supervisor
        self._roster = Roster(manifest, self._own, devices=devices, delegates=delegates, target=target)
        self._layout: Layout = layout(self._own.engines, self._own.threads, cores)
        self._clock = clock
        self._lock = threading.RLock()
        self._decided = threading.Condition(self._lock)
        self._closed = False
        self._origin = Origin()
        self._journal = Journal(opener.package)
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
        self._supply = Supply(self.batcher, options)

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
        self._join_roster(seen)  # which nothing gives way to yet
        stations = [station for station in self._roster.all() if station.state == "starting"]
        if any(not station.lasting for station in stations):
            self._supervisor.attend()
        here = [station for station in stations if station.devices[0].kind == "cpu"]
        for station in stations:
            if station not in here and not self._supervisor.start(partial(self._open, station)):
                station.state, station.reason = "unhealthy", "the runtime has been closed"
        # The CPU too, if it is wanted at all: what is preferred may fail at its first request, which must then be
        # answered at once.
        for station in here:
            self._open(station)
        self._await()
        self._hope()
        states = {station: station.state for station in self._roster.all()}
        ready = "ready" in states.values()
        # What the CPU can't load is no matter of a device that may come back.
        hopeful = patient and any(states[one] in ("unhealthy", "starting") for one in states if one not in here)
        if not ready and not hopeful:
            error = nothing_runs(str(self._opener.package), self._roster.all())
            self.close()
            raise error

    def _await(self) -> None:
        """Waits until it is known whether what is preferred works; not for ever, where something else does."""
        until_s = self._clock() + PATIENCE_S
        with self._lock:
            while not (self._closed or self._supervisor.closed):
                stations = self._roster.all()  # others than before, if an Edge TPU has come meanwhile
                ready = [station.rank for station in stations if station.state == "ready"]
                better = [one for one in stations if one.state == "starting" and (not ready or one.rank <= min(ready))]
                left_s = until_s - self._clock()
                if not better or (ready and left_s <= 0):
                    return
                # Nobody tells of the closing of a runtime that does not know this version yet.
                self._decided.wait(min(max(left_s, 0.0), CLOSED_S) if ready else CLOSED_S)

    def seen(self, present: tuple[EdgeTpu, ...], gone: frozenset[str], back: frozenset[str]) -> None:
        """See `Watcher`: sticks that were pulled out are used no more, those that return are taken back."""
        for station in self._roster.all():
            away = [device for device in station.devices if device.address in gone]
            if away and station.state == "ready":
                places = ", ".join(sorted(device.address for device in away))
                self._lose(station, [*station.slots], "vanished", f"the Edge TPU at {places} was pulled out", away)
        if not back:
            return
        waiting = [one for one in self._roster.all() if one.state == "unhealthy" and one.devices[0].kind == "edgetpu"]
        self._take_in(present)
        for station in waiting:
            with self._lock:
                station.health = returned(station.health, self._clock())
            self._supervisor.start(partial(self._open, station))

    def _take_in(self, present: tuple[EdgeTpu, ...]) -> None:
        """Has what is attached now used, and by its own name what was opened before it was seen."""
        if not present:
            return  # What has come has left again.
        new, left = self._join_roster(present)
        if any(left.values()):
            self._hope()
            self._supervisor.at(self._clock() + HOLD_S, self._hope)
        if new or left:
            self._supervisor.start(partial(self._follow, new, left))

    def _follow(self, new: Sequence[Station], left: Mapping[Station, dict[Engine, list[Slot]]]) -> None:
        """Opens stations, after those that give way to them have let go of their devices."""
        for station, engines in left.items():
            self._supply.retire(engines)
            for device in station.devices:
                device.leave(self)
        for station in new:
            self._supervisor.start(partial(self._open, station))

    def renew(self) -> None:
        """Measures the CPU anew: something that its times depend on has changed. Requests go on meanwhile.

        What an accelerator takes is followed run by run, and measured when it is opened next.
        """
        for station in self._roster.all():
            if station.devices[0].kind != "cpu" or station.state != "ready":
                continue
            assert station.variant is not None
            made, added = list[Made](), dict[Engine, list[Slot]]()
            try:
                made = self._opener.first(station.devices, station.variant, self._layout)
                with self._lock:
                    usable = station.state == "ready" and not self._closed
                    if usable:
                        self._supply.give(station, made, added)
                        old, station.slots = station.slots, added
                        station.threads = made[0].threads
                        self._supply.withdraw(old)
            except Exception as error:  # noqa: BLE001  what runs goes on
                self._supply.discard(made, added)
                self._journal.not_renewed(error)
                continue
            if usable:
                self._supply.retire(old)
            else:
                self._supply.discard(made, added)

    def close(self) -> None:
        """Finishes what the batcher took, then frees every engine. Called again, it frees what is left."""
        self._supervisor.unwatch(self)
        with self._lock:
            self._closed = True
            self._decided.notify_all()
        self.batcher.close()
        for station in self._roster.all():
            with self._lock:
                self._supply.withdraw(station.slots)
                station.slots.clear()
        self._supply.close()
        for station in self._roster.all():
            for device in station.devices:
                device.leave(self)

    def _join_roster(self, seen: Sequence[EdgeTpu]) -> tuple[list[Station], dict[Station, dict[Engine, list[Slot]]]]:
        """Plans for what is attached now; the stations that are new, and what those that give way had given."""
        with self._lock:
            new, leaving = ([], []) if self._closed else self._roster.add(seen, self)
            left = {station: station.slots for station in leaving}
            for station in leaving:
                self._supply.withdraw(station.slots)
                station.slots = {}
            for station in new if any(left.values()) else ():
                station.hold_s = self._clock() + HOLD_S
        self._journal.planned(new, [station for station, engines in left.items() if engines])
        return new, left

    def _open(self, station: Station) -> bool:
        """Opens a station's first engines; whether it is ready. What goes wrong is its state. One thread at a time."""
        with self._lock:
            begins = self._is_wanted(station) and not station.opening and station.state in ("starting", "unhealthy")
            if not begins:
                return False
            station.opening = True
        assert station.variant is not None
        made, added = list[Made](), dict[Engine, list[Slot]]()
        try:
            if station.stands_in and station.state == "unhealthy":
                # Nobody else tells of those that have come and that the library alone can list.
                self._take_in(self._supervisor.present())
            if self._roster.has(station):
                made = self._opener.first(station.devices, station.variant, self._layout)
            with self._lock:
                usable = self._is_wanted(station)
                if usable:
                    self._supply.give(station, made, added)
                    after_s = self._set_ready(station, made[0].threads, added)
                station.opening = False
                self._decided.notify_all()
        except Exception as error:  # noqa: BLE001  whatever it is, whoever waits for the station is told
            self._supply.discard(made, added)
            named = error if isinstance(error, EdgeRuntimeError) else EngineFailed(f"{type(error).__name__}: {error}")
            self._not_opened(station, named)
            return False
        self._hope()
        if usable:
            self._journal.ready(station, after_s)
        else:
            self._supply.discard(made, added)
            self._settle(station)
        return usable

    def _is_wanted(self, station: Station) -> bool:
        """Under the lock: whether it is still to be used."""
        return not self._closed and self._roster.has(station)

    def _settle(self, station: Station) -> None:
        for device in station.devices:
            device.settle()

    def _set_ready(self, station: Station, threads: int, added: dict[Engine, list[Slot]]) -> float | None:
        """Under the lock: it is used from now on; the seconds since it was lost."""
        now_s = self._clock()
        after_s = None if station.lost_s is None else now_s - station.lost_s
        station.lost_s = None
        station.faults["restarts"] += after_s is not None
        station.threads = threads
        station.slots = added
        station.state, station.reason = "ready", ""
        station.health = healed(station.health, now_s)
        station.failures.clear()
        return after_s

    def _not_opened(self, station: Station, error: EdgeRuntimeError) -> None:
        """A package that is at fault is refused for good; a device is tried again."""
        refused = isinstance(error, PackageRefused)
        cause: Cause = error.cause if isinstance(error, EngineLost) else "refused"
        reason = str(error) if refused else explained(station, str(error))
        with self._lock:
            station.opening = False
            self._decided.notify_all()
            wanted = self._is_wanted(station)
            if wanted and refused:
                station.state, station.reason = "refused", reason
            elif wanted:
                self._set_lost(station, cause, reason, answered=False)
        if not wanted:
            self._settle(station)
        elif refused:
            self._journal.refused(station)

    def worker_ended(self, device: Device) -> None:
        """See `User`: what ran there is opened anew before a request has to find out."""
        for station in self._roster.all():
            if device in station.devices and not station.lasting:
                # A run that was under way knows better why it ended, and says so first.
                self._supervisor.at(self._clock() + DEATH_S, partial(self._lose_dead, station))

    def _lose_dead(self, station: Station) -> None:
        """Takes those of a station's engines out of use whose own worker has ended."""
        with self._lock:
            engines = list(station.slots)
        losses = {engine: loss for engine in engines if (loss := engine.loss) is not None}
        for text, cause in list(losses.values())[:1]:
            self._lose(station, list(losses), cause, text)

    def _on_failure(self, slot: Slot, error: EdgeRuntimeError) -> None:
        """The batcher's word that a run failed. Called by whoever ran it; must return soon."""
        if not self._origin.is_here:
            return  # In a forked process, where every run fails: the devices are the parent's.
        with self._lock:  # An engine that fails at once may not be its station's yet.
            station = next((one for one in self._roster.all() if slot.engine in one.slots), None)
        if station is None:
            return
        if isinstance(error, EngineLost):
            self._lose(station, [slot.engine], error.cause, str(error))
            return
        with self._lock:
            station.faults["failed"] += 1
        if station.devices[0].kind == "cpu":
            return  # The request's own fault, or the model's: another interpreter would fail as well.
        absent = [device for device in station.devices if self._supervisor.is_absent(device.address)]
        if absent:
            text = f"nothing is attached at {absent[0].address} any more ({error})"
            self._lose(station, [*station.slots], "vanished", text, absent)
            return
        with self._lock:
            in_a_row = station.failed_again(slot.engine)
        if in_a_row >= FAILURES_IN_A_ROW:
            text = f"{in_a_row} runs in a row failed, the last with: {error}"
            self._lose(station, [slot.engine], "failed", text, station.devices)

    def _lose(
        self,
        station: Station,
        engines: Sequence[Engine],
        cause: Literal["crashed", "stuck", "vanished", "failed"],
        reason: str,
        at_fault: Collection[Device] = (),
    ) -> None:
        """Takes engines of a station out of use, and has others made. Once for each, whoever notices.

        Args:
            station: Whose they are. If they are its last ones it is unhealthy.
            engines: What is lost.
            cause: Why.
            reason: In words.
            at_fault: Devices whose process must end with them: whoever runs there, too, begins anew in another one.
        """
        with self._lock:
            lost_ones = {engine: station.slots.pop(engine) for engine in engines if engine in station.slots}
            if not lost_ones or self._closed:
                station.slots |= lost_ones
                return
            self._supply.withdraw(lost_ones)
            answered = any(engine.runs > 1 for engine in lost_ones)
            now_s = self._clock()
            if station.slots:
                self._set_missing(station, lost_ones, cause, reason, answered=answered)
            else:
                station.hold_s = now_s + (0.0 if cause == "vanished" else HOLD_S)
                station.missing.clear()
                self._set_lost(station, cause, reason, answered=answered)
        # At once, and not when they are retired: nothing may be opened there any more.
        for engine in lost_ones:
            for device, worker in zip(station.devices, engine.workers, strict=False):
                if device in at_fault:
                    worker.end(reason, "vanished" if cause == "vanished" else "crashed")
        # A run that is under way may take until the watchdog ends it, and a process its time: nobody waits for that.
        self._supervisor.start(partial(self._supply.retire, lost_ones))
        self._supervisor.at(max(station.hold_s, now_s), self._hope)

    def _hope(self) -> None:
        """Whether requests may wait for a device to come back: while one works, that is, and a while after its loss."""
        with self._lock:
            stations, now_s = self._roster.all(), self._clock()
            # Where nothing can be lost nothing is waited for.
            losable = any(not station.lasting for station in stations)
            ready = losable and any(station.state == "ready" for station in stations)
            held = any(station.state != "ready" and now_s < station.hold_s for station in stations)
            if not self._closed:
                # Under the lock: of two that decide, the later one's word holds.
                self.batcher.expect(slots=ready or held)

    def _set_lost(self, station: Station, cause: Cause, reason: str, *, answered: bool) -> None:
        """Under the lock: it is out of use, and tried again."""
        now_s = self._clock()
        first = station.lost_s is None
        station.lost_s = now_s if first else station.lost_s
        station.faults[cause] += cause != "failed"  # each failed run was counted by itself
        station.state, station.reason = "unhealthy", reason
        station.health = health = lost(station.health, now_s, cause, reason, answered=answered)
        self._supervisor.at(health.retry_s, partial(self._open, station))
        self._journal.lost(station, cause, health, first=first)

    def _set_missing(
        self, station: Station, engines: Mapping[Engine, list[Slot]], cause: Cause, reason: str, *, answered: bool
    ) -> None:
        """Under the lock: some of a station's engines are lost, and the others go on meanwhile."""
        station.missing += [any(slot.solo for slot in slots) for slots in engines.values()]
        station.faults[cause] += 1
        station.growth = lost(station.growth, self._clock(), cause, reason, answered=answered)
        self._supervisor.at(station.growth.retry_s, partial(self._grow_soon, station))
        self._journal.lost_one(station, cause, station.growth, len(station.slots))

    def _on_pressure(self) -> None:
        """The batcher's word that requests wait while all engines run: the CPU may have room for one more."""
        if not self._origin.is_here:
            return
        stations = self._roster.all()
        best = min((one.rank for one in stations if one.state == "ready"), default=None)
        for station in stations:
            if station.rank == best and self._layout.grows_to + station.solo > len(station.slots):
                self._grow_soon(station)

    def _grow_soon(self, station: Station) -> None:
        """Has one more interpreter made on the CPU, unless one is being made, or the last try is not long ago."""
        with self._lock:
            early = self._clock() < station.growth.retry_s
            if station.state != "ready" or station.devices[0].kind != "cpu" or station.growing or early:
                return
            station.growing = True
        self._supervisor.start(partial(self._grow, station))

    def _grow(self, station: Station) -> None:
        """Makes one more interpreter, of the kind that is missing, else of one thread, and gives it to the batcher."""
        assert station.variant is not None
        solo = any(station.missing[:1])
        threads = station.threads if solo else self._layout.grown_threads
        made, added = list[Made](), dict[Engine, list[Slot]]()
        try:
            made = [self._opener.one(station.devices, station.variant, threads, solo=solo)]
            with self._lock:
                usable = station.state == "ready" and not self._closed
                if usable:
                    self._supply.give(station, made, added)
                    station.slots |= added
                    station.growth = healed(station.growth, self._clock())
                    station.faults["restarts"] += bool(station.missing)
                    del station.missing[:1]
        except Exception as error:  # noqa: BLE001  what runs goes on: for want of memory, say, no more are made just now
            self._supply.discard(made, added)
            with self._lock:
                station.growth = lost(station.growth, self._clock(), "refused", str(error), answered=False)
            self._journal.not_grown(error)
        else:
            if not usable:
                self._supply.discard(made, added)
        finally:
            with self._lock:
                station.growing = False
                if station.missing:
                    self._supervisor.at(station.growth.retry_s, partial(self._grow_soon, station))
