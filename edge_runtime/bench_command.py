"""`edge-run bench`: a package's variants timed on this device, as a table or as the bench file."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from converter.artifact import Bench, Package, PackageNotFound, encode_bench, install
from devices import Machine, probe
from edge_runtime import bench as timing
from edge_runtime.errors import InvalidConfig
from edge_runtime.store.store import Store

_STDERR = 2
"""Its descriptor."""

_NOTE = b"INFO: "


def bench(arguments: argparse.Namespace) -> str:
    """What the command prints."""
    threads = parse_threads(arguments.threads)
    quiet = contextlib.nullcontext() if arguments.debug else without_notes()
    with opened(arguments.package, arguments.store) as package, quiet:
        found = timing.bench(
            package,
            host=host_text(probe()),
            clock=time.perf_counter,
            variants=arguments.variant,
            threads=threads,
            seconds=arguments.seconds,
        )
    return encode_bench(found).decode().rstrip() if arguments.json else as_text(found)


def parse_threads(text: str) -> tuple[int, ...]:
    """`1,4` -> (1, 4); InvalidConfig if a part is no number."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidConfig(f"threads: numbers joined by commas are needed, as 1,4, got {text!r}") from None


@contextlib.contextmanager
def without_notes() -> Iterator[None]:
    """Keeps LiteRT's notes (`INFO: ...`) off stderr; the rest of what is written there comes afterwards.

    Its C++ writes them to the descriptor, and has no level that could be set. The descriptor is the whole process's:
    only for a command. Where the process crashes, what was held is lost; `--debug` holds nothing.
    """
    try:
        sys.stderr.flush()
        kept = os.dup(_STDERR)
    except (OSError, AttributeError):  # It is closed: nothing can come of it.
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), _STDERR)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, _STDERR)
            os.close(kept)
            held.seek(0)
            for line in held:
                if not line.startswith(_NOTE):
                    sys.stderr.write(line.decode(errors="replace"))


@contextlib.contextmanager
def opened(what: str, store: Path | None) -> Iterator[Package]:
    """The package with every digest checked: a directory, a `.tar.gz`, or one of the store's, by default its latest.

    Raises:
        PackageError: there is none, or it is damaged.
        InvalidConfig, PackageRefused: likewise, in a store.
    """
    if store is not None:
        yield _installed(Store(store), what)
        return
    path = Path(what)
    if path.is_dir():
        yield Package.open(path)
        return
    if not path.exists():
        raise PackageNotFound(f"{path}: no such file or directory (for an installed package, give --store as well)")
    with tempfile.TemporaryDirectory(prefix="edge-run-") as folder:
        yield install(path, folder)


def _installed(store: Store, what: str) -> Package:
    name, slash, number = what.partition("/")
    versions = store.installed().get(name, [])
    if not versions:
        raise InvalidConfig(f"model {name!r}: not installed in {store.path}; there are {sorted(store.installed())}")
    if not slash:
        return store.open(name, versions[-1])
    if not number.isdecimal() or int(number) not in versions:
        raise InvalidConfig(f"model {name!r}: version {number!r} is not installed; there are {versions}")
    return store.open(name, int(number))


def host_text(machine: Machine) -> str:
    """The machine in a few words: `Raspberry Pi 5 Model B Rev 1.0, aarch64, 4 cores`."""
    cores = f"{machine.cores} cores" if machine.cores else ""
    return ", ".join(part for part in (machine.model or machine.cpu_model, machine.architecture, cores) if part)


def as_text(found: Bench) -> str:
    """A table for a person: a line for each variant and number of threads, the failures below."""
    rows = [("variant", "threads", "median", "p90", "runs")]
    for name, times in found.variants.items():
        rows += [(name, str(one.threads), _time(one.median_us), _time(one.p90_us), str(one.runs)) for one in times]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    head = f"{found.package} version {found.version} on {found.host or 'this machine'}: one sample a call, warm"
    failed = [f"{name}: not timed: {error}" for name, error in found.failed.items()]
    return "\n".join([head, "", *lines, *([""] if failed else []), *failed])


def _time(value_us: float) -> str:
    """1234.5 -> `1.23 ms`."""
    value, unit = value_us, "\N{MICRO SIGN}s"
    for larger in ("ms", "s"):
        if value < 1_000:
            break
        value, unit = value / 1_000, larger
    return f"{value:#.3g}".rstrip(".") + f" {unit}"
