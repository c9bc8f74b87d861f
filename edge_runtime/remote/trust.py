"""Which servers are trusted: each proves who it is before the table of endpoints says that it may be asked.

mDNS is a hint and no proof: anybody can announce anything, withdraw anybody, and say another's name. So what is
announced becomes a *subject*, which costs a handshake in a thread of its own, of which there are `AT_ONCE`; what it
proves stays true whatever is announced besides, until it can prove it no more.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge_runtime.remote.bell import Bell
from edge_runtime.remote.certificate import Certificate
from edge_runtime.remote.endpoints import MAX_ENDPOINTS, EndpointTable, Found
from edge_runtime.remote.expiry import Expiry
from edge_runtime.remote.handshake import NotTrusted, Proof, prove
from edge_runtime.remote.log_limit import LogLimit
from edge_runtime.remote.places import Full, Place, who_gives_way
from edge_runtime.remote.sightings import Sighting
from edge_runtime.remote.suspects import Suspects
from edge_runtime.remote.tls_files import Material, MaterialFiles
from edge_runtime.remote.trust_policy import SLOW_S, Subject, due_s, is_new, is_over, rank

_log = logging.getLogger(__name__)

AT_ONCE = 8
"""Handshakes under way: who accepts connections and says nothing holds up one of them."""

KEPT = 2
"""Of these for servers that have never been asked: those that were, and are silent, don't hold up who comes..."""

LIMIT_S = 5.0
"""For one handshake: a slow board and a slow server need a tenth."""

FIRST_LIMIT_S = 1.5
"""For the first with an announced server: eight that are silent hold up the others that long."""

A_SECOND = 20
"""Handshakes that are begun in a second: the device has other work..."""

KEPT_A_SECOND = 5
"""...and of these for servers that have never been asked, likewise."""

MAX_SUBJECTS = 64
"""Announced servers that have not proved who they are; beyond, one that was asked and could not gives way."""

LOOK_S = 1.0
"""How often files and endpoints are looked at."""

CLOCK_SET_S = 60.0
"""By so much a clock is set: less makes no certificate valid, and is what a clock that is kept right is moved by."""


@dataclass(kw_only=True)
class _Known:
    """A subject, as it changes. Under the lock.

    Attributes:
        addresses: Where it may be.
        subject: What is known.
        address: Where it has proved who it is; empty for nowhere.
        identity: The fingerprint of the certificate that it showed last.
        proof: What it proved; None where nothing, or where that counts no more and it is asked anew.
        asking: Whether a thread is at it...
        new: ...and it had never been asked before.
    """

    addresses: tuple[str, ...]
    subject: Subject
    address: str = ""
    identity: str = ""
    proof: Proof | None = field(default=None, repr=False)
    asking: bool = False
    new: bool = False


_MUTE = frozenset({"unreachable", "silent"})
"""Reasons that say nothing against a server."""

Prove = Callable[[str, Material, float], Proof]


class Trust:
    """Keeps a table true for servers that speak TLS. Thread-safe; a table for `Discovery`."""

    def __init__(
        self,
        table: EndpointTable,
        files: MaterialFiles,
        suspects: Suspects,
        *,
        clock: Callable[[], float] = time.monotonic,
        ahead: Callable[[], float] = lambda: time.time() - time.monotonic(),
        proves: Prove = lambda address, material, limit_s: prove(address, material, limit_s=limit_s),
        draw: Callable[[Sequence[str]], str] = random.choice,
    ) -> None:
        """Nothing is asked before `start`, or `tick`.

        Args:
            table: Gets those that have proved who they are, and those that are given.
            files: What is trusted.
            suspects: Keeps those that have not.
            clock: Monotonic seconds.
            ahead: Seconds by which the machine's clock, by which certificates are valid or not, is ahead of that.
            proves: Asks one, in a thread of its own; raises NotTrusted.
            draw: One of several.
        """
        self._table = table
        self._files = files
        self._suspects = suspects
        self._clock = clock
        self._ahead = ahead
        self._ahead_s = ahead()
        self._proves = proves
        self._draw = draw
        self._expiry = Expiry(clock)
        self._lock = threading.Lock()
        self._turn = threading.Lock()  # The table hears of results in the order in which they are true.
        self._known: dict[str, _Known] = {}
        self._asking = 0
        self._asking_again = 0
        self._begun_s: list[tuple[float, bool]] = []
        self._bell = Bell()
        self._limit = LogLimit(_log, clock)
        self._closed = False
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Trust in {sum(one.proof is not None for one in self._known.values())} of {len(self._known)} servers>"

    def start(self) -> None:
        """Starts the thread that has servers asked."""
        self._thread = threading.Thread(target=self._run, name="edge-trust", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Asks no more. What is under way ends by itself, and changes nothing."""
        with self._lock:
            self._closed = True
        self._bell.ring()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def give(self, address: str) -> None:
        """A server that the configuration names: known from now on, and asked nothing before it has proved itself."""
        subject = Subject(given=True, announced=False, proved=False, away=False, heard_s=self._clock())
        with self._lock:
            self._known[address] = _Known(addresses=(address,), subject=subject)
        self._table.add(Found(key=address, address=address, way=None))
        self._bell.ring()

    def add(self, sighting: Sighting) -> bool:
        """A server is announced; whether there was room for it."""
        if not sighting.tls:
            self._suspects.note(
                sighting.key, sighting.addresses[0], "plain-text", "it is announced as speaking plain text"
            )
            return True
        now_s = self._clock()
        with self._lock:
            known = self._known.get(sighting.key)
            if known is None:
                if not self._make_room(direct=sighting.direct):
                    return False
                fresh = Subject(
                    given=False, announced=True, direct=sighting.direct, proved=False, away=False, heard_s=now_s
                )
                self._known[sighting.key] = _Known(addresses=sighting.addresses, subject=fresh)
            else:
                known.addresses = sighting.addresses
                known.subject = _with(known.subject, announced=True, heard_s=now_s)
        self._bell.ring()
        return True

    def remove(self, key: str) -> None:
        """A server is said to have gone: it goes if it has proved nothing; else it is asked."""
        with self._lock:
            known = self._known.get(key)
            if known is None or known.subject.given:
                return
            if not known.subject.proved:
                del self._known[key]
            else:
                known.subject = _with(known.subject, announced=False, heard_s=self._clock())
        self._suspects.forgot(key)
        self._bell.ring()

    def dropped(self, count: int) -> None:
        """Announcements came faster than they are looked at."""
        self._suspects.dropped(count)

    @property
    def refused_files(self) -> str:
        """Why what the files hold is not in force; empty where it is."""
        return self._files.refused

    def certificates(self) -> dict[str, Certificate]:
        """What those that are trusted have shown, by address."""
        with self._lock:
            return {one.address: one.proof.certificate for one in self._known.values() if one.proof is not None}

    def tick(self) -> float:
        """Has those asked that are due; seconds until there may be others."""
        before = self._files.now
        if self._files.look():
            self._renewed(before)
        now_s = self._clock()
        self._clock_set(now_s)
        self._end_doubts(now_s)
        self._expiry.look("the device's own certificate", self._files.now.own)
        away = {one.address for one in self._table.all() if one.away_s is not None}
        wait_s, begun = LOOK_S, []
        with self._lock:
            for known in self._known.values():
                known.subject = _with(known.subject, away=known.address in away)
            self._begun_s = [(at_s, new) for at_s, new in self._begun_s if now_s - at_s < 1.0]
            while not self._closed and self._asking < AT_ONCE and len(self._begun_s) < A_SECOND:
                key, wait_s = self._next(now_s)
                if key is None:
                    break
                known = self._known[key]
                known.asking, known.new = True, is_new(known.subject)
                self._asking += 1
                self._asking_again += not known.new
                self._begun_s.append((now_s, known.new))
                begun.append((key, known))
        for key, known in begun:
            self._begin(key, known)
        return min(wait_s, LOOK_S)

    def _run(self) -> None:
        while not self._closed:
            try:
                wait_s = self.tick()
            except Exception:  # noqa: BLE001  one server must not end the looks at the others
                _log.exception("servers could not be asked who they are")
                wait_s = LOOK_S
            self._bell.wait(max(wait_s, 0.01))

    def _renewed(self, before: Material) -> None:
        """Other files are in force: what was proved by those before is to be proved anew."""
        doubted = self._files.now.doubts(before)
        withdrawn = doubted and self._files.now.withdraws(before)
        with self._turn:
            now_s, cut = self._clock(), []
            with self._lock:
                for key, known in self._known.items():
                    known.subject = _with(known.subject, heard_s=now_s)
                    if doubted and known.subject.proved:
                        known.subject = _with(known.subject, doubted_s=min(known.subject.doubted_s, now_s))
                    if withdrawn and known.proof is not None:
                        known.proof = None
                        cut.append(Found(key=key, address=known.address, way=None, why="what is trusted has changed"))
            for found in cut:
                self._table.add(found)

    def _clock_set(self, now_s: float) -> None:
        """Where the machine's clock was set, what is valid by it may be another: those that failed are asked anew."""
        ahead_s = self._ahead()
        if abs(ahead_s - self._ahead_s) < CLOCK_SET_S:
            return
        self._ahead_s = ahead_s
        with self._lock:
            for known in self._known.values():
                if known.subject.failures:
                    known.subject = _with(known.subject, heard_s=now_s)

    def _end_doubts(self, now_s: float) -> None:
        """Who has had to prove itself anew, and has said nothing since, is believed no longer."""
        with self._turn:
            with self._lock:
                over = [(key, one) for key, one in self._known.items() if is_over(one.subject, now_s)]
            for key, known in over:
                self._put_out(key, known, "it has said nothing since what is trusted has changed", cut=True)

    def _next(self, now_s: float) -> tuple[str | None, float]:
        """Who is asked next; None for nobody yet, and how long not."""
        again = sum(not new for _, new in self._begun_s)
        new_only = self._asking_again >= AT_ONCE - KEPT or again >= A_SECOND - KEPT_A_SECOND
        waiting = [
            (due_s(one.subject), key)
            for key, one in self._known.items()
            if not one.asking and (is_new(one.subject) or not new_only)
        ]
        due = [key for at_s, key in waiting if at_s <= now_s]
        if not due:
            return None, min((at_s for at_s, _ in waiting), default=math.inf) - now_s
        first = min(rank(self._known[key].subject) for key in due)
        hosts: dict[str, list[str]] = {}
        for key in due:
            if rank(self._known[key].subject) == first:
                hosts.setdefault(self._known[key].addresses[0].rpartition(":")[0], []).append(key)
        # By hosts: one that announces a thousand ports is asked as often as the others.
        return self._draw(hosts[self._draw(list(hosts))]), 0.0

    def _begin(self, key: str, known: _Known) -> None:
        thread = threading.Thread(target=self._ask, args=(key, known), name="edge-handshake", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # No more threads: later.
            with self._lock:
                self._ended(known)

    def _ended(self, known: _Known) -> None:
        """Nobody is at it any more. Under the lock."""
        known.asking = False
        self._asking -= 1
        self._asking_again -= not known.new

    def _ask(self, key: str, known: _Known) -> None:
        """Has one server prove who it is: where it has been, and where it is said to be. In a thread of its own."""
        at_s, material, subject = self._clock(), self._files.now, known.subject
        addresses = tuple(dict.fromkeys((*((known.address,) if known.address else ()), *known.addresses)))
        patient = subject.given or subject.proved or subject.failures
        left_s = LIMIT_S if patient else FIRST_LIMIT_S
        found: tuple[str, Proof] | None = None
        faults: list[tuple[str, NotTrusted]] = []
        for address in addresses:
            try:
                found = address, self._proves(address, material, left_s / len(addresses))
                break
            except NotTrusted as fault:
                faults.append((address, fault))
            except Exception as error:  # noqa: BLE001  what a stranger's bytes do to us is no proof
                faults.append((address, NotTrusted("protocol", f"{type(error).__name__}: {error}")))
        slow = self._clock() - at_s > SLOW_S
        with self._turn:
            with self._lock:
                self._ended(known)
                stale = self._closed or self._known.get(key) is not known
                failures = 0 if found else known.subject.failures + 1
                known.subject = _with(known.subject, slow=min(known.subject.slow + 1, 9) if slow else 0)
                if material is self._files.now:
                    known.subject = _with(known.subject, asked_s=at_s, failures=min(failures, 9))
                else:  # It says nothing of what is trusted by now: as if it had not been asked.
                    stale = True
                    known.subject = _with(known.subject, asked_s=-math.inf)
            if not stale:
                self._judge(key, known, found, faults)
        self._bell.ring()

    def _judge(
        self, key: str, known: _Known, found: tuple[str, Proof] | None, faults: list[tuple[str, NotTrusted]]
    ) -> None:
        """Takes what came of it into the table."""
        for address, fault in faults:
            if fault.reason != "unreachable" or not (found or known.subject.proved):
                self._suspects.note(key, address, fault.reason, fault.said)
        if found is not None:
            self._believe(key, known, *found)
            return
        proved_there = next((fault for address, fault in faults if address == known.address), None)
        only_away = proved_there is not None and proved_there.reason in _MUTE
        if known.subject.proved and only_away and (known.subject.announced or known.subject.given):
            return  # Its breaker knows, and gRPC asks for its certificate when it is back; a doubt ends by its time.
        with self._lock:
            if known.subject.failures == 1 and all(fault.reason in _MUTE for _, fault in faults):
                # Once more, and with more patience.
                known.subject = _with(known.subject, heard_s=math.nextafter(self._clock(), math.inf))
        cut = proved_there is not None and proved_there.reason == "certificate"
        self._put_out(key, known, faults[0][1].said, cut=cut)

    def _put_out(self, key: str, known: _Known, why: str, *, cut: bool) -> None:
        """It has not proved who it is, or does so no more. In turn.

        Args:
            key: Its.
            known: What is known of it.
            why: In a sentence's part.
            cut: Whether calls under way there end as failed.
        """
        with self._lock:
            was, known.proof, known.address = known.subject.proved, None, ""
            known.subject = _with(known.subject, proved=False, doubted_s=math.inf)
            if was and not (known.subject.announced or known.subject.given):
                self._known.pop(key, None)
        if known.subject.given:
            self._table.add(Found(key=key, address=known.addresses[0], way=None, why=why))
        elif was:
            self._table.remove(key, cut=cut)

    def _believe(self, key: str, known: _Known, address: str, proof: Proof) -> None:
        held = {one.address for one in self._table.all() if one.away_s is not None or (one.way and not one.allows)}
        with self._lock:
            if self._known.get(key) is not known:
                return  # It was withdrawn this very moment.
            identity = proof.certificate.fingerprint
            try:
                giving_way = self._giving_way(key, known, address, identity, held)
            except Full:
                known.subject = _with(known.subject, failures=1)  # Others that wait may have its room.
                self._suspects.dropped(1)
                self._limit.warning("server %s is passed over until there is a place: too many are known", address)
                return
            known.identity = identity
            same = known.proof is not None and known.address == address and known.proof.way == proof.way
            known.proof, known.address = proof, address
            known.subject = _with(known.subject, proved=True, doubted_s=math.inf)
            # One server by several names would fill the table: the last one that was heard stands for all.
            doubles = [name for name, one in self._known.items() if self._doubles(name, one, key, address)]
            for name in doubles:
                del self._known[name]
        if giving_way is not None:
            self._give_way(giving_way)
        self._suspects.cleared(key, address)
        self._expiry.look(f"the certificate of server {address}", proof.certificate)
        if not same:
            self._table.add(Found(key=key, address=address, way=proof.way))
            _log.info("server %s has proved to be %s, by a certificate until %s", address, *_shown(proof.certificate))
        for name in doubles:
            self._table.remove(name)

    def _giving_way(self, key: str, known: _Known, address: str, identity: str, held: set[str]) -> str | None:
        """Who has to go for it; see `who_gives_way`. Under the lock."""
        if known.subject.given or known.subject.proved:
            return None
        places = [
            Place(key=name, identity=one.identity, given=one.subject.given, answers=one.address not in held)
            for name, one in self._known.items()
            if (one.subject.given or one.subject.proved) and name != key and not self._doubles(name, one, key, address)
        ]
        return who_gives_way(places, identity, MAX_ENDPOINTS)

    def _give_way(self, key: str) -> None:
        """Its place is another's; it is asked again in a while."""
        with self._lock:
            known = self._known.get(key)
            if known is None:
                return
            known.subject = _with(known.subject, asked_s=self._clock(), failures=1)
        self._put_out(key, known, "its place is another's", cut=False)

    def _doubles(self, name: str, one: _Known, key: str, address: str) -> bool:
        return name != key and not one.subject.given and one.address == address

    def _make_room(self, *, direct: bool) -> bool:
        """One more is announced; whether there is room: those that have proved nothing are bounded."""
        unproved = [key for key, one in self._known.items() if not (one.subject.proved or one.subject.given)]
        if len(unproved) < MAX_SUBJECTS:
            return True
        failed = [key for key in unproved if self._known[key].subject.failures and not self._known[key].asking]
        others = [key for key in unproved if not (self._known[key].subject.direct or self._known[key].asking)]
        victims = failed or (others if direct else [])
        if not victims:
            return False
        del self._known[self._draw(victims)]
        self._suspects.dropped(1)
        return True


def _with(subject: Subject, **changes: float) -> Subject:
    values = {name: getattr(subject, name) for name in subject.__struct_fields__}
    return Subject(**{**values, **changes})


def _shown(certificate: Certificate) -> tuple[str, str]:
    return certificate.owner or certificate.fingerprint, certificate.until
