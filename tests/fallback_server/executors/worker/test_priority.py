"""Making room for others, in threads of a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[3]

STEPS = """
import json, sys, threading
sys.path.append(sys.argv[1])
from support.slices import nice, slice_ns
from fallback_server.executors.worker.priority import come_back, step_back
seen, made, done = {}, threading.Event(), threading.Event()
def look(name, thread):
    seen[name] = (slice_ns(thread), nice(thread))
def niced():
    step_back(nice=10)
    step_back()
    look("niced", threading.get_native_id())
    made.set()
    done.wait()
main = threading.main_thread().native_id
look("usual", main)
step_back()
look("stepped back", main)
child = threading.Thread(target=done.wait)
child.start()
look("its child", child.native_id)
thread = threading.Thread(target=niced)
thread.start()
made.wait()
come_back()
for name, one in (("back", main), ("its child, back", child.native_id), ("niced, back", thread.native_id)):
    look(name, one)
done.set()
print(json.dumps(seen))
"""


@pytest.mark.slow
def test_threads_step_back_and_come_back_but_stay_nice():
    """The longest slice, for the thread and those that it makes; the usual one again for all. Nice is for ever."""
    done = subprocess.run([sys.executable, "-c", STEPS, SUPPORT], capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    usual_ns, usual_nice = seen["usual"]
    long_ns = seen["stepped back"][0]
    if not usual_ns:
        assert long_ns == 0, "a system that tells of no slices grants none"
    else:
        assert long_ns == 100_000_000
    niced = max(10, usual_nice)
    assert seen == {
        "usual": [usual_ns, usual_nice],
        "stepped back": [long_ns, usual_nice],
        "its child": [long_ns, usual_nice],
        "niced": [long_ns, niced],
        "back": [usual_ns, usual_nice],
        "its child, back": [usual_ns, usual_nice],
        "niced, back": [usual_ns, niced],
    }
