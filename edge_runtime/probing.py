"""Probes a delegate's library before it is trusted: its first load happens in a child process, and is remembered.

What a library did is kept by its digest, so that a new build of it is probed again: in memory, and where there is a
folder for it also for the next start of the application. A good outcome is kept for good, a crash or a hang for a
while. That a device was missing, busy or closed, or that somebody ended the trial, is no fault of the library's and is
not kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Literal

import msgspec

from devices import DeviceString
from edge_runtime.engine.origin import Origin
from edge_runtime.errors import EngineFailed
from edge_runtime.trial import CALLED_OFF, TRIAL_LIMIT_S, Trial, Trials, try_delegate

_log = logging.getLogger(__name__)

BAD_KEPT_S = 600.0
"""How long a crash or a hang is believed without being seen again. A library for another interpreter always crashes,
and a device that hangs costs half a minute a trial; but power and cables get mended, too."""

MAX_KEPT = 64
"""Outcomes that are kept: libraries times options times devices of one machine are a handful."""

_MAX_FILE_BYTES = 2**16
_FOLDER = "probes"
_LDCONFIG = "/sbin/ldconfig"
_LDCONFIG_LIMIT_S = 5.0


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One outcome as it is written down.

    Attributes:
        key: What it is the outcome of: delegate, library's digest, options, interpreter and its version.
        time_s: When, in seconds since 1970: it must still mean something after a restart.
    """

    key: list[str]
    time_s: float
    ok: bool
    ran_model: bool
    detail: str
    error: str
    failure: Literal["", "refused", "crashed", "stuck"]


def is_kept(trial: Trial) -> bool:
    """Whether the outcome says something of the library, and not of the moment."""
    return trial.ok or trial.failure in ("crashed", "stuck")


def still_holds(kept: Kept, now_s: float) -> bool:
    """Whether a kept outcome is to be believed: a good one always, a bad one for a while.

    A bad one from the future is not: the clock was set back, or was wrong then.
    """
    return kept.ok or 0 <= now_s - kept.time_s < BAD_KEPT_S


class Prober:
    """Probes and remembers. Thread-safe; whoever asks for what is being probed waits for that outcome.

    Attributes:
        trials: What is under way, and called off by `close`; others may add theirs.
    """

    def __init__(
        self,
        cache: Path | None,
        limit_s: float = TRIAL_LIMIT_S,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Reads and probes nothing yet.

        Args:
            cache: The folder below which outcomes are kept, in `probes/`; made when the first is written. None for
                memory only. One that can't be written is logged once and does no harm.
            limit_s: How long one probe may take.
            wall_clock: Seconds since 1970.
        """
        self._folder = None if cache is None else cache / _FOLDER
        self._limit_s = limit_s
        self._wall_clock = wall_clock
        self._origin = Origin()
        self.trials = Trials()
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, ...], Kept] = {}
        self._pending: dict[tuple[str, ...], Future[Trial]] = {}
        self._digests: dict[str, tuple[tuple[int, int, int], str]] = {}
        self._found: dict[str, str] = {}
        self._warned = False

    def __repr__(self) -> str:
        return f"<Prober {len(self._kept)} outcomes, {len(self._pending)} under way, {self._folder}>"

    def probe(self, device: DeviceString, library: str = "") -> Trial:
        """What came of loading the library with the device's options; of running a model, for a GPU or NPU.

        Args:
            device: The device string. `cpu` needs no probe and is always good.
            library: The library, by name or path; that of the device string if empty.

        Returns:
            The outcome; its `library` is the path of what was tried, where it was found. After `close`, and in a
            forked process, it is always refused.
        """
        if device.delegate.kind == "builtin":
            return Trial(name=device.delegate.name, ok=True, detail="it comes with the interpreter")
        if not self._origin.is_here:
            return _refused(device, self._origin.refusal)
        path = self.find(library or device.library) if device.delegate.kind == "external" else ""
        digest = self.digest(path)
        key = (device.delegate.name, digest or path, *_flat(device.options), *_interpreter())
        while True:
            with self._lock:
                if self.trials.called_off:
                    return _refused(device, CALLED_OFF)
                kept = self._kept.get(key)
                if kept is not None and still_holds(kept, self._wall_clock()):
                    return _trial(kept, path)
                pending = self._pending.get(key)
                if pending is None:
                    mine = self._pending[key] = Future()
                    break
            with contextlib.suppress(CancelledError):  # by an interrupt of the thread that was at it: this one's turn
                return pending.result()
        try:
            trial = self._probe(device, path, key, lasting=bool(digest))
            mine.set_result(trial)
        finally:
            with self._lock:
                del self._pending[key]
            mine.cancel()  # does nothing to one that is done
        return trial

    def close(self) -> None:
        """Kills and reaps the trials that are under way; whoever waits for them is told at once. Again: does nothing.

        In a forked process: does nothing, since they are the parent's.
        """
        if self._origin.is_here:
            self.trials.call_off()

    def find(self, library: str) -> str:
        """The path of a library that is given by name, as the loader would find it; the name where it is not found."""
        if not library or "/" in library:
            return library
        with self._lock:
            known = self._found.get(library)
        if known is not None and Path(known).exists():
            return known
        path = find_library(library)
        if path is None:
            return library
        with self._lock:
            self._found[library] = path
        return path

    def digest(self, library: str) -> str:
        """The SHA-256 of the library's file, by name or path; empty where it can't be read."""
        path = self.find(library)
        try:
            status = Path(path).stat() if "/" in path else None
        except OSError:
            status = None
        if status is None:
            return ""
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        with self._lock:
            known = self._digests.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        try:
            with Path(path).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return ""
        with self._lock:
            self._digests[path] = (stamp, digest)
        return digest

    def _probe(self, device: DeviceString, path: str, key: tuple[str, ...], *, lasting: bool) -> Trial:
        """From the folder, else by a trial."""
        read = self._read(key) if lasting else None
        if read is not None and still_holds(read, self._wall_clock()):
            self._remember(key, read)
            return _trial(read, path)
        try:
            trial = try_delegate(
                device.delegate.name, library=path, options=device.options, limit_s=self._limit_s, trials=self.trials
            )
        except OSError as error:
            trial = _refused(device, f"no process can be started to probe in: {error.strerror}", path)
        _log.info("probed %s: %s", device, trial.detail if trial.ok else trial.error.partition("\n")[0])
        if is_kept(trial):
            kept = Kept(
                key=list(key),
                time_s=self._wall_clock(),
                ok=trial.ok,
                ran_model=trial.ran_model,
                detail=trial.detail,
                error=trial.error,
                failure=trial.failure,
            )
            self._remember(key, kept)
            # Without a digest, a GPU's driver for one, nothing says that the next start finds the same thing.
            if lasting:
                self._write(key, kept)
        return trial

    def _remember(self, key: tuple[str, ...], kept: Kept) -> None:
        with self._lock:
            self._kept.pop(key, None)
            self._kept[key] = kept
            while len(self._kept) > MAX_KEPT:
                del self._kept[next(iter(self._kept))]

    def _read(self, key: tuple[str, ...]) -> Kept | None:
        if self._folder is None:
            return None
        try:
            with (self._folder / _file_name(key)).open("rb") as file:
                kept = msgspec.json.decode(file.read(_MAX_FILE_BYTES), type=Kept)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None  # absent or damaged: probed again, and written anew
        return kept if tuple(kept.key) == key else None

    def _write(self, key: tuple[str, ...], kept: Kept) -> None:
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _replace(self._folder / _file_name(key), msgspec.json.encode(kept))
            _thin(self._folder)
        except OSError as error:
            if not self._warned:
                self._warned = True
                _log.warning("outcomes of probes can't be kept in %s: %s", self._folder, error.strerror)


def _flat(options: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{name}={options[name]}" for name in sorted(options))


def _interpreter() -> tuple[str, str]:
    from edge_runtime.engine.library import installed  # noqa: PLC0415  with the first probe, not at import

    try:
        return installed()
    except EngineFailed:  # the trial will say it
        return ("none", "")


def _trial(kept: Kept, path: str) -> Trial:
    return Trial(
        name=kept.key[0],
        ok=kept.ok,
        ran_model=kept.ran_model,
        detail=kept.detail,
        error=kept.error,
        failure=kept.failure,
        library=path,
    )


def _refused(device: DeviceString, text: str, path: str = "") -> Trial:
    return Trial(name=device.delegate.name, ok=False, error=text, failure="refused", library=path)


def _file_name(key: tuple[str, ...]) -> str:
    return hashlib.sha256(msgspec.json.encode(key)).hexdigest()[:32] + ".json"


def _replace(path: Path, content: bytes) -> None:
    """All of it or nothing, whoever reads meanwhile."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        part.write_bytes(content)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def _thin(folder: Path) -> None:
    """Removes the oldest beyond `MAX_KEPT`."""
    with contextlib.suppress(OSError):  # Another process thins too.
        files = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
        for file in files[:-MAX_KEPT]:
            file.unlink(missing_ok=True)


def find_library(name: str) -> str | None:
    """The file that the loader takes for a library's name, without loading it; None where that can't be told.

    Looks where the loader looks, in its order: LD_LIBRARY_PATH, the loader's cache as ldconfig prints it, and the
    system's folders. Only files for this processor count.
    """
    own = _kind_of(Path("/proc/self/exe"))
    paths = [Path(folder or ".") / name for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    for path in paths:
        if own is not None and _kind_of(path) == own:
            return str(path.absolute())
    for path in (*_in_loader_cache(name), *(Path(folder) / name for folder in ("/lib", "/usr/lib", "/lib64"))):
        if own is not None and _kind_of(path) == own:
            return str(path)
    return None


def _in_loader_cache(name: str) -> list[Path]:
    import subprocess  # noqa: PLC0415  only for a library that is given by name

    try:
        done = subprocess.run(
            [_LDCONFIG, "-p"], capture_output=True, timeout=_LDCONFIG_LIMIT_S, check=False, env={"LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = (line.strip() for line in done.stdout.decode("utf-8", errors="replace").splitlines())
    return [
        Path(path) for line in lines if line.startswith(f"{name} (") for path in [line.rpartition(" => ")[2]] if path
    ]


def _kind_of(path: Path) -> tuple[bytes, bytes] | None:
    """Word size and byte order, and the processor, of an ELF file: bytes 4 to 5 and 18 to 19 of its header."""
    try:
        with path.open("rb") as file:
            header = file.read(20)
    except OSError:
        return None
    return (header[4:6], header[18:20]) if header[:4] == b"\x7fELF" and len(header) == 20 else None
