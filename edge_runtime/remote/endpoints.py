"""The table of endpoints: which there are, which may be asked, which is expected to answer first."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import msgspec

from edge_runtime.remote.answer_time import kind_of
from edge_runtime.remote.bell import Bell
from edge_runtime.remote.catalog import Serves
from edge_runtime.remote.choice import Choice, Wanted, serves_now, standing_of
from edge_runtime.remote.endpoint import TRUSTED_S, Endpoint
from edge_runtime.remote.faults import RemoteFault
from edge_runtime.remote.log_limit import LogLimit, shown
from edge_runtime.remote.misfits import Claim, Misfits
from edge_runtime.remote.ranking import rank
from edge_runtime.remote.refusals import Key
from edge_runtime.remote.turn import Turn
from edge_runtime.remote.way import PLAIN, Way

_log = logging.getLogger(__name__)

MAX_ENDPOINTS = 64
"""Announcements are cheap to forge; past this bound they are passed over."""


_SORTED_S = 0.25
"""For how long endpoints stay sorted without news: what they are expected to take changes with every call, and that one
is gone or lacks a version is believed for a while only."""

MAX_WANTS = 1024
"""Versions and labels whose endpoints are kept sorted; the first that was asked for goes when there is one more."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a source says of a server.

    Attributes:
        key: What the source knows it by: the mDNS instance, or the address.
        address: `host:port`.
        way: How it is spoken to; None where it has not proved who it is: it is known, and nothing is sent.
        why: Has it not proved it; empty where that is not known yet.
    """

    key: str
    address: str
    way: Way | None = PLAIN
    why: str = ""


class Interest(msgspec.Struct, frozen=True):
    """What requests have asked for of late: servers are asked for news as often as it deserves.

    Attributes:
        wanted_s: The instant of the latest request that asked for servers; minus infinity for never.
        models: The models that were asked for since the instant that was given.
        unmet_s: Since when a version has been asked for that no server has; infinite for none.
    """

    wanted_s: float
    models: tuple[str, ...]
    unmet_s: float


class EndpointTable:
    """Endpoints by key. Thread-safe; sources add and remove, the router picks.

    Attributes:
        sought_until_s: The instant until which the first may well be found; minus infinity where none is looked for.
    """

    def __init__(
        self,
        connect: Callable[[str], Endpoint],
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Takes what makes an Endpoint of an address.

        Args:
            connect: Makes it.
            clock: Monotonic seconds.
            draw: A number from 0 to 1, without the latter.
        """
        self._connect = connect
        self._clock = clock
        self._draw = draw
        self._endpoints: dict[str, Endpoint] = {}
        self._leaving: list[Endpoint] = []
        self._choices: dict[Key, Choice] = {}
        self._news = 0
        self.sought_until_s = -math.inf
        self._wanted_s = -math.inf
        self._rouse_s = math.inf
        self._rouse: Callable[[], None] = _nobody
        self._stop_asking: Callable[[], None] = _nobody
        self._limit = LogLimit(_log, time.monotonic)
        self._misfits = Misfits()
        self._lock = threading.Lock()
        self._waiting: set[Bell] = set()

    def __repr__(self) -> str:
        return f"<EndpointTable {self.all()}>"

    def add(self, found: Found) -> bool:
        """A server is there, or is announced anew: with a fresh connection and a closed breaker.

        What several sources know at one address is one endpoint.

        Returns:
            Whether there was room: one that was announced, and that nobody answers at, makes some.
        """
        fresh = self._connected(found.address)
        fresh.trust(found.way, found.why)  # Before anybody sees it: nothing goes out on a way that nobody has chosen.
        with self._lock:
            old, lost = self._endpoints.get(found.key), None
            same = old is not None and old.address == found.address
            if old is None and len(self._endpoints) >= MAX_ENDPOINTS:
                lost = self._lost()
                if lost is None:
                    self._limit.warning("server %s passed over: %d are known already", found.address, MAX_ENDPOINTS)
                    return False
                del self._endpoints[lost[0]]
            if not same:
                shared = next((one for one in self._endpoints.values() if one.address == found.address), None)
                self._endpoints[found.key] = shared or fresh
            endpoint = self._endpoints[found.key]
            unused = old is not None and old not in self._endpoints.values()
        if lost is not None and lost[1] not in self.all():
            self._retire(lost[1])
        if endpoint is not fresh:
            endpoint.trust(found.way, found.why)
        with self._lock:
            self._news += 1
            for bell in tuple(self._waiting):
                bell.ring()
        if same and old is not None:
            old.reset()
        elif old is not None and unused:
            self._retire(old)
        self.rouse()
        if not same and found.way is not None:
            _log.info("server found: %s", found.address)
        return True

    def remove(self, key: str, *, cut: bool = False) -> None:
        """A server has said that it goes, or its announcement has expired. Calls under way end by themselves.

        Args:
            key: What its source knows it by.
            cut: Whether it is trusted no more: then calls under way end as failed. Never from a call's own callback.
        """
        with self._lock:
            gone = self._endpoints.pop(key, None)
            unused = gone is not None and gone not in self._endpoints.values()
            self._news += 1
        if gone is not None and unused:
            _log.info("server gone: %s", gone.address)
            if cut:
                gone.trust(None)
            self._retire(gone)

    def sweep(self) -> None:
        """Closes what belongs to servers that went, once no call is under way there. Never from a call's callback."""
        with self._lock:
            over = [one for one in self._leaving if one.idle]
            self._leaving = [one for one in self._leaving if one not in over]
        for endpoint in over:
            endpoint.close()

    def all(self) -> list[Endpoint]:
        """Every endpoint, whether it may be asked or not."""
        with self._lock:
            found = dict.fromkeys(self._endpoints.values())
        return list(found)

    def expects(self, wanted: Wanted) -> float | None:
        """Seconds in which the best endpoint should answer; None if none may be asked now, or none has the version.

        The best of two that are drawn from those that are alike, as `acquire` draws them. Some microseconds, without a
        lock.
        """
        now_s = self._clock()
        choice = self._choices.get((wanted.model, wanted.version, wanted.label))
        if choice is None or choice.news != self._news or now_s >= choice.until_s:
            choice = self._sorted(wanted, now_s)
        choice.used_s = self._wanted_s = now_s
        if now_s >= self._rouse_s:
            self.rouse()
        nbytes, near = wanted.nbytes, choice.near
        kind = (choice.model, nbytes.bit_length())
        count = len(near)
        best_s = math.inf
        if count:
            first = int(self._draw() * count)
            endpoint, wait_s = near[first]
            best_s = endpoint.expected_at(now_s, kind, nbytes, wait_s)
        if count > 1:
            endpoint, wait_s = near[first - 1 - int(self._draw() * (count - 1))]
            best_s = min(endpoint.expected_at(now_s, kind, nbytes, wait_s), best_s)
        if best_s == math.inf:
            others = (*near, *choice.far, *choice.behind)
            best_s = min((one.expected_at(now_s, kind, nbytes, wait_s) for one, wait_s in others), default=math.inf)
        return None if best_s == math.inf else best_s

    def acquire(
        self,
        wanted: Wanted,
        besides: Collection[str] = (),
        *,
        copy: bool = False,
        spared: bool = False,
        end_s: float = math.inf,
    ) -> tuple[Endpoint, Turn] | None:
        """The endpoint that should answer first, with its leave for one call, which must follow; None if there is none.

        Of those that are alike two are drawn, and the sooner is taken: if all took the best, all would take the same.
        Where the breaker of both lets none through, the next; then those that would answer as an older version, where
        none is named; at last those that may not be there, or not yet have it.

        Args:
            wanted: What it must have.
            besides: Addresses that were tried already.
            copy: Whether it is under way already, so that only one that is there, answers as the same and is no misfit
                will do.
            spared: Whether only one will do that has refused nothing of the kind of late.
            end_s: The instant at which it must be answered.
        """
        now_s = self._clock()
        choice = self._choices.get((wanted.model, wanted.version, wanted.label))
        if choice is None or choice.news != self._news or now_s >= choice.until_s:
            choice = self._sorted(wanted, now_s)
        choice.used_s = self._wanted_s = now_s
        if now_s >= self._rouse_s:
            self.rouse()
        for endpoint, wait_s in self._in_order(choice, wanted, now_s, besides, copy=copy):
            if spared and endpoint.refusals.last(wanted.key, now_s):
                continue
            turn = endpoint.try_begin(wanted.model, wanted.nbytes, wait_s, end_s=end_s)
            if turn is not None:
                return endpoint, turn
        return None

    def lacking(self, wanted: Wanted) -> list[Endpoint]:
        """Those that are known not to have it: `acquire` passes them over."""
        now_s = self._clock()
        return [one for one in self.all() if serves_now(one, wanted, now_s) is Serves.NO]

    def unfit(self, wanted: Wanted, fault: RemoteFault) -> None:
        """An endpoint refused what it should take, or gave what is no answer: after some of these it comes last."""
        claim = Claim(fault.address, wanted.model, wanted.version, wanted.label)
        if self._misfits.refused(claim, self._clock(), surely=fault.unfit):
            self.news()
        if fault.unfit:
            self.complain(wanted, fault)

    def fit(self, wanted: Wanted, address: str) -> None:
        """An endpoint has answered as it should."""
        if self._misfits.answered(Claim(address, wanted.model, wanted.version, wanted.label)):
            self.news()

    def complain(self, wanted: Wanted, fault: RemoteFault) -> None:
        """Says once of an endpoint and a model that it is set up otherwise than the device, or another server."""
        if self._misfits.tell(Claim(fault.address, wanted.model, None, None)):
            subject = f"{wanted.model}/{wanted.version or wanted.label or 'latest'}"
            text = "%s: server %s is set up otherwise than it should be: %s"
            with self._lock:
                self._limit.warning(text, subject, fault.address, shown(fault.said))

    def coming(self, wanted: Wanted) -> set[str]:
        """The addresses of those that are loading it."""
        now_s = self._clock()
        return {
            one.address for one in self.all() if serves_now(one, wanted, now_s) is Serves.SOON and not one.gone(now_s)
        }

    def on_trial(self, wanted: Wanted) -> dict[str, Endpoint]:
        """Those that may have it, and are being tried by one request after they had failed; by address."""
        now_s = self._clock()
        found = [one for one in self.all() if one.on_trial and not one.gone(now_s)]
        return {one.address: one for one in found if serves_now(one, wanted, now_s) is not Serves.NO}

    def others(self, wanted: Wanted, besides: Collection[str]) -> bool:
        """Whether there is another that may have it and may be asked."""
        now_s = self._clock()
        left = (one for one in self.all() if one.address not in besides)
        return any(one.allows and serves_now(one, wanted, now_s) is not Serves.NO for one in left)

    def interest(self, since_s: float) -> Interest:
        """What requests have asked for since an instant."""
        with self._lock:
            choices = [choice for choice in self._choices.values() if choice.used_s >= since_s]
        models = tuple(dict.fromkeys(choice.model for choice in choices))
        unmet_s = max((choice.unmet_s for choice in choices if choice.unmet_s < math.inf), default=math.inf)
        return Interest(wanted_s=self._wanted_s, models=models, unmet_s=unmet_s)

    def news(self) -> None:
        """Something was heard of an endpoint: what follows from it is found out anew."""
        with self._lock:
            self._news += 1

    def watch(self, rouse: Callable[[], None], close: Callable[[], None]) -> None:
        """Takes who asks the servers for news.

        Args:
            rouse: Called, in any thread, when they should be asked at once.
            close: Ends that; called by `close`.
        """
        self._rouse, self._stop_asking = rouse, close

    def sleep_until(self, rouse_s: float) -> None:
        """Servers are asked seldom now: the first request from that instant on rouses whoever asks them."""
        self._rouse_s = rouse_s

    def rouse(self) -> None:
        """Has servers asked for news at once, if anybody asks them."""
        self._rouse_s = math.inf
        self._rouse()

    def awaits_first(self, now_s: float) -> bool:
        """Whether none is known, and one may be found soon."""
        return now_s < self.sought_until_s and not self._any()

    def wait_for_any(self, timeout_s: float) -> bool:
        """Waits until there is an endpoint that has proved who it is; whether there is."""
        bell, end_s = Bell(), time.monotonic() + timeout_s
        try:
            self._waiting.add(bell)
            while not self._any() and bell.wait(end_s - time.monotonic()):
                pass
        finally:
            self._waiting.discard(bell)
        return self._any()

    def close(self) -> None:
        """Asks for news no more, and closes every connection."""
        self._rouse = _nobody
        self.sought_until_s = -math.inf
        self._stop_asking()
        for endpoint in (*self.all(), *tuple(self._leaving)):
            endpoint.close()
        with self._lock:  # Only now: whoever was interrupted before this closes the rest when called again.
            self._endpoints = {}
            self._news += 1

    def _any(self) -> bool:
        """Whether there is one that has proved who it is, or need not."""
        return any(one.way is not None for one in self.all())

    def _lost(self) -> tuple[str, Endpoint] | None:
        """One that was announced, and that nobody answers at; under the lock."""
        found = ((key, one) for key, one in self._endpoints.items() if key != one.address and one.away_s is not None)
        return next(found, None)

    def _retire(self, endpoint: Endpoint) -> None:
        """A server that stops in good order is withdrawn first, and then answers what it has been asked."""
        with self._lock:
            self._leaving.append(endpoint)
        self.sweep()

    def _connected(self, address: str) -> Endpoint:
        endpoint = self._connect(address)
        endpoint.on_doubt = self.rouse
        return endpoint

    def _sorted(self, wanted: Wanted, now_s: float) -> Choice:
        """The choice for a version or label, made anew."""
        key = (wanted.model, wanted.version, wanted.label)
        with self._lock:
            choice = self._choices.get(key)
            first = choice is None
            if choice is None:
                while len(self._choices) >= MAX_WANTS:
                    del self._choices[next(iter(self._choices))]
                choice = self._choices[key] = Choice(wanted.model)
            news, endpoints = self._news, list(dict.fromkeys(self._endpoints.values()))
        standings, with_waits = [], []
        for endpoint in endpoints:
            misfit = self._is_misfit(endpoint, wanted, now_s)
            standing, wait_s = standing_of(endpoint, wanted, now_s, misfit=misfit)
            standings.append(standing)
            with_waits.append((endpoint, wait_s))
        ranks = rank(standings)
        choice.near = tuple(with_waits[place] for place in ranks.near)
        choice.far = tuple(with_waits[place] for place in ranks.far)
        choice.behind = tuple(with_waits[place] for place in ranks.behind)
        choice.last = tuple(with_waits[place] for place in ranks.last)
        choice.until_s = now_s + _SORTED_S
        met = any(one.serves in {Serves.YES, Serves.UNKNOWN} for one in standings) or not standings
        anew = now_s - choice.used_s > TRUSTED_S
        choice.unmet_s = math.inf if met else now_s if anew else min(choice.unmet_s, now_s)
        choice.news = news
        if first and wanted.version is None and any(one.serves is Serves.UNKNOWN for one in standings):
            self.rouse()  # Who has the newest is told by those that list their models only when they are asked for it.
        return choice

    def _in_order(
        self, choice: Choice, wanted: Wanted, now_s: float, besides: Collection[str], *, copy: bool
    ) -> Iterator[tuple[Endpoint, float]]:
        near = [one for one in choice.near if one[0].address not in besides]

        kind = kind_of(wanted.model, wanted.nbytes)

        def expected_s(one: tuple[Endpoint, float]) -> float:
            return one[0].expected_at(now_s, kind, wanted.nbytes, one[1])

        if near:
            first = int(self._draw() * len(near))
            second = first - 1 - int(self._draw() * (len(near) - 1))  # Counted back, around the end: never the first.
            drawn = min(near[first], near[second], key=expected_s)
            yield drawn
            yield from sorted((one for one in near if one is not drawn), key=expected_s)
        for one in choice.far if copy else (*choice.far, *choice.behind, *choice.last):
            if one[0].address not in besides and not (copy and self._is_misfit(one[0], wanted, now_s)):
                yield one

    def _is_misfit(self, endpoint: Endpoint, wanted: Wanted, now_s: float) -> bool:
        return self._misfits.held(Claim(endpoint.address, wanted.model, wanted.version, wanted.label), now_s)


def _nobody() -> None:
    """Nobody asks servers for news."""
