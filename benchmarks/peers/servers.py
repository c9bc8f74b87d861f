"""What is measured: our server in its forms, Triton with a model in its Python backend, and bare echoes."""

from __future__ import annotations

import dataclasses
import functools
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import grpc
import numpy as np

from benchmarks.peers import echo
from benchmarks.peers.environment import Peers
from benchmarks.peers.loads import Load, PerfAnalyzer, h2load
from benchmarks.peers.models import Model, repository
from benchmarks.peers.processes import ROOT, NotThere, Started, free_port
from fallback_server.protocol import methods
from fallback_server.protocol.proto import inference_pb2, serving_pb2

_BACKEND = Path(__file__).parent / "triton_model.py"

_WARM_UP_S = 0.5


class Server(Protocol):
    """One column of the table.

    Attributes:
        name: Its title.
    """

    name: str

    def start(self) -> None:
        """Starts it, and returns when it answers.

        Raises:
            NotThere: it can't be had here.
        """

    def stop(self) -> None:
        """Ends it; also where it was never started."""

    def h2load(self, concurrency: int, seconds: float) -> Load:
        """A load by h2load, with the processor time of an answer."""
        ...

    def perf_analyzer(self, client: PerfAnalyzer, concurrency: int, seconds: float) -> Load:
        """A load by perf_analyzer."""
        ...


class _Process:
    """What all servers share: a process, an address, and the message that h2load sends."""

    name = ""
    path = ""
    model: Model | None = None
    kind = ""

    def __init__(self) -> None:
        self._started: Started | None = None
        self.address = ""

    @property
    def pid(self) -> int:
        assert self._started is not None
        return self._started.pid

    def stop(self) -> None:
        if self._started is not None:
            self._started.stop()
            self._started = None

    def message(self) -> bytes:
        raise NotImplementedError

    def answers(self) -> None:
        """Asks once: to h2load an answer is one whatever status it has.

        Raises:
            grpc.RpcError: it is no answer.
        """
        with grpc.insecure_channel(self.address, options=methods.UNLIMITED_MESSAGES) as channel:
            channel.unary_unary(self.path)(self.message(), timeout=60)

    def h2load(self, concurrency: int, seconds: float) -> Load:
        assert self._started is not None
        self.answers()
        # Not by its own warm-up: what is answered then it counts nowhere, and the processor time would be too much.
        h2load(self.address, self.path, self.message(), concurrency=concurrency, seconds=_WARM_UP_S)
        before_s = self._started.cpu_s()
        load, count = h2load(self.address, self.path, self.message(), concurrency=concurrency, seconds=seconds)
        cpu_us = (self._started.cpu_s() - before_s) / count * 1e6
        self.answers()
        return dataclasses.replace(load, cpu_us=cpu_us)

    def perf_analyzer(self, client: PerfAnalyzer, concurrency: int, seconds: float) -> Load:
        assert self.model is not None
        return client.load(
            self.address, self.model.name, self.model.shape, kind=self.kind, concurrency=concurrency, seconds=seconds
        )


class Ours(_Process):
    """`fallback_server`, with one model.

    Args:
        folder: Where its repository is made.
        model: What it serves.
        executor: `tensorflow`, or `litert`.
        transport: `grpcio`, or `native`.
    """

    kind = "tfserving"
    path = methods.PREDICT.path

    def __init__(self, folder: Path, model: Model, *, executor: str, transport: str) -> None:
        super().__init__()
        self.name = f"ours, {'SavedModel' if executor == 'tensorflow' else 'LiteRT'}, {transport}"
        self.model = model
        self._flags = [
            f"--model_repository={repository(folder, model, litert=executor != 'tensorflow')}",
            *([] if executor == "tensorflow" else [f"--executor={executor}"]),
            *([] if transport == "grpcio" else [f"--transport={transport}"]),
        ]

    def start(self) -> None:
        """See `Server.start`."""
        _can(tuple(self._flags))
        command = [sys.executable, "-m", "fallback_server", *self._flags]
        self._started = Started([*command, "--port=0", "--rest_api_port=0", "--mdns=false", "--log_level=warning"])
        self.address = f"127.0.0.1:{self._started.printed(r'listening on [^ ]+:([0-9]+)')[1]}"

    def message(self) -> bytes:
        """A Predict of one row, as perf_analyzer makes it: with typed values."""
        assert self.model is not None
        request = serving_pb2.PredictRequest()
        request.model_spec.name = self.model.name
        tensor = request.inputs["x"]
        tensor.dtype = 1  # DT_FLOAT
        for size in (1, *self.model.shape):
            tensor.tensor_shape.dim.add(size=size)
        tensor.float_val.extend(_row(self.model).ravel().tolist())
        return request.SerializeToString()


class Triton(_Process):
    """tritonserver with one model in its Python backend: batches of up to 32, no delay, one instance.

    Args:
        folder: Where its repository is made.
        model: What it serves.
        executor: `tensorflow`, or `litert`.
        peers: Its environment.
    """

    kind = "triton"
    path = methods.MODEL_INFER.path

    def __init__(self, folder: Path, model: Model, *, executor: str, peers: Peers) -> None:
        super().__init__()
        self.name = f"Triton, {'SavedModel' if executor == 'tensorflow' else 'LiteRT'}"
        self.model = model
        self._peers = peers
        self._repository = folder / f"triton-{executor}-{model.name}"
        version = self._repository / model.name / "1"
        version.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_BACKEND, version / "model.py")
        (self._repository / model.name / "config.pbtxt").write_text(_config(model, executor))

    def start(self) -> None:
        """See `Server.start`."""
        program, environment, packages = self._peers.tritonserver()
        port = free_port()
        self._started = Started(
            [
                str(program),
                f"--model-repository={self._repository}",
                f"--backend-directory={program.parents[1] / 'backends'}",
                "--allow-http=false",
                "--allow-metrics=false",
                "--grpc-address=127.0.0.1",
                f"--grpc-port={port}",
                "--log-info=true",
            ],
            environment,
            packages,
        )
        self._started.printed("Started GRPCInferenceService")
        self._started.listens(port)
        self.address = f"127.0.0.1:{port}"

    def message(self) -> bytes:
        """A ModelInfer of one row, with raw values."""
        assert self.model is not None
        request = inference_pb2.ModelInferRequest(model_name=self.model.name)
        request.inputs.add(name="x", datatype="FP32", shape=(1, *self.model.shape))
        request.raw_input_contents.append(_row(self.model).tobytes())
        return request.SerializeToString()


class Echo(_Process):
    """A bare server that answers with what it gets: 3,136 bytes, as many as an image of the tutorial net has.

    Args:
        kind: One of `echo.KINDS`.
        shape: Of another image, of floats; then it answers with 40 bytes, as many as ten scores have.
    """

    path = echo.PATH

    def __init__(self, kind: str, shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.name = f"{'sink' if shape else 'echo'}, {'pygrpc-native' if kind == 'native' else 'grpcio ' + kind}"
        self._kind = kind
        self._size_bytes = 4 * math.prod(shape or (28, 28, 1))
        self._most = ("40",) if shape else ()

    def start(self) -> None:
        """See `Server.start`."""
        port = free_port()
        self._started = Started([sys.executable, echo.__file__, self._kind, str(port), *self._most])
        try:
            self._started.listens(port)
        except RuntimeError as error:
            self.stop()
            if "ModuleNotFoundError" in str(error):
                raise NotThere("pygrpc-native is not installed: `pip install pygrpc-native` brings it") from error
            raise
        self.address = f"127.0.0.1:{port}"

    def message(self) -> bytes:
        """As many bytes as an image has."""
        return bytes(self._size_bytes)


@functools.cache
def _can(flags: tuple[str, ...]) -> None:
    """Asks the server itself whether it takes the flags.

    Raises:
        NotThere: it does not.
    """
    done = subprocess.run(
        [sys.executable, "-m", "fallback_server", "check", *flags, "--rest_api_port=0", "--mdns=false"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise NotThere(f"{done.stderr.strip().splitlines()[-1]}")


def _row(model: Model) -> np.ndarray:
    return np.random.default_rng(1).random(model.shape, np.float32)


def _config(model: Model, executor: str) -> str:
    file = model.saved_model if executor == "tensorflow" else model.litert
    return f"""
name: "{model.name}"
backend: "python"
max_batch_size: 32
input [{{ name: "x", data_type: TYPE_FP32, dims: {list(model.shape)} }}]
output [{{ name: "y", data_type: TYPE_FP32, dims: [{model.outputs}] }}]
dynamic_batching {{ max_queue_delay_microseconds: 0 }}
instance_group [{{ count: 1, kind: KIND_CPU }}]
parameters {{ key: "executor", value: {{ string_value: "{executor}" }} }}
parameters {{ key: "file", value: {{ string_value: "{file}" }} }}
"""
