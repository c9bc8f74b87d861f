"""What this device measured of a package, kept beside it: seconds of a run by engine and rows.

    STORE/NAME/VERSION.profile.json     beside the package, which itself never changes
    CACHE/profiles/DIGEST.json          where the store is read-only, or the package is no installed one

An entry is found by its `EngineKey`: where the engine, its library or the clock governor is another, there is none, and
it is measured again.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from edge_runtime.environment import EngineKey, Environment, environment
from edge_runtime.scheduling.cost import measure

__all__ = [
    "EngineKey",
    "EngineProfile",
    "Environment",
    "ProfileBook",
    "choose_threads",
    "environment",
    "measure_profile",
    "read_profiles",
]

PROFILE_FORMAT = 1
"""A file of another format is not believed: what is in it can be measured again."""

MAX_ENTRIES = 64
"""Engines that a file remembers; the one that was measured longest ago gives way."""

MAX_PROFILE_BYTES = 2**20
"""A profile holds some thousand numbers; a larger file is none."""

MAX_CACHED = 256
"""Files in the cache's folder; the one that was written longest ago gives way."""

_LOCK_TRIES, _LOCK_WAIT_S = 100, 0.01
"""Whoever holds the lock writes a few kilobytes. A stopped one must not hold up the loading of a model for ever."""

_NEAR = 1.1
"""Threads that save less than a tenth are better left to other work."""

_log = logging.getLogger(__name__)


class EngineProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine takes for the default signature.

    Attributes:
        seconds: Of one run, by rows; 1 is always there. The best of several: noise only adds.
        runs: How many runs it was taken from; 0 where nobody counted.
        tried: The rows that were to be measured, also those that there was no time for; empty for those in `seconds`.
    """

    seconds: dict[int, float]
    runs: int = 0
    tried: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if 1 not in self.seconds or len(self.seconds) > MAX_ENTRIES or self.runs < 0:
            raise ValueError(f"a profile has 1 to {MAX_ENTRIES} numbers of rows, 1 among them, got {self.seconds}")
        if not all(rows >= 1 and 0 < value < float("inf") for rows, value in self.seconds.items()):
            raise ValueError(f"impossible times: {self.seconds}")

    def of(self, sizes: Collection[int]) -> dict[int, float] | None:
        """The seconds for these rows and no others; None where some of them were never tried."""
        if not set(sizes) <= {1, *self.tried, *self.seconds}:
            return None
        return {rows: value for rows, value in self.seconds.items() if rows in sizes}


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One engine's profile, and when it was saved in Unix seconds."""

    key: EngineKey
    profile: EngineProfile
    saved_unix_s: float


class _File(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    digest: str
    entries: tuple[_Entry, ...]


class ProfileBook:
    """The profiles of one package. Thread-safe; several processes may write.

    A file that is damaged, or of another build of the package, counts as empty: the device measures again.
    """

    def __init__(
        self, package_root: Path | None, digest: str, cache: Path | None, *, now: Callable[[], float] = time.time
    ) -> None:
        """Reads nothing yet.

        Args:
            package_root: The package's directory, or its file; None for one that lies in a temporary place.
            digest: The package's, as of `Package.digest`.
            cache: The folder for what the store can't take; None for none.
            now: Unix seconds; only says which of two entries is the later one.
        """
        self._digest = digest
        self._now = now
        # Absolute, since `.` has no name; links are not followed, so that it lies where the package is looked for.
        root = None if package_root is None else package_root.absolute()
        self._beside = root.with_name(f"{root.name}.profile.json") if root is not None and root.name else None
        self._cached = None if cache is None else cache / "profiles" / f"{digest.removeprefix('sha256:')}.json"
        self._places = tuple(place for place in (self._beside, self._cached) if place is not None)
        self._lock = threading.Lock()
        self._memory: dict[EngineKey, EngineProfile] = {}
        self._told = False

    def __repr__(self) -> str:
        return f"<ProfileBook {' or '.join(map(str, self._places)) or 'in memory'}, {len(self._memory)} in memory>"

    @property
    def places(self) -> tuple[Path, ...]:
        """Where profiles are kept, the first one preferred."""
        return self._places

    def read(self, key: EngineKey) -> EngineProfile | None:
        """What was measured of that engine, last; None if nothing was."""
        with self._lock:
            found = self._memory.get(key)
        if found is not None:
            return found
        entries = [one for place in self._places for one in _load(place, self._digest) if one.key == key]
        return max(entries, key=lambda one: one.saved_unix_s).profile if entries else None

    def read_threads(self, key: EngineKey, threads: Iterable[int]) -> dict[int, float]:
        """Seconds for one row by number of threads, for `choose_threads`: of those engines that were measured."""
        found = {count: self.read(msgspec.structs.replace(key, threads=count)) for count in threads}
        return {count: one.seconds[1] for count, one in found.items() if one is not None}

    def write(self, key: EngineKey, profile: EngineProfile) -> Path | None:
        """Keeps what was measured; says where. None: no folder can be written, it is kept as long as this object is."""
        return self.write_all({key: profile})

    def write_all(self, profiles: Mapping[EngineKey, EngineProfile]) -> Path | None:
        """As `write`, for several engines at once."""
        refused = []
        for place in self._places:
            try:
                self._store(place, profiles)
            except OSError as error:
                refused.append(f"{place}: {error.strerror or error}")
                continue
            with self._lock:
                for key in profiles:
                    self._memory.pop(key, None)
            return place
        with self._lock:
            for key, profile in profiles.items():
                self._memory.pop(key, None)
                self._memory[key] = profile
            while len(self._memory) > MAX_ENTRIES:
                del self._memory[next(iter(self._memory))]
            told, self._told = self._told, True
        if not told:
            said = "; ".join(refused) or "no folder was given"
            _log.info("what was measured is kept in memory only, and measured again at the next start: %s", said)
        return None

    def _store(self, place: Path, profiles: Mapping[EngineKey, EngineProfile]) -> None:
        """Raises OSError where the folder can't be written."""
        cached = place == self._cached
        if cached:
            place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(place.parent):
            there = [one for other in self._places for one in _load(other, self._digest)]
            # Boards without a battery start in the past; what is measured now is the latest all the same.
            saved_unix_s = max([self._now(), *(one.saved_unix_s + 1e-3 for one in there)])
            kept = [one for one in _load(place, self._digest) if one.key not in profiles]
            kept.sort(key=lambda one: one.saved_unix_s)
            kept += [_Entry(key=key, profile=one, saved_unix_s=saved_unix_s) for key, one in profiles.items()]
            file = _File(format=PROFILE_FORMAT, digest=self._digest, entries=tuple(kept[-MAX_ENTRIES:]))
            _replace(place, msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n")
            if cached:
                _prune(place)


def read_profiles(place: Path, digest: str) -> dict[EngineKey, EngineProfile]:
    """All that a file says of the package with this digest, the latest of each engine; nothing where there is none."""
    return {one.key: one.profile for one in sorted(_load(place, digest), key=lambda one: one.saved_unix_s)}


def _load(place: Path, digest: str) -> tuple[_Entry, ...]:
    """The entries; none where there is no file, or one that can't be believed."""
    try:
        if not place.is_file():  # Nor a pipe, which would be waited for.
            return ()
        with place.open("rb") as stream:
            # What is longer is cut, and so no JSON.
            file = msgspec.json.decode(stream.read(MAX_PROFILE_BYTES), type=_File)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _log.info("%s: no profile that can be read, so it is measured again: %s", place, error)
        return ()
    return file.entries if (file.format, file.digest) == (PROFILE_FORMAT, digest) else ()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the exclusive lock on a directory, which ends with the process if not before."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(_LOCK_TRIES):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(_LOCK_WAIT_S)
        else:
            raise OSError(f"another process has held the lock for {_LOCK_TRIES * _LOCK_WAIT_S:g} s")
        yield
    finally:
        os.close(descriptor)


def _replace(place: Path, data: bytes) -> None:
    """One rename. Not synced to the disk: what a power cut damages is measured again."""
    aside = place.with_name(f".{place.name}.new")
    aside.unlink(missing_ok=True)
    # Readable by all whom the umask allows: whoever benches is rarely the runtime's user.
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        aside.replace(place)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def _prune(newest: Path) -> None:
    """Removes the cache's oldest files beyond `MAX_CACHED`."""
    files = [one for one in newest.parent.glob("*.json") if one != newest]
    with contextlib.suppress(OSError):  # Another process prunes too.
        for one in sorted(files, key=lambda file: file.stat().st_mtime)[: max(len(files) + 1 - MAX_CACHED, 0)]:
            one.unlink(missing_ok=True)


def measure_profile(
    run: Callable[[int], None], sizes: Sequence[int], clock: Callable[[], float], budget_s: float
) -> EngineProfile:
    """Times an engine; see `scheduling.cost.measure`, which says what the arguments are."""
    runs = 0

    def counted(rows: int) -> None:
        nonlocal runs
        run(rows)
        runs += 1

    # A clock too coarse to see a run would make it free.
    seconds = {rows: max(value, 1e-9) for rows, value in measure(counted, sizes, clock, budget_s).items()}
    return EngineProfile(seconds=seconds, runs=runs, tried=tuple(sizes))


def choose_threads(medians_s: Mapping[int, float]) -> int:
    """The threads of the engine that answers alone: the smallest number within a tenth of the fastest. Pure.

    Args:
        medians_s: Seconds for one row by number of threads; at least one.
    """
    fastest_s = min(medians_s.values())
    return min(threads for threads, value_s in medians_s.items() if value_s <= fastest_s * _NEAR)
