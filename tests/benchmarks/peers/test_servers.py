"""The servers that are measured, and what clients in C send them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.loads import framed, read_h2load
from benchmarks.peers.models import Model
from benchmarks.peers.processes import Started, below
from benchmarks.peers.servers import Echo, Ours, Triton
from fallback_server.protocol.proto import inference_pb2, serving_pb2
from fallback_server.protocol.tensors import read

SAID = "finished in 2.00s\nrequests: {} total, {} started, {} done, {} succeeded, {} failed, 0 errored, 0 timeout\n"

PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print("up", flush=True)
time.sleep(60)
"""


@pytest.fixture
def model(tmp_path) -> Model:
    saved_model = tmp_path / "made"
    saved_model.mkdir()
    (saved_model / "saved_model.pb").write_bytes(b"a graph")
    (tmp_path / "made.tflite").write_bytes(b"a file")
    return Model(name="cnn", shape=(28, 28, 1), outputs=10, saved_model=saved_model, litert=tmp_path / "made.tflite")


def test_ours_is_asked_for_a_row_in_typed_values(tmp_path, model):
    """As perf_analyzer asks it."""
    request = serving_pb2.PredictRequest.FromString(
        Ours(tmp_path, model, executor="litert", transport="native").message()
    )
    assert request.model_spec.name == "cnn"
    assert not request.inputs["x"].tensor_content
    assert read(request.inputs["x"]).shape == (1, 28, 28, 1)


def test_a_version_has_the_forms_that_its_executor_is_chosen_from(tmp_path, model):
    """The SavedModel alone where that is what is measured."""
    Ours(tmp_path, model, executor="tensorflow", transport="grpcio")
    Ours(tmp_path, model, executor="litert", transport="grpcio")
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/cnn/1/*"))
    assert found == ["both/cnn/1/model.tflite", "both/cnn/1/saved_model.pb", "saved_model/cnn/1/saved_model.pb"]


def test_triton_is_asked_for_the_same_row_in_raw_values(tmp_path, model):
    """And its configuration names the file that it runs."""
    triton = Triton(tmp_path, model, executor="litert", peers=None)
    request = inference_pb2.ModelInferRequest.FromString(triton.message())
    assert np.frombuffer(request.raw_input_contents[0], np.float32).shape == (784,)
    config = (tmp_path / "triton-litert-cnn" / "cnn" / "config.pbtxt").read_text()
    assert json.dumps(str(model.litert)) in config


def test_a_message_is_framed_as_grpc_frames_it():
    """A flag and a length of four bytes come before it."""
    assert framed(b"abc") == b"\x00\x00\x00\x00\x03abc"


def test_a_load_is_read_from_what_h2load_says_and_logs(tmp_path):
    """The rate from its count, the percentiles from each request's line."""
    log = tmp_path / "log"
    log.write_text("".join(f"{1_000_000 + index}\t200\t{index}\n" for index in range(1, 101)))
    load, count = read_h2load(SAID.format(80, 80, 80, 80, 0), log, 2.0)
    assert (load.rate, count) == (40, 100)
    assert load.p50_ms == pytest.approx(0.0505)


@pytest.mark.parametrize(
    ("said", "statuses", "failed", "rate"),
    [
        (SAID.format(4, 4, 4, 3, 1), (200, 200, 200, 503), 1, 1.5),
        (SAID.format(4, 4, 4, 2, 1), (200, 200, -1, -1), 1, 1.0),
        (SAID.format(4, 4, 4, 4, 0), (200, 200, 200, 302), 1, 1.5),
        (SAID.format(4, 4, 2, 2, 0), (200, 200, -1, -1), 0, 1.0),
    ],
)
def test_requests_that_fail_are_counted_and_no_part_of_the_load(tmp_path, said, statuses, failed, rate):
    """Refusals are answered sooner than anything else; what was under way at the end is none."""
    log = tmp_path / "log"
    log.write_text(
        "".join(f"{index}\t{status}\t{5 if status == 200 else 1}\n" for index, status in enumerate(statuses))
    )
    load, well = read_h2load(said, log, 2.0)
    assert (load.failed, load.rate, well) == (failed, rate, statuses.count(200))
    assert load.p50_ms == pytest.approx(0.005)


@pytest.mark.parametrize(("said", "lines"), [(SAID.format(2, 2, 2, 0, 2), "1\t500\t5\n"), ("", ""), ("no h2load", "")])
def test_a_load_without_an_answer_is_none(tmp_path, said, lines):
    """Whatever was printed is in the error."""
    log = tmp_path / "log"
    log.write_text(lines)
    with pytest.raises(RuntimeError, match="no request was answered"):
        read_h2load(said, log, 2.0)


@pytest.mark.slow
def test_an_echo_answers_until_it_is_stopped():
    """A real server, which is asked once, and whose processor time counts."""
    echo = Echo("sync")
    echo.start()
    try:
        echo.answers()
        pid = echo.pid
        assert Path(f"/proc/{pid}").exists()
    finally:
        echo.stop()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.slow
def test_a_process_ends_with_all_below_it():
    """Also those that would outlive it."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        started = Started([sys.executable, "-c", PARENT])
        started.printed("up")
        family = below(started.pid)
        assert len(family) == 2
        assert started.cpu_s() >= 0
        started.stop()
        end_s = time.monotonic() + 30
        while any(_runs(pid) for pid in family):
            assert time.monotonic() < end_s
            time.sleep(0.01)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def _runs(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
