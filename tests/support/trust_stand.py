"""Trust without its thread: a fake answers for servers, the table of endpoints is real."""

import threading
import time
from dataclasses import replace

from support.clock import FakeClock

from edge_runtime.remote.certificate import Certificate
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import EndpointTable
from edge_runtime.remote.handshake import NotTrusted, Proof
from edge_runtime.remote.sightings import Sighting
from edge_runtime.remote.suspects import Suspects
from edge_runtime.remote.tls_files import Material
from edge_runtime.remote.trust import Trust
from edge_runtime.remote.way import Way

WAIT_S = 10
REAL, EVIL, OTHER = "10.0.0.7:8500", "10.0.0.66:8500", "10.0.0.8:8500"


def proof(owner="gpu-1", token=""):
    certificate = Certificate(der=owner.encode(), owner=owner, names=(), since_s=0.0, until_s=1e10)
    return Proof(certificate=certificate, way=Way(roots=owner.encode(), name="x", token=token))


class Files:
    """What is trusted, which a test changes."""

    def __init__(self):
        self.now = self.next = Material(ca=authority("a"), crl=b"1")

    def put(self, **changes):
        self.next = replace(self.next, **changes)

    def look(self):
        changed, self.now = self.next != self.now, self.next
        return changed


def authority(text):
    return f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n".encode()


class TrustStand:
    """Trust without its thread.

    Attributes:
        says: By address, the proof or the fault that a handshake ends with; others are unreachable.
        asked: The addresses that were asked, in order.
        hold: While cleared, handshakes wait.
        slow: Addresses at which a handshake takes seconds, however it ends.
    """

    def __init__(self):
        self.clock = FakeClock()
        self.table = EndpointTable(lambda address: Endpoint(address, self.clock), clock=self.clock)
        self.suspects = Suspects(self.clock)
        self.files = Files()
        self.says, self.asked, self.slow = {}, [], set()
        self.hold = threading.Event()
        self.hold.set()
        self.trust = Trust(
            self.table, self.files, self.suspects, clock=self.clock, proves=self.prove, draw=lambda keys: keys[0]
        )

    def prove(self, address, _material, limit_s):
        self.asked.append(address)
        if address in self.slow:
            self.clock.advance(limit_s)
        self.hold.wait(WAIT_S)
        found = self.says.get(address, NotTrusted("unreachable", "nobody"))
        if isinstance(found, Exception):
            raise found
        return found

    def announce(self, *addresses, key="s", tls=True, direct=True):
        self.clock.advance(0.001)
        return self.trust.add(Sighting(key=key, addresses=addresses or (REAL,), tls=tls, direct=direct))

    def withdraw(self, key="s"):
        self.clock.advance(0.001)
        self.trust.remove(key)

    def settle(self, after_s=0.0):
        """Lets time pass, and whoever is due be asked; returns who was."""
        self.clock.advance(after_s)
        before = len(self.asked)
        self.trust.tick()
        end_s = time.monotonic() + WAIT_S
        while self.trust._asking:
            assert time.monotonic() < end_s
            time.sleep(0.001)
        with self.trust._turn:  # The last is still being judged.
            pass
        return self.asked[before:]

    @property
    def trusted(self):
        return sorted(one.address for one in self.table.all() if one.way is not None)

    def close(self):
        self.hold.set()
        self.trust.close()
        self.table.close()


def bad(reason="certificate"):
    return NotTrusted(reason, "no good")
