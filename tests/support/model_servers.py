"""Real gRPC servers that answer just the calls that a test gives them."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

from fallback_server.protocol.methods import GET_MODEL_STATUS, UNLIMITED_MESSAGES
from fallback_server.protocol.proto import serving_pb2 as pb

WAIT_S = 10


@contextmanager
def serving(answers):
    """The address of a server; `answers` has by Method a function of the request: the answer, or (code, text)."""

    def behaviour(answer):
        def handle(request, context):
            said = answer(request)
            return context.abort(*said) if isinstance(said, tuple) else said

        return handle

    handlers = {}
    for method, answer in answers.items():
        handlers.setdefault(method.service, {})[method.name] = grpc.unary_unary_rpc_method_handler(
            behaviour(answer),
            request_deserializer=method.request.FromString,
            response_serializer=method.response.SerializeToString,
        )
    server = grpc.server(ThreadPoolExecutor(4), options=UNLIMITED_MESSAGES)
    for service, methods in handlers.items():
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait(WAIT_S)


def model_statuses(**models):
    """What TensorFlow Serving's ModelService says: by model, its AVAILABLE versions; what else is asked, NOT_FOUND."""

    def answer(request):
        name = request.model_spec.name
        if not name:
            return grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec"
        if name not in models:
            return grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {name}"
        return pb.GetModelStatusResponse(
            model_version_status=[
                pb.ModelVersionStatus(version=version, state=pb.ModelVersionStatus.State.AVAILABLE)
                for version in models[name]
            ]
        )

    return {GET_MODEL_STATUS: answer}
