"""A server of several processes: all answer the same, one may die, and changes reach all before they are answered."""

import json
import os
import queue
import signal
import threading
import urllib.request

import grpc
import numpy as np
import pytest
from support.complete import require
from support.fallback_process import ServerProcess
from support.tls_files import CERTIFICATE, KEY
from support.worker_servers import (
    FLAGS,
    Connection,
    alive,
    ends,
    publish,
    request,
    serve,
    spread,
    wait_for,
    worker_pids,
)

from fallback_server.protocol import methods
from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.protocol.proto import inference_pb2 as oip
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.transport.native.choice import installed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["grpcio", "native"])
def transport(request):
    require(request.param != "native" or installed(), "the extra `fast`")
    return request.param


@pytest.fixture(scope="module")
def stand(transport, tmp_path_factory):
    """For tests that change nothing."""
    stand = Stand(tmp_path_factory.mktemp("models"), transport)
    yield stand
    stand.close()


@pytest.fixture
def own(transport, tmp_path):
    """For a test of its own."""
    stand = Stand(tmp_path, transport)
    yield stand
    stand.close()


OWN = """
import time


class Model:
    def __init__(self, path):
        spec = {"x": ("float32", (-1, 4))}
        self.signatures = {"serving_default": {"inputs": spec, "outputs": {"y": ("float32", (-1, 4))}}}

    def predict(self, signature, inputs):
        if inputs["x"][0, 0] < 0:
            time.sleep(1.5)
        return {"y": inputs["x"] * 7}
"""


class Stand:
    def __init__(self, repository, transport):
        self.repository = repository
        publish(repository, 1, 2.0)
        (repository / "own" / "1").mkdir(parents=True)
        (repository / "own" / "1" / "model.py").write_text(OWN)
        config = repository / "server.toml"
        lite = f'[models.lite]\nbase_path = "{repository / "lite"}"\nversion_policy = "all"\n'
        config.write_text(f'{lite}[models.own]\nbase_path = "{repository / "own"}"\n')
        self.server = ServerProcess(*FLAGS, f"--config={config}", "--workers=3", f"--transport={transport}")
        self.connections = spread(self.server)

    def each(self):
        assert len(self.connections) == 3
        return self.connections.values()

    def metrics(self):
        with urllib.request.urlopen(f"http://{self.server.rest}/monitoring/prometheus/metrics", timeout=30) as reply:
            lines = [line for line in reply.read().decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def close(self):
        for connection in self.connections.values():
            connection.close()
        self.server.close()


def refused(connection, **asked):
    with pytest.raises(grpc.RpcError) as caught:
        connection.predict(**asked)
    return caught.value.code(), caught.value.details()


def test_all_answer_the_same(stand):
    """By a model of this process, and by one that another process runs for all; over one connection to each."""
    assert [one.predict() for one in stand.each()] == [(1, 2.0)] * 3
    assert [one.predict(model="own") for one in stand.each()] == [(1, 7.0)] * 3


def test_all_refuse_the_same(stand):
    """In the same words: what no worker knows, and what a worker refuses by itself."""
    cases = [{"model": "absent"}, {"version": 9}, {"label": "absent"}, {"values": (1, 2)}]
    for case in cases:
        answers = {refused(one, **case) for one in stand.each()}
        assert len(answers) == 1, answers
        assert answers.pop()[0] in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)


def test_streams_and_questions_reach_the_first(stand):
    """States, metadata, health and a stream of the catalog, which tells what comes later too."""
    for one in stand.each():
        state = pb.GetModelStatusRequest()
        state.model_spec.name = "lite"
        found = one.call(methods.GET_MODEL_STATUS, state).model_version_status
        assert [each.version for each in found] == [1]
        asked = pb.GetModelMetadataRequest(metadata_field=["signature_def"])
        asked.model_spec.name = "lite"
        assert "signature_def" in one.call(methods.GET_MODEL_METADATA, asked).metadata
        watch = methods.CATALOG_WATCH
        stream = one.channel.unary_stream(
            watch.path,
            request_serializer=watch.request.SerializeToString,
            response_deserializer=watch.response.FromString,
        )(edge.CatalogRequest(), timeout=30)
        assert {model.name for model in next(stream).models} == {"lite", "own"}
        stream.cancel()
        with pytest.raises(grpc.RpcError) as caught:
            one.channel.unary_unary("/no.Such/Call")(b"", timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_what_is_passed_on_keeps_its_deadline_its_size_and_its_metadata(stand):
    """A request to a model of another process: as if it had come to the first one, the time of the server's own too."""
    rows = 270_000  # More than the 4 MiB that gRPC lets pass of itself.
    for one in stand.each():
        large = request(model="own")
        large.inputs["x"].ClearField("float_val")
        large.inputs["x"].tensor_shape.dim[0].size = rows
        large.inputs["x"].tensor_content = np.ones((rows, 4), np.float32).tobytes()
        call = methods.PREDICT.bind(one.channel)
        answer, told = call.with_call(large, timeout=250, metadata=[methods.TENSOR_CONTENT_METADATA])
        assert np.frombuffer(answer.outputs["y"].tensor_content, np.float32).sum() == 7 * 4 * rows
        assert methods.SERVER_MS_METADATA in {key for key, _ in told.trailing_metadata()}
    for one in stand.each():  # After all that: a run that takes long has large requests cut into small pieces.
        code, _ = refused(one, model="own", values=(-1, 0, 0, 0), timeout=0.5)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_streams_of_requests_are_passed_on(stand):
    """Each answer comes as soon as it is there, before the stream ends."""
    stream_infer = methods.MODEL_STREAM_INFER
    for one in stand.each():
        asked = queue.SimpleQueue()
        call = one.channel.stream_stream(
            stream_infer.path,
            request_serializer=stream_infer.request.SerializeToString,
            response_deserializer=stream_infer.response.FromString,
        )(iter(asked.get, None), timeout=60)
        for model, factor in (("lite", 2.0), ("own", 7.0)):
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "contents": {"fp32_contents": [1, 2, 3, 4]}}
            asked.put(oip.ModelInferRequest(model_name=model, inputs=[tensor]))
            answer = next(call)
            assert not answer.error_message
            outputs = np.frombuffer(answer.infer_response.raw_output_contents[0], np.float32)
            assert outputs.tolist() == [factor * value for value in (1, 2, 3, 4)]
        asked.put(None)
        assert list(call) == []


def test_a_version_that_came_answers_everywhere(own):
    """As soon as one status says that it is available, no process answers by the one before; likewise a label."""
    first, *others = own.each()
    publish(own.repository, 2, 3.0)
    state = pb.GetModelStatusRequest()
    state.model_spec.name = "lite"

    def came():
        found = first.call(methods.GET_MODEL_STATUS, state).model_version_status
        return any(each.version == 2 and each.state == 30 for each in found)

    wait_for(came)
    assert [one.predict() for one in others] == [(2, 3.0)] * 2
    assert [one.predict(version=1) for one in others] == [(1, 2.0)] * 2
    for version in (1, 2, 1):
        first.call(methods.SET_LABEL, edge.SetLabelRequest(model="lite", label="stable", version=version))
        assert [one.predict(label="stable")[0] for one in others] == [version] * 2
    first.call(methods.SET_TRAFFIC, edge.SetTrafficRequest(model="lite", traffic={1: 1.0, 2: 0.0}))
    assert [one.predict() for one in others] == [(1, 2.0)] * 2
    first.call(methods.SET_TRAFFIC, edge.SetTrafficRequest(model="lite"))
    assert [one.predict() for one in others] == [(2, 3.0)] * 2
    first.call(methods.ROLLBACK, edge.RollbackRequest(model="lite"))
    assert [one.predict() for one in others] == [(1, 2.0)] * 2


def test_the_metrics_tell_of_all(stand):
    """Requests that workers have answered are counted with the others within some seconds, each once."""
    name = ':tensorflow:serving:request_count{model_name="lite",status="OK"}'
    before = stand.metrics().get(name, 0)
    for one in stand.each():
        for _ in range(20):
            one.predict()
    wait_for(lambda: stand.metrics()[name] >= before + 60)
    figures = stand.metrics()
    assert figures[name] == sum(
        value
        for key, value in figures.items()
        if key.startswith('edge_fallback_requests_total{model_name="lite"') and 'code="OK"' in key
    )


def test_the_log_tells_who_has_asked(stand):
    """The operator's own address, whichever process the operator's connection is at."""
    for number, one in enumerate(stand.each(), 1):
        label = f"by-{number}"
        one.call(methods.SET_LABEL, edge.SetLabelRequest(model="lite", label=label, version=1))
        lines = wait_for(lambda label=label: [line for line in stand.server.log if label in line])
        assert all("ipv4:127.0.0.1:" in line for line in lines), lines


def test_what_a_worker_prints_has_a_time_and_its_number(stand):
    """LiteRT writes notes past any log; each line of the server's log says when it was, and whose it is."""
    notes = wait_for(lambda: [line for line in stand.server.log if "worker" in line and "delegate" in line])
    assert all(line.startswith("20") and " INFO " in line for line in notes)


def test_what_is_not_ready_says_so_everywhere(own):
    """A call that is passed on to a model that is loading is UNAVAILABLE, and no fault in the log."""
    slow = own.repository / "own" / ".2"
    slow.mkdir()
    (slow / "model.py").write_text(OWN.replace('spec = {"x"', 'time.sleep(4); spec = {"x"', 1))
    slow.rename(own.repository / "own" / "2")

    def unready(one):
        try:
            one.predict(model="own", version=2)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE
        raise AssertionError

    wait_for(lambda: unready(next(iter(own.each()))) if loading(own) else False)
    assert all(unready(one) for one in own.each())
    assert not any("Traceback" in line for line in own.server.log)


def loading(stand):
    state = pb.GetModelStatusRequest()
    state.model_spec.name = "own"
    found = next(iter(stand.each())).call(methods.GET_MODEL_STATUS, state).model_version_status
    return any(each.version == 2 and each.state == 20 for each in found)


def test_a_worker_that_stops_cancels_nothing(own):
    """Whoever asks it on and on hears UNAVAILABLE, and asks another server."""
    stop, heard = threading.Event(), set()

    def ask(one, model):
        while not stop.is_set():
            try:
                one.predict(model=model)
                heard.add(grpc.StatusCode.OK)
            except grpc.RpcError as error:
                heard.add(error.code())
                stop.wait(0.02)

    workers = [own.connections[pid] for pid in worker_pids(own.server)]
    askers = [threading.Thread(target=ask, args=(one, model)) for model in ("lite", "own") * 2 for one in workers]
    for asker in askers:
        asker.start()
    wait_for(lambda: heard)
    own.server.terminate()
    assert own.server.wait() == 0
    stop.set()
    for asker in askers:
        asker.join()
    assert heard == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}


def test_one_that_is_killed_comes_back(own):
    """The others answer meanwhile, and it answers as they do; its connections fail as if the server had gone."""
    victim = worker_pids(own.server)[0]
    lost = own.connections.pop(victim)
    kept = list(own.connections.values())
    failed, stop = [], threading.Event()

    def ask(one):
        while not stop.is_set():
            try:
                one.predict()
            except grpc.RpcError as error:
                failed.append(error)

    askers = [threading.Thread(target=ask, args=(one,)) for one in kept]
    for asker in askers:
        asker.start()
    before = set(worker_pids(own.server))
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: set(worker_pids(own.server)) - before)
    new = (set(worker_pids(own.server)) - before).pop()
    stop.set()
    for asker in askers:
        asker.join()
    assert failed == []
    assert any("SIGKILL" in line or "signal 9" in line for line in own.server.log)
    lost.close()
    # It listens once it has been told what is served.
    found = {}

    def reached():
        for one in found.values():
            one.close()
        found.clear()
        one = Connection(own.server.address)
        grpc.channel_ready_future(one.channel).result(20)
        if ends(new, own.server.port):
            found[new] = one
            return True
        one.close()
        return False

    wait_for(reached)
    assert found[new].predict() == kept[0].predict()
    own.connections[new] = found[new]


def test_one_that_hangs_keeps_nobody(own):
    """A change is made although a worker doesn't answer, which then answers by none that is old; a stop ends all."""
    pids = worker_pids(own.server)
    others = [one for pid, one in own.connections.items() if pid != pids[0]]
    os.kill(pids[0], signal.SIGSTOP)
    try:
        others[0].call(methods.SET_LABEL, edge.SetLabelRequest(model="lite", label="stable", version=1))
    finally:
        os.kill(pids[0], signal.SIGCONT)
    assert [one.predict(label="stable") for one in own.each()] == [(1, 2.0)] * 3
    own.server.terminate()
    assert own.server.wait() == 0
    assert [pid for pid in pids if alive(pid)] == []


def test_one_that_holds_a_load_up_is_in_the_log(own):
    """With the version that waits, which is available as soon as the worker has it."""
    first = own.connections[own.server.process.pid]
    victim = worker_pids(own.server)[0]
    os.kill(victim, signal.SIGSTOP)
    try:
        publish(own.repository, 2, 3.0)
        wait_for(lambda: [line for line in own.server.log if f"lite/2 waits for worker 1, process {victim}," in line])
    finally:
        os.kill(victim, signal.SIGCONT)
    wait_for(lambda: first.predict() == (2, 3.0))
    assert worker_pids(own.server)[0] == victim


def test_a_killed_server_leaves_nobody(tmp_path):
    """The kernel ends its workers."""
    publish(tmp_path, 1, 2.0)
    server = serve(tmp_path)
    pids = worker_pids(server)
    assert len(pids) == 1
    server.kill()
    wait_for(lambda: not any(alive(pid) for pid in pids))
    server.close()


def test_a_second_server_gets_no_part_of_the_port(tmp_path):
    """It is told that the port is taken, as ever."""
    import subprocess
    import sys

    publish(tmp_path, 1, 2.0)
    server = serve(tmp_path)
    try:
        command = [sys.executable, "-m", "fallback_server.cli", "--no-mdns", "--rest_api_port=0", "--workers=2"]
        done = subprocess.run(
            [*command, f"--port={server.port}", f"--model_repository={tmp_path}"],
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert done.returncode == 2
        assert f"can't listen on 127.0.0.1:{server.port}" in done.stderr
    finally:
        server.close()


def test_tls_is_spoken_by_all(tmp_path):
    """With the same certificate, whichever process has the connection; what is passed on inside needs none."""
    publish(tmp_path, 1, 2.0)
    key, certificate = (json.dumps(pem.decode()) for pem in (KEY, CERTIFICATE))
    (tmp_path / "ssl.config").write_text(f"server_key: {key}\nserver_cert: {certificate}\n")
    server = serve(tmp_path, f"--ssl_config_file={tmp_path / 'ssl.config'}", "--transport=auto")
    options = [("grpc.use_local_subchannel_pool", 1)]
    pids = {server.process.pid, *worker_pids(server)}
    had = set()
    try:
        while had != pids:
            before = {pid: ends(pid, server.port) for pid in pids}
            with grpc.secure_channel(server.address, grpc.ssl_channel_credentials(CERTIFICATE), options) as channel:
                answer = methods.PREDICT.bind(channel)(request(), timeout=20)
                assert answer.outputs["y"].float_val[0] == 2
                state = pb.GetModelStatusRequest()
                state.model_spec.name = "lite"
                assert methods.GET_MODEL_STATUS.bind(channel)(state, timeout=20).model_version_status[0].state == 30
                had |= {pid for pid in pids if ends(pid, server.port) - before[pid]}
    finally:
        server.close()
