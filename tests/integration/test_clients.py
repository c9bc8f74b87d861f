"""Other people's clients, each as a program of its own, against one running server."""

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import example_models, fallback_models
from support.complete import needs
from support.fallback_process import ServerProcess
from support.secure_servers import Site

from fallback_server.access.tokens import digest_of

SUPPORT = Path(__file__).parents[1] / "support"
OTHERS = Path(sys.prefix) / "share" / "clients" / "bin" / "python"

needs_clients = needs(OTHERS.exists(), "the environment of ovmsclient and tritonclient")
pytestmark = pytest.mark.slow


def run(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def repository(tensorflow, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    for write in (fallback_models.write_all, example_models.main):
        tensorflow.run(write, 200.0, folder)
    return folder


@pytest.fixture(scope="module")
def listed(repository, tmp_path_factory):
    """A configuration file that lists three models."""
    file = tmp_path_factory.mktemp("config") / "models.config"
    models = "".join(
        f'config {{ name: "{name}" base_path: "{repository / name}" model_platform: "tensorflow" }}\n'
        for name in ("scale", "text", "examples")
    )
    file.write_text(f"model_config_list {{\n{models}}}\n")
    return file


@pytest.fixture(scope="module")
def server(listed):
    process = ServerProcess(f"--model_config_file={listed}", "--port=0", "--no-mdns", "--allow_remote_control")
    yield process
    process.close()


@pytest.fixture(scope="module")
def plain(repository):
    """The same, with every model, and left as it is by all tests."""
    process = ServerProcess(f"--model_repository={repository}", "--port=0", "--no-mdns", "--allow_remote_control")
    yield process
    process.close()


def test_tensorflow_servings_own_stubs(server, repository):
    """Every call of tensorflow-serving-api is answered as TensorFlow Serving answers it."""
    script = SUPPORT / "clients" / "tfs.py"
    said = run(sys.executable, script, server.address, repository)
    seen = json.loads(said[said.index("{") :])  # TensorFlow may write there too.
    assert seen["before"] == {"3": "AVAILABLE"}
    assert (seen["reload"], seen["labelled"]) == (0, 0)
    assert {version: state for version, state in seen["after"].items() if state == "AVAILABLE"} == {
        "1": "AVAILABLE",
        "2": "AVAILABLE",
    }
    assert seen["latest"] == {"outputs": {"y": [[2, 4, 6]]}, "version": 2, "by": "serving_default"}
    assert seen["version"]["outputs"] == seen["label"]["outputs"] == {"y": [[1, 2, 3]]}
    assert seen["empty"]["outputs"] == {"y": []}
    assert seen["text"] == [b"a!".hex(), b"\xff\0!".hex()]
    assert seen["classify"] == [[["low", 1], ["high", 2]], [["low", 3], ["high", 4]]]
    assert seen["context"] == [11, 2]
    assert seen["multi"] == {"scores": [1, 2], "value": 3, "versions": [1, 1]}
    assert seen["metadata"] == {
        "serving_default": "tensorflow/serving/classify",
        "scores": "tensorflow/serving/classify",
        "regress": "tensorflow/serving/regress",
        "predict": "tensorflow/serving/predict",
    }
    assert seen["unknown label"] == ["INVALID_ARGUMENT", "Unrecognized servable version label: nope"]
    assert seen["unknown version"] == ["NOT_FOUND", "Servable not found for request: Specific(scale, 7)"]
    assert seen["unknown model"] == ["NOT_FOUND", "Servable not found for request: Latest(nope)"]


@needs_clients
def test_openvinos_client(plain):
    """ovmsclient, whose protocol is TensorFlow Serving's, over gRPC and REST."""
    seen = json.loads(run(OTHERS, SUPPORT / "clients" / "ovms.py", plain.address, plain.rest))
    for one in seen.values():
        assert one["latest"] == [[3, 6, 9]]
        assert one["status"]["3"] == "AVAILABLE"
        assert "Servable not found for request: Latest(nope)" in one["refusal"]
    assert seen["grpc"]["metadata"]["inputs"]["x"]["shape"] == [-1, 3]


@needs_clients
@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_tritons_client_hears_of_models(plain, transport):
    """Their configuration and statistics, as perf_analyzer asks for them before and after it measures."""
    address = plain.address if transport == "grpc" else plain.rest
    seen = json.loads(run(OTHERS, SUPPORT / "clients" / "triton_facts.py", transport, address))
    scale, text, sums, conv = (seen["configs"][name] for name in ("scale", "text", "sums", "conv"))
    assert (scale["platform"], scale["backend"], scale["max_batch_size"]) == ("tensorflow_savedmodel", "tensorflow", 32)
    assert {key: scale["input"][0][key] for key in ("name", "data_type", "dims")} == {
        "name": "x",
        "data_type": "TYPE_FP32",
        "dims": [3],
    }
    assert text["input"][0]["data_type"] == text["output"][0]["data_type"] == "TYPE_STRING"
    assert sums.get("max_batch_size", 0) == 0
    assert sums["input"][0]["dims"] == [-1]
    assert conv["input"][0]["dims"] == [8, 8, 1]
    assert seen["y"] == [[3, 6, 9], [12, 15, 18]]

    def counted(*path):
        before, after = (
            functools.reduce(lambda stats, key: stats.get(key, {}), path, seen[when]) or 0
            for when in ("before", "after")
        )
        return after - before

    assert (counted("inference_count"), counted("execution_count")) == (10, 5)
    for name in ("success", "queue", "compute_infer"):
        assert counted("inference_stats", name, "count") == 5
    parts = [counted("inference_stats", name, "ns") for name in ("queue", "compute_infer")]
    assert counted("inference_stats", "success", "ns") >= sum(parts) > 0
    (twos,) = [size for size in seen["after"]["batch_stats"] if size["batch_size"] == 2]
    assert twos["compute_infer"]["count"] >= 5
    assert seen["after"]["last_inference"] > seen["before"].get("last_inference", 0)
    assert {"scale", "text", "sums", "conv"} <= set(seen["all"])


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_curl(plain):
    """The lines of TensorFlow Serving's REST documentation."""
    url = f"http://{plain.rest}/v1/models/scale"
    status = json.loads(run("curl", "-s", f"{url}/versions/3"))["model_version_status"]
    assert status == [{"version": "3", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}]
    answer = json.loads(run("curl", "-s", "-d", '{"instances": [[1.0, 2.0, 5.0]]}', "-X", "POST", f"{url}:predict"))
    assert answer == {"predictions": [[3.0, 6.0, 15.0]]}
    wrong = run("curl", "-s", "-w", "%{http_code}", "-d", '{"instances": [[1.0]]}', f"{url}/versions/3:predict")
    assert wrong.endswith("400")
    assert "error" in json.loads(wrong[:-3])
    lost = run("curl", "-s", "-w", "%{http_code}", "-d", '{"instances": [[1.0]]}', f"{url}/versions/9:predict")
    assert lost.endswith("404")
    assert json.loads(lost[:-3]) == {"error": "Servable not found for request: Specific(scale, 9)"}


@needs_clients
def test_tritons_client_over_tls(tmp_path):
    """By a certificate over gRPC, by a token over REST, where it is told so without one."""
    site = Site(tmp_path)
    rules = tmp_path / "access.toml"
    rules.write_text(
        f'[tokens.line]\nsha256 = "{digest_of("t-line")}"\npredict = ["press-*"]\n'
        '[certificates."press-*"]\npredict = ["press-*"]\nstatus = ["press-*"]\n'
    )
    server = site.serve_tls(f"--access_file={rules}", "--tls_clients=require")
    relaxed = site.serve_tls(f"--access_file={rules}")
    try:
        script = SUPPORT / "clients" / "triton_tls.py"
        seen = json.loads(run(OTHERS, script, server.address, relaxed.rest, site.press, "t-line"))
    finally:
        server.close()
        relaxed.close()
    assert seen["grpc"] == seen["http"] == [[2, 4, 6, 8]]
    assert (seen["ready"], seen["index"]) == (True, ["press-a", "press-b"])
    assert "shows nothing may not run model 'press-a'" in seen["refused"]
