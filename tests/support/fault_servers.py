"""Servers that are brought to fail while they are asked, and a model whose faults begin with files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import psutil
from support.edge_models import scale_model
from support.fallback_process import ServerProcess
from support.fault_load import OfServer

from fallback_server.protocol import methods
from fallback_server.protocol.proto import serving_pb2 as pb

FLAGS = (
    "--no-mdns",
    "--rest_api_port=0",
    "--file_system_poll_wait_seconds=0.1",
    "--load_retry_interval_micros=200000",
    "--max_num_load_retries=1000000",
    "--grace_s=10",
)

FAULTY = '''
import os
import signal
import time
from pathlib import Path

import numpy as np

FAULTS = Path({faults!r})


class Model:
    """Gives back its input, times its version, and fails in the ways that files name."""

    signatures = {{
        "serving_default": {{"inputs": {{"x": ("float32", (-1, 4))}}, "outputs": {{"y": ("float32", (-1, 4))}}}}
    }}

    def __init__(self, path):
        self.version = int(Path(path).name)
        self.kept = []
        while (FAULTS / f"hang-{{self.version}}").exists():
            time.sleep(0.05)
        if (FAULTS / f"fail-{{self.version}}").exists():
            raise RuntimeError("the test wants it so")
        if (FAULTS / f"grow-{{self.version}}").exists():
            self.grow(10**6)

    def grow(self, times):
        for _ in range(times):
            self.kept.append(np.ones(2**20))

    def predict(self, signature, inputs):
        if (FAULTS / "abort").exists():
            os.kill(os.getpid(), signal.SIGABRT)
        if (FAULTS / "leak").exists():
            self.grow(4)
        if (FAULTS / "slow").exists():
            time.sleep(float((FAULTS / "slow").read_text()))
        return {{"y": inputs["x"] * np.float32(self.version)}}
'''


class FaultServer:
    """A server over a repository of `lite` (run in process) and, if asked, `own` (which has a process of its own).

    Attributes:
        faults: The folder whose files are the faults of `own`: `hang-N`, `fail-N`, `grow-N` as version N loads,
            `abort`, `leak`, `slow` (which holds seconds) as it runs.

    `before` is what the server's command line begins with, such as `ip netns exec NAME`.
    """

    def __init__(self, path: Path, *flags: str, own: bool = False, before: Sequence[str] = ()) -> None:
        self.path = path
        self.repository, self.faults = path / "models", path / "faults"
        self.faults.mkdir()
        self._flags, self._before, self._ends = flags, before, ExitStack()
        self.publish(1)
        if own:
            self.publish(1, "own")
        self.server = self.start(0)
        self.address = self.server.address

    def publish(self, version: int, model: str = "lite") -> None:
        """A version that multiplies by its number; it comes whole."""
        made = self.repository / f".{model}-{version}" / str(version)
        made.mkdir(parents=True)
        if model == "own":
            (made / "model.py").write_text(FAULTY.format(faults=str(self.faults)))
        else:
            (made / "model.tflite").write_bytes(scale_model(float(version)))
        (self.repository / model).mkdir(exist_ok=True)
        made.rename(self.repository / model / str(version))
        made.parent.rmdir()

    def remove(self, version: int, model: str = "lite") -> None:
        """Takes a version away, at once."""
        away = self.repository / f".{model}-{version}"
        (self.repository / model / str(version)).rename(away)
        shutil.rmtree(away)

    def start(self, port: int | None = None) -> ServerProcess:
        """Starts it, after the first time at the port that it had."""
        port = self.server.port if port is None else port
        flags = (f"--port={port}", *FLAGS, f"--model_repository={self.repository}", *self._flags)
        self.server = ServerProcess(*flags, before=self._before)
        self._ends.callback(self.server.close)
        return self.server

    def ask(self, model: str = "lite", version: int | None = None) -> OfServer:
        """What asks it, over a connection of its own."""
        asking = OfServer(self.address, model, version)
        self._ends.callback(asking.close)
        return asking

    def states(self, model: str = "lite") -> dict[int, tuple[str, str]]:
        """State and error of each version."""
        with grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            request = pb.GetModelStatusRequest()
            request.model_spec.name = model
            reply = methods.GET_MODEL_STATUS.bind(channel)(request, timeout=20)
        names = pb.ModelVersionStatus.State
        return {one.version: (names.Name(one.state), one.status.error_message) for one in reply.model_version_status}

    def processes(self, words: str) -> list[psutil.Process]:
        """Its processes whose title or command line has these words."""
        found = []
        for child in psutil.Process(self.server.process.pid).children(recursive=True):
            try:
                if words in child.name() or words in " ".join(child.cmdline()):
                    found.append(child)
            except psutil.Error:
                continue
        return found

    def close(self) -> None:
        self._ends.close()


@contextmanager
def fault_server(path: Path, *flags: str, own: bool = False, before: Sequence[str] = ()) -> Iterator[FaultServer]:
    """A FaultServer for the length of a `with`."""
    server = FaultServer(path, *flags, own=own, before=before)
    try:
        yield server
    finally:
        server.close()
        print("".join(server.server.log))  # noqa: T201  shown where the test fails
