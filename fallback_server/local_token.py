"""The operator's token on the machine of the server: made at each start, read by the commands, gone at the end."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fallback_server.access.tokens import MAX_TOKEN_CHARS, digest_of, new_token
from fallback_server.loopback import is_loopback
from fallback_server.private_files import private_folder, write_private

_log = logging.getLogger(__name__)

_FOLDER = "fallback-server"


class LocalToken:
    """A token that may do everything, in a file that the server's user alone reads.

    Args:
        targets: Where the server listens, as commands name it: `HOST:PORT`, `unix:PATH`.

    Attributes:
        digest: By which it is known; empty where it could be written nowhere, so that nobody has it.
    """

    def __init__(self, targets: Sequence[str]) -> None:
        made = new_token()
        self.digest = ""
        self._content = made.encode()
        self._paths: list[Path] = []
        try:
            folder = private_folder(_folder())
            for target in targets:
                path = folder / _name(target)
                write_private(path, self._content)
                self._paths.append(path)
        except OSError as error:
            _log.warning("commands on this machine have no token, and need --token_file: %s", error)
            self.close()
            return
        self.digest = digest_of(made)

    def close(self) -> None:
        """Removes the files, but for those that another server has written since."""
        for path in self._paths:
            with contextlib.suppress(OSError):
                if path.read_bytes() == self._content:
                    path.unlink()
        self._paths.clear()


def local_token_for(target: str) -> str | None:
    """The token of a server on this machine; None where there is none, or it isn't of this user's.

    Args:
        target: `HOST:PORT` or `unix:PATH`. Of other machines nothing is looked up, or sent.
    """
    if not is_local(target):
        return None
    with contextlib.suppress(OSError, ValueError):
        return read_token(private_folder(_folder()) / _name(target))
    return None


def is_local(target: str) -> bool:
    """Whether what is said to a target stays on this machine."""
    return target.startswith("unix:") or is_loopback(target.rpartition(":")[0].strip("[]"))


def read_token(path: Path) -> str:
    """A token out of a file.

    Raises:
        OSError: it can't be read.
        ValueError: it holds something else, or others can read it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o007:
            raise ValueError(f"{path} is open to everybody on this machine: chmod 600 {path}")
        content = file.read(MAX_TOKEN_CHARS + 1)
    token = content.decode("ascii", "replace").strip()
    if not token or len(token) > MAX_TOKEN_CHARS or not token.isprintable() or " " in token:
        raise ValueError(f"{path} holds no token")
    return token


def _folder() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        return Path(runtime) / _FOLDER
    return Path(tempfile.gettempdir()) / f"{_FOLDER}-{os.getuid()}"


def _name(target: str) -> str:
    """The file's name: by the port; of a socket, whose path may be long, by a digest of that."""
    if target.startswith("unix:"):
        path = os.path.abspath(target.removeprefix("unix:"))  # noqa: PTH100  no link is followed: it need not be there
        return f"unix-{hashlib.sha256(path.encode(errors='surrogateescape')).hexdigest()[:16]}.token"
    return f"{int(target.rpartition(':')[2])}.token"
