"""`edge-run bench`: a package's engines timed on this device, as a table or as the bench file."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from converter.artifact import Package, PackageNotFound, encode_bench, install
from devices import Machine, probe
from edge_runtime import bench as timing
from edge_runtime.bare import SUFFIX, BareStore, PackageStore, is_package
from edge_runtime.bench_engines import default_devices
from edge_runtime.bench_text import ProgressLine, as_text, bars
from edge_runtime.config import default_cache
from edge_runtime.crew.layout import MAX_THREADS
from edge_runtime.errors import InvalidConfig
from edge_runtime.notes import without_notes
from edge_runtime.profiles import ProfileBook
from edge_runtime.store.store import Store


def bench(arguments: argparse.Namespace) -> str:
    """What the command prints."""
    threads = parse_numbers("threads", arguments.threads) if arguments.threads else default_threads()
    batches = parse_numbers("batch", arguments.batch)
    if arguments.save and 1 not in batches:
        batches = (1, *batches)  # What a row takes alone is what the runtime compares the rest with.
    cache = default_cache()
    with opened(arguments.package, arguments.store) as (package, place):
        with without_notes(debug=arguments.debug) as stderr:
            found = timing.bench(
                package,
                host=host_text(probe()),
                clock=time.perf_counter,
                devices=arguments.delegate or default_devices(),
                variants=arguments.variant,
                threads=threads,
                batches=batches,
                seconds=arguments.seconds,
                cache=cache,
                progress=ProgressLine(stderr.stream),
            )
        saved = _save(found, ProfileBook(place, package.digest, cache)) if arguments.save else ""
    if arguments.json:
        for said in filter(None, (*found.notes, saved)):
            sys.stderr.write(f"{said}\n")
        return encode_bench(found.bench).decode().rstrip()
    return "\n\n".join(filter(None, [as_text(found.bench), *found.notes, _bars(found), saved]))


def _save(found: timing.Measured, book: ProfileBook) -> str:
    """Has the runtime use what was measured; what came of it, in words."""
    if not found.profiles:
        return "not saved: no engine that the runtime uses was timed"
    place = book.write_all(found.profiles)
    if place is None:
        places = " or ".join(map(str, book.places))
        return f"not saved: {places or 'no folder'} can't be written"
    return f"saved for the runtime: {place}"


def _bars(found: timing.Measured) -> str:
    if not sys.stdout.isatty():
        return ""
    with contextlib.suppress(LookupError, UnicodeEncodeError):
        "\N{FULL BLOCK}\N{LEFT HALF BLOCK}".encode(sys.stdout.encoding or "ascii")
        return bars(found.bench, shutil.get_terminal_size().columns)
    return bars(found.bench, shutil.get_terminal_size().columns, blocks=False)


def default_threads() -> tuple[int, ...]:
    """One, two and as many as the runtime would try on this machine."""
    cores = len(os.sched_getaffinity(0))
    return tuple(sorted({1, min(2, cores), min(MAX_THREADS, cores)}))


def parse_numbers(name: str, text: str) -> tuple[int, ...]:
    """`1,4` -> (1, 4); InvalidConfig if a part is no number."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidConfig(f"{name}: numbers joined by commas are needed, as 1,4, got {text!r}") from None


@contextlib.contextmanager
def opened(what: str, store: Path | None) -> Iterator[tuple[Package, Path | None]]:
    """The package with every digest checked, and where its profile belongs; None where it was only unpacked.

    Args:
        what: A directory, a `.tar.gz`, a bare `.tflite` file, or one of the store's, by default its latest version.
        store: The folder of packages.

    Raises:
        PackageError: there is none, or it is damaged.
        InvalidConfig, PackageRefused: likewise, in a store or of a bare file.
    """
    if store is not None:
        package = _installed(Store(store), what)
        yield package, package.path
        return
    path = Path(what)
    if path.is_dir():
        is_package(path)  # Says which folder to give, where it holds the versions of one model.
        one = PackageStore(path)
        yield one.open(one.model, one.version), path
        return
    if not path.exists():
        raise PackageNotFound(f"{path}: no such file or directory (for an installed package, give --store as well)")
    if path.suffix == SUFFIX:
        bare = BareStore(path)
        yield bare.open(bare.model, bare.version), path
        return
    with tempfile.TemporaryDirectory(prefix="edge-run-") as folder:
        yield install(path, folder), None


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
