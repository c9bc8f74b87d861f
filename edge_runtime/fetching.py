"""Fetches packages from servers, and installs them: one thread, which does what `fetch_policy` decides.

One package is fetched at a time, and for a turn, so that a slow server holds up no other model and requests keep most
of a narrow line.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from converter.artifact import (
    Package,
    PackageError,
    PackageExists,
    SignatureRefused,
    SigningUnavailable,
    version_path,
)
from edge_runtime.config import Fetch
from edge_runtime.errors import EdgeRuntimeError, EngineFailed, InvalidConfig, PackageRefused
from edge_runtime.fetch_log import FetchLog, plain
from edge_runtime.fetch_pace import Pace
from edge_runtime.fetch_policy import FOLLOWED, Followed, Want, asks, to_ask
from edge_runtime.fetch_room import Passed, bound_bytes, check_damaged, check_disk, has, signature_check
from edge_runtime.installing import damage
from edge_runtime.installing.first_run import FirstRun, try_package
from edge_runtime.installing.install import install
from edge_runtime.installing.partial import Partial, SentWrong, prune, taken
from edge_runtime.pins import Pin
from edge_runtime.remote.delivery import Described, Supplier
from edge_runtime.remote.faults import RemoteFault
from edge_runtime.store import following
from edge_runtime.store.quota import size_text
from edge_runtime.store.store import Store
from edge_runtime.telemetry import FetchStats
from edge_runtime.trial import Trials
from fallback_server.protocol.status import Fault

if TYPE_CHECKING:
    from edge_runtime.remote.endpoint import Endpoint

FOLLOW_S = 10.0
"""How often a server that is followed is asked, and how long the thread sleeps at most."""

TURN_S = 30.0
"""How long a package is fetched before another has its turn; a server that sends nothing for so long has failed."""

LEAST_BYTES = 4096
"""A turn that is broken off and brought less has failed."""

BROKEN_OFF_S = 1.0
"""The wait after a call that brought something and was broken off."""

RETRY_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
"""The waits after turns in which no server could deliver."""

REFUSED_S = 3600.0
"""How long a package that was refused is left alone: the same one would be refused again."""

ENGINE_FAILED_S = 600.0
"""The same, where it may have been for lack of memory, or for an accelerator that is not attached now."""

KEPT_S = 600.0
"""How long parts of packages are kept when nothing is wanted: an application that starts asks for its models late."""

DESCRIBE_S = 5.0
"""How long a server may take to say what it has."""

FETCHING, INSTALLING = "fetching", "installing"
"""States of what is under way."""

_MAX_REFUSED = 256
"""Packages that are remembered as refused."""

_log = logging.getLogger(__name__)


class Table(Protocol):
    """Knows the servers: `edge_runtime.remote.endpoints.EndpointTable`."""

    def all(self) -> Sequence[Endpoint]:
        """Every server, whether it may be asked or not."""
        ...


class _Unfinished(NamedTuple):
    """A package of which more is to come.

    Attributes:
        wait_s: When it is gone on with.
        pace: What came in this turn, in bytes a second; None where nobody was asked for any.
    """

    wait_s: float
    pace: float | None = None


class _UnderWay(NamedTuple):
    """What is being fetched now."""

    partial: Partial
    described: Described
    server: str
    state: str


class Fetcher:
    """Fetches for a runtime what it wants. `wake` and `close` may be called by any thread."""

    def __init__(
        self,
        store: Store,
        servers: Table,
        wanted: Callable[[], Iterable[tuple[str, Pin, Fetch]]],
        *,
        clock: Callable[[], float],
        bytes_s: float | None = None,
        changed: Callable[[], None] = lambda: None,
        damaged: Callable[[str], Iterable[int]] = lambda _model: (),
        trial: Callable[[Package], FirstRun] | None = None,
    ) -> None:
        """Asks nobody yet; see `start`.

        Args:
            store: Where packages go.
            servers: Whom to ask.
            wanted: The models that are asked for, by name and pin, and what may be fetched of each.
            clock: Monotonic seconds.
            bytes_s: How many bytes a second packages may come with; None for any number.
            changed: Called when a version was installed or a label moved.
            damaged: The versions of a model that are installed and were found damaged.
            trial: Runs a package once before it is installed; None for a child process.
        """
        self._store = store
        self._servers = servers
        self._wanted = wanted
        self._clock = clock
        self._changed = changed
        self._damaged = damaged
        self._trials = Trials()
        self._trial = trial or functools.partial(try_package, trials=self._trials)
        self._wanted_s = clock()
        self._pace = Pace(bytes_s, clock)
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._stopped = False
        self._supplier: Supplier | None = None
        self._due_s: dict[tuple[str, Pin], float] = {}
        self._failures: dict[tuple[str, Pin], int] = {}
        self._asked: dict[tuple[str, Pin], Followed] = {}
        self._remembered: dict[tuple[str, Pin], str] = {}
        self._paces: dict[tuple[str, Pin], dict[str, float]] = {}
        self._told = FetchLog(_log, clock)
        self._refused: dict[str, tuple[float, str]] = {}
        self._under_way: _UnderWay | None = None
        self._thread = threading.Thread(target=self._run, name="edge-fetch", daemon=True)

    def __repr__(self) -> str:
        return f"<Fetcher {self._store!r}, {len(self._due_s)} wanted>"

    @property
    def stats(self) -> FetchStats | None:
        """What is being fetched now; None for nothing. May be asked by any thread."""
        under_way = self._under_way
        if under_way is None:
            return None
        partial, described, server, state = under_way
        return FetchStats(
            model=described.model,
            version=described.version,
            server=server,
            state=state,
            held_bytes=min(partial.held_bytes, described.total_bytes) if state == FETCHING else described.total_bytes,
            total_bytes=described.total_bytes,
        )

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def wake(self) -> None:
        """Something else is wanted: looks at once."""
        self._wake.set()

    def close(self) -> None:
        """Stops, and waits for it. What has come of a package stays for the next time; a first run is ended."""
        with self._lock:
            self._stopped = True
            supplier = self._supplier
        self._pace.end()
        self._wake.set()
        self._trials.call_off()
        if supplier is not None:
            supplier.close()
        if self._thread.is_alive():
            self._thread.join()

    def step(self) -> float:
        """Does what is due now; seconds until something is due again. Called by the thread."""
        wants = [want for want in self._look() if asks(want)]
        self._forget_others({want.key for want in wants})
        if wants:
            self._wanted_s = self._clock()
        elif self._clock() - self._wanted_s >= KEPT_S:
            prune(self._store.path, keep_bytes=0)
        for want in wants:
            if self._stopped:
                break
            if self._clock() >= self._due_s.get(want.key, 0.0):
                self._attend(want)
        now_s = self._clock()
        next_s = min((self._due_s.get(want.key, now_s) for want in wants), default=now_s + FOLLOW_S)
        return min(max(next_s - now_s, 0.0), FOLLOW_S)

    def _run(self) -> None:
        while not self._stopped:
            try:
                wait_s = self.step()
            except Exception:  # noqa: BLE001  what is installed answers on, and so do servers
                _log.exception("packages can't be fetched now")
                wait_s = FOLLOW_S
            self._wake.wait(wait_s)
            self._wake.clear()

    def _look(self) -> list[Want]:
        wants: dict[tuple[str, Pin], Want] = {}
        for model, pin, fetch in self._wanted():
            if fetch == "never":
                continue
            try:
                installed = tuple(self._store.versions(model))
                for version in self._damaged(model):
                    others = tuple(one for one in installed if one != version)
                    wants[model, version] = Want(model, version, "on-demand", others)
                if pin == FOLLOWED:
                    self._told.say(
                        (model, pin),
                        f"model {model}: no server is asked for its label {pin!r}: on a device that says what is "
                        "followed",
                    )
                    continue
                want = Want(model, pin, fetch, installed, self._store.labels(model))
                wants.setdefault(want.key, want)
            except InvalidConfig as error:
                self._told.say((model, pin), f"model {model}: nothing is fetched of it: {plain(str(error))}")
        return list(wants.values())

    def _forget_others(self, keys: set[tuple[str, Pin]]) -> None:
        for table in (self._due_s, self._failures, self._asked, self._remembered, self._paces):
            for key in table.keys() - keys:
                del table[key]

    def _attend(self, want: Want) -> None:
        """One turn: asks the servers, one after the other, until one brings something."""
        if want.follows and want.key not in self._remembered:
            self._recall(want)
        addresses, said, causes = self._addresses(want), [], []
        if not addresses:
            self._due_s[want.key] = self._clock() + RETRY_S[0]  # No fault of theirs: the first may be found at once.
            return
        paces = self._paces[want.key] = {
            address: pace for address, pace in self._paces.get(want.key, {}).items() if address in addresses
        }
        for address in addresses:
            try:
                unfinished = self._ask(want, address)
            except (Passed, EdgeRuntimeError, PackageError, OSError) as error:
                said.append(f"{address}: {plain(str(error))}")
                causes.append((address, plain(error.cause if isinstance(error, Passed) else str(error))))
                if self._stopped:
                    return
                paces[address] = 0.0
                continue
            self._asked[want.key] = Followed(address, self._clock())
            self._failures.pop(want.key, None)
            self._told.forget(want.key)
            if unfinished is None:
                paces.clear()
                self._remember(want, address)
            elif unfinished.pace is not None:
                paces[address] = unfinished.pace
            self._due_s[want.key] = self._clock() + (FOLLOW_S if unfinished is None else unfinished.wait_s)
            return
        failures = self._failures.get(want.key, 0)
        self._failures[want.key] = failures + 1
        self._due_s[want.key] = self._clock() + RETRY_S[min(failures, len(RETRY_S) - 1)]
        self._told.say(want.key, f"{want}: no server brings its package: {'; '.join(said)}", tuple(causes))

    def _recall(self, want: Want) -> None:
        """Which server was followed before the application was started again: it is waited for as if it had stopped."""
        try:
            address = following.read(self._store.folder(want.model)).get(want.label or "", "")
        except InvalidConfig as error:
            _log.warning("model %s: which server was followed is not known: %s", want.model, plain(str(error)))
            address = ""
        self._remembered[want.key] = address
        if address:
            self._asked.setdefault(want.key, Followed(address, self._clock()))

    def _remember(self, want: Want, address: str) -> None:
        if not want.follows or self._remembered.get(want.key) == address:
            return
        self._remembered[want.key] = address
        try:
            following.write(self._store.folder(want.model), want.label or "", address)
        except InvalidConfig as error:
            _log.warning("%s: which server is followed can't be written down: %s", want, plain(str(error)))

    def _addresses(self, want: Want) -> list[str]:
        """Whom to ask, in this order: one server is followed as long as it answers."""
        found = ((one.address, one.allows) for one in self._servers.all())
        paces, last = self._paces.get(want.key, {}), self._asked.get(want.key)
        return list(dict.fromkeys(to_ask(want, found, paces, last, self._clock())))

    def _ask(self, want: Want, address: str) -> _Unfinished | None:
        """Has one server bring what is wanted, or a part of it; None if no more is to come.

        Raises:
            Passed: it can't.
            EdgeRuntimeError, PackageError, OSError: what it brings can't be installed.
        """
        version = want.pin if isinstance(want.pin, int) else None
        label = want.pin if isinstance(want.pin, str) else None
        with self._supplied(address) as supplier:
            try:
                described = supplier.describe(want.model, version, label, timeout_s=DESCRIBE_S)
            except RemoteFault as fault:
                raise Passed(fault.said) from fault
            if (last := self._asked.get(want.key)) is not None and last.address == address:
                self._asked[want.key] = Followed(address, self._clock())
            missing = described.version not in want.installed
            unfinished = self._bring(described, supplier) if missing else None
        if unfinished is not None:
            return unfinished
        pointed = want.label is not None and want.labels.get(want.label) != described.version
        if want.label is not None and pointed:
            self._store.label(want.model, want.label, described.version)
            _log.info(
                "model %s: label %s -> version %d, as %s says", want.model, want.label, described.version, address
            )
        if missing or pointed:
            self._changed()
        return None

    @contextlib.contextmanager
    def _supplied(self, address: str) -> Iterator[Supplier]:
        way = next((one.way for one in self._servers.all() if one.address == address), None)
        if way is None:
            raise Passed("it is known and trusted no more")
        supplier = Supplier(address, way=way, held_back=self._pace.bounded)
        try:
            with self._lock:
                self._may_end()
                self._supplier = supplier
            yield supplier
        finally:
            with self._lock:
                self._supplier = None
            supplier.close()

    def _bring(self, described: Described, supplier: Supplier) -> _Unfinished | None:
        """Fetches and installs a package; None if it is installed.

        Raises:
            Passed: not by this server, or not now.
            EdgeRuntimeError, PackageError, OSError: it can't be installed.
        """
        until_s, reason = self._refused.get(described.digest, (0.0, ""))
        if self._clock() < until_s:
            raise Passed(reason)  # As it was said then: it is the same package.
        vouch = signature_check(self._store, described, supplier.address)
        check_damaged(self._store, described, supplier.address)
        others_bytes = bound_bytes(self._store, described) - described.total_bytes
        prune(self._store.path, keep_bytes=others_bytes, besides=(described.model, described.digest))
        with taken(
            self._store.path,
            described.model,
            described.version,
            described.digest,
            manifest_bytes=described.manifest_bytes,
            signed=described.signed,
            vouch=vouch,
            may_end=self._may_end,
        ) as partial:
            if partial is None:
                return _Unfinished(RETRY_S[0])  # Another process fetches it.
            try:
                self._under_way = _UnderWay(partial, described, supplier.address, FETCHING)
                unfinished = self._fetch(partial, described, supplier)
                if unfinished is None:
                    self._under_way = self._under_way._replace(state=INSTALLING)
                    self._install(partial, described, supplier.address)
                    partial.discard()
            except (SentWrong, SignatureRefused, SigningUnavailable) as error:
                # Of the server, and not of the package: another one may have the right signature.
                raise Passed(str(error)) from error
            except (PackageError, EdgeRuntimeError) as error:
                if not self._stopped:
                    if not isinstance(error, PackageExists) or not has(self._store, described):
                        self._refuse(described.digest, error)
                    if not isinstance(error, EngineFailed):
                        partial.discard()
                raise
            finally:
                self._under_way = None
            return unfinished

    def _may_end(self) -> None:
        if self._stopped:
            raise Passed("the runtime was closed")

    def _fetch(self, partial: Partial, described: Described, supplier: Supplier) -> _Unfinished | None:
        """Has what is missing come, for a turn; None if all of it has.

        Raises:
            Passed: next to nothing came, or the disk has no room.
            SentWrong: it was not what was described.
            PackageRefused: the manifest is none.
            OSError: the disk is full or not writable.
        """
        begun_s, begun_bytes = self._clock(), partial.held_bytes

        def unfinished(wait_s: float) -> _Unfinished:
            took_s = max(self._clock() - begun_s, BROKEN_OFF_S)
            return _Unfinished(max(wait_s, self._pace.wait_s), (partial.held_bytes - begun_bytes) / took_s)

        while pieces := partial.missing():
            check_disk(self._store, partial, described)
            for piece in pieces:
                self._pace.hold_back(begun_s + TURN_S)
                left_s = begun_s + TURN_S - self._clock()
                if left_s <= 0:
                    return unfinished(0.0)
                try:
                    with supplier.read(described, piece.path, partial.offset(piece), timeout_s=left_s) as chunks:
                        whole = partial.take(piece, self._pace.paced(chunks, begun_s + TURN_S))
                except RemoteFault as fault:
                    if partial.held_bytes < begun_bytes + LEAST_BYTES:
                        raise Passed(f"{piece.path}: {fault.said}") from fault
                    return unfinished(0.0 if fault.fault is Fault.DEADLINE else BROKEN_OFF_S)
                if not whole and self._pace.wait_s > 0:
                    return unfinished(0.0)
                if not whole:
                    raise Passed(f"{piece.path}: less than its {piece.entry.size_bytes} bytes came")
        return None

    def _install(self, partial: Partial, described: Described, address: str) -> None:
        path = version_path(self._store.path, described.model, described.version)
        replace = has(self._store, described) and damage.is_damaged(path, may_end=self._may_end)
        if replace:
            check_damaged(self._store, described, address)
        try:
            done = install(
                partial.tree(),
                self._store.path,
                replace=replace,
                link=True,
                require_signature=self._store.require_signature,
                may_end=self._may_end,
                trial=self._trial,
            )
        except PackageRefused as error:
            raise PackageRefused(f"{error} (fetched from {address})") from error
        if not done.was_there:
            what = "in the place of a damaged one" if replace else size_text(described.total_bytes)
            _log.info("installed %s, %s, from %s", described, what, address)

    def _refuse(self, digest: str, error: Exception) -> None:
        while len(self._refused) >= _MAX_REFUSED:
            del self._refused[next(iter(self._refused))]
        wait_s = ENGINE_FAILED_S if isinstance(error, EngineFailed) else REFUSED_S
        self._refused[digest] = (self._clock() + wait_s, plain(str(error)))
