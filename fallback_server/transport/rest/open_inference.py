"""The Open Inference Protocol, version 2, over HTTP, with what Triton adds: binary tensors, repository, statistics."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.responses import Response

from fallback_server.core.errors import InvalidInput, Unimplemented
from fallback_server.core.servable import State
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import PredictCall
from fallback_server.transport import model_facts as facts
from fallback_server.transport.rest import inference_codec as codec
from fallback_server.transport.rest.backend import JSON_BYTES, Backend
from fallback_server.transport.rest.exchange import ENTRYPOINT, Exchange, json_answer
from fallback_server.transport.rest.inference_codec import HEADER_LENGTH
from fallback_server.transport.rest.json_arrays import Json, shown
from fallback_server.transport.rest.json_codec import dump, parse
from fallback_server.transport.rest.tensorflow_serving import size_of
from fallback_server.transport.targets import read_target


class OpenInference:
    """The handlers of `/v2`.

    Args:
        backend: What they work with.
        version: The server's, as it is told.
    """

    def __init__(self, backend: Backend, *, version: str) -> None:
        self._backend = backend
        self._version = version

    async def server(self, exchange: Exchange) -> Response:
        """What this server is."""
        del exchange
        return json_answer(dump({"name": facts.SERVER_NAME, "version": self._version, "extensions": facts.EXTENSIONS}))

    async def live(self, exchange: Exchange) -> Response:
        """Whether the server runs: it does."""
        del exchange
        return json_answer(dump({"live": True}))

    async def ready(self, exchange: Exchange) -> Response:
        """Whether the server takes requests."""
        del exchange
        ready = self._backend.serving
        return json_answer(dump({"ready": ready}), 200 if ready else 503)

    async def model(self, exchange: Exchange) -> Response:
        """The inputs and outputs of a version's signature, and the versions that answer."""
        return json_answer(dump(facts.metadata(self._backend.models, _target(exchange.params))))

    async def config(self, exchange: Exchange) -> Response:
        """What a version takes and gives, and how its requests are merged."""
        target = _target(exchange.params)
        with self._backend.models.acquire(target) as handle:
            document = facts.configuration(target.name, handle.servable)
        return json_answer(dump(document))

    async def statistics(self, exchange: Exchange) -> Response:
        """What versions have answered: of all models where the path names none. In a thread, as there may be many."""
        target = _target(exchange.params) if exchange.params else None
        document = await asyncio.to_thread(facts.statistics, self._backend.models, target, exchange.seen())
        return json_answer(dump(document))

    async def model_ready(self, exchange: Exchange) -> Response:
        """Whether a model, or a version of it, answers."""
        target = _target(exchange.params)
        states = self._backend.models.states(target)
        ready = any(state.state is State.AVAILABLE for state in states)
        return json_answer(dump({"name": target.name, "ready": ready}), 200 if ready else 503)

    async def infer(self, exchange: Exchange) -> Response:
        """Runs a model."""
        target = _target(exchange.params)
        body = await exchange.body()
        length = exchange.request.headers.get(HEADER_LENGTH)
        size_bytes = codec.json_bytes(body, length)
        request = await self._backend.read(exchange.request, size_bytes, codec.read_request, body, length)
        del body
        call = PredictCall(
            target=target,
            signature=request.signature,
            inputs=request.inputs,
            output_filter=[output.name for output in request.outputs],
            deadline_s=self._deadline_s(exchange, request.timeout_s),
            client_key=request.client_key or exchange.client_key,
            entrypoint=ENTRYPOINT,
            entry_point=facts.entry_point,
            priority=request.priority,
        )
        reply = await exchange.predict(call)
        head, tensors = await self._backend.work(size_of(reply.outputs), codec.write_reply, reply, request)
        if not tensors:
            return json_answer(head)
        response = json_answer(b"".join([head, *tensors]))
        response.headers["content-type"] = "application/octet-stream"
        response.headers[HEADER_LENGTH] = str(len(head))
        return response

    async def index(self, exchange: Exchange) -> Response:
        """All versions and their states; those that answer alone, where the request says `ready`."""
        body = await exchange.body(JSON_BYTES)
        ready = parse(body).get("ready", False) if body else False
        if not isinstance(ready, bool):
            raise InvalidInput(f"'ready' must be true or false, got {shown(ready)}")
        return json_answer(dump(facts.repository(self._backend.models, ready=ready, seen=exchange.seen())))

    async def load(self, exchange: Exchange) -> Response:
        """Takes a model back into service; answers when it is loaded, or can't be."""
        name = exchange.params["model"]
        if parameters := _parameters(await exchange.body(JSON_BYTES)):
            raise Unimplemented(f"load parameters are not supported: {shown(parameters)}")
        await asyncio.to_thread(self._backend.models.load, name, who=exchange.who)
        await self._backend.settled(name)
        return Response(status_code=200)

    async def unload(self, exchange: Exchange) -> Response:
        """Takes a model out of service; answers at once, and what is in flight is finished first."""
        facts.check_unload(_parameters(await exchange.body(JSON_BYTES)))
        await asyncio.to_thread(self._backend.models.unload, exchange.params["model"], who=exchange.who)
        return Response(status_code=200)

    def _deadline_s(self, exchange: Exchange, timeout_s: float | None) -> float | None:
        if timeout_s is None:
            return exchange.deadline_s
        end_s = self._backend.dataplane.clock() + timeout_s
        return end_s if exchange.deadline_s is None else min(end_s, exchange.deadline_s)


def _target(params: Mapping[str, str]) -> ModelTarget:
    return read_target(params["model"], params.get("version", ""))


def _parameters(body: bytearray) -> Mapping[str, Json]:
    """What an order to load or unload says beside the model's name, which need be nothing."""
    parameters = parse(body).get("parameters", {}) if body else {}
    if not isinstance(parameters, dict):
        raise InvalidInput(f"'parameters' must be an object, got {shown(parameters)}")
    return parameters
