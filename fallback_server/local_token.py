"""The operator's token on the machine of the server: made at each start, read by the commands, gone at the end.

A file is for one numeric address: another user may listen at another address of loopback, on the same port, and what
is read for one is shown to that one alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import logging
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from fallback_server.access.tokens import MAX_TOKEN_CHARS, digest_of, new_token
from fallback_server.loopback import addresses_of, is_own
from fallback_server.private_files import own_folder, private_folder, write_private

_log = logging.getLogger(__name__)

_FOLDER = "fallback-server"

_OF_THE_SERVICE = Path("/run/fallback-server")
"""What systemd makes by `RuntimeDirectory=fallback-server`: a service has no `XDG_RUNTIME_DIR`, and with
`PrivateTmp=yes` nobody else sees its folder for temporary files."""

_ALL, _ALL_OF_IPV6 = "0.0.0.0", "::"  # noqa: S104  where a server listens
_USUAL = {_ALL: "127.0.0.1", _ALL_OF_IPV6: "::1"}
"""Where a server listens at all addresses nobody else can at any: one token is for all of loopback then, and has a file
under the usual one as well, for people."""

_PROBE_S = 1.0
"""For this machine to say whether somebody listens."""


@dataclass(frozen=True, slots=True)
class Dialled:
    """How a command reaches a server.

    Attributes:
        target: What is dialled; on this machine a numeric address, so that nobody's word sends the call elsewhere.
        local: Whether what is said to it stays on this machine.
        token: That the server has left there; None for none, or where it isn't of this user's.
        others: Where somebody else listens under the name that was given; none where a token tells who is meant.
    """

    target: str
    local: bool
    token: str | None = None
    others: tuple[str, ...] = ()


class LocalToken:
    """A token that may do everything, in a file that the server's user alone reads.

    Args:
        targets: Where the server listens: `ADDRESS:PORT`, numeric, see `bound_targets`; `unix:PATH`.

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


def bound_targets(ports: Collection[int]) -> list[str]:
    """Where this process listens on ports, as commands on this machine dial it: numeric addresses.

    Of names a library may have taken some addresses and left others, which are somebody else's: so the sockets
    themselves are asked.
    """
    found: list[str] = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # Closed meanwhile, or no socket.
            found += _bound_at(int(descriptor.name), ports)
    return sorted(set(found))


def dialled(target: str, listens: Callable[[str, int], bool] | None = None) -> Dialled:
    """How a server is reached, and the token that it has left for this user.

    Args:
        target: `HOST:PORT` or `unix:PATH`. A name is looked up once. Of other machines no token is looked for.
        listens: Tells whether somebody listens at an address and port; by default by connecting.
    """
    if target.startswith("unix:"):
        return Dialled(target, local=True, token=_left_for(target))
    host, _, port = target.rpartition(":")
    found = addresses_of(host.strip("[]"))
    if not found or not all(map(is_own, found)):
        return Dialled(target, local=False)
    targets = {_target(address, int(port)): address for address in map(_plain, found)}
    there: dict[str, str] = {}
    if len(targets) > 1:  # A name: as any client would, the first that answers, but a server of one's own before that.
        answers = _listens if listens is None else listens
        there = {each: address for each, address in targets.items() if answers(address, int(port))}
        targets = there or targets
    for each in targets:
        if (token := _left_for(each)) is not None:
            return Dialled(each, local=True, token=token)
    return Dialled(next(iter(targets)), local=True, others=tuple(there)[1:])


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


def places() -> tuple[Path, ...]:
    """Where a server of this user may have left its token, by its environment or as a service."""
    return tuple(dict.fromkeys((*_said(), _OF_THE_SERVICE / _FOLDER, _temporary())))


def _folder() -> Path:
    """Where a server leaves its own."""
    return (*_said(), _temporary())[0]


def _said() -> list[Path]:
    """What the environment says: of a user's session, or of a service, which may have several."""
    service = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return [
        Path(each) / _FOLDER for each in (os.environ.get("XDG_RUNTIME_DIR"), service) if each and Path(each).is_dir()
    ]


def _temporary() -> Path:
    return Path(tempfile.gettempdir()) / f"{_FOLDER}-{os.getuid()}"


def _left_for(target: str) -> str | None:
    whole = [] if target.startswith("unix:") else [_of_all(target)]
    left: list[tuple[int, str]] = []
    for each in (target, *whole):
        for place in places():
            with contextlib.suppress(OSError, ValueError):
                path = own_folder(place) / _name(each)
                left.append((path.stat().st_mtime_ns, read_token(path)))
    # One that was killed has left its own behind: the latest is of who listens, at this address or at all.
    return max(left)[1] if left else None


def _of_all(target: str) -> str:
    address, _, port = target.rpartition(":")
    return _target(_ALL_OF_IPV6 if ":" in address else _ALL, int(port))


def _name(target: str) -> str:
    """The file's name: by address and port; of a socket, whose path may be long, by a digest of that."""
    if target.startswith("unix:"):
        path = os.path.abspath(target.removeprefix("unix:"))  # noqa: PTH100  no link is followed: it need not be there
        return f"unix-{hashlib.sha256(path.encode(errors='surrogateescape')).hexdigest()[:16]}.token"
    return f"{target}.token"


def _target(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _bound_at(descriptor: int, ports: Collection[int]) -> list[str]:
    """The targets of a descriptor that listens on one of the ports.

    Raises:
        OSError: it is no socket.
    """
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return []
    with socket.socket(fileno=os.dup(descriptor)) as one:
        if one.family not in (socket.AF_INET, socket.AF_INET6) or not _is_listening(one):
            return []
        text, port = one.getsockname()[:2]
        if port not in ports:
            return []
        both = one.family == socket.AF_INET6 and not one.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    address = _plain(text)
    at = [address, *([_ALL] if address == _ALL_OF_IPV6 and both else [])]
    return [_target(each, port) for each in (*at, *(_USUAL[each] for each in at if each in _USUAL))]


def _is_listening(one: socket.socket) -> bool:
    return one.type == socket.SOCK_STREAM and bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _plain(address: str) -> str:
    """An address of IPv4 that a socket of IPv6 has is one of IPv4."""
    found = ipaddress.ip_address(address.partition("%")[0])
    return str(getattr(found, "ipv4_mapped", None) or found)


def _listens(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=_PROBE_S):
            return True
    except OSError:
        return False
