"""The stations of one version: planned from what the user wants, what the package has and what is attached."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from converter.artifact import Manifest
from edge_runtime.config import ModelOptions
from edge_runtime.crew.device import Device, DeviceTable, User
from edge_runtime.crew.opening import isolated
from edge_runtime.crew.station import Station
from edge_runtime.engine.plan import Placement, plan
from edge_runtime.errors import EngineLost

if TYPE_CHECKING:
    from devices import EdgeTpu


class Roster:
    """A table of stations. Thread-safe.

    Attributes:
        wants_edge_tpus: Whether it is to be told of Edge TPUs that come and go.
    """

    def __init__(
        self,
        manifest: Manifest,
        options: ModelOptions,
        *,
        devices: DeviceTable,
        delegates: Sequence[str],
        target: str | None,
    ) -> None:
        """Has no station yet; for the arguments see `Crew`."""
        from devices import device_string  # noqa: PLC0415  when a version is loaded, not at import

        self._manifest = manifest
        self._options = options
        self._devices = devices
        self._wanted = [device_string(text) for text in delegates]
        self._target = target
        self._lock = threading.Lock()
        self._stations: dict[str, Station] = {}
        self.wants_edge_tpus = any(one.delegate.name == "edgetpu" for one in self._wanted)

    def all(self) -> list[Station]:
        """The stations, the preferred ones first."""
        with self._lock:
            return sorted(self._stations.values(), key=lambda station: station.rank)

    def has(self, station: Station) -> bool:
        """Whether it is still one of them."""
        with self._lock:
            return self._stations.get(station.name) is station

    def add(self, seen: Sequence[EdgeTpu], user: User) -> tuple[list[Station], list[Station]]:
        """Plans for what is attached now.

        Args:
            seen: The Edge TPUs that are attached.
            user: Who joins their devices.

        Returns:
            The stations that are new; and those that stood in for any Edge TPU and give way to those that are seen:
            they are none of the table's any more, and the user leaves their devices when it has freed their engines.
        """
        from devices import expand  # noqa: PLC0415  likewise

        expanded = [(wanted, expand(wanted, seen)) for wanted in self._wanted]
        self._claim(seen)
        new = []
        devices = [one for _, found in expanded for one in found]
        for placement in plan(self._manifest, devices, self._options.variant, self._target):
            station = self._station(placement, seen)
            with self._lock:
                if station.state == "starting":
                    self._forget_refused(set(station.devices), user)
                known = {device for one in self._stations.values() for device in one.devices}
                if station.name in self._stations or known & set(station.devices):
                    continue
                self._stations[station.name] = station
            for device in station.devices:
                device.join(user)
            new.append(station)
        return new, self._forget_stand_ins({wanted.text for wanted, found in expanded if found != (wanted,)})

    def _claim(self, seen: Sequence[EdgeTpu]) -> None:
        """Takes a stick that has come for a station whose own was away, before another one is made for it."""
        for station in self.all():
            if station.state != "ready":
                for device in station.devices:
                    with contextlib.suppress(EngineLost):
                        self._devices.locate(device, seen)

    def _forget_stand_ins(self, names: set[str]) -> list[Station]:
        """Drops the stations of device strings that stood for themselves: where sticks are seen, these are used.

        Also one that works, because the library saw the stick before sysfs showed it: it holds what another version
        may ask for by its name.
        """
        with self._lock:
            return [self._stations.pop(name) for name in names & set(self._stations)]

    def _forget_refused(self, devices: set[Device], user: User) -> None:
        """Drops what was refused for want of further sticks: now there are enough."""
        for name, station in list(self._stations.items()):
            if station.state == "refused" and len(devices) > 1 and set(station.devices) <= devices:
                del self._stations[name]
                for device in station.devices:
                    device.leave(user)

    def _station(self, placement: Placement, seen: Sequence[EdgeTpu]) -> Station:
        named = {one.text for one in self._wanted}
        devices = tuple(
            self._devices.get(one, seen, exact=one.text in named and one.address[-1:].isdigit())
            for one in placement.devices
        )
        station = Station(
            name="+".join(one.text for one in placement.devices),
            devices=devices,
            variant=placement.variant,
            rank=placement.rank,
            isolation="process" if isolated(devices[0].kind, self._options.isolation) else "none",
        )
        if placement.variant is None:
            station.state, station.reason = "refused", placement.reason
        return station
