"""A UNIX socket at a path that no other server listens at.

gRPC removes the socket that it finds at a path, before it listens there and again when it ends, whoever's that is. So
it is given a name of its own beside the path, and what it has made there is then moved to the path: nothing of another
server's is ever touched, and connections find the socket whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MAX_PATH_BYTES = 107
"""What `sockaddr_un` holds on Linux, less the zero at its end."""

_LOCK_S = 5.0
"""Who claims a path in the same folder needs milliseconds."""

_LOCK_AGAIN_S = 0.02


class SocketUnavailable(Exception):
    """The path can't be listened at: somebody else does, or it is no place for a socket."""


class UnixSocket:
    """A claimed path, until it is released.

    Args:
        path: Where callers connect. What a server left there that has ended without a word is taken over.
        listen: Listens at a path in the file system; raises RuntimeError where it can't.

    Raises:
        SocketUnavailable: it can't be had.
    """

    def __init__(self, path: Path, listen: Callable[[str], object]) -> None:
        self._path = path.absolute()
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            raise SocketUnavailable(f"a socket's path must have at most {MAX_PATH_BYTES} bytes")
        try:
            with _locked(self._path.parent) as folder:
                self._mark: int | None = _claim(folder, self._path.name, listen)
        except OSError as error:
            raise SocketUnavailable(error.strerror or str(error)) from error
        except RuntimeError as error:
            raise SocketUnavailable(str(error)) from error

    def release(self) -> None:
        """Removes the socket, unless another one is at its path by now. Done once; a second time does nothing."""
        if self._mark is None:
            return
        mark, self._mark = self._mark, None
        # Where this fails the socket stays, and whoever comes next finds that nobody listens at it.
        with contextlib.suppress(OSError), _locked(self._path.parent) as folder:
            found = os.stat(self._path.name, dir_fd=folder, follow_symlinks=False)
            if os.path.samestat(found, os.fstat(mark)):
                os.unlink(self._path.name, dir_fd=folder)
        os.close(mark)


def _claim(folder: int, name: str, listen: Callable[[str], object]) -> int:
    """Listens below a folder; returns a descriptor of the socket's file, which keeps its number from being reused."""
    # A path through the descriptor is short, however deep the folder lies.
    below = f"/proc/self/fd/{folder}"
    _check_free(folder, name, f"{below}/{name}")
    own = f".fallback-{os.getpid()}-{secrets.token_hex(4)}"
    listen(f"{below}/{own}")
    os.rename(own, name, src_dir_fd=folder, dst_dir_fd=folder)
    return os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=folder)


def _check_free(folder: int, name: str, path: str) -> None:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(errno.EEXIST, "something is there already, and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(path)
    if code in (0, errno.EAGAIN):
        raise OSError(errno.EADDRINUSE, "another server listens there")
    if code not in (errno.ECONNREFUSED, errno.ENOENT):
        raise OSError(code, f"it can't be told whether another server listens there: {os.strerror(code)}")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """A folder's descriptor, while nobody else claims or releases a socket in it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        end_s = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end_s:
                    raise OSError(errno.EBUSY, f"{folder} is locked by another process") from None
            time.sleep(_LOCK_AGAIN_S)
        yield descriptor
    finally:
        os.close(descriptor)
