"""Which lists of revoked certificates were in force, as a small file knows after a restart.

Else whoever can put an old list in place, and has the server start anew, would have those let in again that a later one
names. The file holds no secret; whoever may write it may as well write the authorities' certificates.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fallback_server.access.revocations import RevocationList, older_than
from fallback_server.config import ConfigInvalid
from fallback_server.private_files import write_private

NAME = ".crl-in-force.json"
"""Beside `crl.pem`, where nothing else is said."""

MAX_KNOWN = 1024
"""Authorities whose lists are known; those that were there last, if there were more."""

_MAX_BYTES = 1 << 20
_MAX_NAME = 256
"""Characters of an authority's name, which is for people alone."""

_PUBLIC = 0o644


class KnownLists:
    """The file.

    Args:
        path: Its place.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self, lists: Iterable[RevocationList], ca_pem: bytes) -> None:
        """Refuses lists that would let in again who was revoked when the server ran last.

        Args:
            lists: Those that are to come into force.
            ca_pem: The authorities' certificates: of others nothing is demanded.

        Raises:
            ConfigInvalid: one is older than that of its authority was, or lacks; or the file is at fault.
        """
        found = older_than(lists, self._read(), ca_pem)
        if found is None:
            return
        old, new = found
        what = "is there no more" if new is None else f"was in force, and {new} is older"
        raise ConfigInvalid(
            f"{old} {what}, as {self._path} says: put that or a later one in place, or remove that file"
        )

    def keep(self, lists: Iterable[RevocationList]) -> None:
        """Has those known that are in force. Of an authority the latest that was is kept.

        Raises:
            ConfigInvalid: the file is at fault.
            OSError: it can't be written.
        """
        before = self._read()
        known = {each.issuer: each for each in before}
        for each in lists:
            was = known.pop(each.issuer, None)
            known[each.issuer] = was if was is not None and each.is_older(was) else each
        told = [_told(each) for each in list(known.values())[-MAX_KNOWN:]]
        if told != [_told(each) for each in before]:
            write_private(self._path, json.dumps({"lists": told}, indent=1).encode() + b"\n", mode=_PUBLIC)

    def _read(self) -> tuple[RevocationList, ...]:
        try:
            with self._path.open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise ConfigInvalid(f"{self._path}: can't be read: {error.strerror or error}") from error
        try:
            return _parsed(content)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise ConfigInvalid(
                f"{self._path}: is not what the server has written: {error}; where it can't be had back, remove it, "
                "and see that the latest list of revoked certificates is in place"
            ) from error


def _told(one: RevocationList) -> dict[str, Any]:
    return {"authority": one.issuer, "name": one.name[:_MAX_NAME], "number": one.number, "since_s": one.since_s}


def _parsed(content: bytes) -> tuple[RevocationList, ...]:
    """Raises as `_known`."""
    if len(content) > _MAX_BYTES:
        raise ValueError(f"larger than {_MAX_BYTES} bytes")
    return tuple(_known(each) for each in json.loads(content)["lists"])


def _known(told: dict[str, Any]) -> RevocationList:
    """Raises ValueError, TypeError, KeyError or OverflowError for what is none."""
    issuer, name, number, since_s = (told[key] for key in ("authority", "name", "number", "since_s"))
    sound = isinstance(issuer, str) and isinstance(name, str) and isinstance(since_s, int | float)
    if not sound or isinstance(number, bool) or not (number is None or isinstance(number, int)):
        raise TypeError(f"{str(told)[:_MAX_NAME]!r} names no list")
    if not math.isfinite(since_s):
        raise ValueError(f"a list of {since_s} s")
    return RevocationList(
        issuer=issuer, name=name, serials=frozenset(), number=number, since_s=float(since_s), until_s=math.inf
    )
