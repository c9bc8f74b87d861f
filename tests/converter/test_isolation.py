import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from support import converter_crashes as tasks

from converter.errors import (
    DataInvalid,
    OptionInvalid,
    TaskCrashed,
    TaskFailed,
    TaskOutOfMemory,
    TaskRaised,
    TaskTimedOut,
    ToolMissing,
)
from converter.isolation import LOG_TAIL_BYTES, ForkServer
from converter.process_memory import available_bytes

pytestmark = pytest.mark.slow

LIMIT_S = 30.0


@pytest.fixture(scope="module")
def bare():
    """A server that preloads nothing."""
    with ForkServer() as running:
        yield running


def eventually(condition, limit_s=10.0):
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_result_comes_back_from_another_process(bare):
    """The function runs with its arguments, in a process that is not this one."""
    assert bare.run(tasks.add, LIMIT_S, 1, b=2) == 3
    assert bare.run(tasks.process_id, LIMIT_S) != os.getpid()


def test_each_task_has_a_process_of_its_own(bare):
    """What a task leaves behind, the next one does not find."""
    assert bare.run(tasks.process_id, LIMIT_S) != bare.run(tasks.process_id, LIMIT_S)


def test_big_arrays_pass_both_ways(bare):
    """40 MB there and 40 MB back, bit for bit."""
    array = np.arange(5_000_000, dtype=np.float64)
    assert bare.run(tasks.total, LIMIT_S, array) == array.sum()
    np.testing.assert_array_equal(bare.run(tasks.big_array, LIMIT_S, len(array)), array)


@pytest.mark.parametrize(
    ("task", "says"),
    [(tasks.segfault, "SIGSEGV"), (tasks.abort, "SIGABRT"), (tasks.kill_itself, "SIGKILL.*memory runs out")],
)
def test_a_child_that_a_signal_ends_is_an_error_that_names_it(bare, task, says):
    """A real segmentation fault, abort and kill reach nobody but their task."""
    with pytest.raises(TaskCrashed, match=says):
        bare.run(task, LIMIT_S)
    assert bare.run(tasks.add, LIMIT_S, 1) == 1


def test_the_log_tells_where_a_crash_was(bare):
    """What the child wrote, and Python's stack at the fault, are kept for the error."""
    with pytest.raises(TaskCrashed) as caught:
        bare.run(tasks.segfault, LIMIT_S)
    assert "about to fall" in caught.value.log
    assert "in segfault" in caught.value.log


@pytest.mark.parametrize(("task", "code"), [(tasks.leave, 3), (tasks.leave, 0), (tasks.system_exit, 5)])
def test_a_child_that_exits_gave_no_result(bare, task, code):
    """Exit code 0 is no success without a result."""
    with pytest.raises(TaskCrashed, match=f"exit code {code} and no result") as caught:
        bare.run(task, LIMIT_S, code)
    assert caught.value.exit_code == code


def test_a_child_that_hangs_is_killed_at_its_limit(bare, tmp_path):
    """The limit is kept, and the process is gone when the error is raised."""
    began_s = time.monotonic()
    with pytest.raises(TaskTimedOut, match=r"1\.5 s"):
        bare.run(tasks.hang, 1.5, tmp_path / "pid")
    assert 1.5 <= time.monotonic() - began_s < LIMIT_S
    assert gone(int((tmp_path / "pid").read_text()))


def test_what_a_killed_child_has_started_is_killed_too(bare, tmp_path):
    """A tool that a task runs does not outlive it."""
    with pytest.raises(TaskTimedOut):
        bare.run(tasks.hang_with_grandchild, 1.0, tmp_path / "pid")
    for pid in (tmp_path / "pid").read_text().split():
        assert eventually(lambda pid=pid: gone(int(pid)))


def test_an_exception_is_told_with_its_type_text_and_traceback(bare):
    """The message is one line, the traceback and the child's output are in the log."""
    with pytest.raises(TaskRaised, match=r"^ValueError: no good: 7$") as caught:
        bare.run(tasks.raise_value_error, LIMIT_S)
    assert "noise before the fall" in caught.value.log
    assert "in raise_value_error" in caught.value.log


def test_our_own_errors_pass_as_they_are(bare):
    """An error of this project's tree needs no wrapping."""
    with pytest.raises(DataInvalid, match="sample 3: NaN"):
        bare.run(tasks.raise_data_invalid, LIMIT_S)


def test_a_result_that_can_not_be_sent_is_an_error(bare):
    """An unpicklable result is the task's fault, and says so."""
    with pytest.raises(TaskRaised, match="pickle"):
        bare.run(tasks.unpicklable, LIMIT_S)


def test_only_the_end_of_a_long_log_is_kept(bare):
    """A megabyte of chatter does not become an error of a megabyte."""
    with pytest.raises(TaskCrashed) as caught:
        bare.run(tasks.talk, LIMIT_S, 1_000_000)
    assert len(caught.value.log) <= LOG_TAIL_BYTES


@pytest.mark.parametrize("limit_s", [0.0, -1.0, float("nan")])
def test_an_impossible_limit_is_refused(bare, limit_s):
    """A limit is above 0."""
    with pytest.raises(OptionInvalid, match="time limit"):
        bare.run(tasks.add, limit_s, 1)


def test_threads_share_a_server_and_wait_for_their_own_task_only(bare):
    """While one thread's task hangs, others get their results."""
    found = []

    def hang():
        with pytest.raises(TaskTimedOut):
            bare.run(tasks.hang, 3.0)
        found.append("timed out")

    hanging = threading.Thread(target=hang)
    hanging.start()
    threads = [threading.Thread(target=lambda n=n: found.append(bare.run(tasks.add, LIMIT_S, n))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(8))
    hanging.join()
    assert found[-1] == "timed out"


def test_a_crash_in_one_thread_leaves_the_other_tasks_alone(bare, tmp_path):
    """A task that has begun before another one crashes ends as if nothing had happened."""
    found = []
    waiting = threading.Thread(
        target=lambda: found.append(bare.run(tasks.wait_for, LIMIT_S, tmp_path / "go", result="unhurt"))
    )
    waiting.start()
    for crash in (tasks.segfault, tasks.abort, tasks.kill_itself):
        with pytest.raises(TaskCrashed):
            bare.run(crash, LIMIT_S)
    (tmp_path / "go").touch()
    waiting.join()
    assert found == ["unhurt"]


MIB = 2**20


@pytest.fixture(scope="module")
def limited():
    """A server whose tasks may take 100 MiB."""
    with ForkServer(memory_limit_bytes=100 * MIB) as running:
        yield running


def test_a_task_that_takes_more_memory_than_it_may_is_killed(limited, tmp_path):
    """It is gone, the error says how much it took, and tasks after it run."""
    with pytest.raises(TaskOutOfMemory, match=r"it took \d+ MiB beside the \d+ MiB of its start \(limit: 100 MiB\)"):
        limited.run(tasks.fill_memory, LIMIT_S, 300, tmp_path / "full")
    assert limited.run(tasks.fill_memory, LIMIT_S, 20) == 20


def test_what_the_server_holds_does_not_count():
    """The libraries that were imported once are no task's own: a limit far below them is no obstacle."""
    with ForkServer(["numpy", "PIL.Image"], memory_limit_bytes=4 * MIB) as server:
        assert server.run(tasks.add, LIMIT_S, 1) == 1


def test_a_mapped_file_does_not_count(limited, tmp_path):
    """Samples lie in mapped files, and the kernel drops their pages where memory is short."""
    np.save(tmp_path / "samples.npy", np.ones(25 * MIB))
    assert limited.run(tasks.map_file, LIMIT_S, tmp_path / "samples.npy") == 25 * MIB


def test_memory_that_can_not_be_had_is_told_as_such(bare):
    """A MemoryError of Python's own, as of one array larger than any machine, is the same fault."""
    with pytest.raises(TaskOutOfMemory, match="allocate"):
        bare.run(tasks.more_than_there_is, LIMIT_S)


@pytest.mark.parametrize("limit_bytes", [0, -1])
def test_an_impossible_memory_limit_is_refused(limit_bytes):
    """A limit is above 0."""
    with ForkServer(memory_limit_bytes=limit_bytes) as server, pytest.raises(OptionInvalid, match="memory limit"):
        server.run(tasks.add, LIMIT_S, 1)


def test_tensorflow_is_held_to_the_limit_and_works_within_it(server, tmp_path):
    """Its threads map a gigabyte that they never touch, which is not what the limit is about."""
    server.memory_limit_bytes = 150 * MIB
    try:
        assert server.run(tasks.fill_memory_with_tensorflow, LIMIT_S, 10) == 10
        with pytest.raises(TaskOutOfMemory):
            server.run(tasks.fill_memory_with_tensorflow, LIMIT_S, 4_000)
    finally:
        server.memory_limit_bytes = None


def test_preloaded_modules_are_there_and_tensorflow_is_quiet():
    """A child has what the server imported; TensorFlow is told to be silent and to leave GPUs alone."""
    with ForkServer(["fractions"]) as server:
        assert server.run(tasks.loaded, LIMIT_S, "fractions")
        assert server.run(tasks.environment, LIMIT_S, "TF_CPP_MIN_LOG_LEVEL") == "3"
        assert server.run(tasks.environment, LIMIT_S, "CUDA_VISIBLE_DEVICES") == "-1"
    assert os.environ.get("CUDA_VISIBLE_DEVICES") != "-1"


def test_a_library_that_is_not_installed_is_named():
    """A preload that fails is told by its name, at the first task."""
    with ForkServer(["no_such_library"]) as server, pytest.raises(ToolMissing, match="no_such_library"):
        server.run(tasks.add, LIMIT_S, 1)


def test_a_server_that_was_killed_is_an_error_and_not_a_hang(tmp_path):
    """A task that runs when the server dies fails at once and ends; tasks after that fail too."""
    with ForkServer() as server:
        server.run(tasks.add, LIMIT_S, 1)
        killer = threading.Thread(
            target=lambda: eventually((tmp_path / "pid").is_file) and server._process.kill(), daemon=True
        )
        killer.start()
        began_s = time.monotonic()
        with pytest.raises(TaskFailed, match="fork server"):
            server.run(tasks.hang, LIMIT_S, tmp_path / "pid")
        assert time.monotonic() - began_s < LIMIT_S / 2
        assert eventually(lambda: gone(int((tmp_path / "pid").read_text())))
        with pytest.raises(TaskFailed, match="fork server"):
            server.run(tasks.add, LIMIT_S, 1)


def test_closing_ends_the_server_and_what_runs(tmp_path):
    """At the end of the `with` no process is left, even one that hangs."""

    def hang():
        with pytest.raises(TaskFailed):
            server.run(tasks.hang, LIMIT_S, tmp_path / "pid")

    with ForkServer() as server:
        thread = threading.Thread(target=hang)
        thread.start()
        assert eventually((tmp_path / "pid").is_file)
        pid = server._process.pid
    thread.join()
    assert gone(pid)
    assert eventually(lambda: gone(int((tmp_path / "pid").read_text())))


def test_a_server_that_still_imports_is_closed_at_once(tmp_path, monkeypatch):
    """It hears of nothing until it is through; who presses Ctrl-C is not to wait for that."""
    monkeypatch.setenv("LONG_IMPORT", str(tmp_path / "pid"))
    monkeypatch.setattr("converter.isolation.CLOSE_LIMIT_S", 2 * LIMIT_S)
    with ForkServer(["support.long_import"]) as server:
        assert eventually((tmp_path / "pid").is_file)
        began_s = time.monotonic()
    assert time.monotonic() - began_s < LIMIT_S
    assert gone(server._process.pid)


def test_a_server_outlives_the_thread_that_started_it(tmp_path, monkeypatch):
    """The kernel would tell it of that thread's end as of its parent's."""
    monkeypatch.setenv("LONG_IMPORT", str(tmp_path / "pid"))
    monkeypatch.setattr("converter.isolation.CLOSE_LIMIT_S", 2 * LIMIT_S)
    servers = []
    starter = threading.Thread(target=lambda: servers.append(ForkServer(["support.long_import"])))
    starter.start()
    assert eventually((tmp_path / "pid").is_file)
    starter.join()
    (tmp_path / "pid.go").touch()
    with servers[0] as server:
        assert server.run(tasks.add, LIMIT_S, 1) == 1


def test_when_the_program_is_killed_a_server_that_still_imports_ends(tmp_path):
    """It would go on for seconds, and take a core and the libraries' memory."""
    script = """
        import os, sys
        from converter.isolation import ForkServer
        os.environ["LONG_IMPORT"] = sys.argv[1] + "/pid"
        with ForkServer(["support.long_import"]) as server:
            sys.stdin.read()
    """
    process = run_script(tmp_path, script, stdin=subprocess.PIPE)
    assert eventually((tmp_path / "pid").is_file)
    process.kill()
    process.communicate()
    server = int((tmp_path / "pid").read_text())
    try:
        assert eventually(lambda: gone(server))
    finally:
        (tmp_path / "pid.go").touch()


def run_script(tmp_path, text, **options):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(text))
    tests = str(Path(tasks.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": tests}
    return subprocess.Popen([sys.executable, script, tmp_path], env=env, text=True, stdout=subprocess.PIPE, **options)


def test_a_script_without_a_main_guard_works(tmp_path):
    """The user's script is not imported again in children: it would start itself once more."""
    script = """
        from converter.isolation import ForkServer
        from support import converter_crashes as tasks
        print("once")
        with ForkServer() as server:
            print(server.run(tasks.add, 30.0, 1, 2))
    """
    assert run_script(tmp_path, script).communicate(timeout=60)[0] == "once\n3\n"


def test_a_function_of_the_script_itself_is_refused_with_the_reason(tmp_path):
    """What a child could not import is refused at once."""
    script = """
        from converter.isolation import ForkServer
        def mine(): pass
        with ForkServer() as server:
            try: server.run(mine, 30.0)
            except Exception as error: print(error)
    """
    assert "define it in a module" in run_script(tmp_path, script).communicate(timeout=60)[0]


def test_when_the_program_is_killed_its_children_end(tmp_path):
    """SIGKILL on the program takes the server and a hanging task with it."""
    script = """
        import sys
        from converter.isolation import ForkServer
        from support import converter_crashes as tasks
        with ForkServer() as server:
            server.run(tasks.hang, 60.0, sys.argv[1] + "/pid")
    """
    process = run_script(tmp_path, script)
    assert eventually((tmp_path / "pid").is_file)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 2
    process.kill()
    process.communicate()
    assert eventually(lambda: all(gone(child.pid) for child in children))


def test_the_default_limit_is_a_share_of_what_is_free():
    """Less than the machine has, and more than nothing."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < available_bytes(0.5) < available_bytes(1.0) <= total
