import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command, **options):
    """Runs one of our programs to its end, and gives what it printed."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """Two trained versions of the digits model, as SavedModels and as packages."""
    folder = tmp_path_factory.mktemp("digits")
    whole = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}  # it has its data of scikit-learn
    run(str(ROOT / "examples" / "digits.py"), "--output", str(folder), "--width", "8", "--epochs", "3", env=whole)
    for version in ("1", "2"):
        source, output = str(folder / "saved_model" / version), str(folder / "packages")
        samples = ["--calibration", str(folder / "train.npz"), "--evaluation", str(folder / "test.npz")]
        command = ["-m", "converter.cli", source, "--name", "digits", "--version", version, "--output", output]
        result = json.loads(run(*command, *samples, "--labels", str(folder / "labels.txt"), "--json"))
        assert {one["status"] for one in result["variants"]} == {"ok"}
    return folder
