"""What a model's processes leave is reaped, and how its own children ended is left to the model."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.clock import FakeClock

from fallback_server.executors.worker.orphans import PATIENCE_S, Reaper, adopt


@pytest.mark.slow
def test_what_is_left_is_reaped_and_own_children_are_not():
    """Those of threads that go on, of one that said it would end, and of one that was seen before it ended."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["left", "reaped", "3", "4", "5"]


def _zombies():
    return [
        pid
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        if " Z " in Path(f"/proc/{pid}/stat").read_text()
    ]


def _ended(*children):
    for child in children:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)


def main():
    """Plays a worker's first thread, and its model's threads."""
    adopt()
    clock = FakeClock()
    reaper = Reaper(clock)
    children = {}
    over = threading.Event()
    ready = threading.Barrier(4)

    def start(code, *, notes):
        children[code] = subprocess.Popen(["sh", "-c", f"exit {code}"])
        if notes:
            reaper.note()
            ready.wait()
            return
        ready.wait()
        over.wait()

    def leave():
        subprocess.run(["sh", "-c", "true & true &"], check=True)

    threads = [threading.Thread(target=start, args=(code,), kwargs={"notes": code == 3}) for code in (3, 4, 5)]
    leaving = threading.Thread(target=leave)
    for thread in (*threads, leaving):
        thread.start()
    leaving.join()
    ready.wait()
    threads[0].join()
    _ended(*children.values())
    while len(_zombies()) < 3:  # The two that were left, and 3, whose thread has ended.
        os.sched_yield()
    reaper.look()
    over.set()
    for thread in threads:
        thread.join()
    while len(_zombies()) < 5:  # A thread that was joined may still be about to leave its child to the first one.
        os.sched_yield()
    print("left")  # noqa: T201  read by the test
    clock.advance(PATIENCE_S)
    reaper.look()
    print("reaped" if len(_zombies()) == 3 else _zombies())  # noqa: T201  read by the test
    for code in (3, 4, 5):
        print(children[code].wait())  # noqa: T201  read by the test


if __name__ == "__main__":
    main()
