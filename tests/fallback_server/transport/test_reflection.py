import asyncio

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2
from support.grpc_stand import loaded

from fallback_server.protocol import methods
from fallback_server.protocol.methods import Method
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.tensors import encode
from fallback_server.transport import health
from fallback_server.transport.reflection import REFLECTION_SERVICES, descriptor_set

pytestmark = pytest.mark.usefixtures("transport")

ALL = [value for value in vars(methods).values() if isinstance(value, Method)]
GENUINE = [
    ("tensorflow.TensorProto", "tensor_content", 4),
    ("tensorflow.SignatureDef", "method_name", 3),
    ("tensorflow.Example", "features", 1),
    ("tensorflow.serving.SignatureDefMap", "signature_def", 1),
    ("tensorflow.serving.PredictRequest", "inputs", 2),
    ("tensorflow.serving.ModelConfig", "model_version_policy", 7),
    ("inference.ModelInferRequest", "raw_input_contents", 7),
]


@pytest.mark.parametrize(("name", "field", "number"), GENUINE)
def test_messages_have_their_genuine_names(name, field, number):
    """Under the package that their clients know, with the same fields."""
    message = descriptor_set(ALL).FindMessageTypeByName(name)
    assert message.fields_by_name[field].number == number


def test_services_have_all_their_methods():
    """With what goes in and out, and which stream."""
    pool = descriptor_set(ALL)
    for method in ALL:
        found = pool.FindServiceByName(method.service).methods_by_name[method.name]
        assert found.input_type.full_name.endswith(method.request.DESCRIPTOR.name)
        assert not found.input_type.full_name.startswith("edge.wire")
        assert (found.client_streaming, found.server_streaming) == (method.streams_requests, method.streams_responses)


def test_what_is_not_offered_is_not_told():
    """Newer versions of the health service have a List, which this server doesn't answer."""
    service = descriptor_set([*ALL, health.CHECK, health.WATCH]).FindServiceByName(health.HEALTH_SERVICE)
    assert set(service.methods_by_name) == {"Check", "Watch"}


@pytest.mark.parametrize("service", REFLECTION_SERVICES)
def test_reflection_tells_of_itself(service):
    """In both packages, each with messages of its own."""
    (method,) = descriptor_set(ALL).FindServiceByName(service).methods
    package = service.rpartition(".")[0]
    assert (method.input_type.full_name, method.output_type.full_name) == (
        f"{package}.ServerReflectionRequest",
        f"{package}.ServerReflectionResponse",
    )
    assert method.input_type.fields_by_name["file_containing_extension"].message_type.full_name.startswith(package)


@pytest.mark.parametrize("service", REFLECTION_SERVICES)
def test_a_client_that_knows_nothing_can_call(tmp_path, service):
    """As grpcurl does: lists, asks for a service's files, builds the messages out of them, calls, and reads."""

    async def story():
        async with loaded(path=tmp_path) as stand:
            reflect = stand.channel.stream_stream(
                f"/{service}/ServerReflectionInfo",
                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )
            asked = [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol=methods.PREDICTION_SERVICE),
            ]
            listed, files = [reply async for reply in reflect(iter(asked))]
            names = {each.name for each in listed.list_services_response.service}
            assert {
                methods.PREDICTION_SERVICE,
                methods.INFERENCE_SERVICE,
                "edge.v1.Catalog",
                *REFLECTION_SERVICES,
            } < names
            pool = descriptor_pool.DescriptorPool()
            waiting = [
                descriptor_pb2.FileDescriptorProto.FromString(data)
                for data in files.file_descriptor_response.file_descriptor_proto
            ]
            added = set()
            while waiting:
                file = waiting.pop(0)
                if set(file.dependency) <= added:
                    pool.Add(file)
                    added.add(file.name)
                else:
                    waiting.append(file)
            method = pool.FindServiceByName(methods.PREDICTION_SERVICE).methods_by_name["Predict"]
            request = message_factory.GetMessageClass(method.input_type)()
            request.model_spec.name = "m"
            request.inputs["x"].ParseFromString(encode([[1, 2]]).SerializeToString())
            request.inputs["x"].dtype = 1
            request.inputs["x"].tensor_content = b""
            request.inputs["x"].float_val.extend([1, 2])
            call = stand.channel.unary_unary(methods.PREDICT.path)
            reply = message_factory.GetMessageClass(method.output_type).FromString(
                await call(request.SerializeToString())
            )
            assert reply.model_spec.name == "m"
            assert list(pb.PredictResponse.FromString(reply.SerializeToString()).outputs["y"].float_val) == [2, 4]

    asyncio.run(story())
