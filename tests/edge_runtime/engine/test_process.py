import contextlib
import gc
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from support import edge_delegates
from support.echo_models import echo_model, echo_signature
from support.edge_models import rows, scale_model, scale_signature
from support.edgetpu_models import segment_models
from support.loops import until

from converter.artifact import Signature
from edge_runtime import EngineFailed, PackageRefused
from edge_runtime.engine import exchanges
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.interpreter import InterpreterSession
from edge_runtime.engine.process import WorkerProcess
from edge_runtime.errors import EngineLost

pytestmark = pytest.mark.slow

LIMIT_S = 60.0
NUMBERS = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
NUMBERS += ["float16", "float32", "float64", "complex64", "complex128"]

needs_compiler = pytest.mark.skipif(not edge_delegates.COMPILER, reason="needs a C compiler")


@pytest.fixture(scope="module")
def shared_worker():
    """For tests that leave it alive."""
    worker = WorkerProcess("cpu")
    yield worker
    worker.close()


@pytest.fixture
def worker():
    one = WorkerProcess("cpu")
    yield one
    one.close()


def scale(worker, factor=2.0, subject="scale/1"):
    spec = SessionSpec(subject=subject, signatures=(scale_signature(),))
    return worker.open(spec, scale_model(factor), LIMIT_S)


def doubled(session, count=1, limit_s=LIMIT_S):
    return session.run("serving_default", {"x": rows(count)}, limit_s)["y"]


@pytest.fixture
def faulty(tmp_path):
    """Opens a session on a library that fails as its options say, in a worker of its own."""
    with contextlib.ExitStack() as stack:

        def opened(worker=None, **options):
            if worker is None:
                worker = WorkerProcess("external")
                stack.callback(worker.close)
            library = edge_delegates.build(tmp_path)
            spec = SessionSpec(
                subject="scale/7",
                delegate="external",
                device=edge_delegates.device(library, **options),
                signatures=(scale_signature(batched=False),),
                library=str(library),
                options={key: str(value) for key, value in options.items()},
            )
            return worker, worker.open(spec, scale_model(2.0, batched=False), LIMIT_S)

        yield opened


def test_all_dtypes_and_shapes_come_back_as_in_this_process(shared_worker):
    """A worker answers what a session in this process answers: numbers of every dtype, several at once, any shape."""
    tensors = {dtype: (dtype, (-1, 4)) for dtype in [*NUMBERS, "string"]}
    spec = SessionSpec(subject="echo/1", signatures=(echo_signature(tensors),))
    apart, here = shared_worker.open(spec, echo_model(tensors), LIMIT_S), InterpreterSession(spec, echo_model(tensors))
    for count in (1, 3, 1, 0, 2):
        values = np.arange(count * 4).reshape(count, 4)
        inputs = {dtype: values.astype(dtype) for dtype in NUMBERS}
        inputs["string"] = np.array([b"a" * one for one in range(count * 4)], object).reshape(count, 4)
        want, have = here.run("serving_default", inputs), apart.run("serving_default", inputs, LIMIT_S)
        assert have.keys() == want.keys()
        for name, array in want.items():
            assert have[name].dtype == array.dtype
            np.testing.assert_array_equal(have[name], array)
    apart.close()


def test_sessions_and_signatures_of_one_worker_are_kept_apart(shared_worker):
    """Two versions in one process, and two signatures of a third, answer each for itself, in any order of calls."""
    tensors = {"x": ("float32", (-1, 4))}
    names = ("first", "second")
    both = SessionSpec(subject="echo/2", signatures=tuple(echo_signature(tensors, name) for name in names))
    echo = shared_worker.open(both, echo_model(tensors, names), LIMIT_S)
    one, two = scale(shared_worker, 2.0), scale(shared_worker, 3.0, "scale/2")
    for count in (1, 2, 1, 5):
        np.testing.assert_array_equal(doubled(one, count), rows(count) * 2)
        np.testing.assert_array_equal(doubled(two, count), rows(count) * 3)
        for name in names:
            np.testing.assert_array_equal(echo.run(name, {"x": rows(count)}, LIMIT_S)["x_out"], rows(count))
    for session in (echo, one, two):
        session.close()


def test_more_shapes_than_are_remembered(shared_worker, monkeypatch):
    """Shapes that come after the table is full, and those before them that come again, are answered right."""
    monkeypatch.setattr(exchanges, "MAX_EXCHANGES", 3)
    session = scale(shared_worker)
    for count in (*range(1, 9), 2, 7, *range(1, 9)):
        np.testing.assert_array_equal(doubled(session, count), rows(count) * 2)
    assert len(shared_worker._exchanges[session._number]._known) <= 3
    session.close()


def test_large_and_small_arrays_take_turns(shared_worker):
    """Shared memory grows under sessions that have used it before; results outlive the next run."""
    session = scale(shared_worker)
    first = doubled(session, 2)
    for count in (100_000, 1, 300_000, 2):
        np.testing.assert_array_equal(doubled(session, count), rows(count) * 2)
    np.testing.assert_array_equal(first, rows(2) * 2)
    session.close()


def test_arrays_need_not_be_contiguous(shared_worker):
    """A strided view is read as what it shows."""
    session = scale(shared_worker)
    x = np.asfortranarray(rows(8))[::2, ::-1]
    np.testing.assert_array_equal(session.run("serving_default", {"x": x}, LIMIT_S)["y"], x * 2)
    session.close()


def test_callers_from_many_threads_take_turns(shared_worker):
    """Whoever calls at the same time, on whichever session, gets the answer to his own question."""
    sessions = [scale(shared_worker, float(factor), f"scale/{factor}") for factor in (2, 3)]
    wrong = []

    def call(number):
        session, factor = sessions[number % 2], 2 + number % 2
        for count in range(1, 60):
            same = np.array_equal(doubled(session, count % 5 + 1), rows(count % 5 + 1) * factor)
            wrong.extend([] if same else [(number, count)])

    threads = [threading.Thread(target=call, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    for session in sessions:
        session.close()


def test_errors_keep_their_names_and_the_worker_goes_on(shared_worker):
    """What fails in the worker fails here by the same name and text; the next run is answered."""
    session = scale(shared_worker)
    with pytest.raises(EngineFailed, match="broken/1"):
        shared_worker.open(SessionSpec(subject="broken/1", signatures=(scale_signature(),)), b"no model", LIMIT_S)
    with pytest.raises(EngineFailed, match="empty/1"):
        shared_worker.open(SessionSpec(subject="empty/1", signatures=(scale_signature(),)), b"", LIMIT_S)
    other = Signature(name="other", inputs=scale_signature().inputs, outputs=scale_signature().outputs)
    with pytest.raises(PackageRefused, match="no signature 'other'"):
        shared_worker.open(SessionSpec(subject="scale/9", signatures=(other,)), scale_model(2.0), LIMIT_S)
    with pytest.raises(EngineFailed, match="scale/1"):
        session.run("serving_default", {"x": rows(1).astype(np.int64)}, LIMIT_S)
    with pytest.raises(EngineFailed, match="tensor 'x'"):
        session.run("serving_default", {"x": np.zeros(4, "datetime64[s]")}, LIMIT_S)
    np.testing.assert_array_equal(doubled(session), rows(1) * 2)
    session.close()


def test_a_file_without_signatures_says_what_it_takes(shared_worker):
    """The tensors of a segment come back with the session, in the file's order; no delegate is needed to know them."""
    tensors = {"b": ("float32", (1, 4)), "a": ("int8", (1, 2))}
    session = shared_worker.open(SessionSpec(subject="segment/1"), echo_model(tensors, ()), LIMIT_S)
    assert [(one.name, one.dtype, one.shape) for one in session.tensors.inputs] == [
        ("b", "float32", (1, 4)),
        ("a", "int8", (1, 2)),
    ]
    assert [one.name for one in session.tensors.outputs] == ["b_out", "a_out"]
    found = session.run("", {"a": np.int8([[1, 2]]), "b": rows(1)}, LIMIT_S)
    np.testing.assert_array_equal(found["a_out"], [[1, 2]])
    session.close()


def test_a_closed_session_is_gone_and_its_worker_is_not(shared_worker):
    """Closing one session leaves the others; its own runs say that it is closed."""
    one, two = scale(shared_worker), scale(shared_worker, 3.0)
    one.close()
    one.close()
    with pytest.raises(EngineLost, match="scale/1: the session was closed"):
        doubled(one)
    np.testing.assert_array_equal(doubled(two), rows(1) * 3)
    two.close()


def test_signals_for_the_application_do_not_end_it(shared_worker):
    """Ctrl-C, and a service manager's SIGTERM to everybody, are for the application, which still needs its worker."""
    session = scale(shared_worker)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(shared_worker.pid, number)
    np.testing.assert_array_equal(doubled(session), rows(1) * 2)
    assert os.getpgid(shared_worker.pid) != os.getpgid(0)
    session.close()


def test_nothing_is_inherited_and_no_core_is_dumped(worker):
    """A descriptor of the application that children would inherit is not open in the worker; a crash writes no core."""
    readable, writable = os.pipe()
    os.set_inheritable(writable, True)
    try:
        other = WorkerProcess("cpu")
        scale(other)
        ours = Path(f"/proc/self/fd/{writable}").readlink()
        assert ours not in [entry.readlink() for entry in Path(f"/proc/{other.pid}/fd").iterdir()]
        assert resource.prlimit(other.pid, resource.RLIMIT_CORE) == (0, 0)
        other.close()
    finally:
        os.close(readable)
        os.close(writable)


@needs_compiler
@pytest.mark.parametrize(("fault", "name"), [("segfault_at", "SIGSEGV"), ("abort_at", "SIGABRT")])
def test_a_crash_is_told_and_costs_all_sessions_there(faulty, fault, name):
    """A library that crashes is named with its signal; the other sessions of the process are lost with it."""
    worker, session = faulty(**{fault: 2})
    other = scale(worker)
    np.testing.assert_array_equal(doubled(session), rows(1) * 2)
    with pytest.raises(
        EngineLost, match=rf"was killed by {name} \(scale/7, in signature 'serving_default'\)"
    ) as caught:
        doubled(session)
    assert caught.value.cause == "crashed"
    assert not worker.alive
    assert "lost" in repr(worker)
    with pytest.raises(EngineLost, match=rf"scale/1: worker process \d+ of external was killed by {name}"):
        doubled(other)
    with pytest.raises(EngineLost, match=name):
        scale(worker)
    other.close()


@needs_compiler
def test_what_hangs_is_killed(faulty):
    """A run past its limit ends the process; the text names model, signature and limit."""
    worker, session = faulty(hang_at=1)
    process = psutil.Process(worker.pid)
    with pytest.raises(
        EngineLost, match=r"killed: scale/7, signature 'serving_default' took more than 0.2 s"
    ) as caught:
        doubled(session, limit_s=0.2)
    assert caught.value.cause == "stuck"
    assert not worker.alive
    until(lambda: not process.is_running())


@needs_compiler
def test_a_failed_run_is_no_loss(faulty):
    """A library's error is this run's; the next one is answered by the same process."""
    worker, session = faulty(fail_at=1)
    with pytest.raises(EngineFailed) as caught:
        doubled(session)
    assert not isinstance(caught.value, EngineLost)
    np.testing.assert_array_equal(doubled(session), rows(1) * 2)
    assert worker.alive


@needs_compiler
def test_closing_wakes_who_waits(faulty):
    """A run without a limit that hangs ends when its worker is closed, and the closing waits for nobody."""
    worker, session = faulty(hang_at=1)
    caught = []

    def call():
        try:
            doubled(session, limit_s=None)
        except EngineLost as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    until(worker._lock.locked)
    session.close()
    worker.close()
    thread.join()
    assert [error.cause for error in caught] == ["vanished"]
    assert "was closed" in str(caught[0])


@needs_compiler
def test_an_interrupted_caller_leaves_no_answer_behind(faulty):
    """After an exception in a caller that waits, the answer to his question is given to nobody else."""
    worker, session = faulty(delay_ms=2000)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            doubled(session)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not worker.alive
    with pytest.raises(EngineLost, match="interrupted"):
        doubled(session)


def test_a_worker_that_was_killed_is_noticed(worker):
    """Whoever kills it between two runs: the next one says so, and `alive` before that."""
    session = scale(worker)
    doubled(session)
    os.kill(worker.pid, signal.SIGKILL)
    until(lambda: not worker.alive)
    with pytest.raises(EngineLost, match=r"scale/1: worker process \d+ of cpu was killed by SIGKILL") as caught:
        doubled(session)
    assert caught.value.cause == "crashed"


def test_a_worker_that_can_not_start_says_why(monkeypatch, tmp_path):
    """What it prints when it ends before it was ready is in the error."""
    (tmp_path / "edge_runtime.py").write_text("raise ImportError('half of it is missing')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    worker = WorkerProcess("cpu")
    with pytest.raises(EngineLost, match=r"ended with status 1; it printed: .*half of it is missing"):
        scale(worker)
    worker.close()


def test_a_worker_that_is_not_ready_in_time_is_killed():
    """The time for starting is bounded, on the clock that is given."""
    instants = iter([0.0, 100.0])
    worker = WorkerProcess("cpu", clock=lambda: next(instants), start_limit_s=5.0)
    with pytest.raises(EngineLost, match="was not ready within 5 s"):
        scale(worker)
    worker.close()


PARENT = """
import os, signal, sys, threading
sys.path[:0] = {path!r}
from support.edge_models import rows, scale_model, scale_signature
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.process import WorkerProcess
made = []
starter = threading.Thread(target=lambda: made.append(WorkerProcess("cpu")))
starter.start(), starter.join()
session = made[0].open(SessionSpec(subject="scale/1", signatures=(scale_signature(),)), scale_model(2.0), 60)
session.run("serving_default", {{"x": rows(1)}}, 60)
os.kill(made[0].pid, signal.SIGSTOP)  # It can't see that its connection is closed.
print(made[0].pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def shared_memory():
    """All that has a name there, other tests' too, which comes and goes."""
    return set(Path("/dev/shm").iterdir())


def test_it_ends_with_the_application():
    """When the application is killed its worker goes too, even one that is stuck; nothing is left in /dev/shm."""
    before = shared_memory()
    command = [sys.executable, "-c", PARENT.format(path=sys.path)]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    assert found.returncode == -signal.SIGKILL, found.stderr
    pid = int(found.stdout)
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    until(lambda: shared_memory() <= before)


def test_nothing_is_left_of_a_hundred_sessions(worker):
    """Sessions and workers that were closed leave no descriptor, thread, process or shared memory."""
    scale(worker).close()
    here = psutil.Process()

    def held():
        return here.num_fds(), threading.active_count(), len(here.children())

    gc.collect()  # What other tests have left.
    before, shared, inside = held(), shared_memory(), psutil.Process(worker.pid).num_fds()
    for number in range(100):
        session = scale(worker, subject=f"scale/{number}")
        if number % 10 == 0:
            doubled(session, 1000 * number + 1)
        session.close()
    for _ in range(3):
        another = WorkerProcess("cpu")
        doubled(scale(another))
        another.close()
        another.close()
    WorkerProcess("cpu").close()
    assert held() == before
    until(lambda: shared_memory() <= shared)
    scale(worker)
    assert psutil.Process(worker.pid).num_fds() == inside


@needs_compiler
def test_what_a_library_prints_harms_nothing(tmp_path, worker):
    """Whatever goes to standard output is no part of the protocol, and is told when the process ends."""
    from support.delegate_libraries import build

    spec = SessionSpec(
        subject="scale/1",
        delegate="external",
        device="external:/x",
        library=build(tmp_path),
        signatures=(scale_signature(),),
    )
    session = worker.open(spec, scale_model(2.0), LIMIT_S)
    np.testing.assert_array_equal(doubled(session), rows(1) * 2)


@needs_compiler
def test_an_edge_tpu_is_reached_through_it(tmp_path, monkeypatch):
    """The whole path of a Coral: the compiled file, its library, a run; without the library it says what is missing."""
    library = edge_delegates.build_edgetpu(tmp_path)
    (content,) = segment_models(2.0, 1)
    worker = WorkerProcess("edgetpu")
    spec = SessionSpec(subject="scale/1", delegate="edgetpu", device="edgetpu", library=str(library))
    session = worker.open(spec, content, LIMIT_S)
    found = session.run("", {"x": np.int8([[1, 2, 3, 4]])}, LIMIT_S)["y"]
    assert found.tolist() == [[2, 4, 6, 8]]
    with pytest.raises(EngineFailed, match="nowhere"):
        worker.open(
            SessionSpec(subject="s", delegate="edgetpu", device="edgetpu", library="/nowhere"), content, LIMIT_S
        )
    worker.close()
