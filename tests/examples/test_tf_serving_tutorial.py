import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.fashion import folder

SCRIPT = Path(__file__).parents[2] / "examples" / "tf_serving_tutorial.py"


@pytest.mark.slow
@pytest.mark.skipif(folder() is None, reason="no Fashion-MNIST here")
def test_the_tutorial_ends_with_the_picture(tmp_path):
    """Train, export, serve, ask over REST with and without a version, draw: what the model says the server says."""
    from PIL import Image

    command = [sys.executable, SCRIPT, "--output", "out", "--epochs", "1", "--samples", "6000"]
    whole = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}  # it draws by matplotlib
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False, env=whole)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("fashion_model:predict: ") == 3
    assert done.stdout.count("1:predict: ") == 3
    assert '"state": "AVAILABLE"' in done.stdout
    width, height = Image.open(tmp_path / "out" / "predictions.png").size
    assert height > 300
    assert width > 900
