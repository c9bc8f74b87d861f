"""The native server at every address of a host."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fallback_server.transport.native.addresses import addresses, target
from fallback_server.transport.native.front import NativeFront
from fallback_server.transport.native.waiting_room import widen

_log = logging.getLogger(__name__)


def listening(host: str, port: int, make: Callable[[str], NativeFront]) -> list[NativeFront]:
    """Native servers on one port, one for each address of a host that can be listened at: as with grpcio, one will do.

    Args:
        host: Name or address; not all machines have all addresses of a name.
        port: 0 picks a free one.
        make: Makes one at `address:port`.

    Raises:
        OSError: none can be listened at.
    """
    fronts: list[NativeFront] = []
    at = addresses(host)
    for address in at:
        try:
            fronts.append(make(target(address, fronts[0].port if fronts else port)))
        except OSError as error:
            if address == at[-1] and not fronts:
                raise
            _log.info("%s is not listened at: %s", address, error)
    for bound in {front.port for front in fronts}:
        widen(bound)
    return fronts
