"""The devices of a runtime: each with the gate before it and the process behind it, shared by the versions on it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from edge_runtime.engine.base import Session, SessionSpec
from edge_runtime.errors import EngineFailed, EngineLost
from edge_runtime.scheduling.cost import HasFactor, Pace, SlowestPace
from edge_runtime.scheduling.gate import Gate

if TYPE_CHECKING:
    from devices import DeviceString, EdgeTpu
    from edge_runtime.climate import Climate
    from edge_runtime.engine.process import WorkerProcess

MAX_DEVICES = 64
"""Devices that a runtime knows: what its options name, and every stick that is ever attached."""


class User(Protocol):
    """A version that runs on a device."""

    def worker_ended(self, device: Device) -> None:
        """A worker process of the device has ended, perhaps one that the version's engines run in: they know.

        Called in a thread of the worker's; must return soon.
        """
        ...


class Device:
    """One device. Thread-safe.

    Attributes:
        string: What it is called.
        gate: Its permits: one, but for the CPU.
        pace: By what its runs take longer now than at full clock.
        exact: Whether the user named this very one, so that no other Edge TPU can stand in for it.
        address: The place of the Edge TPU that it is, as of `place_of`; empty where none was seen.
        stands_in: Whether it is any Edge TPU, since none was seen: those that are seen have names of their own.
    """

    def __init__(
        self, string: DeviceString, *, capacity: int, address: str, exact: bool, clock: Callable[[], float]
    ) -> None:
        self.string = string
        self.gate = Gate(capacity, string.text)
        self.pace = Pace()
        self.exact = exact
        self.address = address
        self.stands_in = string.delegate.name == "edgetpu" and string.address in ("", "usb", "pci")
        self._clock = clock
        self._lock = threading.Lock()
        self._worker: WorkerProcess | None = None
        self._users: set[User] = set()
        self._closed = False

    def __repr__(self) -> str:
        at = f" at {self.address}" if self.address else ""
        return f"<Device {self.string.text}{at}, {self._worker!r}, {self.gate!r}>"

    @property
    def kind(self) -> str:
        """Its delegate's name."""
        return self.string.delegate.name

    @property
    def in_use(self) -> bool:
        """Whether a version runs on it."""
        return bool(self._users)

    def open_in_worker(self, spec: SessionSpec, content: bytes, limit_s: float) -> Session:
        """A session in the device's one process, which is started for the first of them and after it was lost.

        Raises:
            EngineFailed, EngineLost, PackageRefused: see `WorkerProcess.open`.
        """
        from edge_runtime.engine.process import WorkerProcess  # noqa: PLC0415  only who uses an accelerator pays

        with self._lock:
            if self._closed:
                raise EngineFailed(f"{self.string.text}: the runtime has been closed")
            if self._worker is not None and not self._worker.alive:
                # Whoever ran in it is told of its end: see `worker_ended`. Two processes can't hold the device.
                self._worker.close()
                self._worker = None
            if self._worker is None:
                self._worker = WorkerProcess(self.string.text, clock=self._clock, on_death=self.worker_ended)
            worker = self._worker
        return worker.open(spec, content, limit_s)

    def join(self, user: User) -> None:
        """One more version uses it."""
        with self._lock:
            self._users.add(user)

    def leave(self, user: User) -> None:
        """One less; after the last one the process ends, so that another program may have the device."""
        with self._lock:
            self._users.discard(user)
        self.settle()

    def settle(self) -> None:
        """Ends the process if no version uses the device: one that was being opened may have started it again."""
        if not self.in_use:
            self._end_worker()

    def close(self) -> None:
        """Ends the process for good."""
        with self._lock:
            self._closed = True
        self._end_worker()

    def worker_ended(self) -> None:
        """A process that held it has ended: whoever runs on it looks whether that was the own one."""
        with self._lock:
            users = list(self._users)
        for user in users:
            user.worker_ended(self)

    def _end_worker(self) -> None:
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()


class DeviceTable:
    """The devices by their strings, and Edge TPUs by their places: two names for one stick are one. Thread-safe."""

    def __init__(self, clock: Callable[[], float], *, cpu_permits: int | None = None) -> None:
        """Knows none yet.

        Args:
            clock: Monotonic seconds.
            cpu_permits: Runs that the CPU does at once; None for one a core.
        """
        self._clock = clock
        self._cpu_permits = cpu_permits or cores()
        self._lock = threading.Lock()
        self._devices: dict[str, Device] = {}
        self._climate: Climate | None = None

    def __repr__(self) -> str:
        return f"<DeviceTable {list(self._devices.values())}>"

    def get(self, string: DeviceString, seen: Sequence[EdgeTpu] = (), *, exact: bool = False) -> Device:
        """The device of that name.

        Args:
            string: Its device string, expanded.
            seen: The Edge TPUs that are attached: tells where it sits.
            exact: Whether the user named this very one.

        Raises:
            EngineFailed: there are too many already.
        """
        with self._lock:
            device = self._devices.get(string.text)
            if device is not None:
                return device
            address = address_of(string, seen)
            there = self._owner(address, seen)
            if there is not None:
                # The numbers have shifted since.
                free = "" if exact else self._free(string, seen)
                if not free:
                    return there
                address = free
            if len(self._devices) >= MAX_DEVICES:
                raise EngineFailed(f"{string.text}: a runtime uses at most {MAX_DEVICES} devices")
            capacity = self._cpu_permits if string.delegate.name == "cpu" else 1
            device = Device(string, capacity=capacity, address=address, exact=exact, clock=self._clock)
            self._devices[string.text] = device
            self._adapt(device)
            return device

    def adapt(self, climate: Climate) -> None:
        """Has what is predicted of the devices go by this, from now on."""
        with self._lock:
            self._climate = climate
            for device in self._devices.values():
                self._adapt(device)

    def _adapt(self, device: Device) -> None:
        if self._climate is not None:
            device.pace.factor = self._climate.factor(device.kind, device.address)

    def locate(self, device: Device, seen: Sequence[EdgeTpu]) -> str:
        """Finds the Edge TPU again before it is opened; what the library is to be asked for.

        A stick may come back at another port, and the library numbers those that are attached now.

        Returns:
            pycoral's device string: `usb:0`; that of the device's own string where nothing can be seen.

        Raises:
            EngineLost: it is not attached, or stands in for what has a name of its own by now: one that were opened
                under both would be two devices, of which the library gives one alone.
        """
        if device.kind != "edgetpu" or not seen:
            if device.address and not seen:
                raise EngineLost(f"{device.string.text}: nothing is attached at {device.address}", "vanished")
            return device.string.address
        if device.stands_in and any(device.string.address in ("", one.bus) for one in seen):
            raise EngineLost(f"{device.string.text}: {len(seen)} attached by now, used by their own names", "vanished")
        with self._lock:
            places = [place_of(one) for one in seen]
            if device.exact:
                device.address = self._claimed(device, seen)
            elif device.address not in places:
                device.address = self._free(device.string, seen)
            address = device.address
        if address not in places:
            raise EngineLost(f"{device.string.text}: {len(seen)} attached, and this one is not among them", "vanished")
        bus, _, _ = address.partition(" ")
        return f"{bus}:{[place for place in places if place.startswith(f'{bus} ')].index(address)}"

    def _claimed(self, device: Device, seen: Sequence[EdgeTpu]) -> str:
        """The place that a device's number stands for now, if no other device has it."""
        address = address_of(device.string, seen)
        there = self._at(address)
        if there is None or there is device:
            return address
        if there.in_use:
            raise EngineLost(f"{device.string.text}: the one at {address} is in use as {there.string.text}", "vanished")
        there.address = ""
        return address

    def _at(self, address: str) -> Device | None:
        return next((one for one in self._devices.values() if address and one.address == address), None)

    def _owner(self, address: str, seen: Sequence[EdgeTpu]) -> Device | None:
        """The device at a place, or the one that the user gave the place's number and that has not been opened yet."""
        exact = (one for one in self._devices.values() if one.exact and not one.address)
        return self._at(address) or next(
            (one for one in exact if address and address_of(one.string, seen) == address), None
        )

    def _free(self, string: DeviceString, seen: Sequence[EdgeTpu]) -> str:
        """A place on the string's bus where there is an Edge TPU that no device stands for."""
        bus, _, _ = string.address.partition(":")
        for one in seen:
            if (not bus or one.bus == bus) and self._owner(place_of(one), seen) is None:
                return place_of(one)
        return ""

    def all(self) -> list[Device]:
        """Those that have been used."""
        with self._lock:
            return list(self._devices.values())

    def close(self) -> None:
        """Ends all their processes."""
        for device in self.all():
            device.close()


def pace_of(devices: Sequence[Device]) -> HasFactor:
    """The pace of what runs on these: one device's, or the slowest of several in a row."""
    return devices[0].pace if len(devices) == 1 else SlowestPace([device.pace for device in devices])


def address_of(string: DeviceString, seen: Sequence[EdgeTpu]) -> str:
    """Where the Edge TPU of a device string sits: `usb 2-1`; empty if it can't be told."""
    if string.delegate.name != "edgetpu":
        return ""
    bus, _, number = string.address.partition(":")
    fitting = [one for one in seen if not bus or one.bus == bus]
    index = int(number or 0)
    if index >= len(fitting) or (not number and len(fitting) != 1):
        return ""
    return place_of(fitting[index])


def place_of(edge_tpu: EdgeTpu) -> str:
    """Its bus and its place there, which stay while it changes its id."""
    return f"{edge_tpu.bus} {edge_tpu.address}"


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
