"""The devices of a runtime: each with the gate before it and the process behind it, shared by the versions on it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edge_runtime.engine.base import Session, SessionSpec
from edge_runtime.errors import EngineFailed
from edge_runtime.scheduling.gate import Gate

if TYPE_CHECKING:
    from devices import DeviceString, EdgeTpu
    from edge_runtime.engine.process import WorkerProcess

MAX_DEVICES = 64
"""Devices that a runtime knows: what its options name, and every stick that is ever attached."""


class Device:
    """One device. Thread-safe.

    Attributes:
        string: What it is called.
        gate: Its permits: one, but for the CPU.
        address: Where an Edge TPU was seen when it was used first, by bus and place; empty where nothing was seen.
    """

    def __init__(self, string: DeviceString, *, capacity: int, address: str, clock: Callable[[], float]) -> None:
        self.string = string
        self.gate = Gate(capacity, string.text)
        self.address = address
        self._clock = clock
        self._lock = threading.Lock()
        self._worker: WorkerProcess | None = None
        self._users = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"<Device {self.string.text}, {self._worker!r}, {self.gate!r}>"

    @property
    def kind(self) -> str:
        """Its delegate's name."""
        return self.string.delegate.name

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
                self._worker.close()
                self._worker = None
            if self._worker is None:
                self._worker = WorkerProcess(self.string.text, clock=self._clock)
            worker = self._worker
        return worker.open(spec, content, limit_s)

    def drop_worker(self) -> None:
        """Ends the process, if there is one: with it everything that runs on the device."""
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def join(self) -> None:
        """One more version uses it."""
        with self._lock:
            self._users += 1

    def leave(self) -> None:
        """One less; the last one ends the process, so that another program may have the device."""
        with self._lock:
            self._users -= 1
            idle = self._users == 0
        if idle:
            self.drop_worker()

    def close(self) -> None:
        """Ends the process for good."""
        with self._lock:
            self._closed = True
        self.drop_worker()


class DeviceTable:
    """The devices by their strings. Thread-safe."""

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

    def __repr__(self) -> str:
        return f"<DeviceTable {list(self._devices.values())}>"

    def get(self, string: DeviceString, seen: Sequence[EdgeTpu] = ()) -> Device:
        """The device of that name.

        Args:
            string: Its device string, expanded.
            seen: The Edge TPUs that are attached: tells where it sits.

        Raises:
            EngineFailed: there are too many already.
        """
        with self._lock:
            device = self._devices.get(string.text)
            if device is None:
                if len(self._devices) >= MAX_DEVICES:
                    raise EngineFailed(f"{string.text}: a runtime uses at most {MAX_DEVICES} devices")
                capacity = self._cpu_permits if string.delegate.name == "cpu" else 1
                device = Device(string, capacity=capacity, address=address_of(string, seen), clock=self._clock)
                self._devices[string.text] = device
            elif not device.address:
                device.address = address_of(string, seen)
            return device

    def all(self) -> list[Device]:
        """Those that have been used."""
        with self._lock:
            return list(self._devices.values())

    def close(self) -> None:
        """Ends all their processes."""
        for device in self.all():
            device.close()


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
