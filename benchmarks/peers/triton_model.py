"""A model in Triton's Python backend, by TensorFlow or by LiteRT: what the requests have is run as one batch."""

from __future__ import annotations

import json

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton's own


class TritonPythonModel:
    """What Triton makes one of."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads what the configuration names."""
        parameters = json.loads(args["model_config"])["parameters"]
        file = parameters["file"]["string_value"]
        makes = {"tensorflow": _TensorFlow, "litert": _LiteRt}
        self._run = makes[parameters["executor"]["string_value"]](file).run

    def execute(self, requests: list[object]) -> list[object]:
        """Answers to requests, in their order."""
        rows = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        answered = self._run(rows[0] if len(rows) == 1 else np.concatenate(rows))
        responses, begin = [], 0
        for part in rows:
            end = begin + len(part)
            tensor = pb_utils.Tensor("y", answered[begin:end])
            responses.append(pb_utils.InferenceResponse([tensor]))
            begin = end
        return responses


class _TensorFlow:
    def __init__(self, path: str) -> None:
        import tensorflow as tf  # noqa: PLC0415  only where it is asked for

        self._model = tf.saved_model.load(path)
        self._function = self._model.signatures["serving_default"]
        self._constant = tf.constant

    def run(self, x: np.ndarray) -> np.ndarray:
        return self._function(x=self._constant(x))["y"].numpy()


class _LiteRt:
    """An interpreter for each number of rows: to resize one between two runs would cost more than they do."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._made: dict[int, tuple[object, int, int]] = {}

    def run(self, x: np.ndarray) -> np.ndarray:
        interpreter, into, out = self._made.get(len(x)) or self._make(x.shape)
        interpreter.set_tensor(into, x)
        interpreter.invoke()
        return interpreter.get_tensor(out)

    def _make(self, shape: tuple[int, ...]) -> tuple[object, int, int]:
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415  only where it is asked for

        interpreter = Interpreter(self._path, num_threads=1)
        into = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(into, shape)
        interpreter.allocate_tensors()
        self._made[shape[0]] = made = (interpreter, into, interpreter.get_output_details()[0]["index"])
        return made
