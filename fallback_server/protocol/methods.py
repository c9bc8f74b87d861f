"""The RPCs: TensorFlow Serving's paths with our message classes.

The stubs carry our package's name, the paths TensorFlow Serving's; so the calls are bound here by hand instead of by
a generated service.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from fallback_server.protocol.proto import serving_pb2 as pb

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True)
class Method(Generic[Request, Response]):
    """One unary RPC.

    Attributes:
        service: Its full service name, as on the wire.
        name: Its name in the service.
        request: The message class that goes.
        response: The message class that comes.
    """

    service: str
    name: str
    request: type[Request]
    response: type[Response]

    @property
    def path(self) -> str:
        """`/service/name`, as in HTTP/2's `:path`."""
        return f"/{self.service}/{self.name}"

    def bind(self, channel: grpc.Channel) -> grpc.UnaryUnaryMultiCallable[Request, Response]:
        """The callable for a synchronous channel: `(request, timeout=s)`, or `.future(...)`."""
        callable_: grpc.UnaryUnaryMultiCallable[Any, Any] = channel.unary_unary(
            self.path, request_serializer=self.request.SerializeToString, response_deserializer=self.response.FromString
        )
        return callable_


PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"

PREDICT = Method(PREDICTION_SERVICE, "Predict", pb.PredictRequest, pb.PredictResponse)
GET_MODEL_METADATA = Method(
    PREDICTION_SERVICE, "GetModelMetadata", pb.GetModelMetadataRequest, pb.GetModelMetadataResponse
)
GET_MODEL_STATUS = Method(MODEL_SERVICE, "GetModelStatus", pb.GetModelStatusRequest, pb.GetModelStatusResponse)

SIGNATURE_DEF_FIELD = "signature_def"
"""The only metadata field there is."""

SIGNATURE_DEF_TYPE_URL = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
"""What TensorFlow Serving's clients unpack the metadata as; our SignatureDefMap has the same bytes."""

UNLIMITED_MESSAGES = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)
"""gRPC's own default refuses what is over 4 MiB; models' tensors are larger. Both ends lift it."""
