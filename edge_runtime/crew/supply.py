"""Gives a version's engines to its batcher, and takes them back."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence

from edge_runtime.config import RuntimeOptions
from edge_runtime.crew.opening import Made
from edge_runtime.crew.station import Station
from edge_runtime.engine.engine import Engine
from edge_runtime.scheduling.batcher import Batcher
from edge_runtime.scheduling.gate import Gate
from edge_runtime.scheduling.slot import Slot


class Supply:
    """Thread-safe. Every engine that it was given is closed by it once, at the latest by `close`."""

    def __init__(self, batcher: Batcher, options: RuntimeOptions) -> None:
        """Gives nothing yet.

        Args:
            batcher: The version's.
            options: The runtime's.
        """
        self._batcher = batcher
        self._options = options
        self._lock = threading.Lock()
        self._leaving: set[Engine] = set()

    def __repr__(self) -> str:
        return f"<Supply of {self._batcher!r}, {len(self._leaving)} on their way out>"

    def give(self, station: Station, made: Sequence[Made], given: dict[Engine, list[Slot]]) -> None:
        """Gives the batcher engines: one slot for each caller that may be in one.

        Args:
            station: Where they run.
            made: They.
            given: Gets their slots, also the one at which it fails.
        """
        for engine, costs, _, solo in made:
            gate = station.devices[0].gate if engine.slots == 1 else Gate(engine.slots, station.name)
            slots = given[engine] = []
            for _ in range(engine.slots):
                slot = Slot(
                    engine,
                    gate=gate,
                    costs=costs,
                    rank=station.rank,
                    solo=solo,
                    limit_factor=self._options.watchdog_factor,
                    limit_min_s=self._options.watchdog_min_s,
                    left=not station.lasting,
                )
                slots.append(slot)
                self._batcher.add(slot)

    def discard(self, made: Sequence[Made], given: Mapping[Engine, list[Slot]]) -> None:
        """Frees engines that are not used after all, whether the batcher has some of them or not."""
        for slots in given.values():
            for slot in slots:
                self._batcher.remove(slot)
        for one in made:
            one.engine.close()

    def withdraw(self, engines: Iterable[Engine]) -> None:
        """They are used no more, and are to be retired."""
        with self._lock:
            self._leaving.update(engines)

    def retire(self, engines: Mapping[Engine, list[Slot]]) -> None:
        """Takes withdrawn engines from the batcher and frees them; waits for runs that go on in those that are well."""
        for slots in engines.values():
            for slot in slots:
                self._batcher.remove(slot)
        self._free(engines)

    def close(self) -> None:
        """Frees what was withdrawn and is not retired yet."""
        with self._lock:
            engines = list(self._leaving)
        self._free(engines)

    def _free(self, engines: Iterable[Engine]) -> None:
        """Closes engines, and what is left of processes of theirs that have ended."""
        for engine in engines:
            with self._lock:
                mine = engine in self._leaving
                self._leaving.discard(engine)
            if mine:
                engine.close()
                for worker in engine.workers:
                    if worker.loss is not None:
                        worker.close()
