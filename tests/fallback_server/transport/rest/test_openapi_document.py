"""The server keeps to its own OpenAPI document: schemathesis makes requests of it, against a real server's models."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support import executor_forms
from support.complete import require
from support.edge_models import publish_scale
from support.fallback_process import ServerProcess

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[4] / ".venv" / "share" / "schemathesis" / "bin" / "st"

EXAMPLES = 25
"""Of each operation and phase."""

CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
"""Not how other methods are refused: below /v1 it is as in TensorFlow Serving, 400 for all of them."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A TFLite file, a class of one's own, and a package of the converter's."""
    repository = tmp_path_factory.mktemp("models")
    executor_forms.write_litert(repository / "made")
    executor_forms.write_python(repository / "made")
    for name, file in (("lite", "model.tflite"), ("own", "model.py")):
        (repository / name / "1").mkdir(parents=True)
        shutil.copy(repository / "made" / "scale" / "1" / file, repository / name / "1")
    shutil.rmtree(repository / "made")
    publish_scale(repository, 1, 3.0, model="package")
    running = ServerProcess("--port=0", "--no-mdns", f"--model_repository={repository}")
    yield running
    running.close()


@pytest.mark.parametrize("model", ["lite", "own", "package", None])
def test_the_document_is_true(server, tmp_path, model):
    """No answer but such as it tells of, and none that blames the server; of models that are there, and of any name."""
    require(PROGRAM.exists(), "schemathesis")
    if model is not None:
        parameters = {"path.model": model, "path.version": "1"}
        config = "[parameters]\n" + "".join(f"{json.dumps(k)} = {json.dumps(v)}\n" for k, v in parameters.items())
        (tmp_path / "schemathesis.toml").write_text(config)
    command = [str(PROGRAM)]
    if model is not None:
        command += ["--config-file", str(tmp_path / "schemathesis.toml")]
    command += ["run", f"http://{server.rest}/openapi.json", "--checks", ",".join(CHECKS), "--continue-on-failure"]
    command += ["--max-examples", str(EXAMPLES), "--phases", "coverage,fuzzing", "--max-response-time", "5"]
    command += ["--request-timeout", "30", "--warnings", "off", "--generation-database", "none", "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2000:]
    assert server.process.poll() is None
    assert "Traceback" not in "".join(server.log)
