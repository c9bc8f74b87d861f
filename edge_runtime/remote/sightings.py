"""What discovery has seen of a server, and who takes it where no TLS is configured."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.remote.endpoints import EndpointTable, Found
from edge_runtime.remote.suspects import Suspects
from edge_runtime.tls_options import is_loopback


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """What an announcement says; a hint and no proof.

    Attributes:
        key: The mDNS instance.
        addresses: Where it may be, as `host:port`, the best first; at least one.
        tls: Whether it speaks TLS.
        direct: Whether packets come from one of these addresses: a sender can be forged too, but that is harder.
    """

    key: str
    addresses: tuple[str, ...]
    tls: bool
    direct: bool = True


class PlainText:
    """Passes on servers of this machine, and others only where the configuration believes anybody.

    Args:
        table: Gets them.
        suspects: Keeps the others.
        insecure: Whether anybody is believed.
    """

    def __init__(self, table: EndpointTable, suspects: Suspects, *, insecure: bool) -> None:
        self._table = table
        self._suspects = suspects
        self._insecure = insecure

    def add(self, sighting: Sighting) -> bool:
        """A server is announced; whether there was room for it."""
        usable = [one for one in sighting.addresses if self._insecure or is_loopback(one)]
        if usable and not sighting.tls:
            if self._table.add(Found(key=sighting.key, address=usable[0])):
                return True
            self._suspects.dropped(1)
            return False
        if sighting.tls:
            said = "it speaks TLS, for which this device is not configured"
            self._suspects.note(sighting.key, sighting.addresses[0], "unprepared", said)
        else:
            said = "it speaks plain text, which is spoken with this machine alone: configure tls, or insecure"
            self._suspects.note(sighting.key, sighting.addresses[0], "plain-text", said)
        self._table.remove(sighting.key)  # What was announced there before is so no more.
        return True

    def remove(self, key: str) -> None:
        """A server has gone."""
        self._suspects.forgot(key)
        self._table.remove(key)

    def dropped(self, count: int) -> None:
        """Announcements came faster than they are looked at."""
        self._suspects.dropped(count)
