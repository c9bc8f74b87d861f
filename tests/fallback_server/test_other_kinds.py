"""A whole server whose models are no SavedModels, as its clients and its operator see it."""

import json
import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support import executor_forms, operator_files
from support.edge_models import publish_scale, scale_model
from support.fallback_workers import wait_until
from support.harmful_models import looping_model

from fallback_server.cli import main

pytestmark = pytest.mark.slow

FLAGS = ("--port=0", "--no-mdns", "--file_system_poll_wait_seconds=0.2")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    from support.fallback_process import ServerProcess

    repository = tmp_path_factory.mktemp("models")
    executor_forms.write_litert(repository / "made")
    executor_forms.write_python(repository / "made")
    for name, file in (("lite", "model.tflite"), ("own", "model.py")):
        (repository / name / "1").mkdir(parents=True)
        shutil.copy(repository / "made" / "scale" / "1" / file, repository / name / "1")
    shutil.rmtree(repository / "made")
    publish_scale(repository, 1, 3.0, model="package")
    (repository / "harmful" / "1").mkdir(parents=True)
    (repository / "harmful" / "1" / "model.tflite").write_bytes(looping_model(itself=True))
    (repository / "divides" / "1").mkdir(parents=True)
    content = operator_files.operator_file("FLOOR_MOD", "int32")
    (repository / "divides" / "1" / "model.tflite").write_bytes(content)
    server = ServerProcess(*FLAGS, f"--model_repository={repository}", "--max_num_load_retries=0")
    yield server
    server.close()


def predict(server, name):
    return asked(server, name, {"instances": [[1, 2, 3, 4], [0, 0, 0, 1]]})["predictions"]


def asked(server, name, request):
    body = json.dumps(request).encode()
    with urllib.request.urlopen(
        urllib.request.Request(f"http://{server.rest}/v1/models/{name}:predict", body), timeout=30
    ) as reply:
        return json.load(reply)


@pytest.mark.parametrize(("name", "factor"), [("lite", 2), ("own", 2), ("package", 3)])
def test_requests_are_answered(served, name, factor):
    """By a TFLite file, a class of one's own, and a package of the converter's."""
    assert predict(served, name) == [[factor * x for x in (1, 2, 3, 4)], [0, 0, 0, factor]]


def test_the_status_says_what_runs_each(served, capsys):
    """And of a file that crashed in its trial, that it did; the server went on."""
    assert main(["status", served.address, "--json"]) == 0
    models = {model["name"]: model for model in json.loads(capsys.readouterr().out)["models"]}
    found = {name: (model["versions"][0]["state"], model["versions"][0]["executor"]) for name, model in models.items()}
    assert found == {
        "lite": ("AVAILABLE", "litert"),
        "own": ("AVAILABLE", "python"),
        "package": ("AVAILABLE", "litert"),
        "harmful": ("END", ""),
        "divides": ("AVAILABLE", "litert"),
    }
    assert "(signal 11)" in models["harmful"]["versions"][0]["error"]


def test_values_that_end_a_models_process_end_no_other(served):
    """Whoever sent them is told so, the others are answered, and so is the same model once it is started anew."""

    def divide(a, b):
        given = {name: [[[[value] * 4] * 4] * 4] for name, value in (("in0", a), ("in1", b))}
        return asked(served, "divides", {"inputs": given})["outputs"][0][0][0]

    assert divide(7, 4) == [3] * 4
    with pytest.raises(urllib.error.HTTPError) as caught:
        divide(-(2**31), -1)
    assert json.load(caught.value)["error"] == "the model's process ended (signal 8) while it ran the request"
    assert predict(served, "lite")[1] == [0, 0, 0, 2]

    def answers():
        try:
            return divide(7, 4) == [3] * 4
        except urllib.error.HTTPError:
            return False

    wait_until(answers)


def test_no_process_has_imported_tensorflow(served):
    """Where nothing that stands on disk needs it."""
    import psutil

    processes = [psutil.Process(served.process.pid), *psutil.Process(served.process.pid).children(recursive=True)]
    assert len(processes) > 1
    maps = [each.path for process in processes for each in process.memory_maps()]
    assert [path for path in maps if "tensorflow" in path] == []


def test_a_pinned_executor_refuses_what_has_no_such_form(tmp_path):
    """Named in the version's error; a model of the file may pin another."""
    from support.fallback_process import Client, ServerProcess

    for name in ("a", "b"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.tflite").write_bytes(scale_model(2.0))
    lines = [f'[models.{name}]\nbase_path = "{tmp_path / name}"' for name in ("a", "b")]
    (tmp_path / "server.toml").write_text("\n".join([*lines, 'executor = "litert"']))
    server = ServerProcess(*FLAGS, f"--config={tmp_path / 'server.toml'}", "--executor=python")
    try:
        client = Client(server.address)
        assert client.states("b") == {1: "AVAILABLE"}
        assert client.states("a") == {1: "END"}
        assert "executor 'python' that was asked for: it holds none of model.py" in client.errors("a")[1]
        client.close()
    finally:
        server.close()


def test_the_server_needs_no_more_than_its_files_to_be_whole(served):
    """A file that is written over while it is served harms nobody."""
    folder = next(flag.partition("=")[2] for flag in served.flags if flag.startswith("--model_repository"))
    os.truncate(Path(folder) / "lite" / "1" / "model.tflite", 0)
    assert predict(served, "lite") == [[2, 4, 6, 8], [0, 0, 0, 2]]


CLOSES_SLOWLY = """
import time


class Model:
    signatures = {"serving_default": {"inputs": {"x": ("float32", (-1,))}, "outputs": {"y": ("float32", (-1,))}}}

    def __init__(self, path):
        self.path = path

    def predict(self, signature, inputs):
        return {"y": inputs["x"]}

    def close(self):
        (self.path.parent / "begun").touch()
        time.sleep(1)
        (self.path.parent / "ended").touch()
"""


def test_a_stop_lets_a_class_of_ones_own_put_its_things_in_order(tmp_path):
    """SIGTERM waits for its `close`, as an unload does."""
    from support.fallback_process import ServerProcess

    (tmp_path / "own" / "1").mkdir(parents=True)
    (tmp_path / "own" / "1" / "model.py").write_text(CLOSES_SLOWLY)
    server = ServerProcess(*FLAGS, f"--model_base_path={tmp_path / 'own'}", "--model_name=own")
    server.terminate()
    try:
        assert server.wait() == 0
    finally:
        server.close()
    assert sorted(file.name for file in (tmp_path / "own").iterdir() if file.is_file()) == ["begun", "ended"]
