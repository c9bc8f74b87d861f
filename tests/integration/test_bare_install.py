"""The device side alone, as a Raspberry Pi would have it: a fresh environment and no extras."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from support.edge_models import publish_scale

ROOT = Path(__file__).parents[2]
MAX_MIB = 250

PROGRAM = """
import json, sys
import numpy as np
from edge_runtime import Runtime
with Runtime.open(sys.argv[1], fallback="mdns") as runtime:
    reply = runtime.model("scale").predict(np.ones((2, 4), np.float32), deadline_ms=5000)
absent = []
for name in ("tensorflow", "keras", "rich", "sklearn", "matplotlib"):
    try:
        __import__(name)
    except ImportError:
        absent.append(name)
print(json.dumps({"y": reply.outputs["y"].tolist(), "place": reply.place, "absent": absent}))
"""


def installed_mib(folder):
    """MiB below a folder, without the pip that venv itself put there."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum(path.stat().st_size for path in files if "/site-packages/pip" not in str(path)) / 2**20


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_bare_install_predicts_without_tensorflow(tmp_path):
    """The bare distribution in a fresh environment stays under 250 MB, and predicts with TensorFlow absent."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    quiet = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    lock = str(ROOT / "requirements" / "device.txt")
    subprocess.run([*quiet, "--require-hashes", "--no-deps", "-r", lock], check=True)
    # The wheel is built with what the lock of the whole project installed, so that nothing unlocked is fetched.
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*wheel, "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    subprocess.run([*quiet, "--no-deps", str(next(tmp_path.glob("edge_runtime-*.whl")))], check=True)
    subprocess.run([str(python), "-m", "pip", "check"], check=True)

    publish_scale(tmp_path / "store", 1, 2.0)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(python), "-c", PROGRAM, str(tmp_path / "store")],
        capture_output=True, text=True, check=True, cwd=tmp_path, env=clean,
    )  # fmt: skip
    result = json.loads(done.stdout)
    assert result["y"] == [[2.0] * 4] * 2
    assert result["place"] == "device:cpu"
    assert result["absent"] == ["tensorflow", "keras", "rich", "sklearn", "matplotlib"]
    for command in ("edge-run", "edge-convert", "fallback-server"):
        subprocess.run(
            [str(home / "bin" / command), "--help"], check=True, capture_output=True, env=clean, cwd=tmp_path
        )
    subprocess.run([str(home / "bin" / "edge-run"), "doctor"], check=True, capture_output=True, env=clean, cwd=tmp_path)
    assert installed_mib(home) < MAX_MIB
