import subprocess
import sys
from pathlib import Path

import pytest

MODELS = Path(__file__).parents[1] / "support" / "fallback_models.py"


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder of tiny SavedModels: see `support/fallback_models.py`."""
    output = tmp_path_factory.mktemp("models")
    made = subprocess.run([sys.executable, MODELS, output], capture_output=True, text=True, timeout=200, check=False)
    assert made.returncode == 0, made.stderr
    return output
