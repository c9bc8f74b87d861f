"""Which versions should be served: what stands on disk, once it has been written to its end."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fallback_server.core.aspired import AspiredVersion, Fingerprint
from fallback_server.core.servable import ServableId

_log = logging.getLogger(__name__)

MAX_VERSION = 2**63 - 1
"""A version travels as an int64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSnapshot:
    """One poll's result.

    Attributes:
        aspired: The complete set of what should be served: what is missing in it should be unloaded.
        unsettled: What stands on disk but may still be being written.
    """

    aspired: Mapping[ServableId, AspiredVersion]
    unsettled: frozenset[ServableId]


class FileSystemSource:
    """Reads named base paths, and a repository whose children are base paths. One thread polls.

    A version is taken once its tree has been the same at two polls, or has not changed for `settle_s` by its own
    times, so that what stood there before the start is taken at the first poll.

    What can't be read (a share that is not mounted) unloads nothing: its versions stay as last stated. A model whose
    folder vanished from a repository that can be read is gone, and so are its versions. A version with anything in it
    that can't be read, or is neither file nor folder, is not taken, and a warning says what is in the way.

    Args:
        models: Model name -> base path, which holds a folder for each version, named by its number.
        repository: Its folders are base paths, and their names the models'. A name in `models` wins.
        settle_s: How long a tree must be unchanged to be taken at first sight.
        wall_clock: Seconds since the epoch: file times are told in no other clock.
    """

    def __init__(
        self,
        *,
        models: Mapping[str, Path],
        repository: Path | None = None,
        settle_s: float = 1.0,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._models = dict(models)
        self._repository = repository
        self._settle_s = settle_s
        self._wall_clock = wall_clock
        self._repository_models: dict[str, Path] = {}
        self._last: dict[str, dict[ServableId, AspiredVersion]] = {}
        self._seen: dict[ServableId, Fingerprint] = {}
        self._told: dict[str, str] = {}
        self._told_before: dict[str, str] = {}
        self._unreadable: dict[ServableId, str] = {}
        self._unreadable_before: dict[ServableId, str] = {}

    def poll(self) -> SourceSnapshot:
        """Looks once. Never raises for what it finds on disk."""
        aspired: dict[ServableId, AspiredVersion] = {}
        seen: dict[ServableId, Fingerprint] = {}
        unsettled: set[ServableId] = set()
        last, self._last = self._last, {}
        self._told_before, self._told = self._told, {}
        self._unreadable_before, self._unreadable = self._unreadable, {}
        for name, base_path in self._base_paths().items():
            found = self._versions(name, base_path)
            if found is None:
                kept = last.get(name, {})
            else:
                kept = {}
                for servable_id, path in found.items():
                    taken = self._settled(servable_id, path, seen)
                    if taken is None and servable_id in last.get(name, {}):
                        # Being rewritten under its name: it stays what it was until the writing ends.
                        taken = last[name][servable_id]
                    elif taken is None:
                        unsettled.add(servable_id)
                    if taken is not None:
                        kept[servable_id] = taken
            self._last[name] = kept
            aspired.update(kept)
        self._seen = seen
        return SourceSnapshot(aspired=aspired, unsettled=frozenset(unsettled))

    def _base_paths(self) -> dict[str, Path]:
        if self._repository is not None:
            try:
                found = {entry.name: Path(entry.path) for entry in _folders(self._repository)}
            except OSError as error:
                self._tell("", f"model repository {self._repository} can't be read, nothing changes: {error}")
            else:
                self._tell("", "" if found else f"model repository {self._repository} holds no models")
                self._repository_models = found
        return self._repository_models | self._models

    def _versions(self, name: str, base_path: Path) -> dict[ServableId, Path] | None:
        found: dict[ServableId, Path] = {}
        try:
            for entry in sorted(_folders(base_path), key=lambda entry: entry.name):
                if entry.name.isascii() and entry.name.isdigit() and int(entry.name) <= MAX_VERSION:
                    found.setdefault(ServableId(name, int(entry.name)), Path(entry.path))
        except OSError as error:
            self._tell(name, f"base path of {name} can't be read, nothing of it is unloaded: {error}")
            return None
        hint = f"no versions of {name} under {base_path}: a version is a folder whose name is a number"
        self._tell(name, "" if found else hint)
        return found

    def _settled(
        self, servable_id: ServableId, path: Path, seen: dict[ServableId, Fingerprint]
    ) -> AspiredVersion | None:
        try:
            fingerprint, newest_s = _scan(path)
        except OSError as error:
            # Something vanished or moved while it was read: the next poll sees it whole. If not, it must be told.
            why = self._unreadable[servable_id] = str(error)
            if self._unreadable_before.get(servable_id) == why:
                self._tell(str(path), f"{servable_id} at {path} can't be read, and nothing new of it is taken: {why}")
            return None
        seen[servable_id] = fingerprint
        if self._seen.get(servable_id) == fingerprint or newest_s < self._wall_clock() - self._settle_s:
            return AspiredVersion(path=path, fingerprint=fingerprint)
        return None

    def _tell(self, topic: str, warning: str) -> None:
        """Logs a warning when it is new, not at every poll."""
        if not warning:
            return
        self._told[topic] = warning
        if self._told_before.get(topic) != warning:
            _log.warning("%s", warning)


def _folders(path: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        yield from [entry for entry in entries if not entry.name.startswith(".") and _is_folder(entry)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link in a circle, or to where this process may not look: it alone is passed over.
        return False


def _scan(path: Path) -> tuple[Fingerprint, float]:
    """The tree's fingerprint, and its newest time in seconds since the epoch.

    The newest time is of mtime and ctime: a copy that keeps mtimes (`cp -p`, `rsync -t`) can't set ctimes back.
    """
    root = path.stat()
    items = [(".", 0, root.st_mtime_ns)]
    newest_ns = max(root.st_mtime_ns, root.st_ctime_ns)
    for folder, folders, files in os.walk(path, onerror=_raise):
        for name in (*folders, *files):
            full = Path(folder, name)
            status = full.stat()
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
                # To open a pipe waits for its writer, for ever, and with it the thread that loads.
                raise OSError(errno.EINVAL, "neither a file nor a folder", str(full))
            # A folder's size is the file system's own affair.
            size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
            items.append((full.relative_to(path).as_posix(), size, status.st_mtime_ns))
            newest_ns = max(newest_ns, status.st_mtime_ns, status.st_ctime_ns)
    return tuple(sorted(items)), newest_ns / 1e9


def _raise(error: OSError) -> None:
    raise error
