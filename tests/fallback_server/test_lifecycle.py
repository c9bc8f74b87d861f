"""A server process from its start to its end, by signal and by force, seen from outside."""

import os
import threading
import time

import grpc
import numpy as np
import pytest
from support.fallback_process import Client, ServerProcess
from zeroconf import IPVersion, ServiceBrowser, Zeroconf

from fallback_server.protocol.mdns import SERVICE_TYPE, Announcement
from fallback_server.protocol.methods import PREDICT
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.tensors import decode, encode

pytestmark = pytest.mark.slow

X = np.float32([[1, 2, 3]])


class Watcher:
    """A browser on loopback: which servers are announced."""

    def __init__(self):
        self.changed = threading.Condition()
        self.found = {}
        self.zeroconf = Zeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)
        ServiceBrowser(self.zeroconf, SERVICE_TYPE, self)

    def add_service(self, zeroconf, kind, name):
        info = zeroconf.get_service_info(kind, name, timeout=20_000)
        with self.changed:
            self.found[name] = info
            self.changed.notify_all()

    update_service = add_service

    def remove_service(self, zeroconf, kind, name):
        with self.changed:
            self.found.pop(name, None)
            self.changed.notify_all()

    def until(self, condition, timeout_s=90):
        with self.changed:
            assert self.changed.wait_for(condition, timeout_s), self.found


@pytest.fixture
def watcher():
    """Closed after the test."""
    watcher = Watcher()
    yield watcher
    watcher.zeroconf.close()


def request(x):
    return pb.PredictRequest(model_spec=pb.ModelSpec(name="slow"), inputs={"x": encode(x)})


def test_killed_restarted_and_stopped(models, watcher):
    """Killed in mid-request: UNAVAILABLE. Restarted: answers, then announces. Stopped: finishes, withdraws, exits 0."""
    flags = ["--model_name=slow", "--model_base_path", str(models / "slow")]
    first = ServerProcess(*flags, "--port=0", "--server_id", f"first-{os.getpid()}")
    second = None
    try:
        name = Announcement(server_id=first.server_id).instance_name
        watcher.until(lambda: watcher.found.get(name))
        info = watcher.found[name]
        assert (info.port, info.parsed_addresses()) == (first.port, ["127.0.0.1"])
        assert Announcement.from_txt(info.properties).server_id == first.server_id

        with grpc.insecure_channel(first.address) as channel:
            predict = PREDICT.bind(channel)
            begin = time.monotonic()
            np.testing.assert_array_equal(decode(predict(request(X), timeout=90).outputs["y"]), X)
            run_s = time.monotonic() - begin
            flying = [predict.future(request(X), timeout=90) for _ in range(5)]
            time.sleep(run_s / 4)
            first.kill()
            errors = [each.exception(timeout=90) for each in flying]
            codes = {error.code() for error in errors if error}  # A busy machine may let the first be answered.
            assert codes == {grpc.StatusCode.UNAVAILABLE}

        second = ServerProcess(*flags, f"--port={first.port}", "--grace_s=30", "--num_batch_threads=1")
        assert second.port == first.port
        name = Announcement(server_id=second.server_id).instance_name
        watcher.until(lambda: watcher.found.get(name))
        with grpc.insecure_channel(second.address) as channel:
            predict = PREDICT.bind(channel)
            predict(request(X), timeout=90, wait_for_ready=True)
            flying = [predict.future(request(X * number), timeout=90) for number in range(4)]
            time.sleep(run_s / 4)
            second.terminate()
            for number, each in enumerate(flying):
                np.testing.assert_array_equal(decode(each.result(timeout=90).outputs["y"]), X * number)
            assert second.wait() == 0, "".join(second.log)
            with pytest.raises(grpc.RpcError) as refused:
                predict(request(X), timeout=5)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        watcher.until(lambda: name not in watcher.found)
        assert not [line for line in second.log if " ERROR " in line or "Traceback" in line]
        told = [line for line in second.log if ": loaded " in line or "mDNS: announced as" in line]
        assert len(told) == 2
        assert ": loaded " in told[0], "announced before it could answer"
    finally:
        first.close()
        if second is not None:
            second.close()


def test_a_server_with_nothing_to_serve_yet(tmp_path, models):
    """An empty repository: ready at once, NOT_FOUND, then the first model that appears is served."""
    server = ServerProcess(
        f"--model_repository={tmp_path}", "--port=0", "--no-mdns", "--file_system_poll_wait_seconds=0.2"
    )
    try:
        client = Client(server.address)
        with pytest.raises(grpc.RpcError) as refused:
            client.states("scale")
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        (tmp_path / "scale").symlink_to(models / "scale")
        end = time.monotonic() + 30
        states = {}
        while set(states.values()) != {"AVAILABLE"} and time.monotonic() < end:
            time.sleep(0.1)
            try:
                states = client.states("scale")
            except grpc.RpcError:
                continue
        assert states == {3: "AVAILABLE", 2: "AVAILABLE", 1: "AVAILABLE"}
        client.close()
        server.terminate()
        assert server.wait() == 0
    finally:
        server.close()
