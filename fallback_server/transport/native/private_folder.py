"""A folder for a socket that nobody else may reach, which is gone with its server, or cleared away by the next."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fallback_server.transport.unix_socket import MAX_PATH_BYTES, SocketUnavailable

PREFIX = "fallback-server-"

_YOUNG_S = 60.0
"""A folder that is younger may not be locked yet by who has made it."""

_SOCKET = "grpc.sock"

_FALLBACKS = ("/tmp", "/dev/shm")  # noqa: S108  what is made there is private, and has a name that nobody foresees
"""Short ones, where the path of the system's folder for temporary files has no room for a socket behind it."""


class PrivateFolder:
    """A folder of mode 0700, locked as long as its server lives.

    It lies in the system's folder for temporary files, or in another where a socket's path there would be too long.

    Attributes:
        path: The folder's.
        socket: The path for the socket in it.

    Raises:
        SocketUnavailable: it can be nowhere.
    """

    def __init__(self) -> None:
        self.path = _made()
        self.socket = self.path / _SOCKET
        self._lock: int | None = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def stands(self) -> bool:
        """Whether folder and socket are there; they are new then to whoever clears away what is old.

        Some programs do, by age alone; others leave alone what is locked.
        """
        if self._lock is None:
            return False
        try:
            os.utime(self.socket, follow_symlinks=False)
            os.utime(self._lock)
            found = self.path.lstat()
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(self._lock))

    def renew(self) -> None:
        """Makes the folder anew, where it is gone, in the same place.

        Raises:
            SocketUnavailable: it can't be there.
        """
        assert self._lock is not None
        try:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(self.path.lstat(), os.fstat(self._lock)):
                    return  # The socket alone is gone.
            self.path.mkdir(mode=0o700)  # Not where there is one: it would be somebody else's.
            lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise SocketUnavailable(str(error)) from error
        os.close(self._lock)
        self._lock = lock
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self) -> None:
        """Removes it. Closing again does nothing."""
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(lock)


def lack() -> str:
    """Why there is no place for such a folder; empty where there is."""
    try:
        PrivateFolder().close()
    except SocketUnavailable as error:
        return str(error)
    return ""


def _made() -> Path:
    lacks: list[str] = []
    for place in _places():
        long = len(os.fsencode(place / (PREFIX + 8 * "x") / _SOCKET))  # `mkdtemp` adds as many.
        if long > MAX_PATH_BYTES:
            lacks.append(f"a socket's path must have at most {MAX_PATH_BYTES} bytes, and in {place} it has {long}")
            continue
        try:
            _clear_away(place)
            return Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        except OSError as error:
            lacks.append(str(error))
    raise SocketUnavailable("no folder for the socket behind it: " + "; ".join(lacks))


def _places() -> Iterator[Path]:
    with contextlib.suppress(OSError):  # There is none that can be written to.
        yield Path(tempfile.gettempdir())
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime)
    yield from map(Path, _FALLBACKS)


def _clear_away(folder: Path) -> None:
    """Removes what servers of this user left that were killed: what nobody has locked."""
    for path in folder.glob(f"{PREFIX}*"):
        # What can't be looked at, or is gone meanwhile, is somebody else's.
        with contextlib.suppress(OSError):
            found = path.lstat()
            if found.st_uid != os.getuid() or time.time() - found.st_mtime < _YOUNG_S:
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)
