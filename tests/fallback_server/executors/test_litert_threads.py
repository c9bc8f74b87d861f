"""The threads that several-threaded LiteRT runs have, where a thread loads the file that makes room for others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import json, math, os, threading
from support.interpreter_models import images, net_model
from support.slices import nice
from fallback_server.executors import litert
from fallback_server.executors.base import RunSizes
from fallback_server.executors.litert_files import SealedFile
from fallback_server.executors.worker.priority import step_back

litert.LONG_RUN_S, litert._CLEARLY, litert.usable_cores = 0.0, math.inf, lambda: 2
opened = []

def load():
    step_back(nice=10)
    opened.append(litert.open_litert(SealedFile.of(net_model(), "m"), sizes=RunSizes(rows=(1, 2), threads=2)))

def threads():
    return {int(name) for name in os.listdir("/proc/self/task")}

thread = threading.Thread(target=load)
thread.start()
thread.join()
loaded = threads()
scores = [opened[0].run("serving_default", {"image": images(1)})["scores"].tolist()]
opened[0].renew()
scores.append(opened[0].run("serving_default", {"image": images(1)})["scores"].tolist())
usual = nice(os.getpid())
print(json.dumps([[nice(each) for each in threads() - loaded], usual, scores]))
"""


@pytest.mark.slow
def test_threads_that_run_are_no_nicer_than_who_answers():
    """Those of the load, which made room for others, give way to new ones; the answers stay."""
    root = Path(__file__).parents[3]
    paths = os.pathsep.join((str(root), str(root / "tests")))
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
        timeout=120,
    )
    found, usual, (before, after) = json.loads(done.stdout)
    assert found  # Without a new one nothing would be shown.
    assert set(found) == {usual}
    assert before == after
