"""TensorFlow Serving's REST interface: predict, classify, regress, status and metadata."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from google.protobuf import json_format
from starlette.responses import Response

from fallback_server import classification
from fallback_server.core.errors import InvalidInput, ServerError
from fallback_server.core.servable import ServableId, ServableState
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import PredictCall, Verb
from fallback_server.executors.base import Array, Signature
from fallback_server.protocol.proto import tensor_pb2 as pb
from fallback_server.transport.faults import fault_of_state
from fallback_server.transport.rest import json_codec
from fallback_server.transport.rest.backend import Backend
from fallback_server.transport.rest.examples import read_request
from fallback_server.transport.rest.exchange import ENTRYPOINT, Exchange, json_answer

_TRIES = 3
"""A version may go while a request for it is read: then it is read again for the one that has come."""


class TensorFlowServing:
    """The handlers of `/v1`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def predict(self, exchange: Exchange) -> Response:
        """Runs a signature on instances or inputs."""
        work = self._backend.work
        body = await exchange.body()
        target, client_key = exchange.target(), exchange.client_key
        for left in reversed(range(_TRIES)):
            servable_id, request = await self._read(exchange, target, client_key, body)
            rows = request.rows
            call = PredictCall(
                target=target,
                signature=request.signature,
                inputs=request.inputs,
                deadline_s=exchange.deadline_s,
                client_key=client_key,
                entrypoint=ENTRYPOINT,
            )
            del request
            try:
                reply = await exchange.predict(call)
            except InvalidInput:
                # The request may have been read for the signature of a version that has gone since.
                if not left or self._signatures(exchange, target, client_key)[0] == servable_id:
                    raise
            else:
                break
        del body, call
        text = await work(size_of(reply.outputs), json_codec.write_outputs, reply.outputs, rows=rows)
        return json_answer(text)

    async def classify(self, exchange: Exchange) -> Response:
        """Labels and scores for examples."""
        outputs, rows = await self._examples(exchange, Verb.CLASSIFY)
        return json_answer(json_codec.write_classes(classification.classes(outputs, rows)))

    async def regress(self, exchange: Exchange) -> Response:
        """A number for each example."""
        outputs, rows = await self._examples(exchange, Verb.REGRESS)
        return json_answer(json_codec.write_regressions(classification.regressions(outputs, rows)))

    async def status(self, exchange: Exchange) -> Response:
        """The states of a model's versions, or of the one that is named."""
        states = self._backend.models.states(exchange.target())
        return json_answer(json_codec.dump({"model_version_status": [_status(state) for state in states]}))

    async def metadata(self, exchange: Exchange) -> Response:
        """A version's signatures, as protobuf's JSON."""
        with self._backend.models.acquire(exchange.target()) as handle:
            servable_id, defs = handle.servable_id, handle.servable.executor.signature_defs
        document = json_format.MessageToDict(
            pb.SignatureDefMap.FromString(defs),
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        spec = {"name": servable_id.name, "signature_name": "", "version": str(servable_id.version)}
        return json_answer(json_codec.dump({"model_spec": spec, "metadata": {"signature_def": document}}))

    async def nameless(self, exchange: Exchange) -> Response:
        """The status of nothing in particular, which TensorFlow Serving doesn't tell either."""
        del exchange
        raise InvalidInput("Missing model name in request.")

    async def _examples(self, exchange: Exchange, verb: Verb) -> tuple[Mapping[str, Array], int]:
        body = await exchange.body()
        signature, examples = await self._backend.read(exchange.request, len(body), read_request, body)
        del body
        call = PredictCall(
            target=exchange.target(),
            signature=signature,
            examples=examples,
            deadline_s=exchange.deadline_s,
            verb=verb,
            client_key=exchange.client_key,
            entrypoint=ENTRYPOINT,
        )
        reply = await exchange.predict(call)
        return reply.outputs, len(examples)

    async def _read(
        self, exchange: Exchange, target: ModelTarget, client_key: bytes, body: bytearray
    ) -> tuple[ServableId, json_codec.PredictRequest]:
        read = partial(self._backend.read, exchange.request, len(body))
        try:
            servable_id, signatures = self._signatures(exchange, target, client_key)
        except ServerError:
            await read(json_codec.check, body)  # What is wrong with a body is told first, whoever is meant.
            raise
        try:
            return servable_id, await read(json_codec.read_predict, body, signatures)
        except json_codec.Malformed:
            exchange.read_for = None
            raise

    def _signatures(
        self, exchange: Exchange, target: ModelTarget, client_key: bytes
    ) -> tuple[ServableId, dict[str, Signature]]:
        """Whose dtypes a request's values are read as."""
        with self._backend.models.acquire(target, client_key) as handle:
            exchange.read_for = handle.servable_id
            return handle.servable_id, dict(handle.servable.signatures)


def size_of(arrays: Mapping[str, Array]) -> int:
    """The bytes that arrays take, of strings their pointers alone."""
    return sum(array.nbytes for array in arrays.values())


def _status(state: ServableState) -> dict[str, Any]:
    fault = fault_of_state(state)
    return {
        "version": str(state.servable_id.version),
        "state": state.state.name,
        "status": {"error_code": "OK" if fault is None else fault.code.name, "error_message": state.error or ""},
    }
