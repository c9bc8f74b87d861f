"""Versions that come, go, break and die under a real server, while clients call it."""

import io
import os
import shutil
import signal
import tarfile
import threading
import time

import grpc
import numpy as np
import psutil
import pytest
from support.fallback_archives import write
from support.fallback_process import Client, ServerProcess

from fallback_server.protocol.methods import PREDICT
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.tensors import decode, encode

pytestmark = pytest.mark.slow

X = np.float32([[1, 2, 3]])
FLAGS = (
    "--port=0",
    "--rest_api_port=0",
    "--no-mdns",
    "--file_system_poll_wait_seconds=0.1",
    "--max_num_load_retries=0",
)


def until(condition, what, timeout_s=60):
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, what()
        time.sleep(0.05)


def factor(predict, *, version=None, label=None):
    """What the version multiplies with, and which it was."""
    request = pb.PredictRequest(model_spec=pb.ModelSpec(name="scale"), inputs={"x": encode(X)})
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    reply = predict(request, timeout=30)
    y = decode(reply.outputs["y"])
    np.testing.assert_array_equal(y, X * y[0, 0])
    return int(y[0, 0]), reply.model_spec.version.value


def members(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def copy_aside(source, target):
    """As a careful operator copies: whole, then renamed."""
    hidden = target.parent / f".{target.name}"
    shutil.copytree(source, hidden)
    hidden.rename(target)


def test_what_is_dropped_into_a_base_path(tmp_path, models):
    """Half copied: not loaded, and what lacks is told. Archives: unpacked, or refused. Broken: mended, it is served."""
    base = tmp_path / "scale"
    copy_aside(models / "scale" / "1", base / "1")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        server = ServerProcess(f"--model_repository={tmp_path}", *FLAGS)
    client = Client(server.address)
    try:
        channel = grpc.insecure_channel(server.address)
        predict = PREDICT.bind(channel)

        def state(version, wanted):
            until(lambda: client.states("scale").get(version) == wanted, lambda: (client.states("scale"), server.log))

        shutil.copytree(models / "scale" / "2", base / "2", ignore=lambda *_: ["variables.data-00000-of-00001"])
        state(2, "START")
        assert "variables/variables.data-00000-of-00001 is missing" in client.errors("scale")[2]
        assert factor(predict) == (1, 1)
        shard = "variables/variables.data-00000-of-00001"
        shutil.copy(models / "scale" / "2" / shard, base / "2" / shard)
        state(2, "AVAILABLE")

        archive = write(tmp_path / "hidden.tar.gz", {f"3/{k}": v for k, v in members(models / "scale" / "3").items()})
        archive.rename(base / "3.tar.gz")
        state(3, "AVAILABLE")
        assert factor(predict) == (3, 3)

        evil = tarfile.TarInfo("../../escaped")
        evil.size = 4
        with tarfile.open(base / "4.tgz", "w:gz") as opened:
            opened.addfile(evil, io.BytesIO(b"evil"))
        state(4, "END")
        assert "leads out of the archive" in client.errors("scale")[4]
        (base / "4.tgz").unlink()
        write(base / "4.zip", members(models / "scale" / "3"))
        state(4, "AVAILABLE")
        assert factor(predict, version=4) == (3, 4)

        (base / "5").mkdir()
        (base / "5" / "saved_model.pb").write_bytes(b"this is no model")
        state(5, "END")
        shutil.copytree(models / "scale" / "2", base / "5", dirs_exist_ok=True)
        state(5, "AVAILABLE")
        assert factor(predict) == (2, 5)
        assert not list(tmp_path.rglob("escaped"))
        assert not list(tmp_path.rglob("staging-*"))
        channel.close()
        server.terminate()
        assert server.wait() == 0
    finally:
        client.close()
        server.close()


def children(server):
    return {child.pid for child in psutil.Process(server.process.pid).children(recursive=True)}


class Callers:
    """Threads that call a version that stays, and whichever is the latest; every answer is checked."""

    def __init__(self, address, **targets):
        self.channel = grpc.insecure_channel(address)
        self.failures, self.seen, self.calls = [], set(), 0
        self.done = threading.Event()
        self.threads = [threading.Thread(target=self.call, args=(target,)) for target in targets.values()]
        for thread in self.threads:
            thread.start()

    def call(self, target):
        predict = PREDICT.bind(self.channel)
        while not self.done.is_set():
            try:
                answer = factor(predict, **target)
            except Exception as error:  # noqa: BLE001  whatever it is, the test tells it
                self.failures.append((target, error))
            else:
                self.calls += 1
                self.seen.add(answer)
                wanted = target.get("version", answer[1])
                if answer != (1 + wanted % 3, wanted):
                    self.failures.append((target, answer))

    def stop(self):
        self.done.set()
        for thread in self.threads:
            thread.join(60)
        self.channel.close()


def test_twenty_versions_come_and_go_and_one_is_killed(tmp_path, models):
    """No wrong version, and no failed request for the version that stays or for whichever is the latest."""
    base = tmp_path / "scale"

    def add(version):
        copy_aside(models / "scale" / str(1 + version % 3), base / str(version))

    for version in (1, 2):
        add(version)
    server = ServerProcess(f"--model_repository={tmp_path}", *FLAGS)
    client = Client(server.address)
    callers = None
    try:
        callers = Callers(server.address, stays={"version": 1}, latest={})
        for version in range(3, 21, 2):
            add(version)
            add(version + 1)
            until(lambda v=version + 1: client.states("scale").get(v) == "AVAILABLE", lambda: server.log)
            for old in {version - 1, version - 2} - {1}:
                (base / str(old)).rename(base / f".{old}")
        until(lambda: any(version == 20 for _, version in callers.seen), lambda: callers.seen)
        before = children(server)
        add(21)
        until(lambda: client.states("scale").get(21) == "AVAILABLE", lambda: server.log)
        callers.stop()
        assert callers.failures == []
        assert {version for _, version in callers.seen} >= {1, 20}

        callers = Callers(server.address, stays={"version": 1})
        (worker,) = children(server) - before
        os.kill(worker, signal.SIGABRT)
        until(lambda: any("was lost" in line for line in server.log), lambda: server.log)
        until(lambda: client.states("scale").get(21) == "AVAILABLE", lambda: server.log)
        callers.stop()
        assert callers.failures == []
        assert callers.calls > 0
        server.terminate()
        assert server.wait() == 0
    finally:
        if callers is not None:
            callers.stop()
        client.close()
        server.close()


CONFIG = """
model_config_list {{ config {{
  name: "scale" base_path: "{base}" model_platform: "tensorflow"
  model_version_policy {{ specific {{ versions: {version} }} }}
  version_labels {{ key: "stable" value: {version} }}
}} }}
"""


def test_sighup_under_load(tmp_path, models):
    """Each time the file names another version, and the label moves to it: no request by the label fails."""
    shutil.copytree(models / "scale", tmp_path / "scale")
    file = tmp_path / "models.config"
    file.write_text(CONFIG.format(base=tmp_path / "scale", version=1))
    server = ServerProcess(f"--model_config_file={file}", *FLAGS)
    try:
        channel = grpc.insecure_channel(server.address)
        predict = PREDICT.bind(channel)
        failures, done = [], threading.Event()

        def call():
            while not done.is_set():
                try:
                    given, version = factor(predict, label="stable")
                    assert given == version
                except Exception as error:  # noqa: BLE001  whatever it is, the test tells it
                    failures.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        try:
            for version in (2, 3, 1):
                file.write_text(CONFIG.format(base=tmp_path / "scale", version=version))
                server.process.send_signal(signal.SIGHUP)
                until(lambda v=version: factor(predict, label="stable")[1] == v, lambda: server.log)
            file.write_text("model_config_list { no such field }")
            server.process.send_signal(signal.SIGHUP)
            until(lambda: any(" ERROR " in line for line in server.log), lambda: server.log)
            assert factor(predict, label="stable") == (1, 1)
        finally:
            done.set()
            caller.join(60)
        assert failures == []
        channel.close()
        server.terminate()
        assert server.wait() == 0
    finally:
        server.close()
