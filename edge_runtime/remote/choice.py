"""Which endpoints come into question for a version or label, and in which order."""

from __future__ import annotations

import math

import msgspec

from edge_runtime.remote.answer_time import kind_of
from edge_runtime.remote.catalog import Serves, find, resolved, serves
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.ranking import Standing
from edge_runtime.remote.refusals import Key
from edge_runtime.types import InferRequest


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """What a request needs of an endpoint.

    Attributes:
        model: The model's name.
        version: The version that must answer; None for the label's, or the latest.
        label: The label that must answer, where `version` is None.
        nbytes: What has to be sent.
    """

    model: str
    version: int | None
    label: str | None
    nbytes: int

    @property
    def key(self) -> Key:
        """Without what has to be sent."""
        return self.model, self.version, self.label

    @classmethod
    def of(cls, request: InferRequest) -> Wanted:
        """What this request needs."""
        return cls(request.model, request.version, request.label, request.nbytes)


class Choice:
    """The endpoints for one version or label, sorted; made anew when something about servers is heard.

    Attributes:
        model: Whose version.
        used_s: The instant at which it was last asked for.
        news: Of which news it was made.
        until_s: The instant at which it is made anew even without news.
        near, far, behind, last: As in `Ranks`, each with the seconds that the server says one row waits and runs.
        unmet_s: Since when no endpoint serves it; infinite where one does.
    """

    __slots__ = ("behind", "far", "last", "model", "near", "news", "unmet_s", "until_s", "used_s")

    def __init__(self, model: str) -> None:
        self.model = model
        self.used_s = -math.inf
        self.news = -1
        self.until_s = math.inf
        self.near: tuple[tuple[Endpoint, float], ...] = ()
        self.far: tuple[tuple[Endpoint, float], ...] = ()
        self.behind: tuple[tuple[Endpoint, float], ...] = ()
        self.last: tuple[tuple[Endpoint, float], ...] = ()
        self.unmet_s = math.inf


def standing_of(endpoint: Endpoint, wanted: Wanted, now_s: float, *, misfit: bool) -> tuple[Standing, float]:
    """How an endpoint stands for what is wanted, and the seconds that it says one row waits and runs there."""
    found = find(endpoint.catalog, wanted.model, wanted.version, wanted.label)
    wait_s = 0.0 if found is None else found.wait_s
    standing = Standing(
        serves=serves_now(endpoint, wanted, now_s),
        gone=endpoint.gone(now_s),
        server_id="" if endpoint.catalog is None else endpoint.catalog.server_id,
        expected_s=endpoint.expected_at(now_s, kind_of(wanted.model, wanted.nbytes), wanted.nbytes, wait_s),
        version=endpoint.word.does(wanted.key, now_s)
        or resolved(endpoint.catalog, wanted.model, wanted.version, wanted.label),
        misfit=misfit,
        refused=endpoint.refusals.last(wanted.key, now_s),
    )
    return standing, wait_s


def serves_now(endpoint: Endpoint, wanted: Wanted, now_s: float) -> Serves:
    """That a server has a version is believed until it says otherwise, if it keeps its word; else, for a while."""
    if endpoint.word.does(wanted.key, now_s) == 0:
        return Serves.NO
    lacked_s = endpoint.refusals.lacked_s(wanted.key, now_s)
    if serves(endpoint.catalog, wanted.model, wanted.version, wanted.label) is Serves.YES:
        return Serves.YES if lacked_s is None or lacked_s < endpoint.told_s else Serves.NO
    told = serves(endpoint.trusted(now_s), wanted.model, wanted.version, wanted.label)
    return Serves.NO if told is Serves.UNKNOWN and lacked_s is not None else told
