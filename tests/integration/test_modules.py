import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "command"),
    [("fallback_server", "fallback-server"), ("edge_runtime", "edge-run"), ("converter", "edge-convert")],
)
def test_a_package_runs_as_its_command(module, command):
    """Where scripts are not on the path, `python -m` does what they do; its exit code too."""
    told = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
    assert f"usage: {command} " in told.stdout
    refused = subprocess.run([sys.executable, "-m", module, "--no-such-flag"], capture_output=True, check=False)
    assert refused.returncode == 2
