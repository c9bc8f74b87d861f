"""gRPC's health service: the server, its services, and each model, whose watchers don't keep the server from ending."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping

from grpc_health.v1 import health_pb2

from fallback_server.access.rules import Scope
from fallback_server.core.errors import ModelNotFound
from fallback_server.core.servable import ServableState, State
from fallback_server.protocol import methods
from fallback_server.protocol.methods import Method
from fallback_server.transport.call_guard import CallGuard
from fallback_server.transport.changes import Changes
from fallback_server.transport.places import Places, place_of
from fallback_server.transport.rpc import Caller, Context, Rpcs
from fallback_server.transport.services import Handlers

HEALTH_SERVICE = "grpc.health.v1.Health"
CHECK = Method(HEALTH_SERVICE, "Check", health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse)
WATCH = Method(
    HEALTH_SERVICE, "Watch", health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse, streams_responses=True
)

SERVER_NAMES = (
    "",
    "ModelService",
    "PredictionService",
    methods.MODEL_SERVICE,
    methods.PREDICTION_SERVICE,
    methods.INFERENCE_SERVICE,
    methods.CATALOG_SERVICE,
    methods.OPERATOR_SERVICE,
)
"""The server as a whole, the names that TensorFlow Serving gives its services, and all services by their full names.
Whatever else is asked for is a model's name."""

MAX_WATCHERS = 2048
"""At a time; of one address as many as there are free places, so half of them alone, see `Places`."""

ASK_S = 0.5
"""Between two looks whether who watches a model may still see it: of rules that change nobody tells."""

_SERVING: int = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def model_statuses(states: Iterable[ServableState]) -> Mapping[str, int]:
    """A model serves while a version of it is AVAILABLE."""
    statuses: dict[str, int] = {}
    for state in states:
        name = state.servable_id.name
        if state.state is State.AVAILABLE:
            statuses[name] = _SERVING
        else:
            statuses.setdefault(name, _NOT_SERVING)
    return statuses


class HealthService:
    """Check and Watch.

    Args:
        index: The states of all versions of all models.
        changes: Tells when they have changed.
        guard: Knows who may see which model; of the server itself everybody is told.
    """

    def __init__(self, index: Callable[[], Iterable[ServableState]], changes: Changes, guard: CallGuard) -> None:
        self._index = index
        self._changes = changes
        self._guard = guard
        self._serving = False
        self._watches = Places("Watch", MAX_WATCHERS)
        self._looked = -1
        self._models: Mapping[str, int] = {}

    def set_serving(self, *, serving: bool) -> None:
        """What is told of the server and of its services."""
        self._serving = serving
        self._changes.tell()

    def status(self, name: str) -> int:
        """What is told of that name; SERVICE_UNKNOWN for none."""
        if name in SERVER_NAMES:
            return _SERVING if self._serving else _NOT_SERVING
        if self._looked != self._changes.count:
            self._looked = self._changes.count
            self._models = model_statuses(self._index())
        status = self._models.get(name, _UNKNOWN)
        return status if self._serving or status == _UNKNOWN else _NOT_SERVING

    def handlers(self, rpcs: Rpcs) -> Handlers:
        """By method."""
        return {CHECK: rpcs.message(CHECK, self._check), WATCH: rpcs.responses(WATCH, self._watch)}

    async def _check(self, request: health_pb2.HealthCheckRequest, caller: Caller) -> health_pb2.HealthCheckResponse:
        self._admit(request.service, caller)
        status = self.status(request.service)
        if status == _UNKNOWN:
            raise ModelNotFound(f"no service and no model is named {request.service}")
        return health_pb2.HealthCheckResponse(status=status)

    async def _watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse, None]:
        """Tells each change until the caller leaves or may not see it any more, or the server closes."""
        asked = self._guard.inference and request.service not in SERVER_NAMES
        self._admit(request.service, context)
        with self._watches.taken(*place_of(context), stranger=self._guard.is_stranger(context)):
            last: int | None = None
            seen = -1
            while True:
                closed = self._changes.closed
                seen = self._changes.count
                self._admit(request.service, context)
                status = self.status(request.service)
                if status != last:
                    yield health_pb2.HealthCheckResponse(status=status)
                    last = status
                if closed:
                    return
                await self._changes.wait(seen, ASK_S if asked else None)

    def _admit(self, name: str, caller: Caller) -> None:
        """Refuses callers who may not see a model: also of one that there is not, or its name would tell.

        Raises:
            ServerError: see `Guard.admit`.
        """
        if name not in SERVER_NAMES:
            self._guard.admit(caller, Scope.STATUS, [name], "health")
