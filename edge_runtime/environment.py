"""What measurements depend on: the engine, the libraries it is made of, and the host."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from devices.tree import Tree


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """The host's part of a key: what it is, and how its clock is governed.

    Attributes:
        cpu: The board's model, or else the processor's; empty where neither is told.
        architecture: As `uname -m` says it.
        cores: Those that this process may use; 0 where unknown.
        governor: The clock governors of all cores, as `ondemand` or `performance,schedutil`; empty where the kernel
            has none.
    """

    cpu: str
    architecture: str
    cores: int
    governor: str


class EngineKey(msgspec.Struct, frozen=True, kw_only=True):
    """Which engine was measured: where one of these differs, so may its times.

    Attributes:
        device: The device string: `cpu`, `edgetpu:usb:0`.
        variant: The variant's name.
        variant_sha256: Of its file, as the manifest has it.
        threads: Of one run.
        isolation: `none` or `process`.
        interpreter: The library that it comes with: `ai-edge-litert`, `tflite-runtime`.
        interpreter_version: Its version.
        library_digest: Of the delegate's shared library; empty where it has none.
        environment: The host.
    """

    device: str
    variant: str
    variant_sha256: str
    threads: int
    isolation: str
    interpreter: str
    interpreter_version: str
    environment: Environment
    library_digest: str = ""


def environment(root: Path = Path("/")) -> Environment:
    """Looks at the host: a few small files, read anew each time, since a governor can be changed at any time.

    Args:
        root: `/`, or a copy of a machine's sys and proc.
    """
    from devices.tree import Tree  # noqa: PLC0415  when an engine is measured, not at import

    tree = Tree(root)
    cpuinfo = (tree.text("proc/cpuinfo") or "").splitlines()
    cores = sum(line.startswith("processor") for line in cpuinfo)
    running = root == Path("/")
    if running:
        cores = len(os.sched_getaffinity(0))
    board = tree.text("proc/device-tree/model")
    named = (line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name"))
    return Environment(
        cpu=board or next(named, ""),
        architecture=platform.machine() if running else tree.text("proc/sys/kernel/arch") or "",
        cores=cores,
        governor=_governors(tree),
    )


def _governors(tree: Tree) -> str:
    base = "sys/devices/system/cpu"
    cores = (name for name in tree.names(base) if name.startswith("cpu") and name[3:].isdigit())
    return ",".join(sorted({text for core in cores if (text := tree.text(f"{base}/{core}/cpufreq/scaling_governor"))}))
