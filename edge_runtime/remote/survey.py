"""Asks a server, once, who it is and what it serves: for people, not for requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, cast

import grpc
import msgspec
from google.protobuf.message import DecodeError, Message

from edge_runtime.remote import bounds
from edge_runtime.remote.faults import RemoteFault
from edge_runtime.remote.way import PLAIN, Way
from fallback_server.protocol.methods import (
    CATALOG_GET,
    GET_MODEL_METADATA,
    GET_MODEL_STATUS,
    PREDICT,
    SIGNATURE_DEF_FIELD,
    Method,
)
from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.status import Fault

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

_TRIPS = 3
"""Small calls whose shortest is the round trip."""

_OPTIONS = (
    ("grpc.max_receive_message_length", bounds.MAX_BYTES),
    # As in `endpoint`: a fresh connection, and no proxy for what is on this network.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)

Kind = Literal["catalog", "tensorflow-serving", "other", "silent"]
"""Who answers: `catalog` tells all that it serves, `tensorflow-serving` only of models that it is asked for by name,
`other` is no model server, and `silent` did not answer."""


class SeenVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version.

    Attributes:
        version: Its number.
        state: `AVAILABLE`, `LOADING`...
        labels: That point to it.
        default: Whether it answers requests that name no version; None where the server doesn't say.
        queued_rows: Rows that wait; None likewise.
        wait_ms: Milliseconds that a request of one row would take there; None likewise, or before its first run.
        package: The fingerprint of its package; empty where it has none.
        preprocessing: The fingerprint of its package's preprocessing; likewise.
        error: What is amiss.
    """

    version: int
    state: str
    labels: tuple[str, ...] = ()
    default: bool | None = None
    queued_rows: int | None = None
    wait_ms: float | None = None
    package: str = ""
    preprocessing: str = ""
    error: str = ""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What one server said.

    Attributes:
        address: `host:port`.
        kind: Who it is.
        said: Why there is nothing to tell, or what can't be told; empty where all is well.
        server_id: Its own name; empty where it doesn't say.
        round_trip_ms: Of a small call; None where it did not answer.
        models: Its versions by model, the highest first.
        notes: What it says of models as wholes.
        trust: `proved` by its certificate, `plain-text`, or why it is not trusted, as in `handshake.Reason`.
        certificate: Whose that is, as it says; empty where there is none.
        until: The day on which it ends; likewise.
        fingerprint: Its SHA-256; likewise.
    """

    address: str
    kind: Kind
    said: str = ""
    server_id: str = ""
    round_trip_ms: float | None = None
    models: dict[str, tuple[SeenVersion, ...]] = {}
    notes: tuple[str, ...] = ()
    trust: str = "plain-text"
    certificate: str = ""
    until: str = ""
    fingerprint: str = ""


def survey(
    address: str,
    names: Sequence[str],
    *,
    timeout_s: float,
    way: Way = PLAIN,
    clock: Callable[[], float] = time.perf_counter,
) -> Seen:
    """Asks a server, and waits; any fault is in what is returned.

    Args:
        address: `host:port`.
        names: The models to ask a server for that doesn't list them.
        timeout_s: For each call.
        way: How it is spoken to.
        clock: Seconds.
    """
    with way.channel(address, _OPTIONS) as channel:
        asker = _Asker(channel, address, timeout_s, way.metadata)
        why_by_name = "it does not list its models"
        try:
            update = asker.ask(CATALOG_GET, edge.CatalogRequest())
            return _of_catalog(address, update, asker.round_trip_ms(clock))
        except _Unreadable:
            why_by_name = "its catalog can't be read"
        except RemoteFault as fault:
            if fault.fault is not Fault.UNIMPLEMENTED:
                return Seen(address=address, kind="silent", said=fault.said)
        try:
            return _by_name(asker, names, clock, why_by_name)
        except RemoteFault as why:
            if why.fault is Fault.UNIMPLEMENTED:
                said = "it speaks gRPC, and neither edge.v1 nor TensorFlow Serving's API"
                return Seen(address=address, kind="other", said=said)
            return Seen(address=address, kind="silent", said=why.said)


class _Unreadable(RemoteFault):
    """What came is no message."""


class _Asker:
    def __init__(
        self, channel: grpc.Channel, address: str, timeout_s: float, metadata: tuple[tuple[str, str], ...]
    ) -> None:
        self.address = address
        self._metadata = metadata
        self._channel = channel
        self._timeout_s = timeout_s

    def ask(self, method: Method[Request, Response], request: Request) -> Response:
        """Raises RemoteFault."""
        call: Any = self._channel.unary_unary(
            method.path, request_serializer=method.request.SerializeToString, response_deserializer=None
        )
        try:
            data: bytes = call(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            failed: Any = error  # It is a call as well, of which the stubs say nothing.
            raise RemoteFault.of_status(failed.code(), self.address, failed.details()) from error
        try:
            answer: Any = bounds.read(method, data)
        except DecodeError as error:
            raise _Unreadable(Fault.INTERNAL, self.address, f"unreadable answer: {error}") from error
        if answer is None:
            raise RemoteFault(Fault.INTERNAL, self.address, f"its answer lists more than {bounds.MAX_FIELDS} things")
        return cast("Response", answer)

    def knows(self, ask: Callable[[str], object]) -> bool:
        """Whether the server knows a call at all. Raises RemoteFault where it says nothing of that."""
        try:
            ask("")
        except RemoteFault as fault:
            if fault.fault is Fault.UNIMPLEMENTED:
                return False
            raise
        return True

    def status(self, name: str) -> pb.GetModelStatusResponse | None:
        """A model's versions; None where the server has no such model. Raises RemoteFault for any other answer."""
        return self._of_model(GET_MODEL_STATUS, pb.GetModelStatusRequest(model_spec=pb.ModelSpec(name=name)))

    def metadata(self, name: str) -> pb.GetModelMetadataResponse | None:
        """What a model's latest version takes; likewise."""
        spec = pb.ModelSpec(name=name)
        request = pb.GetModelMetadataRequest(model_spec=spec, metadata_field=[SIGNATURE_DEF_FIELD])
        return self._of_model(GET_MODEL_METADATA, request)

    def predict(self, name: str) -> pb.PredictResponse | None:
        """What a model answers to nothing; likewise."""
        return self._of_model(PREDICT, pb.PredictRequest(model_spec=pb.ModelSpec(name=name)))

    def _of_model(self, method: Method[Request, Response], request: Request) -> Response | None:
        try:
            return self.ask(method, request)
        except RemoteFault as fault:
            if fault.fault in (Fault.NOT_FOUND, Fault.INVALID_INPUT):
                return None
            raise

    def round_trip_ms(self, clock: Callable[[], float], ask: Callable[[str], object] | None = None) -> float:
        """Of the shortest of a few calls over the connection that is there: the status of nothing in particular."""
        ask = self.status if ask is None else ask
        trips_s = []
        for _ in range(_TRIPS):
            begin_s = clock()
            ask("")
            trips_s.append(clock() - begin_s)
        return min(trips_s) * 1e3


def _of_catalog(address: str, update: edge.CatalogUpdate, round_trip_ms: float) -> Seen:
    return Seen(
        address=address,
        kind="catalog",
        server_id=update.server_id,
        round_trip_ms=round_trip_ms,
        models={model.name: _versions(model) for model in sorted(update.models, key=lambda model: model.name)},
        notes=tuple(f"{model.name}: {model.note}" for model in update.models if model.note),
    )


def _versions(model: edge.Model) -> tuple[SeenVersion, ...]:
    labels: dict[int, list[str]] = {}
    for label, version in sorted(model.labels.items()):
        labels.setdefault(version, []).append(label)
    found = sorted(model.versions, key=lambda one: one.version, reverse=True)
    return tuple(_version(model, one, tuple(labels.pop(one.version, ()))) for one in found)


def _version(model: edge.Model, one: edge.Version, labels: tuple[str, ...]) -> SeenVersion:
    return SeenVersion(
        version=one.version,
        state=_state(one.state),
        labels=labels,
        default=one.version == model.default_version,
        queued_rows=max(one.queued_rows, 0),
        wait_ms=bounds.wait_ms(one.expected_wait_ms) or None,
        package=one.package_fingerprint,
        preprocessing=one.preprocessing_fingerprint,
        error=one.error,
    )


def _by_name(asker: _Asker, names: Sequence[str], clock: Callable[[], float], why: str) -> Seen:
    if asker.knows(asker.status):
        return _of_names(asker, names, clock, why)
    # A gateway, say, that passes on PredictionService alone: requests need no more.
    if asker.knows(asker.metadata):
        return _of_metadata(asker, names, clock)
    asker.predict("")
    said = "it answers Predict, and tells neither what it has nor what that takes"
    trip_ms = asker.round_trip_ms(clock, asker.predict)
    return Seen(address=asker.address, kind="tensorflow-serving", said=said, round_trip_ms=trip_ms)


def _of_names(asker: _Asker, names: Sequence[str], clock: Callable[[], float], why: str) -> Seen:
    models: dict[str, tuple[SeenVersion, ...]] = {}
    for name in dict.fromkeys(names):
        response = asker.status(name)
        if response is not None:
            found = sorted(response.model_version_status, key=lambda one: one.version, reverse=True)
            models[name] = tuple(
                SeenVersion(version=one.version, state=_state(one.state), error=one.status.error_message)
                for one in found
            )
    return _named(asker, names, models, why, asker.round_trip_ms(clock))


def _of_metadata(asker: _Asker, names: Sequence[str], clock: Callable[[], float]) -> Seen:
    models: dict[str, tuple[SeenVersion, ...]] = {}
    for name in dict.fromkeys(names):
        response = asker.metadata(name)
        if response is not None:
            models[name] = (SeenVersion(version=response.model_spec.version.value, state="AVAILABLE"),)
    why = "it does not list its models, and of each only the latest version is seen"
    return _named(asker, names, models, why, asker.round_trip_ms(clock, asker.metadata))


def _named(
    asker: _Asker, names: Sequence[str], models: dict[str, tuple[SeenVersion, ...]], why: str, trip_ms: float
) -> Seen:
    absent = [name for name in dict.fromkeys(names) if name not in models]
    said = why + ("" if names else "; name those to ask for with --model")
    if absent:
        said += f"; it has no {', '.join(absent)}"
    return Seen(address=asker.address, kind="tensorflow-serving", said=said, round_trip_ms=trip_ms, models=models)


def _state(number: int) -> str:
    """The same numbers in both protocols."""
    return edge.Version.State.Name(number) if number in edge.Version.State.values() else str(number)
