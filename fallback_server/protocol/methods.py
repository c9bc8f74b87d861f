"""The RPCs: TensorFlow Serving's, the Open Inference Protocol's and our own paths, with our message classes.

The stubs carry our package's name, the paths the others'; so the calls are bound here by hand instead of by a generated
service.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.protocol.proto import inference_pb2 as oip
from fallback_server.protocol.proto import serving_pb2 as pb

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True)
class Method(Generic[Request, Response]):
    """One RPC.

    Attributes:
        service: Its full service name, as on the wire.
        name: Its name in the service.
        request: The message class that goes.
        response: The message class that comes.
        streams_requests: Whether several may go in one call.
        streams_responses: Whether several may come.
    """

    service: str
    name: str
    request: type[Request]
    response: type[Response]
    streams_requests: bool = False
    streams_responses: bool = False

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
INFERENCE_SERVICE = "inference.GRPCInferenceService"
CATALOG_SERVICE = "edge.v1.Catalog"
OPERATOR_SERVICE = "edge.v1.Operator"
DELIVERY_SERVICE = "edge.v1.Delivery"
SEQUENCE_SERVICE = "edge.v1.Sequence"

PREDICT = Method(PREDICTION_SERVICE, "Predict", pb.PredictRequest, pb.PredictResponse)
CLASSIFY = Method(PREDICTION_SERVICE, "Classify", pb.ClassificationRequest, pb.ClassificationResponse)
REGRESS = Method(PREDICTION_SERVICE, "Regress", pb.RegressionRequest, pb.RegressionResponse)
MULTI_INFERENCE = Method(PREDICTION_SERVICE, "MultiInference", pb.MultiInferenceRequest, pb.MultiInferenceResponse)
GET_MODEL_METADATA = Method(
    PREDICTION_SERVICE, "GetModelMetadata", pb.GetModelMetadataRequest, pb.GetModelMetadataResponse
)
GET_MODEL_STATUS = Method(MODEL_SERVICE, "GetModelStatus", pb.GetModelStatusRequest, pb.GetModelStatusResponse)
RELOAD_CONFIG = Method(MODEL_SERVICE, "HandleReloadConfigRequest", pb.ReloadConfigRequest, pb.ReloadConfigResponse)

SERVER_LIVE = Method(INFERENCE_SERVICE, "ServerLive", oip.ServerLiveRequest, oip.ServerLiveResponse)
SERVER_READY = Method(INFERENCE_SERVICE, "ServerReady", oip.ServerReadyRequest, oip.ServerReadyResponse)
MODEL_READY = Method(INFERENCE_SERVICE, "ModelReady", oip.ModelReadyRequest, oip.ModelReadyResponse)
SERVER_METADATA = Method(INFERENCE_SERVICE, "ServerMetadata", oip.ServerMetadataRequest, oip.ServerMetadataResponse)
MODEL_METADATA = Method(INFERENCE_SERVICE, "ModelMetadata", oip.ModelMetadataRequest, oip.ModelMetadataResponse)
MODEL_INFER = Method(INFERENCE_SERVICE, "ModelInfer", oip.ModelInferRequest, oip.ModelInferResponse)
MODEL_STREAM_INFER = Method(
    INFERENCE_SERVICE,
    "ModelStreamInfer",
    oip.ModelInferRequest,
    oip.ModelStreamInferResponse,
    streams_requests=True,
    streams_responses=True,
)
MODEL_CONFIG = Method(INFERENCE_SERVICE, "ModelConfig", oip.ModelConfigRequest, oip.ModelConfigResponse)
MODEL_STATISTICS = Method(INFERENCE_SERVICE, "ModelStatistics", oip.ModelStatisticsRequest, oip.ModelStatisticsResponse)
REPOSITORY_INDEX = Method(INFERENCE_SERVICE, "RepositoryIndex", oip.RepositoryIndexRequest, oip.RepositoryIndexResponse)
REPOSITORY_MODEL_LOAD = Method(
    INFERENCE_SERVICE, "RepositoryModelLoad", oip.RepositoryModelLoadRequest, oip.RepositoryModelLoadResponse
)
REPOSITORY_MODEL_UNLOAD = Method(
    INFERENCE_SERVICE, "RepositoryModelUnload", oip.RepositoryModelUnloadRequest, oip.RepositoryModelUnloadResponse
)

CATALOG_GET = Method(CATALOG_SERVICE, "Get", edge.CatalogRequest, edge.CatalogUpdate)
CATALOG_WATCH = Method(CATALOG_SERVICE, "Watch", edge.CatalogRequest, edge.CatalogUpdate, streams_responses=True)
SET_LABEL = Method(OPERATOR_SERVICE, "SetLabel", edge.SetLabelRequest, edge.SetLabelResponse)
SET_TRAFFIC = Method(OPERATOR_SERVICE, "SetTraffic", edge.SetTrafficRequest, edge.SetTrafficResponse)
ROLLBACK = Method(OPERATOR_SERVICE, "Rollback", edge.RollbackRequest, edge.RollbackResponse)
RELOAD = Method(OPERATOR_SERVICE, "Reload", edge.ReloadRequest, edge.ReloadResponse)
DESCRIBE_PACKAGE = Method(DELIVERY_SERVICE, "Describe", edge.PackageRequest, edge.PackageDescription)
FETCH_PACKAGE = Method(DELIVERY_SERVICE, "Fetch", edge.FetchRequest, edge.Chunk, streams_responses=True)
RUN_SEQUENCE = Method(
    SEQUENCE_SERVICE,
    "Run",
    edge.SequenceRequest,
    edge.SequenceResponse,
    streams_requests=True,
    streams_responses=True,
)

SIGNATURE_DEF_FIELD = "signature_def"
"""The only metadata field there is."""

SIGNATURE_DEF_TYPE_URL = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
"""What TensorFlow Serving's clients unpack the metadata as; our SignatureDefMap has the same bytes."""

TENSOR_CONTENT_METADATA = ("edge-tensor-content", "1")
"""Metadata of a Predict that asks for `tensor_content` in the answer, in place of typed values: integers take longer to
write and read as those. A server that doesn't know it, such as TensorFlow Serving, passes it over."""

PREPROCESSING_METADATA = "edge-preprocessing"
"""The key of a request's metadata, over HTTP its header, that says by which preprocessing its inputs were made:
`sha256:` and 64 hexadecimal digits, as a package's manifest has it. Where the version that would answer is known to
have another, the request is refused with FAILED_PRECONDITION. A server that doesn't know the key passes it over."""

SERVER_MS_METADATA = "edge-server-ms"
"""The key of the trailing metadata of an answered Predict that says how many milliseconds of it were the server's own:
from the last byte of the request to the first of the answer. What is left of the caller's time the network took."""

UNLIMITED_MESSAGES = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)
"""gRPC's own default refuses what is over 4 MiB; models' tensors are larger. Both ends lift it."""
