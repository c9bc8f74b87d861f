"""Making room for others, in threads of a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import slices

from fallback_server.executors.worker.priority import Narrowed, put_aside

SUPPORT = Path(__file__).parents[3]

STEPS = """
import json, sys, threading
sys.path.append(sys.argv[1])
from support.slices import cores, nice, slice_ns
from fallback_server.executors.worker.priority import Aside, come_back, step_back, wake_soon
seen, made, done = {}, threading.Event(), threading.Event()
def look(name, thread):
    seen[name] = (slice_ns(thread), nice(thread), cores(thread))
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
aside = Aside()
with aside.lifted():
    look("not yet aside", main)
aside.begin()
look("aside", main)
look("aside, niced", thread.native_id)
with aside.lifted():
    look("lifted", main)
    look("lifted, niced", thread.native_id)
look("aside again", main)
look("aside again, niced", thread.native_id)
come_back()
aside.end()
for name, one in (("back", main), ("its child, back", child.native_id), ("niced, back", thread.native_id)):
    look(name, one)
wake_soon()
look("soon", main)
done.set()
print(json.dumps(seen))
"""


@pytest.mark.slow
def test_threads_step_back_and_come_back_but_stay_nice():
    """The longest slice or the shortest, for the thread and its children; half of the cores for a while. Nice stays."""
    done = subprocess.run([sys.executable, "-c", STEPS, SUPPORT], capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    usual_ns, usual_nice, cores = seen["usual"]
    long_ns = seen["stepped back"][0]
    if not usual_ns:
        assert long_ns == 0, "a system that tells of no slices grants none"
    else:
        assert long_ns == 100_000_000
    niced = max(10, usual_nice)
    assert seen == {
        "usual": [usual_ns, usual_nice, cores],
        "soon": [100_000 if usual_ns else 0, usual_nice, cores],
        "stepped back": [long_ns, usual_nice, cores],
        "its child": [long_ns, usual_nice, cores],
        "niced": [long_ns, niced, cores],
        "aside": [long_ns, usual_nice, cores - cores // 2],
        "aside, niced": [long_ns, niced, cores - cores // 2],
        "not yet aside": [long_ns, usual_nice, cores],
        "lifted": [long_ns, usual_nice, cores],
        "lifted, niced": [long_ns, niced, cores],
        "aside again": [long_ns, usual_nice, cores - cores // 2],
        "aside again, niced": [long_ns, niced, cores - cores // 2],
        "back": [usual_ns, usual_nice, cores],
        "its child, back": [usual_ns, usual_nice, cores],
        "niced, back": [usual_ns, niced, cores],
    }


@pytest.mark.slow
def test_a_process_that_is_put_aside_makes_room_with_all_its_threads():
    """It frees its memory while others answer; one that has ended already is no error."""
    code = "import threading, sys; threading.Thread(target=sys.stdin.read).start(); print(1, flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        put_aside(process.pid)
        threads = [int(thread.name) for thread in Path(f"/proc/{process.pid}/task").iterdir()]
        assert len(threads) == 2
        cores = len(os.sched_getaffinity(0))
        for thread in threads:
            assert slices.nice(thread) == max(10, os.getpriority(os.PRIO_PROCESS, 0))
            assert slices.cores(thread) == cores - cores // 2
        process.kill()
        process.wait()
    put_aside(process.pid)


@pytest.mark.slow
def test_a_process_that_is_narrowed_leaves_one_core_with_all_its_threads_until_the_end():
    """All but the first of its cores, then all again; a thread that was pinned meanwhile stays."""
    code = "import threading, sys; threading.Thread(target=sys.stdin.read).start(); print(1, flush=True)"
    everywhere = sorted(os.sched_getaffinity(0))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        threads = sorted(int(thread.name) for thread in Path(f"/proc/{process.pid}/task").iterdir())
        narrowed = Narrowed(process.pid)
        rest = set(everywhere[1:] or everywhere)
        assert [os.sched_getaffinity(thread) for thread in threads] == [rest, rest]
        os.sched_setaffinity(threads[1], everywhere[:1])
        narrowed.end()
        assert os.sched_getaffinity(threads[0]) == set(everywhere)
        assert os.sched_getaffinity(threads[1]) == set(everywhere[:1])
        narrowed = Narrowed(process.pid)
        process.kill()
        process.wait()
    narrowed.end()
    Narrowed(process.pid).end()


@pytest.mark.slow
def test_where_memory_runs_out_models_go_before_the_server():
    """A nursery, and what it forks, is ended first; an operator's own figure is raised, and bounded."""
    program = """
import os, sys
from pathlib import Path
from fallback_server.executors.worker.priority import go_first

said = Path("/proc/self/oom_score_adj")
said.write_text(sys.argv[1])
go_first()
if (pid := os.fork()) == 0:
    print(said.read_text().strip(), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""
    found = [
        subprocess.run([sys.executable, "-c", program, given], capture_output=True, text=True, check=True).stdout
        for given in ("0", "300", "900")
    ]
    assert found == ["500\n", "800\n", "1000\n"]
