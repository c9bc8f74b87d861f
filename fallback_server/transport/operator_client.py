"""Asks a server, for an operator: what it serves, and that it change it. Synchronous, and one call at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message

from fallback_server.protocol import methods
from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.protocol.proto import serving_pb2 as pb

Response = TypeVar("Response", bound=Message)


class CallFailed(Exception):
    """A call was refused, or nobody could be asked. The text is one line for the operator.

    Attributes:
        unimplemented: Whether the server has no such call: it is another than ours.
    """

    def __init__(self, text: str, *, unimplemented: bool = False) -> None:
        super().__init__(text)
        self.unimplemented = unimplemented


@dataclass(frozen=True, kw_only=True)
class ClientTls:
    """What TLS is spoken with; PEM.

    Attributes:
        ca: Who has signed the server's certificate.
        certificate: What the client shows, with its key; None for none.
        key: Of that certificate.
    """

    ca: bytes
    certificate: bytes | None = None
    key: bytes | None = None


class OperatorClient:
    """Speaks to one server. Close it, or use it with `with`.

    Args:
        target: `HOST:PORT`, or `unix:PATH`.
        timeout_s: For each call; a watch has none.
        tls: None for plain text.
        token: Shown with each call; None for none.
        dials: Of a server on this machine what is dialled in the target's place, `ADDRESS:PORT` in numbers; else empty.
            No proxy comes between then: a token that is for this machine doesn't leave it.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float,
        tls: ClientTls | None = None,
        token: str | None = None,
        dials: str = "",
    ) -> None:
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._target = target
        self._timeout_s = timeout_s
        self._tls = tls
        # A catalog of ten thousand models is larger than the 4 MiB that gRPC takes by itself.
        options: tuple[tuple[str, int | str], ...] = methods.UNLIMITED_MESSAGES
        if dials:
            options = (*options, ("grpc.enable_http_proxy", 0))
        if dials not in ("", target):  # The certificate is of whom the operator has named.
            options = (*options, ("grpc.ssl_target_name_override", target.rpartition(":")[0].strip("[]")))
        if tls is None:
            self._channel = grpc.insecure_channel(dials or target, options=options)
        else:
            credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)
            self._channel = grpc.secure_channel(dials or target, credentials, options=options)

    def catalog(self) -> edge.CatalogUpdate:
        """All models and versions, with queues and waits. Only our server has it.

        Raises:
            CallFailed: as all methods.
        """
        return self._call(methods.CATALOG_GET, edge.CatalogRequest())

    def watch(self) -> Iterator[edge.CatalogUpdate]:
        """The catalog now, and again at every change, until the server ends it."""
        method = methods.CATALOG_WATCH
        stream = self._channel.unary_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        try:
            yield from stream(edge.CatalogRequest(), metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._failure(error) from error

    def status(self, model: str) -> pb.GetModelStatusResponse:
        """The states of one model's versions, as TensorFlow Serving tells them."""
        request = pb.GetModelStatusRequest()
        request.model_spec.name = model
        return self._call(methods.GET_MODEL_STATUS, request)

    def set_label(self, model: str, label: str, version: int) -> int:
        """Moves a label, or takes it away with version 0; returns where it pointed, 0 for nowhere."""
        request = edge.SetLabelRequest(model=model, label=label, version=version)
        return self._call(methods.SET_LABEL, request).previous

    def set_traffic(self, model: str, traffic: Mapping[int, float]) -> edge.Move:
        """Splits the requests that name no version, or no longer; returns who answered before, and who does now."""
        return self._call(methods.SET_TRAFFIC, edge.SetTrafficRequest(model=model, traffic=traffic)).move

    def rollback(self, model: str, label: str = "", *, undo: bool = False) -> edge.RollbackResponse:
        """Has requests answered by the version before, or takes that back."""
        return self._call(methods.ROLLBACK, edge.RollbackRequest(model=model, label=label, undo=undo))

    def reload(self) -> edge.ReloadResponse:
        """Has the server read its configuration again, and waits for its loads; returns what it serves, or no more."""
        late = "; what was reloaded may still be loading: see its status"
        return self._call(methods.RELOAD, edge.ReloadRequest(), late=late)

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: methods.Method[Any, Response], request: Message, *, late: str = "") -> Response:
        try:
            return method.bind(self._channel)(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._failure(error, late) from error

    def _failure(self, error: Any, late: str = "") -> CallFailed:
        code, details = error.code(), " ".join((error.details() or "").split())
        where = self._target
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return CallFailed(f"{where} is no fallback-server: it has no such call", unimplemented=True)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return CallFailed(f"{where} did not answer within {self._timeout_s:g} s{late}")
        # Of our server: a configuration was taken, and not all of it can be served.
        if code is grpc.StatusCode.UNKNOWN and "did not become available" in details:
            return CallFailed(f"{where}: {details}")
        # What our server says of a version that it has begins so.
        if code is grpc.StatusCode.UNAVAILABLE and not details.startswith("Servable"):
            return CallFailed(_unreachable(where, details, tls=self._tls is not None))
        return CallFailed(f"{where} refused: {details or code.name}")


def _unreachable(where: str, details: str, *, tls: bool) -> str:
    """What gRPC's words mean, where they are known."""
    if "onnection refused" in details or "No such file" in details:
        return f"nobody listens at {where}"
    if "DNS" in details or "errors resolving" in details:
        return f"the name of {where} can't be resolved"
    if "Failed parsing HTTP/2" in details:
        return f"{where} speaks HTTP/1 and no gRPC: is it the port for REST?"
    hint = "is the server's certificate signed by that CA?" if tls else "does it speak TLS? --tls_ca=FILE"
    return f"{where} can't be reached: {details}; {hint}"
