"""What classes of the user's own do to their processes: they fork, start others, print, and end in odd ways."""

import logging
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.fallback_workers import LIMIT_S, alive, wait_until

from fallback_server.core.errors import InvalidInput, LoadFailed, ProcessLost
from fallback_server.executors.worker.executor import open_in_plain_worker
from fallback_server.executors.worker.nursery import NOTHING, Nursery

pytestmark = pytest.mark.slow

NAME = "serving_default"

PROGRAM = """
import ctypes, os, subprocess, sys, time
import numpy as np


def loads(model):
    {loads}


class Model:
    signatures = {{"serving_default": {{"inputs": {{"x": ("float32", (1,))}}, "outputs": {{"y": ("int64", (1,))}}}}}}
    thread_safe = True

    def __init__(self, path):
        self.path = path
        loads(self)

    def predict(self, signature, inputs):
        x = inputs["x"]
        answer = 0
        {runs}
        return {{"y": np.int64([answer])}}
"""


@pytest.fixture(scope="module")
def nursery():
    """As an operator starts it, who says nothing of how Python prints and where it keeps what it compiles."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"):
            patch.delenv(name, raising=False)
        one = Nursery(NOTHING)
        one.start()
        yield one
        one.close()


def opened(nursery, path, *, loads="pass", runs="pass", on_lost=lambda how: None):
    path.mkdir(exist_ok=True)
    (path / "model.py").write_text(PROGRAM.format(loads=loads, runs=runs))
    return open_in_plain_worker(path, kind="python", nursery=nursery, title="m/1", on_lost=on_lost)


def ask(executor, value=1.0):
    return int(executor.run(NAME, {"x": np.float32([value])})["y"][0])


STARTS = {
    "a child": ("sleep 600", False),
    "a session of its own": ("sleep 600", True),
    "a child's child that has left it": ("sleep 600 & echo $! >> pids", False),
    "a child's child in a session": ("setsid sleep 600 & echo $! >> pids; sleep 600", False),
}


@pytest.mark.parametrize("what", STARTS)
@pytest.mark.parametrize("how", ["closed", "crashed", "stopped"])
def test_what_a_model_has_started_ends_with_its_process(nursery, tmp_path, what, how):
    """However that ends, and the server, and whatever session it has put it into."""
    own = Nursery(NOTHING) if how == "stopped" else nursery
    program, session = STARTS[what]
    command = ["sh", "-c", f"cd {tmp_path}; echo $$ >> pids; exec 2> /dev/null; {program}"]
    loads = f"model.child = subprocess.Popen({command}, start_new_session={session})"
    lost = []
    executor = opened(own, tmp_path / "1", loads=loads, runs="x[0] == 7 and os.abort()", on_lost=lost.append)
    file = tmp_path / "pids"
    wait_until(lambda: file.exists() and file.read_text().count("\n") == 1 + program.count("echo"))
    pids = [int(pid) for pid in file.read_text().split()]
    assert alive(pids[-1])
    if how == "crashed":
        with pytest.raises(ProcessLost):
            ask(executor, 7)
        wait_until(lambda: lost)
    elif how == "stopped":
        own.close()
    executor.close()
    wait_until(lambda: not any(map(alive, pids)))


@pytest.mark.parametrize("fork", ["os.fork()", "ctypes.CDLL(None).fork()"])
def test_a_crash_is_heard_though_the_model_has_forked(nursery, tmp_path, fork):
    """The child has the lane's socket, unless Python forks; whoever waits on it must not wait for the child's end."""
    runs = f"x[0] == 7 and ({fork} or time.sleep(600), os.abort())"
    lost = []
    executor = opened(nursery, tmp_path / "1", runs=runs, on_lost=lost.append)
    with ThreadPoolExecutor(1) as pool, pytest.raises(ProcessLost, match="signal 6"):
        pool.submit(ask, executor, 7).result(LIMIT_S)
    wait_until(lambda: lost)
    assert lost == [f"signal {signal.SIGABRT.value}"]
    executor.close()


def test_a_fork_answers_nobody(nursery, tmp_path):
    """A child that comes back out of `predict` ends; the answer is its parent's."""
    executor = opened(nursery, tmp_path / "1", runs="answer = 1 if os.fork() else 2")
    assert [ask(executor) for _ in range(3)] == [1, 1, 1]
    executor.close()


def test_what_is_printed_is_in_the_log_line_by_line(nursery, tmp_path, caplog):
    """As it is printed, and also what comes last of all; nobody has told Python not to keep it."""
    runs = "print('ran', x[0]); x[0] == 7 and (sys.stdout.write('the last'), sys.exit(3))"
    with caplog.at_level(logging.INFO):
        executor = opened(nursery, tmp_path / "1", loads="print('made', '\\udcff')", runs=runs)
        assert "m/1: made \\udcff" in caplog.messages
        ask(executor, 1)
        wait_until(lambda: "m/1: ran 1.0" in caplog.messages)
        with pytest.raises(ProcessLost):
            ask(executor, 7)
        wait_until(lambda: any(line.endswith("the last") for line in caplog.messages))
        assert any("SystemExit: 3" in line for line in caplog.messages)
    executor.close()


def test_nothing_is_written_beside_the_model(nursery, tmp_path):
    """A version's files would have changed, and it would be loaded again; not by its own child either."""
    path = tmp_path / "1"
    path.mkdir()
    (path / "helper.py").write_text("")
    loads = "import helper; subprocess.run([sys.executable, '-c', 'import helper'], cwd=model.path, check=True)"
    opened(nursery, path, loads=loads).close()
    assert sorted(file.name for file in path.iterdir()) == ["helper.py", "model.py"]


@pytest.mark.parametrize(
    ("loads", "said"),
    [
        ("{}['weights']", r"^KeyError: 'weights'$"),
        ("sys.exit('no licence')", r"^SystemExit: no licence$"),
        ("raise RuntimeError('no weights:\\n  line two')", r"^RuntimeError: no weights: line two$"),
        ("raise KeyboardInterrupt", r"^KeyboardInterrupt$"),
        ("raise OSError('\\udcff' * 5000)", r"^OSError: .* \.\.\. \(30009 characters\)$"),
    ],
)
def test_why_a_model_could_not_be_loaded_is_told_with_its_type(nursery, tmp_path, caplog, loads, said):
    """In one line that can be sent; where it came from is in the log."""
    with caplog.at_level(logging.INFO), pytest.raises(LoadFailed, match=said):
        opened(nursery, tmp_path / "1", loads=loads)
    wait_until(lambda: any("in loads" in line for line in caplog.messages))


def test_a_refusal_is_told_whatever_characters_it_has(nursery, tmp_path):
    """Cut where it is too long for an answer's headers; the process lives."""
    runs = "if x[0] > 0: raise ValueError('bad name \\udcff' if x[0] == 1 else 'x' * 200_000)"
    executor = opened(nursery, tmp_path / "1", runs=runs)
    pid = executor._worker.pid
    with pytest.raises(InvalidInput, match=r"^the model refused the values: bad name \\udcff$"):
        ask(executor, 1)
    with pytest.raises(InvalidInput, match=r"x \.\.\. \(200030 characters\)$") as refusal:
        ask(executor, 2)
    assert len(str(refusal.value)) < 2100
    assert ask(executor, 0) == 0
    assert (executor._worker.pid, alive(pid)) == (pid, True)
    executor.close()
