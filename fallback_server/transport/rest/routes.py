"""The table of routes: what is dispatched, and what the OpenAPI document tells, are one and the same."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote

from starlette.responses import Response

from fallback_server.access.rules import Scope
from fallback_server.dataplane import Verb
from fallback_server.transport.rest.exchange import Exchange
from fallback_server.transport.rest.refusals import HttpRefused

Handler = Callable[[Exchange], Awaitable[Response]]

_PARTS = {"version": r"\d+", "model": "[^/:]+", "label": "[^/:]+"}
"""What a part of a path may consist of in `/v1`, as TensorFlow Serving has it; elsewhere, all but a slash."""

TENSORFLOW_SERVING = "/v1/"

_ABSENT = tuple(
    (re.compile(pattern, re.IGNORECASE), what)
    for pattern, what in (
        ("/v2/(system|cuda)sharedmemory/.*", "tensors in shared memory"),
        ("/v2/(models/[^/]+/)?trace/setting", "traces to set"),
        ("/v2/logging", "log that can be set from outside"),
        ("/v2/models/[^/]+/(versions/[^/]+/)?generate(_stream)?", "generated texts"),
    )
)
"""Paths of Triton's that are not here, and what they are about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """One method of one path.

    Attributes:
        method: GET or POST. What answers GET answers HEAD, without the body.
        path: With parts in braces.
        handler: Answers it.
        verb: What is asked of a model's signature; None where none is run.
        summary: What it does, in a line.
        request: The schema of its body; empty where it takes none.
        answer: The schema of its answer; empty where that is no JSON.
        faults: The HTTP codes of what it may refuse.
        scope: What whoever asks must be allowed; None where everybody may.
        whole: Whether that must be so of all models, where the path names none.
    """

    method: str
    path: str
    handler: Handler = field(repr=False)
    verb: Verb | None = None
    summary: str
    request: str = ""
    answer: str = ""
    faults: tuple[int, ...] = ()
    scope: Scope | None = None
    whole: bool = False


class Match(NamedTuple):
    """A route that a request has found, and what stands in the path's parts."""

    route: Route
    params: Mapping[str, str]


class Routes:
    """Finds the route of a request. Paths are matched as they came, and only then decoded: a name may hold a slash."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._compiled = [(route.method, _compiled(route.path), route) for route in routes]

    def find(self, method: str, path: str) -> Match:
        """The route, whose path is matched in any case of letters, as TensorFlow Serving does.

        Raises:
            HttpRefused: there is none; 501 where other servers of the protocol have one.
        """
        wanted = "GET" if method == "HEAD" else method
        for known, pattern, route in self._compiled:
            if known == wanted and (found := pattern.fullmatch(path)):
                return Match(route, {name: unquote(value) for name, value in found.groupdict().items()})
        if path.lower().startswith(TENSORFLOW_SERVING):
            raise HttpRefused(400, f"Malformed request: {method} {path}")
        allowed = {known for known, pattern, _ in self._compiled if pattern.fullmatch(path)}
        if allowed:
            names = ", ".join(sorted(allowed | ({"HEAD"} if "GET" in allowed else set())))
            raise HttpRefused(405, f"{path} takes {names}, not {method}", {"Allow": names})
        for pattern, what in _ABSENT:
            if pattern.fullmatch(path):
                raise HttpRefused(501, f"{method} {path} is not supported: this server has no {what}")
        raise HttpRefused(404, f"nothing is at {path}")


def _compiled(path: str) -> re.Pattern[str]:
    parts = _PARTS if path.startswith(TENSORFLOW_SERVING) else {}
    pattern = ""
    for text, name in re.findall(r"([^{]*)(?:\{(\w+)\})?", path):
        pattern += re.escape(text) + (f"(?P<{name}>{parts.get(name, '[^/]+')})" if name else "")
    return re.compile(pattern, re.IGNORECASE)
