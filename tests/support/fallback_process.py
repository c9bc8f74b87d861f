"""A fallback server as a process of its own."""

import re
import signal
import subprocess
import sys
import threading

import grpc

from fallback_server.protocol.methods import UNLIMITED_MESSAGES

READY = re.compile(r"fallback-server listening on (\S+):(\d+) \(id ([A-Za-z0-9-]+)\)(?:, REST on (\S+))?")
READY_S = 200.0
"""On a machine that runs many other things too: a server that loads many models takes 17 s of a processor's time."""


class ServerProcess:
    """Started by its command line, behind `before` where it runs elsewhere; its output is kept for who fails."""

    def __init__(self, *flags, before=()):
        self.flags = flags
        self.process = subprocess.Popen(
            [*before, sys.executable, "-m", "fallback_server.cli", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        killer = threading.Timer(READY_S, self.process.kill)
        killer.start()
        self.ready_line = self.process.stdout.readline()
        killer.cancel()
        found = READY.fullmatch(self.ready_line.strip())
        if not found:
            self.close()
        assert found, f"no ready line, {self.ready_line!r}; log: {''.join(self.log)}"
        self.port, self.server_id = int(found[2]), found[3]
        self.address = f"127.0.0.1:{self.port}"
        self.rest = found[4]

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def kill(self):
        self.process.kill()

    def wait(self, timeout_s=40):
        code = self.process.wait(timeout_s)
        self._reader.join(5)
        return code

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Client:
    """TensorFlow Serving's own stubs."""

    def __init__(self, address):
        # They import TensorFlow, which takes seconds: only for who asks by them.
        from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc, prediction_service_pb2_grpc

        self._messages = get_model_status_pb2
        self.channel = grpc.insecure_channel(address, options=UNLIMITED_MESSAGES)
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def states(self, name, version=None):
        request = self._messages.GetModelStatusRequest()
        request.model_spec.name = name
        if version is not None:
            request.model_spec.version.value = version
        reply = self.models.GetModelStatus(request, timeout=20)
        names = self._messages.ModelVersionStatus.State
        return {item.version: names.Name(item.state) for item in reply.model_version_status}

    def errors(self, name):
        request = self._messages.GetModelStatusRequest()
        request.model_spec.name = name
        reply = self.models.GetModelStatus(request, timeout=20)
        return {item.version: item.status.error_message for item in reply.model_version_status}

    def close(self):
        self.channel.close()
