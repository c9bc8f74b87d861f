import signal
import subprocess
import sys

import pytest

CRASHING = """
import os, signal
from edge_runtime.notes import without_notes
with without_notes():
    os.write(2, b"INFO: a note of the library's\\n")
    os.kill(os.getpid(), signal.SIGSEGV)
"""


@pytest.mark.slow
def test_a_crash_is_said_while_stderr_is_held():
    """What kills the process and where stands on stderr, as a package that crashes the interpreter would have it."""
    done = subprocess.run([sys.executable, "-c", CRASHING], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in done.stderr
    assert "a note" not in done.stderr
