"""gRPC's reflection: the services and messages by the names that their clients know.

Our stubs carry a package name of our own, so that they load beside TensorFlow's and Triton's; what is on the wire has
theirs. So the descriptors are made anew here, with the names changed, in a pool of their own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, wrappers_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2  # type: ignore[import-untyped]

from fallback_server.access.rules import Scope
from fallback_server.protocol import methods
from fallback_server.protocol.methods import Method
from fallback_server.protocol.proto import (
    edge_pb2,
    example_pb2,
    inference_pb2,
    model_config_pb2,
    serving_pb2,
    tensor_pb2,
)
from fallback_server.transport.call_guard import CallGuard, refusal_of
from fallback_server.transport.faults import status_of
from fallback_server.transport.rpc import Context, aborted

_NEWER = "grpc.reflection.v1"

REFLECTION_SERVICES = (reflection.SERVICE_NAME, f"{_NEWER}.ServerReflection")
"""The same messages and the same call; clients try the newer name first."""

_TENSORFLOW = "tensorflow"
_SERVING = "tensorflow.serving"
_INFERENCE = "inference"
_SIGNATURE_DEF_MAP = "SignatureDefMap"

_PACKAGES = (
    (tensor_pb2, _TENSORFLOW),
    (example_pb2, _TENSORFLOW),
    (model_config_pb2, _SERVING),
    (serving_pb2, _SERVING),
    (inference_pb2, _INFERENCE),
    (edge_pb2, edge_pb2.DESCRIPTOR.package),
)
"""Our stubs, and the package that their messages are in for everybody else; what is ours alone holds others' too."""

_AS_THEY_ARE = (any_pb2, wrappers_pb2, health_pb2, reflection_pb2)

_DEFINED = (
    methods.CATALOG_SERVICE,
    methods.OPERATOR_SERVICE,
    methods.DELIVERY_SERVICE,
    methods.SEQUENCE_SERVICE,
    "grpc.health.v1.Health",
)
"""Services that the stubs define under their own names."""


def reflection_handlers(services: Iterable[Method[Any, Any]], guard: CallGuard) -> list[grpc.GenericRpcHandler]:
    """The handlers of gRPC's reflection, for what is served.

    Args:
        services: The methods that it is to tell of.
        guard: Knows who may see something.
    """
    offered = list(services)
    names = {method.service for method in offered}
    servicer = reflection.aio.ReflectionServicer([*names, *REFLECTION_SERVICES], pool=descriptor_set(offered))

    async def info(requests: Any, context: Context) -> AsyncIterator[Any]:
        if (refusal := refusal_of(lambda: guard.admit_any(context, Scope.STATUS, "ServerReflection"))) is not None:
            await aborted(context, *status_of(refusal))
        async for response in servicer.ServerReflectionInfo(requests, context):
            yield response

    handler = grpc.stream_stream_rpc_method_handler(
        info,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return [
        grpc.method_handlers_generic_handler(service, {"ServerReflectionInfo": handler})
        for service in REFLECTION_SERVICES
    ]


def descriptor_set(offered: Sequence[Method[Any, Any]]) -> descriptor_pool.DescriptorPool:
    """A pool with the genuine names of all messages, and with the services of the methods."""
    pool = descriptor_pool.DescriptorPool()
    renamed = _new_names()
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    for module in (*_AS_THEY_ARE, *(module for module, _ in _PACKAGES)):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        files[file.name] = file
    for module, package in _PACKAGES:
        _rename(files[module.DESCRIPTOR.name], package, renamed)
    _move_signature_def_map(files)
    files.update(_service_files(offered, renamed))
    _keep_offered(files[health_pb2.DESCRIPTOR.name], offered)
    newer = _newer_reflection(files[reflection_pb2.DESCRIPTOR.name])
    files[newer.name] = newer
    for file in files.values():
        pool.Add(file)
    return pool


def _new_names() -> Mapping[str, str]:
    """`.our.Message` -> `.their.Message`, for messages and enums at the top of a file."""
    names: dict[str, str] = {}
    for module, package in _PACKAGES:
        file = module.DESCRIPTOR
        for name in (*file.message_types_by_name, *file.enum_types_by_name):
            names[f".{file.package}.{name}"] = f".{package}.{name}"
    names[f".{tensor_pb2.DESCRIPTOR.package}.{_SIGNATURE_DEF_MAP}"] = f".{_SERVING}.{_SIGNATURE_DEF_MAP}"
    return names


def _renamed(type_name: str, names: Mapping[str, str]) -> str:
    """A type's new name; of a nested one, that of the message around it counts."""
    outer, nested = type_name, ""
    while outer and outer not in names:
        outer, _, last = outer.rpartition(".")
        nested = f".{last}{nested}"
    return names[outer] + nested if outer else type_name


def _rename(file: descriptor_pb2.FileDescriptorProto, package: str, names: Mapping[str, str]) -> None:
    file.package = package
    pending = list(file.message_type)
    while pending:
        message = pending.pop()
        pending.extend(message.nested_type)
        for field in message.field:
            if field.type_name:
                field.type_name = _renamed(field.type_name, names)


def _move_signature_def_map(files: Mapping[str, descriptor_pb2.FileDescriptorProto]) -> None:
    """It is TensorFlow Serving's, and stands with TensorFlow's messages in our stubs."""
    source, target = files[tensor_pb2.DESCRIPTOR.name], files[serving_pb2.DESCRIPTOR.name]
    (index,) = [index for index, each in enumerate(source.message_type) if each.name == _SIGNATURE_DEF_MAP]
    target.message_type.append(source.message_type.pop(index))


def _keep_offered(file: descriptor_pb2.FileDescriptorProto, offered: Sequence[Method[Any, Any]]) -> None:
    """Takes out what a newer version of gRPC's health service has, and this server doesn't."""
    paths = {method.path for method in offered}
    for service in file.service:
        kept = [method for method in service.method if f"/{file.package}.{service.name}/{method.name}" in paths]
        del service.method[:]
        service.method.extend(kept)


def _newer_reflection(older: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FileDescriptorProto:
    """Reflection's newer package, which grpcio-reflection has no stubs of: the older under another name."""
    newer = descriptor_pb2.FileDescriptorProto()
    newer.CopyFrom(older)
    newer.name = f"{_NEWER.replace('.', '/')}/reflection.proto"
    names = {f".{older.package}.{message.name}": f".{_NEWER}.{message.name}" for message in older.message_type}
    _rename(newer, _NEWER, names)
    for method in newer.service[0].method:
        method.input_type, method.output_type = names[method.input_type], names[method.output_type]
    return newer


def _service_files(
    offered: Sequence[Method[Any, Any]], names: Mapping[str, str]
) -> Mapping[str, descriptor_pb2.FileDescriptorProto]:
    """A file a service, but for those whose stubs define it under its own name."""
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    for method in offered:
        if method.service in _DEFINED:
            continue
        package, _, service = method.service.rpartition(".")
        path = f"{method.service.replace('.', '/')}.proto"
        file = files.get(path)
        if file is None:
            file = files[path] = descriptor_pb2.FileDescriptorProto(name=path, package=package, syntax="proto3")
            file.service.add(name=service)
            file.dependency.append(method.request.DESCRIPTOR.file.name)
        file.service[0].method.add(
            name=method.name,
            input_type=_renamed(f".{method.request.DESCRIPTOR.full_name}", names),
            output_type=_renamed(f".{method.response.DESCRIPTOR.full_name}", names),
            client_streaming=method.streams_requests,
            server_streaming=method.streams_responses,
        )
    return files
