"""What `edge-run doctor` says: what this machine is, which delegates work on it, and what to do about the others.

Nothing here goes over the network, opens a device in this process, or raises because something is missing: what is
wrong is a line in the report.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import msgspec

from devices import (
    DELEGATES,
    CpuFrequency,
    DeviceString,
    Diagnosis,
    EdgeTpu,
    Machine,
    Match,
    Temperature,
    Throttled,
    UnknownDelegate,
    device_string,
    diagnose,
    expand,
    load_profiles,
    match,
    probe,
    read_arm_clock,
    read_frequencies,
    read_temperatures,
    read_throttled,
)
from edge_runtime.climate import Climate, climate_of, firmware_cap, slows
from edge_runtime.errors import InvalidConfig
from edge_runtime.thermal import WORTH_SAYING
from edge_runtime.trial import TRIAL_LIMIT_S, Trial, try_delegate

LOW_DISK_BYTES = 200 * 2**20
"""A package of a MobileNetV2-size model with its variants takes some 25 MB; installing one needs it twice."""

_WIDTH_COLUMNS = 110
_LEAST_COLUMNS = 32
_LABEL_COLUMNS = 14
_INTERPRETERS = ("ai-edge-litert", "tflite-runtime")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One condition besides the delegates.

    Attributes:
        name: What was looked at.
        ok: Whether it is as it should be.
        detail: What was found.
        cure: What to do; empty if `ok`.
    """

    name: str
    ok: bool
    detail: str
    cure: str = ""


@dataclass(frozen=True, kw_only=True)
class DelegateReport:
    """What came of one delegate.

    Attributes:
        name: `cpu`, `edgetpu`, `gpu`, `npu`, or the device string that was asked for.
        state: `runs`: a model ran on it. `loads`: it is there, and no model was run on it. `fails`: neither.
        detail: What was tried, or the raw error.
        diagnosis: Cause and cure, if it fails.
    """

    name: str
    state: Literal["runs", "loads", "fails"]
    detail: str
    diagnosis: Diagnosis | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that `examine` found.

    Attributes:
        asked: The names of the delegates that were asked for.
        arm_clock_mhz: The clock as a Raspberry Pi's firmware has it; asked for only where that lowers it now.
    """

    machine: Machine
    match: Match
    checks: tuple[Check, ...]
    delegates: tuple[DelegateReport, ...]
    temperatures: tuple[Temperature, ...]
    throttled: Throttled | None
    asked: tuple[str, ...] = ()
    frequencies: tuple[CpuFrequency, ...] = ()
    arm_clock_mhz: float | None = None

    @property
    def climate(self) -> Climate:
        """What heat and power do to the speed."""
        cap_mhz = None
        if slows(self.throttled) and self.frequencies:
            first = self.frequencies[0]
            cap_mhz = firmware_cap(self.arm_clock_mhz, first.current_mhz, first.allowed_mhz, None)
        return climate_of(self.temperatures, self.frequencies, self.throttled, cap_mhz)

    @property
    def runs(self) -> bool:
        """Whether models run here, that is at least on the CPU."""
        return any(found.name == "cpu" and found.state == "runs" for found in self.delegates)

    @property
    def missing(self) -> tuple[str, ...]:
        """What was asked for and fails."""
        return tuple(found.name for found in self.delegates if found.name in self.asked and found.state == "fails")

    @property
    def exit_code(self) -> int:
        """0 if models run here, and every delegate that was asked for works; else 1.

        Any other problem, as a weak supply, has its line and its cure: what slows a device down does not stop it.
        """
        return 0 if self.runs and not self.missing else 1


def examine(
    root: Path = Path("/"),
    *,
    packages: Path = Path(),
    libraries: Mapping[str, str] | None = None,
    delegates: Sequence[str] = (),
    limit_s: float = TRIAL_LIMIT_S,
) -> Report:
    """Looks at the machine and tries every delegate, each in a child process. Takes some seconds.

    Args:
        root: Where the machine's file system begins; the delegates are tried in this process's own in any case.
        packages: Where packages are stored, or will be; it need not exist.
        libraries: Another library than the usual for a delegate, by its name: {"edgetpu": "/opt/libedgetpu.so.1"}.
        delegates: Device strings that are tried as well: `external:/opt/lib.so?option=value`, `edgetpu:usb:1`.
        limit_s: How long one delegate may take.

    Raises:
        InvalidConfig: one of `delegates` is no device string.
    """
    try:
        asked_for = [device_string(text) for text in delegates]
    except UnknownDelegate as error:
        raise InvalidConfig(str(error)) from error
    machine = probe(root)
    throttled = read_throttled() if root == Path("/") else None
    return Report(
        machine=machine,
        match=match(machine, load_profiles()),
        checks=(
            check_python(machine),
            check_interpreter(),
            check_numpy(),
            check_multicast(machine),
            check_disk(packages),
            *check_power(throttled),
        ),
        delegates=tuple(
            _examined(device, machine, (libraries or {}).get(device.delegate.name) or device.library, limit_s)
            for device in dict.fromkeys((*_usual(machine), *asked_for))
        ),
        temperatures=read_temperatures(root),
        throttled=throttled,
        frequencies=read_frequencies(root),
        arm_clock_mhz=read_arm_clock() if slows(throttled) else None,
        asked=tuple(dict.fromkeys(device.text for device in asked_for)),
    )


def as_dict(report: Report) -> dict[str, Any]:
    """The report as plain values for JSON, with its exit code."""
    return {**msgspec.to_builtins(report), "exit_code": report.exit_code}


def _usual(machine: Machine) -> Iterator[DeviceString]:
    """What is tried unasked: each of several Edge TPUs, and no library that only the user can name."""
    for known in DELEGATES:
        if known.name != "external":
            device = device_string(known.name)
            single = expand(device, machine.edge_tpus)
            yield from single if len(single) > 1 else (device,)


def _examined(device: DeviceString, machine: Machine, library: str, limit_s: float) -> DelegateReport:
    return _delegate_report(
        device.text,
        try_delegate(device.delegate.name, library=library, options=device.options, limit_s=limit_s),
        machine,
    )


def _delegate_report(name: str, trial: Trial, machine: Machine) -> DelegateReport:
    if trial.ok:
        return DelegateReport(name=name, state="runs" if trial.ran_model else "loads", detail=trial.detail)
    return DelegateReport(name=name, state="fails", detail=trial.error, diagnosis=diagnose(trial.error, machine))


def check_python(machine: Machine) -> Check:
    """Whether this Python is one that the interpreter has wheels for."""
    ok = sys.version_info >= (3, 11) and machine.python_bits == 64
    return Check(
        name="Python",
        ok=ok,
        detail=f"{machine.python}, {machine.python_bits}-bit",
        cure="" if ok else "Use a 64-bit Python 3.11 or later, on a 64-bit system.",
    )


def check_interpreter() -> Check:
    """Which LiteRT interpreter is installed."""
    found = [(name, version) for name in _INTERPRETERS if (version := _version(name))]
    return Check(
        name="interpreter",
        ok=bool(found),
        detail=", ".join(f"{name} {version}" for name, version in found) or "none installed",
        cure="" if found else "pip install ai-edge-litert",
    )


def check_numpy() -> Check:
    """Whether numpy is installed, in a version that the interpreter accepts."""
    version = _version("numpy")
    if version is None:
        return Check(name="numpy", ok=False, detail="not installed", cure="pip install numpy")
    too_new = _version("ai-edge-litert") is None and _version("tflite-runtime") and not version.startswith("1.")
    cure = "tflite-runtime was built for numpy 1: pip install 'numpy<2'" if too_new else ""
    return Check(name="numpy", ok=not too_new, detail=version, cure=cure)


def check_multicast(machine: Machine) -> Check:
    """Whether servers can be found by mDNS: an interface that is up, carries multicast and leads outside."""
    able = [found.name for found in machine.interfaces if found.up and found.multicast and not found.loopback]
    if able:
        return Check(name="mDNS", ok=True, detail=f"multicast on {', '.join(able)}")
    names = ", ".join(found.name for found in machine.interfaces if found.up) or "none"
    return Check(
        name="mDNS",
        ok=False,
        detail=f"no interface that leads outside carries multicast (up: {names})",
        cure="Connect the network, or name the servers as host:port. In a container use the host's network.",
    )


def check_disk(packages: Path) -> Check:
    """Whether there is room where packages are stored, told from the nearest folder that exists."""
    folder = packages.absolute()
    while not folder.exists():
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    ok = free_bytes >= LOW_DISK_BYTES
    return Check(
        name="disk",
        ok=ok,
        detail=f"{free_bytes / 2**20:,.0f} MiB free at {folder}",
        cure="" if ok else f"Make room: under {LOW_DISK_BYTES // 2**20} MiB a new version may not fit beside the old.",
    )


def check_power(throttled: Throttled | None) -> tuple[Check, ...]:
    """Whether the supply and the cooling keep up; nothing where no firmware says it."""
    if throttled is None:
        return ()
    weak = throttled.under_voltage or throttled.seen_under_voltage
    hot = slows(throttled) or throttled.seen_throttled or throttled.seen_soft_temperature_limit
    cure = (
        "Use the board's own power supply and a short cable; power USB devices by a hub of their own." if weak else ""
    )
    if hot and not weak:
        cure = "Cool the board: a heat sink or a fan, and air around it."
    return (Check(name="power", ok=not (weak or hot), detail=_throttled(throttled), cure=cure),)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def render(report: Report, columns: int = _WIDTH_COLUMNS) -> str:
    """The report as plain text for a terminal, without colours and without a newline at the end.

    Args:
        report: What was found.
        columns: How wide the terminal is. Words that are longer are not broken, and no line is longer than is easy to
            read, however wide it is.
    """
    width = max(min(columns, _WIDTH_COLUMNS), _LEAST_COLUMNS)
    row = partial(_row, width=width)
    lines = ["Machine", *(one for label, text in _machine_rows(report) if text for one in row(label, text))]
    lines += ["", "Software and surroundings"]
    for check in report.checks:
        lines += row(check.name, f"{'ok' if check.ok else 'PROBLEM'}: {check.detail}")
        lines += row("", f"do: {check.cure}") if check.cure else []
    preferred = "Delegates, in the order in which they are preferred: " + ", ".join(report.match.delegates)
    lines += ["", *textwrap.wrap(preferred, width)]
    for found in report.delegates:
        lines += row(found.name, f"{found.state}: {found.detail.splitlines()[0] if found.detail else ''}")
        if found.diagnosis:
            lines += row("", f"why: {found.diagnosis.cause}")
            unless = "" if found.name in report.asked else found.diagnosis.unless
            lines += row("", f"do: {found.diagnosis.cure} {unless}".rstrip())
    verdict = "Models run here." if report.runs else "No model runs here: not even the CPU's delegate works."
    if report.missing:
        verdict += f" What was asked for fails: {', '.join(report.missing)}."
    return "\n".join([*lines, "", *textwrap.wrap(verdict, width, break_long_words=False, break_on_hyphens=False)])


def _machine_rows(report: Report) -> list[tuple[str, str]]:
    machine, profile = report.machine, report.match.profile
    rows = [
        ("profile", f"{profile.name} ({profile.title})" if profile else "none"),
        ("because", report.match.reason),
        ("processor", _joined(machine.architecture, machine.cores and f"{machine.cores} cores", machine.cpu_model)),
        ("memory", f"{machine.memory_bytes / 2**30:.1f} GiB" if machine.memory_bytes else "unknown"),
        ("system", _joined(machine.system, machine.kernel and f"kernel {machine.kernel}")),
        ("Edge TPU", "; ".join(map(_edge_tpu, machine.edge_tpus)) or "none found"),
        ("GPU", ", ".join(node.path for node in machine.render_nodes) or "none found"),
        ("temperature", ", ".join(map(_temperature, report.temperatures))),
        ("clock", _clock(report)),
        ("not read", "; ".join(machine.unread)),
    ]
    rows += [("note", note) for note in (profile.notes if profile else ())]
    return rows + [("note", note) for accelerator in report.match.accelerators for note in accelerator.notes]


def _edge_tpu(found: EdgeTpu) -> str:
    node = found.node
    reached = node.path if node else "no device file"
    if node and not node.usable:
        reached += f", closed to this user ({node.mode}, group {node.group})"
    speed = f", {found.speed_mbps} Mbit/s" if found.speed_mbps else ""
    return f"{found.bus} {found.address} ({found.hardware_id}{speed}), {reached}"


def _temperature(found: Temperature) -> str:
    text = f"{found.celsius:.0f} °C {found.kind or found.source}"
    if found.trips_celsius:
        trips = ", ".join(f"{trip:g}" for trip in found.trips_celsius)
        text += f" (clock {found.clock_mhz:g} MHz; " + (
            f"lowered at {trips} °C)" if found.governed else f"its driver does not lower it at {trips} °C)"
        )
    return text


def _clock(report: Report) -> str:
    climate = report.climate
    if climate.clock_mhz is None:
        return ""
    allowed_mhz, maximal_mhz = climate.clock_mhz
    factor = f": throttled, predictions x{climate.cpu_factor:.1f}" if climate.cpu_factor >= WORTH_SAYING else ""
    return f"CPU at up to {allowed_mhz:.0f} of {maximal_mhz:.0f} MHz{factor}"


def _throttled(throttled: Throttled) -> str:
    flags = [name.replace("_", " ") for name, is_set in msgspec.structs.asdict(throttled).items() if is_set]
    return ", ".join(flags).replace("seen ", "since boot ") or "no throttling, no under-voltage since boot"


def _joined(*parts: str | int | None) -> str:
    return ", ".join(str(part) for part in parts if part) or "unknown"


def _row(label: str, text: str, width: int) -> list[str]:
    """One label and its text, wrapped and aligned; a label that is too long stands on a line of its own."""
    if len(label) >= _LABEL_COLUMNS:
        return [f"  {label}", *_row("", text, width)]
    return textwrap.wrap(
        text,
        width=width,
        initial_indent=f"  {label:<{_LABEL_COLUMNS}}",
        subsequent_indent=" " * (_LABEL_COLUMNS + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
