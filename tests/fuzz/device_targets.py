"""What comes to the device: servers' answers and announcements."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import numpy as np
from fuzz.target import Target
from fuzz.wire_targets import attempt
from google.protobuf.message import DecodeError

from converter.artifact import ManifestInvalid, Signature, TensorSpec
from edge_runtime.config import is_address
from edge_runtime.remote import bounds, catalog, codec
from edge_runtime.remote.addresses import refusal, usable_addresses
from edge_runtime.remote.delivery import _checked
from edge_runtime.remote.faults import Unfit
from edge_runtime.types import InferRequest
from fallback_server.protocol import methods, tensors
from fallback_server.protocol.mdns import SERVICE_TYPE, Announcement, AnnouncementInvalid
from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.proto import tensor_pb2

_NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)
_STRINGS = np.array([b"one", b"", b"three"], object)
_ARRAYS = (_NUMBERS, _STRINGS, np.array([[True, False]]), np.arange(4, dtype=np.int64), np.zeros((0, 3), np.int8))

# ---- at the device: what servers answer

_REQUESTS = (
    InferRequest(
        model="m", version=3, signature="serving_default", inputs={"x": _NUMBERS}, rows=2, start_s=0.0, batched=True
    ),
    InferRequest(
        model="m",
        version=None,
        signature="serving_default",
        inputs={"x": _NUMBERS},
        rows=2,
        start_s=0.0,
        promised=(TensorSpec(name="y", dtype="float32", shape=(-1, 3)),),
    ),
)


def _read_reply(data: bytes) -> None:
    response = pb.PredictResponse.FromString(data)
    replies = [
        attempt(lambda one=one: codec.reply(one, response, "here:1", 1.0), (Unfit, ValueError)) for one in _REQUESTS
    ]
    if not any(replies):
        raise ValueError("no request takes it")
    for reply in replies:
        assert reply is None or all(array.flags.writeable for array in reply.outputs.values())


def _reply_seeds() -> list[bytes]:
    responses = [pb.PredictResponse(outputs={"y": tensors.encode(array)}) for array in _ARRAYS]
    for response in responses:
        response.model_spec.name, response.model_spec.version.value = "m", 3
    return [response.SerializeToString() for response in responses]


def _read_metadata(data: bytes) -> None:
    for signature in codec.signatures(pb.GetModelMetadataResponse.FromString(data)).values():
        assert isinstance(signature, Signature)


def _metadata_seeds() -> list[bytes]:
    map_ = _signature_map()
    response = pb.GetModelMetadataResponse()
    response.metadata["signature_def"].value = map_.SerializeToString()
    return [response.SerializeToString()]


def _signature_map() -> tensor_pb2.SignatureDefMap:
    map_ = tensor_pb2.SignatureDefMap()
    for side in ("inputs", "outputs"):
        info = getattr(map_.signature_def["serving_default"], side)["x"]
        info.dtype, info.name = tensor_pb2.DT_FLOAT, "x:0"
        info.tensor_shape.dim.add(size=-1)
        info.tensor_shape.dim.add(size=3)
    return map_


def _read_signature_map(data: bytes) -> None:
    response = pb.GetModelMetadataResponse()
    response.metadata["signature_def"].value = data
    codec.signatures(response)


def _read_catalog(data: bytes) -> None:
    told = catalog.read_update(bounds.read(methods.CATALOG_GET, data))
    status = bounds.read(methods.GET_MODEL_STATUS, data)
    catalog.with_status(told, "m", status)


def _catalog_seeds() -> list[bytes]:
    update = edge.CatalogUpdate(server_id="a", revision=3)
    model = update.models.add(name="m", default_version=2, labels={"stable": 1}, traffic={1: 0.5, 2: 0.5})
    model.versions.add(version=1, state=edge.Version.AVAILABLE, error="x")
    model.versions.add(version=2, state=edge.Version.LOADING)
    status = pb.GetModelStatusResponse()
    status.model_version_status.add(version=1, state=pb.ModelVersionStatus.AVAILABLE)
    return [update.SerializeToString(), status.SerializeToString()]


def _read_description(data: bytes) -> None:
    described = _checked(edge.PackageDescription.FromString(data), "digits", None)
    assert described.total_bytes >= described.manifest_bytes > 0


def _description_seeds() -> list[bytes]:
    answer = edge.PackageDescription(model="digits", version=1, digest="sha256:" + "0" * 64)
    for path in ("manifest.json", "manifest.sha256", "float32.tflite"):
        answer.files.add(path=path, bytes=100, sha256="0" * 64)
    return [answer.SerializeToString()]


# ---- mDNS


def _read_txt(data: bytes) -> None:
    from zeroconf import ServiceInfo

    info = ServiceInfo(SERVICE_TYPE, f"a.{SERVICE_TYPE}", port=8500, properties=data, addresses=[data[:4].ljust(4)])
    announcement = Announcement.from_txt(info.properties)
    refusal(announcement)
    assert all(map(is_address, usable_addresses(info.parsed_scoped_addresses(), info.port)))
    assert announcement.port_of("tfs-rest", 1) is None or 0 < announcement.port_of("tfs-rest", 1) < 65536
    again = {key.encode(): value.encode() for key, value in announcement.to_txt().items()}
    assert Announcement.from_txt(again) == announcement


def _txt_seeds() -> list[bytes]:
    announcement = Announcement(server_id="edge-1", apis=("tfs-grpc", "tfs-rest=8501", "edge-v1"))
    secure = Announcement(server_id="edge-1", tls=True, fingerprint="0" * 64)
    return [
        b"".join(bytes((len(f"{key}={value}"),)) + f"{key}={value}".encode() for key, value in one.to_txt().items())
        for one in (announcement, secure)
    ]


def _read_packet(data: bytes) -> None:
    from zeroconf import DNSIncoming

    packet = DNSIncoming(data, ("10.0.0.1", 5353))
    for answer in packet.answers():
        text = getattr(answer, "text", None)
        if text is not None:
            attempt(lambda text=text: _read_txt(text), (AnnouncementInvalid,))


def _packet_seeds() -> list[bytes]:
    from zeroconf import DNSOutgoing, ServiceInfo

    info = ServiceInfo(
        SERVICE_TYPE,
        f"a.{SERVICE_TYPE}",
        port=8500,
        properties=_txt_seeds()[0],
        addresses=[socket.inet_aton("10.0.0.1")],
        server="a.local.",
    )
    out = DNSOutgoing(0x8400)
    for record in (info.dns_pointer(), info.dns_service(), info.dns_text(), *info.dns_addresses()):
        out.add_answer_at_time(record, 0)
    return list(out.packets())


_DEVICE = ("edge_runtime.remote", "fallback_server.protocol", "converter.artifact")

TARGETS: Sequence[Target] = (
    Target(
        name="reply",
        read=_read_reply,
        refusals=(DecodeError, ValueError, Unfit),
        seeds=_reply_seeds,
        message=pb.PredictResponse,
        modules=_DEVICE,
    ),
    Target(
        name="metadata",
        read=_read_metadata,
        refusals=(DecodeError, ValueError),
        seeds=_metadata_seeds,
        message=pb.GetModelMetadataResponse,
        modules=_DEVICE,
    ),
    Target(
        name="signature_map",
        read=_read_signature_map,
        refusals=(ValueError,),
        seeds=lambda: [_signature_map().SerializeToString()],
        message=tensor_pb2.SignatureDefMap,
        modules=_DEVICE,
    ),
    Target(
        name="catalog",
        read=_read_catalog,
        refusals=(DecodeError, ValueError),
        seeds=_catalog_seeds,
        message=edge.CatalogUpdate,
        modules=_DEVICE,
    ),
    Target(
        name="description",
        read=_read_description,
        refusals=(DecodeError, ManifestInvalid, ValueError),
        seeds=_description_seeds,
        message=edge.PackageDescription,
        modules=_DEVICE,
    ),
    Target(
        name="mdns_txt",
        read=_read_txt,
        refusals=(AnnouncementInvalid,),
        seeds=_txt_seeds,
        words=(b"proto=1", b"id=", b"tls=1", b"apis=", b"fp=", b"\xff", b"=", b"99999999999999999999999"),
        modules=("fallback_server.protocol.mdns", "edge_runtime.remote"),
        max_bytes=1300,
    ),
    Target(
        name="mdns_packet",
        read=_read_packet,
        refusals=(),
        seeds=_packet_seeds,
        modules=("fallback_server.protocol.mdns", "edge_runtime.remote"),
        max_bytes=9000,
    ),
)
"""All of them."""
