"""Which engines of a package are timed, and how they are opened: just as the runtime does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from converter.artifact import Package, PackageError, Variant
from converter.artifact.bench import Refused
from devices import DeviceString, UnknownDelegate, device_string, expand, find_edge_tpus, load_profiles, match, probe
from edge_runtime.config import RuntimeOptions
from edge_runtime.crew.device import Device, DeviceTable, pace_of
from edge_runtime.crew.opening import Opener
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.plan import plan
from edge_runtime.engine.state import is_stateful
from edge_runtime.environment import EngineKey, environment
from edge_runtime.errors import InvalidConfig
from edge_runtime.pixels import pixel_inputs
from edge_runtime.probing import Prober
from edge_runtime.profiles import ProfileBook
from edge_runtime.thermal import Monitor, firmware_of


@dataclass(frozen=True)
class Candidate:
    """An engine that is to be timed.

    Attributes:
        devices: One, or one for each segment of a variant that is cut.
        variant: What runs there.
        threads: Of one run; 1 on an accelerator.
        streamed: Whether its state goes from run to run, as in a stream.
    """

    devices: tuple[DeviceString, ...]
    variant: Variant
    threads: int
    streamed: bool = False

    @property
    def device(self) -> str:
        """What the devices are called together."""
        return "+".join(one.text for one in self.devices) + (" stream" if self.streamed else "")

    @property
    def on_cpu(self) -> bool:
        """Whether it can be held against the bare interpreter."""
        return self.devices[0].delegate.name == "cpu"


def default_devices() -> list[str]:
    """The CPU, then what this machine's profile and its bus say is there besides."""
    return ["cpu", *(one for one in match(probe(), load_profiles()).delegates if one != "cpu")]


def single_devices(texts: Sequence[str]) -> list[DeviceString]:
    """The devices that the strings stand for, each once, in order.

    Raises:
        InvalidConfig: one is no device string.
    """
    seen = find_edge_tpus()
    try:
        single = [one for text in texts for one in expand(device_string(text), seen)]
    except UnknownDelegate as error:
        raise InvalidConfig(str(error)) from error
    return list({one.text: one for one in single}.values())


def candidates(
    package: Package, devices: Sequence[DeviceString], variants: Sequence[str], threads: Sequence[int]
) -> tuple[list[Candidate], list[Refused]]:
    """What is timed: on the CPU every variant for it, elsewhere the one that the runtime would run there. Pure.

    Args:
        package: The package.
        devices: Single devices.
        variants: Only these; empty for all.
        threads: On the CPU.
    """
    found: list[Candidate] = []
    refused: list[Refused] = []
    for device in devices:
        if device.delegate.name != "cpu":
            continue
        if not variants and all(variant.delegate != "cpu" for variant in package.manifest.variants):
            refused += [
                Refused(device=device.text, variant="", reason=placed.reason)
                for placed in plan(package.manifest, devices)
                if device in placed.devices
            ]
        for variant in package.manifest.variants:
            if variant.delegate == "cpu" and (not variants or variant.name in variants):
                found += [Candidate((device,), variant, count) for count in threads]
            elif variant.name in variants:
                said = f"it needs the delegate {variant.delegate!r}, not a CPU"
                refused.append(Refused(device=device.text, variant=variant.name, reason=said))
    accelerators = [one for one in devices if one.delegate.name != "cpu"]
    for wanted in variants or (None,):
        for placed in plan(package.manifest, accelerators, wanted):
            if placed.variant is not None:
                found.append(Candidate(placed.devices, placed.variant, 1))
            else:
                refused.append(Refused(device=placed.device.text, variant=wanted or "", reason=placed.reason))
    return found, refused


def with_streams(package: Package, found: Sequence[Candidate]) -> list[Candidate]:
    """The engines; behind one on a CPU whose file keeps state, the same as a stream has it."""
    stateful: dict[str, bool] = {}
    engines: list[Candidate] = []
    for one in found:
        engines.append(one)
        file = one.variant.file
        if one.on_cpu and file not in stateful:
            try:
                stateful[file] = is_stateful(package.read(file))
            except PackageError:  # It is told when it is opened.
                stateful[file] = False
        if one.on_cpu and stateful[file]:
            engines.append(replace(one, streamed=True))
    return engines


class Engines:
    """Opens the engines of a package one after another. Not thread-safe."""

    def __init__(
        self, package: Package, cache: Path | None, clock: Callable[[], float], root: Path = Path("/")
    ) -> None:
        """Opens nothing yet.

        Args:
            package: The package.
            cache: Where what was probed is kept.
            clock: Monotonic seconds.
            root: Where the files of the machine's heat and clocks begin.
        """
        host, prober = environment(), Prober(cache)
        self._table = DeviceTable(clock)
        self._monitor = Monitor(self._table.adapt, clock=clock, root=root, firmware=firmware_of(root))
        self._opener = Opener(
            package,
            RuntimeOptions(store=package.path, cache=cache),
            pixels=pixel_inputs(package.manifest),
            prober=lambda: prober,
            book=ProfileBook(None, package.digest, None),
            environment=lambda: host,
            clock=clock,
        )
        self._seen = find_edge_tpus()

    def open(self, one: Candidate) -> Engine:
        """The engine, as the runtime opens it: an accelerator's in a worker process.

        Raises:
            EngineFailed: the device or its delegate is not to be had, or can't run the variant.
            PackageRefused: a file differs from its digest, or its tensors from the manifest.
        """
        return self._opener.open(self._devices(one), one.variant, one.threads, keeps_state=one.streamed)

    def key(self, one: Candidate) -> EngineKey:
        """What its profile is kept under, and looked for by the runtime."""
        return self._opener.key(self._devices(one), one.variant, one.threads)

    def factor(self, one: Candidate) -> float:
        """By what it takes longer now than at full clock, as of a look that is made now.

        Best just after a run: that a firmware lowers a clock is seen only while somebody wants more.
        """
        self._monitor.look_now()
        return pace_of(self._devices(one)).factor

    def close(self) -> None:
        """Ends the worker processes."""
        self._table.close()

    def _devices(self, one: Candidate) -> tuple[Device, ...]:
        return tuple(self._table.get(device, self._seen) for device in one.devices)
