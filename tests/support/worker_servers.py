"""Servers of several processes, and clients that reach each of them."""

import contextlib
import time

import grpc
import psutil
from support.edge_models import scale_model
from support.fallback_process import ServerProcess

from fallback_server.protocol import methods
from fallback_server.protocol.proto import serving_pb2 as pb

FLAGS = ("--port=0", "--no-mdns", "--file_system_poll_wait_seconds=0.2", "--allow_remote_control")
DEADLINE_S = 60


def publish(repository, version, factor, model="lite"):
    """A version that multiplies by a factor; it comes whole."""
    made = repository / f".{model}-{version}"
    made.mkdir(parents=True)
    (made / "model.tflite").write_bytes(scale_model(factor))
    (repository / model).mkdir(exist_ok=True)
    made.rename(repository / model / str(version))


def serve(repository, *flags, workers=2):
    """A server whose workers are known by their processes."""
    return ServerProcess(*FLAGS, f"--model_repository={repository}", f"--workers={workers}", *flags)


def worker_pids(server):
    """Of those that share the port, and live."""
    found = []
    for child in psutil.Process(server.process.pid).children():
        with contextlib.suppress(psutil.Error):
            if "fallback_server.workers.worker_main" in child.cmdline():
                found.append(child.pid)
    return found


def request(version=None, label=None, model="lite", values=(1, 2, 3, 4)):
    asked = pb.PredictRequest()
    asked.model_spec.name = model
    if version is not None:
        asked.model_spec.version.value = version
    if label is not None:
        asked.model_spec.version_label = label
    tensor = asked.inputs["x"]
    tensor.dtype = 1
    for size in (1, len(values)):
        tensor.tensor_shape.dim.add(size=size)
    tensor.float_val.extend(values)
    return asked


class Connection:
    """A connection of its own: which process has it, the system decides."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(
            address, options=[*methods.UNLIMITED_MESSAGES, ("grpc.use_local_subchannel_pool", 1)]
        )
        self._predict = methods.PREDICT.bind(self.channel)

    def predict(self, timeout=20, **asked):
        """The version that answered, and the first of its outputs."""
        answer = self._predict(request(**asked), timeout=timeout)
        return answer.model_spec.version.value, answer.outputs["y"].float_val[0]

    def call(self, method, message, timeout=30):
        return method.bind(self.channel)(message, timeout=timeout)

    def close(self):
        self.channel.close()


def ends(pid, port):
    """The remote ports of the connections that a process has at a port."""
    found = psutil.Process(pid).net_connections("tcp")
    return {one.raddr.port for one in found if one.raddr and one.laddr.port == port}


def spread(server, most=400):
    """Connections of which each process of the server has at least one, by the processes' numbers."""
    pids = [server.process.pid, *worker_pids(server)]
    of = {}
    spare = []
    end_s = time.monotonic() + DEADLINE_S
    while len(of) < len(pids):
        assert time.monotonic() < end_s
        assert len(spare) < most, f"{len(of)} of {len(pids)} processes have connections"
        before = {pid: ends(pid, server.port) for pid in pids}
        one = Connection(server.address)
        grpc.channel_ready_future(one.channel).result(20)
        now = [pid for pid in pids if ends(pid, server.port) - before[pid]]
        assert len(now) == 1, now
        if now[0] in of:
            spare.append(one)
        else:
            of[now[0]] = one
    for one in spare:
        one.close()
    return of


def wait_for(holds, deadline_s=DEADLINE_S):
    """Waits until something holds; what it gives."""
    end_s = time.monotonic() + deadline_s
    while not (found := holds()):
        assert time.monotonic() < end_s
        time.sleep(0.02)
    return found


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
