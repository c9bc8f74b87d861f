"""`edge-run servers`: which servers there are, and what each serves."""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec

from edge_runtime.errors import InvalidConfig
from edge_runtime.tls_flags import add_flags, tls_of

if TYPE_CHECKING:
    from edge_runtime.remote.sightings import Sighting
    from edge_runtime.remote.survey import Seen, SeenVersion
    from edge_runtime.remote.visit import Visit
    from edge_runtime.screen_text import Line, Piece

_ABOUT = """Listens for servers that announce themselves by mDNS, asks those and the addresses that are given, and shows
what each says that it serves. A server that has no edge.v1.Catalog, such as TensorFlow Serving, does not list its
models: it is asked for those that --model names and those that are installed in --store.

exit codes: 0 a server answered; 1 none did; 2 bad input
"""

_LONGEST_WAIT_S, _SHORTEST_LIMIT_S, _LONGEST_LIMIT_S = 600.0, 0.1, 60.0
_AT_ONCE = 16
"""Servers that are asked at the same time: one that is silent holds up no other."""

_MOST_LINES = 1_000
"""Of one server's versions, and of what is to be said of them: nobody reads more, and strangers may list any number."""

_MOST_LABELS = 16
"""That point to one version."""

_MOST_ANNOUNCED = 64
"""As many as a runtime keeps: announcements are cheap to forge."""

_MOST_ANSWERS = 4 * _MOST_ANNOUNCED
"""Addresses that are asked, however often announcements change."""

MDNS, GIVEN = "mdns", "given"

_STYLES = {"AVAILABLE": "good", "START": "fair", "LOADING": "fair", "UNLOADING": "fair", "END": "bad"}
_SHOWN_DIGITS = 12
"""Of a fingerprint."""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    servers = commands.add_parser(
        "servers",
        help="which servers there are, by mDNS and by address, and what each serves",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    servers.add_argument("address", nargs="*", metavar="HOST:PORT", help="ask this one too")
    servers.add_argument(
        "--wait", type=float, metavar="SECONDS", default=2.0, help="listen so long for announcements (default: 2)"
    )
    servers.add_argument("--no-mdns", action="store_true", help="ask the given addresses alone")
    servers.add_argument(
        "--model", action="append", default=[], metavar="NAME", help="ask for this model; may be repeated"
    )
    servers.add_argument("--store", type=Path, help="ask for the models that are installed there")
    servers.add_argument(
        "--timeout", type=float, default=3.0, metavar="SECONDS", help="for one call to a server (default: 3)"
    )
    servers.add_argument("--json", action="store_true", help="as JSON")
    add_flags(servers)
    servers.set_defaults(many="address", run=servers_command)


def servers_command(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code.

    Raises:
        InvalidConfig: an address, a time or a model that can't be.
    """
    addresses = _addresses(arguments)
    with Asked(_visit(arguments)) as asked:
        for address in addresses:
            asked.given(address)
        if not arguments.no_mdns:
            _listen(asked, arguments.wait)
        found = asked.answers()
        passed_over = asked.passed_over
    if arguments.json:
        sys.stdout.write(f"{json.dumps(as_dict(found), indent=1)}\n")
    elif found:
        from edge_runtime.screen_text import prepared, shown  # noqa: PLC0415  what --help has no need of

        colours = prepared(sys.stdout)
        sys.stdout.write("".join(f"{shown(one, None, colours=colours)}\n" for one in as_lines(found)))
    if not found:
        within = "" if arguments.no_mdns else f" announced itself by mDNS within {arguments.wait:g} s"
        sys.stderr.write(f"edge-run: no server{within or ' to ask: give its HOST:PORT'}\n")
    if passed_over:
        sys.stderr.write(f"edge-run: {passed_over} announcements came faster than they are looked at\n")
    return 0 if any(one.seen.kind in ("catalog", "tensorflow-serving") for one in found) else 1


class Answer(NamedTuple):
    """What became of one server: where it was known from, and what it said."""

    sources: tuple[str, ...]
    seen: Seen


class Asked:
    """Servers that are being asked, each as soon as it is known. Thread-safe; a table for `Discovery`.

    Args:
        visit: How they are asked.
    """

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="edge-survey")
        self._answers: dict[str, Future[Seen]] = {}
        self._given: list[str] = []
        self._announced: dict[str, str] = {}
        self._passed_over = 0

    @property
    def passed_over(self) -> int:
        """Announcements that nobody has looked at: there were too many."""
        return self._passed_over

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def given(self, address: str) -> None:
        """Asks a server that was named."""
        with self._lock:
            self._given.append(address)
            self._ask((address,), tls=None)

    def add(self, sighting: Sighting) -> None:
        """Asks a server that was announced."""
        with self._lock:
            if sighting.key in self._announced or len(self._announced) < _MOST_ANNOUNCED:
                self._announced[sighting.key] = sighting.addresses[0]
                self._ask(sighting.addresses, tls=sighting.tls)
            else:
                self._passed_over += 1

    def remove(self, key: str) -> None:
        """A server has gone."""
        with self._lock:
            self._announced.pop(key, None)

    def dropped(self, count: int) -> None:
        """So much was announced faster than it is looked at."""
        with self._lock:
            self._passed_over += count

    def answers(self) -> list[Answer]:
        """What all have said, in the order of their addresses; waits for those that are silent."""
        with self._lock:
            announced = set(self._announced.values())
            wanted = {*self._given, *announced}
            futures = {address: self._answers[address] for address in wanted if address in self._answers}
        found = []
        for address in sorted(futures, key=_in_order):
            sources = [*([GIVEN] if address in self._given else []), *([MDNS] if address in announced else [])]
            found.append(Answer(tuple(sources), futures[address].result()))
        return found

    def _ask(self, addresses: Sequence[str], *, tls: bool | None) -> None:
        if addresses[0] not in self._answers and len(self._answers) < _MOST_ANSWERS:
            self._answers[addresses[0]] = self._pool.submit(self._visit.first, addresses, tls=tls)


def as_dict(found: Sequence[Answer]) -> dict[str, Any]:
    """As JSON shows it."""
    servers = [
        {"address": one.seen.address, "found_by": list(one.sources), **msgspec.to_builtins(one.seen)} for one in found
    ]
    return {"servers": servers}


def as_lines(found: Sequence[Answer]) -> list[Line]:
    """A table of the servers, one of what they serve, and what is to be said besides."""
    from edge_runtime.screen_text import line, table  # noqa: PLC0415  likewise

    servers: list[list[str | Piece]] = []
    versions: list[list[str | Piece]] = []
    notes: list[str] = []
    for sources, seen in found:
        said = [text for text in (seen.said, *seen.notes) if text]
        said += [f"{name} has no version" for name, listed in seen.models.items() if not listed]
        said += [
            f"{name}/{one.version}: {one.error}" for name, listed in seen.models.items() for one in listed if one.error
        ]
        rows = [(name, one) for name, listed in seen.models.items() for one in listed]
        answers = {"catalog": ("yes", "good"), "tensorflow-serving": ("TensorFlow Serving", "good")}
        trip = "-" if seen.round_trip_ms is None else f"{seen.round_trip_ms:.1f} ms"
        answer = answers.get(seen.kind, ("no", "bad"))
        servers.append([seen.address, ", ".join(sources), answer, _trust(seen), trip, seen.server_id or "-"])
        versions += [_row(seen.address, *each) for each in rows[:_MOST_LINES]]
        notes += [f"{seen.address}: {text}" for text in said[:_MOST_LINES]]
        for more, what in ((len(rows), "versions"), (len(said), "notes")):
            if more > _MOST_LINES:
                notes.append(f"{seen.address}: {more - _MOST_LINES} more {what}, which --json shows")
        if seen.kind == "catalog" and not seen.models:
            notes.append(f"{seen.address}: it serves no model")
    lines = table(("SERVER", "FOUND BY", "ANSWERS", "TRUST", "ROUND TRIP", "ID"), servers, right=(4,))
    if versions:
        headings = ("SERVER", "MODEL", "VERSION", "STATE", "LABELS", "DEFAULT", "WAITING", "TAKES", "PACKAGE")
        lines += [line(""), *table(headings, versions, right=(2, 6, 7))]
    if notes:
        lines += [line(""), *(line(text) for text in notes)]
    return lines


def _trust(seen: Seen) -> str | Piece:
    if seen.trust == "proved":
        return (f"{seen.certificate or seen.fingerprint[:_SHOWN_DIGITS]} until {seen.until}", "good")
    if seen.trust == "plain-text" and seen.kind != "silent":
        return ("plain text", "fair")
    return (f"no: {seen.trust}", "bad") if seen.said.startswith("not asked") else "plain text"


def _row(address: str, name: str, one: SeenVersion) -> list[str | Piece]:
    default = {True: "default", False: "-", None: "?"}[one.default]
    return [
        address,
        (name, "name"),
        str(one.version),
        (one.state, _STYLES.get(one.state, "")),
        ", ".join(one.labels[:_MOST_LABELS]) + (", ..." if len(one.labels) > _MOST_LABELS else "") or "-",
        default,
        "?" if one.queued_rows is None else f"{one.queued_rows} rows" if one.queued_rows else "-",
        "-" if one.wait_ms is None else f"{one.wait_ms:.1f} ms",
        one.package.removeprefix("sha256:")[:_SHOWN_DIGITS] or "-",
    ]


def _listen(asked: Asked, wait_s: float) -> None:
    from edge_runtime.remote.discovery import Discovery  # noqa: PLC0415  loads zeroconf

    discovery = Discovery(asked)
    try:
        time.sleep(wait_s)
    finally:
        discovery.close()


def _visit(arguments: argparse.Namespace) -> Visit:
    """How servers are asked."""
    from edge_runtime.remote.tls_files import read_material  # noqa: PLC0415  likewise
    from edge_runtime.remote.visit import Visit  # noqa: PLC0415  loads grpc

    tls = tls_of(arguments)
    if tls is not None and arguments.insecure:
        raise InvalidConfig("--insecure: excludes --tls-ca and --tls-pin, by which servers are known")
    return Visit(
        names=tuple(_names(arguments)),
        timeout_s=arguments.timeout,
        material=None if tls is None else read_material(tls),
        insecure=arguments.insecure,
    )


def _names(arguments: argparse.Namespace) -> list[str]:
    """The models to ask for. Checks the times as well."""
    if not 0 <= arguments.wait <= _LONGEST_WAIT_S:
        raise InvalidConfig(f"--wait: from 0 to {_LONGEST_WAIT_S:.0f} seconds, got {arguments.wait}")
    if not _SHORTEST_LIMIT_S <= arguments.timeout <= _LONGEST_LIMIT_S:
        bounds = f"{_SHORTEST_LIMIT_S} to {_LONGEST_LIMIT_S:.0f}"
        raise InvalidConfig(f"--timeout: from {bounds} seconds, got {arguments.timeout}")
    installed: list[str] = []
    if arguments.store is not None:
        from edge_runtime.store.store import Store  # noqa: PLC0415  likewise

        installed = sorted(Store(arguments.store).installed())
    return list(dict.fromkeys([*arguments.model, *installed]))


def _addresses(arguments: argparse.Namespace) -> list[str]:
    from edge_runtime.config import is_address  # noqa: PLC0415  likewise

    for address in arguments.address:
        if not is_address(address):
            raise InvalidConfig(f"'host:port' with a port from 1 to 65535 is expected, got {address!r}")
    return list(dict.fromkeys(arguments.address))


def _in_order(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port) if port.isdigit() else 0
