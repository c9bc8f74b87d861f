"""The clients of a soak's server, in a process of their own: each kind at its rate, each answer checked.

    python -m benchmarks.soak.traffic GRPC_ADDRESS REST_ADDRESS OUTCOMES RATE

Ends with its standard input.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np

from benchmarks.soak.models import SEQUENCES, check, check_nameless, some_rows
from benchmarks.soak.outcomes import Outcomes, WrongAnswer
from fallback_server.protocol import methods
from fallback_server.protocol.methods import Method
from fallback_server.protocol.proto import edge_pb2, inference_pb2, serving_pb2
from fallback_server.protocol.tensors import decode, encode

KINDS = ("predict narrow", "predict wide", "predict python", "infer", "REST predict", "REST infer", "sequence step")

DEADLINE_S = 5.0
_STEPS = 20
_SLOWLY_S = 0.2


class Refused(Exception):
    """An answer of REST with a status that says why there is none."""


class Traffic:
    """All clients.

    Args:
        address: Of gRPC.
        rest: Of REST.
        outcomes: Where each request is noted.
    """

    def __init__(self, address: str, rest: str, outcomes: Outcomes) -> None:
        self._channel = grpc.insecure_channel(address, options=methods.UNLIMITED_MESSAGES)
        self._rest = rest
        self._outcomes = outcomes
        self._stop = threading.Event()
        self._predict = self._unary(methods.PREDICT)
        self._infer = self._unary(methods.MODEL_INFER)
        self._sequence = self._channel.stream_stream(
            methods.RUN_SEQUENCE.path,
            request_serializer=edge_pb2.SequenceRequest.SerializeToString,
            response_deserializer=edge_pb2.SequenceResponse.FromString,
        )

    def run(self, rate: float) -> None:
        """Runs until the standard input ends; so many times the usual rates."""
        every: list[tuple[float, Callable[[np.random.Generator], None]]] = [
            (40, lambda generator: self.predict("narrow", generator)),
            (5, lambda generator: self.predict("wide", generator)),
            (10, lambda generator: self.predict("python", generator)),
            (10, self.infer),
            (5, self.rest_predict),
            (5, self.rest_infer),
            (0.5, self.sequence),
            (0.5, self.leave),
            (0.1, self.read_slowly),
        ]
        threads = [
            threading.Thread(target=self._steadily, args=(hz * rate, ask, number))
            for number, (hz, ask) in enumerate(every)
        ]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        self._stop.set()
        for thread in threads:
            thread.join()
        self._channel.close()

    def predict(self, model: str, generator: np.random.Generator) -> None:
        """TensorFlow Serving's Predict."""
        x = some_rows(generator, model)
        request = serving_pb2.PredictRequest()
        request.model_spec.name = model
        request.inputs["x"].CopyFrom(encode(x))
        with self._outcomes.request(f"predict {model}"):
            answer = self._predict(request, timeout=DEADLINE_S)
            check(x, decode(answer.outputs["y"]), answer.model_spec.version.value)

    def infer(self, generator: np.random.Generator) -> None:
        """Open Inference's ModelInfer."""
        x = some_rows(generator, "narrow")
        request = inference_pb2.ModelInferRequest(model_name="narrow", raw_input_contents=[x.tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=x.shape)
        with self._outcomes.request("infer"):
            answer = self._infer(request, timeout=DEADLINE_S)
            y = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(list(answer.outputs[0].shape))
            check(x, y, int(answer.model_version))

    def rest_predict(self, generator: np.random.Generator) -> None:
        """TensorFlow Serving's REST, which names no version in its answers."""
        x = some_rows(generator, "narrow")
        with self._outcomes.request("REST predict"):
            answer = self._post("/v1/models/narrow:predict", {"instances": x.tolist()})
            check_nameless(x, np.array(answer["predictions"], np.float32))

    def rest_infer(self, generator: np.random.Generator) -> None:
        """Open Inference's REST."""
        x = some_rows(generator, "python")
        given = {"name": "x", "datatype": "FP32", "shape": x.shape, "data": x.ravel().tolist()}
        with self._outcomes.request("REST infer"):
            answer = self._post("/v2/models/python/infer", {"inputs": [given]})
            y = np.array(answer["outputs"][0]["data"], np.float32).reshape(answer["outputs"][0]["shape"])
            check(x, y, int(answer["model_version"]))

    def sequence(self, generator: np.random.Generator) -> None:
        """A sequence of some steps, the last of which tells the sum of all."""
        steps: queue.SimpleQueue[edge_pb2.SequenceRequest | None] = queue.SimpleQueue()
        answers = self._sequence(iter(steps.get, None), timeout=DEADLINE_S + 2 * _STEPS * 0.05)
        total = np.zeros((1, 2), np.float32)
        try:
            for number in range(_STEPS):
                x = generator.integers(-100, 100, (1, 2)).astype(np.float32)
                total += x
                request = edge_pb2.SequenceRequest(end=number == _STEPS - 1)
                if not number:
                    request.model_spec.name, request.model_spec.signature_name = SEQUENCES, "step"
                request.inputs["x"].CopyFrom(encode(x))
                begun = False
                with self._outcomes.request("sequence step"):
                    steps.put(request)
                    found = decode(next(answers).outputs["total"])
                    if not np.array_equal(found, total):
                        raise WrongAnswer(f"step {number} of a sequence is {found}, not {total}")
                    begun = True
                if not begun or self._stop.wait(0.05):
                    return
        finally:
            steps.put(None)
            answers.cancel()

    def leave(self, generator: np.random.Generator) -> None:
        """A client that is gone before its answer, or before it has sent all of its question."""
        request = serving_pb2.PredictRequest()
        request.model_spec.name = "wide"
        request.inputs["x"].CopyFrom(encode(some_rows(generator, "wide")))
        self._predict.future(request, timeout=DEADLINE_S).cancel()
        with self._connected() as connection:
            connection.sendall(b"POST /v1/models/wide:predict HTTP/1.1\r\nHost: soak\r\nContent-Length: 99999\r\n\r\n{")

    def read_slowly(self, generator: np.random.Generator) -> None:
        """A client that takes its answer at a kilobyte a fifth of a second, for as long as a deadline."""
        x = some_rows(generator, "wide")
        body = json.dumps({"instances": x.tolist()}).encode()
        head = f"POST /v1/models/wide:predict HTTP/1.1\r\nHost: soak\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with self._connected() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(head + body)
            end_s = time.monotonic() + DEADLINE_S
            while time.monotonic() < end_s and connection.recv(1024) and not self._stop.wait(_SLOWLY_S):
                pass

    def _steadily(self, hz: float, ask: Callable[[np.random.Generator], None], seed: int) -> None:
        """One after the other, at even times; what could not be asked in time is left out."""
        generator = np.random.default_rng(seed)
        due_s = time.monotonic() + seed / 100
        while not self._stop.wait(max(0.0, due_s - time.monotonic())):
            with contextlib.suppress(OSError):  # Of those who leave: nobody waits for an answer.
                ask(generator)
            due_s = max(due_s + 1 / hz, time.monotonic())

    def _unary(self, method: Method) -> grpc.UnaryUnaryMultiCallable:
        return self._channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )

    def _connected(self) -> socket.socket:
        host, _, port = self._rest.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=DEADLINE_S)

    def _post(self, path: str, body: object) -> dict[str, object]:
        connection = http.client.HTTPConnection(self._rest, timeout=DEADLINE_S)
        try:
            connection.request("POST", path, json.dumps(body))
            answer = connection.getresponse()
            said = answer.read()
            if answer.status != 200:
                raise Refused(f"{answer.status}: {said[:150]!r}")
            found: dict[str, object] = json.loads(said)
            return found
        finally:
            connection.close()


def main() -> None:
    """Asks until told to end."""
    address, rest, path, rate = sys.argv[1:]
    outcomes = Outcomes(Path(path), KINDS, (grpc.RpcError, Refused))
    Traffic(address, rest, outcomes).run(float(rate))
    outcomes.close()


if __name__ == "__main__":
    main()
