"""The device side where only tflite-runtime is: an environment of its own, in which the real runtime answers."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from support import edge_delegates
from support.edge_models import publish_scale, rows
from support.edgetpu_models import edgetpu_model
from support.interpreter_models import images, net_model, net_signature, pair_model

from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.interpreter import InterpreterSession

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv/share/tflite-runtime/bin/python"

pytestmark = pytest.mark.slow

PREDICT = """
from edge_runtime import Runtime
with Runtime.open(sys.argv[1], threads=1) as runtime:
    model = runtime.model("scale")
    found = [model.predict(rows(count)).outputs["y"].tolist() for count in (1, 3, 1, 5)]
    found.append(model.predict(rows(8)[::2]).outputs["y"].tolist())
"""

SESSIONS = """
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.delegates import open_session
from converter.artifact import Signature, TensorSpec
folder = Path(sys.argv[1])
found = {}

def signature(name, inputs, outputs, shape):
    takes, gives = (
        tuple(TensorSpec(name=each, dtype="float32", shape=shape) for each in side) for side in (inputs, outputs)
    )
    return Signature(name=name, inputs=takes, outputs=gives, batch_axis=None)

pairs = tuple(signature(name, "ab", "c", (1, 4)) for name in ("add", "mul"))
both = open_session(SessionSpec(subject="pair", signatures=pairs), (folder / "pair.tflite").read_bytes())
x = np.full((1, 4), 3, np.float32)
found["pair"] = [both.run(name, {"a": x, "b": x})["c"].tolist() for name in ("add", "mul", "add")]

bare = open_session(SessionSpec(subject="net"), (folder / "net.tflite").read_bytes())
found["net"] = [bare.run("", {"image": np.load(folder / f"{n}.npy")})["scores"].tolist() for n in (1, 3)]

if len(sys.argv) > 2:
    spec = SessionSpec(subject="coral", delegate="edgetpu", device="edgetpu:usb", library=sys.argv[2])
    coral = open_session(spec, (folder / "coral.tflite").read_bytes())
    found["coral"] = coral.run("", {"x": rows(1)})["y"].tolist()
    coral.close()
"""

FRAME = """
import json, sys
from pathlib import Path
import numpy as np
def rows(count):
    return np.arange(count * 4, dtype=np.float32).reshape(count, 4)
{body}
foreign = [name for name in sys.modules if name.startswith("ai_edge_litert")]
print()
print(json.dumps({{"found": found, "numpy": np.__version__, "foreign": foreign}}))
"""


@pytest.fixture(scope="module", autouse=True)
def environment():
    """The interpreter's own environment; there can be none for a Python that tflite-runtime was never built for."""
    if PYTHON.exists():
        return
    if os.environ.get("EDGE_TESTS_COMPLETE") and sys.version_info < (3, 12):
        pytest.fail("there is no .venv/share/tflite-runtime, and EDGE_TESTS_COMPLETE asks for every test")
    pytest.skip("no environment with tflite-runtime: requirements/test-data.sh makes one")


def run(body, *arguments):
    """What the body leaves in `found`, in that environment."""
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [PYTHON, "-c", FRAME.format(body=body), *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "HOME": home},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["foreign"] == []
    assert answer["numpy"].startswith("1.")
    return answer["found"]


def test_runtime_answers_with_tflite_runtime_alone(tmp_path):
    """A package is opened and answers right, for one row, several, and a view, where there is no ai-edge-litert."""
    publish_scale(tmp_path, 1, 2.0)
    found = run(PREDICT, tmp_path)
    expected = [(rows(count) * 2).tolist() for count in (1, 3, 1, 5)]
    assert found == [*expected, (rows(8)[::2] * 2).tolist()]


def test_sessions_run_as_with_the_living_library(tmp_path):
    """Several signatures, a file without them, batches, and an Edge TPU's library work there as they do here."""
    (tmp_path / "pair.tflite").write_bytes(pair_model(kinds=("ADD", "MUL")))
    (tmp_path / "net.tflite").write_bytes(net_model())
    for count in (1, 3):
        np.save(tmp_path / f"{count}.npy", images(count))
    (tmp_path / "coral.tflite").write_bytes(edgetpu_model(2.0, dtype="float32", signature=None))
    library = [edge_delegates.build_edgetpu(tmp_path)] if edge_delegates.COMPILER else []
    found = run(SESSIONS, tmp_path, *library)
    assert found["pair"] == [[[6] * 4], [[9] * 4], [[6] * 4]]
    here = InterpreterSession(SessionSpec(subject="net", signatures=(net_signature(),)), net_model())
    for count, scores in zip((1, 3), found["net"], strict=True):
        expected = here.run("serving_default", {"image": images(count)})["scores"]
        np.testing.assert_allclose(scores, expected, atol=1e-5)
    if library:
        assert found["coral"] == (rows(1) * 2).tolist()


def test_library_is_named_with_its_version():
    """What is installed is told as it is."""
    body = "from edge_runtime.engine.library import installed; found = installed()"
    assert run(body) == ["tflite-runtime", "2.14.0"]
