"""Device profiles: what is known of a board or an accelerator before anything is probed, read from TOML."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from typing import Literal

import msgspec

from devices.delegates import delegate
from devices.errors import ProfileInvalid, UnknownDelegate, UnknownProfile

ARCHITECTURES = ("aarch64", "x86_64")
"""Where LiteRT and numpy have wheels; a 32-bit system is out of their reach."""

DEFAULT_MAX_THREADS = 4
"""For profiles that name no number: all cores of a small board, and no more than that of a large host, whose other
cores are for other work. A choice, not a measurement."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_HARDWARE_ID = re.compile(r"[0-9a-f]{4}:[0-9a-f]{4}")


class DeviceProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One board, or one accelerator that is attached to whatever board.

    Attributes:
        name: What `--target` and a configuration call it.
        title: For people.
        kind: A machine has one board, and any number of accelerators.
        machine: The board's architecture, one of `ARCHITECTURES`; None for an accelerator.
        cores: CPU cores, where all boards of this kind have the same number.
        memory_mib: The sizes it is sold with; empty where that says nothing.
        threads: The interpreter's threads by default; see `threads_on`.
        delegates: Device strings in order of preference.
        models: How the device tree's model begins on it. A board without any is a fallback for its architecture.
        usb_ids: The accelerator's `vendor:product` on USB; for a board: of those built into it.
        pci_ids: Likewise, `vendor:device` on PCIe.
        thermal: Where its temperatures and throttling are to be read.
        notes: What its users should know, a sentence each.
    """

    name: str
    title: str
    kind: Literal["board", "accelerator"]
    delegates: tuple[str, ...]
    machine: str | None = None
    cores: int | None = None
    memory_mib: tuple[int, ...] = ()
    threads: int | None = None
    models: tuple[str, ...] = ()
    usb_ids: tuple[str, ...] = ()
    pci_ids: tuple[str, ...] = ()
    thermal: tuple[Literal["thermal-zones", "apex", "vcgencmd"], ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check(bool(_NAME.fullmatch(self.name)), "name", self.name, "lower case, digits, hyphens")
        if self.kind == "board":
            self._check(self.machine in ARCHITECTURES, "machine", self.machine, f"one of {', '.join(ARCHITECTURES)}")
        else:
            self._check(self.machine is None, "machine", self.machine, "none for an accelerator")
            self._check(bool(self.usb_ids or self.pci_ids), "usb_ids, pci_ids", (), "at least one id")
        for field in ("cores", "threads"):
            value = getattr(self, field)
            self._check(value is None or value >= 1, field, value, "at least 1")
        for hardware_id in self.usb_ids + self.pci_ids:
            self._check(bool(_HARDWARE_ID.fullmatch(hardware_id)), "usb_ids, pci_ids", hardware_id, "as in 1a6e:089a")
        self._check("cpu" in self.delegates, "delegates", self.delegates, "cpu among them, the one that always works")
        for device in self.delegates:
            try:
                delegate(device)
            except UnknownDelegate as error:
                raise ProfileInvalid(f"profile {self.name!r}: {error}") from error

    def threads_on(self, cores: int | None) -> int:
        """The interpreter's default number of threads on a machine with that many cores."""
        wanted = self.threads or DEFAULT_MAX_THREADS
        return wanted if cores is None else max(1, min(wanted, cores))

    def _check(self, good: bool, field: str, value: object, allowed: str) -> None:  # noqa: FBT001 - one caller, above
        if not good:
            raise ProfileInvalid(f"profile {self.name!r}: {field} is {value!r}, allowed is: {allowed}")


def parse_profile(text: str, *, origin: str) -> DeviceProfile:
    """Reads one profile.

    Args:
        text: The TOML.
        origin: Where it came from, for the error.

    Raises:
        ProfileInvalid: it is no TOML, or no profile.
    """
    try:
        return msgspec.convert(tomllib.loads(text), DeviceProfile)
    except ValueError as error:  # Both libraries' are ValueErrors, and so is a number without end.
        raise ProfileInvalid(f"{origin}: {error}") from error
    except RecursionError as error:
        raise ProfileInvalid(f"{origin}: nested too deep to be a profile") from error


def load_profiles() -> tuple[DeviceProfile, ...]:
    """All profiles that ship with the project, by name.

    Raises:
        ProfileInvalid: one of them is none, or two have one name.
    """
    files = (file for file in resources.files("devices").joinpath("profiles").iterdir() if file.name.endswith(".toml"))
    profiles = [parse_profile(file.read_text(encoding="utf-8"), origin=file.name) for file in files]
    names = [found.name for found in profiles]
    for name in names:
        if names.count(name) > 1:
            raise ProfileInvalid(f"profile {name!r}: {names.count(name)} files have that name")
    return tuple(sorted(profiles, key=lambda found: found.name))


def profile(name: str) -> DeviceProfile:
    """The profile of that name.

    Raises:
        UnknownProfile: there is none; the message lists those that are.
    """
    profiles = load_profiles()
    for found in profiles:
        if found.name == name:
            return found
    raise UnknownProfile(f"profile {name!r}: known are {', '.join(found.name for found in profiles)}")
