"""Models in worker processes, with real ones."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.fallback_workers import HangingLoad, alive, opened, wait_until
from support.slices import cores, nice, slice_ns

from fallback_server.core.errors import ExecutionFailed, InvalidInput, LoadFailed, VersionNotReady
from fallback_server.executors.base import GivenInputs
from fallback_server.executors.findings import Finding
from fallback_server.executors.registry import default_registry
from fallback_server.executors.saved_model import SavedModelOptions
from fallback_server.executors.worker.executor import ModelFault, WorkerExecutor
from fallback_server.executors.worker.messages import Loaded
from fallback_server.executors.worker.nursery import Nursery

pytestmark = pytest.mark.slow

ROW = {"x": np.float32([[1, 2, 3]])}


@pytest.fixture(scope="module")
def nursery():
    nursery = Nursery()
    nursery.start()
    yield nursery
    nursery.close()


def test_runs_answer_by_name(models, nursery):
    """Signatures, several inputs and outputs, strings, and the model's refusals are those of TensorFlow in process."""
    many = opened(nursery, models / "many" / "1")
    assert sorted(many.signatures) == ["gather", "serving_default", "wide"]
    assert many.signatures["serving_default"].method == "tensorflow/serving/predict"
    assert many.signatures["serving_default"].batches
    outputs = many.run("serving_default", {"a": np.float32([[1, 2]]), "b": np.int32([[3, 4]])})
    np.testing.assert_array_equal(outputs["sum"], [[4, 6]])
    assert outputs["twice"].dtype == np.int32
    with pytest.raises(InvalidInput, match=r"indices\[1\] = 7 is not in \[0, 3\)"):
        many.run("gather", {"index": np.int64([1, 7])})
    assert many.memory_bytes() > 2**20
    many.close()
    text = opened(nursery, models / "text" / "1")
    (out,) = text.run("serving_default", {"s": np.array([b"a", b"\xff"], object)}).values()
    assert out.tolist() == [b"a!", b"\xff!"]
    text.close()


def test_how_long_a_row_took_in_its_load_is_known():
    """As the worker says by itself, or for a SavedModel by what was found of the signature that takes longest."""

    class Quiet:
        def when_gone(self, do):
            pass

    costs_s = ({}, {1: 0.5, 2: 9.0}, {1: 2.0})
    found = {str(cost_s): Finding(ran=True, mixes_rows=False, cost_s=cost_s) for cost_s in costs_s}
    assert WorkerExecutor(Quiet(), Loaded((), b"")).run_s == 0.0
    assert WorkerExecutor(Quiet(), Loaded((), b"", run_s=0.3)).run_s == 0.3
    assert WorkerExecutor(Quiet(), Loaded((), b"", findings=found)).run_s == 2.0


def test_a_version_that_is_unloaded_has_not_crashed(models, nursery):
    """What it ran is told of the unload, and so is what comes after: that was not run, and may be asked elsewhere."""
    executor = opened(nursery, models / "scale" / "1")
    executor.run("serving_default", ROW)
    os.kill(executor._worker.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(executor.run, "serving_default", ROW)
        wait_until(lambda: not executor._idle)
        executor.close()
        with pytest.raises((ExecutionFailed, VersionNotReady), match=r"^the version is taken out of service"):
            run.result(30)
    with pytest.raises(VersionNotReady, match=r"^the version is taken out of service; the request was not run$"):
        executor.run("serving_default", ROW)


def test_runs_go_side_by_side_and_keep_their_answers(models, nursery):
    """Threads that run at the same time each get the answer to what they asked."""
    executor = opened(nursery, models / "scale" / "2")
    wrong = []

    def ask(seed):
        for step in range(50):
            x = np.full((1 + step % 3, 3), seed * 1000 + step, np.float32)
            if not np.array_equal(executor.run("serving_default", {"x": x})["y"], x * 2):
                wrong.append((seed, step))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    executor.close()


def test_inputs_that_were_given_are_free_while_the_model_runs(models, nursery):
    """The worker has a copy, so they are let go as soon as that is sent; others are left as they are."""
    executor = opened(nursery, models / "scale" / "1")
    kept, given = dict(ROW), GivenInputs(x=np.ones((1, 3), np.float32))
    gone = weakref.ref(given["x"])
    executor.run("serving_default", kept)
    executor.run("serving_default", given)
    assert kept == ROW
    assert given == {}
    assert gone() is None
    executor.close()


def test_a_large_result_outlives_its_worker(models, nursery):
    """It is memory shared with nobody else: closing takes it from no one, and the worker keeps none of it."""
    executor = opened(nursery, models / "scale" / "2")
    before = executor.memory_bytes()
    x = np.ones((12_000_000, 3), np.float32)
    y = executor.run("serving_default", {"x": x})["y"]
    wait_until(lambda: executor.memory_bytes() < before + x.nbytes / 4)
    executor.close()
    assert (y == 2).all()


def test_an_abort_fails_what_it_held_and_harms_no_other(models, nursery, caplog):
    """A tensor that ends TensorFlow's process: INTERNAL for that request, `on_lost`, and its last words in the log."""
    other = opened(nursery, models / "scale" / "1")
    lost = []
    executor = opened(nursery, models / "conv" / "1", lost.append)
    with caplog.at_level(logging.INFO), pytest.raises(ExecutionFailed) as failure:
        executor.run("serving_default", {"image": np.ones((8, 8, 1), np.float32)})
    assert str(failure.value) == "the model's process ended (signal 6) while it ran the request"
    wait_until(lambda: lost)
    assert lost == ["signal 6"]
    assert any(line.startswith("conv/1: ") and "Check failed" in line for line in caplog.messages)
    with pytest.raises(VersionNotReady, match=r"signal 6\) and is started anew"):
        executor.run("serving_default", {"image": np.ones((1, 8, 8, 1), np.float32)})
    executor.close()
    assert other.run("serving_default", ROW)["y"].tolist() == [[1, 2, 3]]
    other.close()


def test_a_close_is_no_loss_and_ends_the_process(models, nursery):
    """`close` returns when the process is gone, and tells nobody of a loss."""
    lost = []
    executor = opened(nursery, models / "scale" / "1", lost.append)
    pid = executor._worker.pid
    executor.close()
    assert not alive(pid)
    assert lost == []
    executor.close()


def test_a_failed_load_says_why(nursery, tmp_path):
    """Files that are no model: the reason in one line; a worker that ends while it loads: how it ended."""
    (tmp_path / "saved_model.pb").write_bytes(b"no graph")
    with pytest.raises(LoadFailed, match=r"(?i)parse"):
        opened(nursery, tmp_path)
    wait_until(lambda: not any(program.workers for program in nursery._programs))
    load = HangingLoad(nursery, tmp_path / "1")
    worker = waited_for(nursery)
    os.kill(worker.pid, signal.SIGKILL)
    assert str(load.result()).startswith("the model's process ended (signal 9) while it loaded")


def test_warming_up_steps_back_and_requests_do_not(models, nursery):
    """Until the first request all of a worker's threads make room; then none that runs does, TensorFlow's too."""
    executor = opened(nursery, models / "scale" / "1")
    usual_ns, usual_nice = slice_ns(0), nice(0)

    def threads():
        """The slices, nice values and numbers of cores of a worker's threads; none while one of them ends."""
        tasks = [int(task.name) for task in Path(f"/proc/{executor._worker.pid}/task").iterdir()]
        tasks.remove(executor._worker.pid)  # It has loaded, stays nice, and does nothing more.
        with contextlib.suppress(ProcessLookupError):
            return {slice_ns(task) for task in tasks}, {nice(task) for task in tasks}, set(map(cores, tasks))
        return set(), set(), set()

    with executor.stepping_back():
        executor.run("serving_default", ROW)
        # What is made in there stays, and is to answer.
        wait_until(lambda: threads()[1] == {usual_nice})
        slices_ns, _, _ = threads()
        assert usual_ns not in slices_ns or not usual_ns
    executor.run("serving_default", ROW)
    wait_until(lambda: threads() == ({usual_ns}, {usual_nice}, {cores(0)}))
    executor.close()


def test_a_worker_leaves_a_core_to_others_and_takes_it_back(models, nursery):
    """All of its threads, also those of lanes that are opened meanwhile; one that has ended is no error."""
    executor = opened(nursery, models / "scale" / "1")
    executor.run("serving_default", ROW)

    def cores_of_threads():
        return {cores(int(task.name)) for task in Path(f"/proc/{executor._worker.pid}/task").iterdir()}

    wait_until(lambda: cores_of_threads() == {cores(0)})
    for _ in range(2):
        executor.leave_core(leave=True)
    executor._close_lanes()
    executor.run("serving_default", ROW)
    wait_until(lambda: cores_of_threads() == {max(1, cores(0) - 1)})
    executor.leave_core(leave=False)
    assert cores_of_threads() == {cores(0)}
    executor.close()
    executor.leave_core(leave=True)


def test_half_of_the_cores_are_left_to_others_where_there_are_any(models, nursery):
    """The first to load, and to be warmed up, has all cores; the next one, beside a model that answers, has half.

    That holds for all its threads until its own first request; one that somebody else has pinned stays pinned.
    """

    def cores_of(executor):
        tasks = [int(task.name) for task in Path(f"/proc/{executor._worker.pid}/task").iterdir()]
        return {cores(task) for task in tasks}

    first = opened(nursery, models / "scale" / "1")
    with first.stepping_back():
        first.run("serving_default", ROW)
        assert cores_of(first) == {cores(0)}
    assert not nursery.answers
    first.run("serving_default", ROW)
    assert nursery.answers
    second = opened(nursery, models / "scale" / "1")
    with second.stepping_back():
        second.run("serving_default", ROW)
        assert cores_of(second) == {cores(0) - cores(0) // 2}
    pinned = {min(os.sched_getaffinity(0))}
    os.sched_setaffinity(second._worker.pid, pinned)
    second.run("serving_default", ROW)
    others = [int(task.name) for task in Path(f"/proc/{second._worker.pid}/task").iterdir()]
    others.remove(second._worker.pid)
    assert os.sched_getaffinity(second._worker.pid) == pinned
    wait_until(lambda: any(cores(task) == cores(0) for task in others))
    second.close()
    first.close()
    assert not nursery.answers


def waited_for(nursery):
    """The one worker that a nursery has, once it is there."""

    def workers():
        return [worker for program in nursery._programs for worker in program.workers.values() if worker.pid]

    wait_until(workers)
    (worker,) = workers()
    return worker


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_to_all_of_a_servers_processes_end_no_run(models, nursery, number):
    """What a terminal or a service manager sends to everybody is the server's to answer: it lets runs finish."""
    executor = opened(nursery, models / "scale" / "1")
    for pid in (executor._worker.pid, nursery._program.process.pid):
        os.kill(pid, number)
    assert executor.run("serving_default", ROW)["y"].tolist() == [[1, 2, 3]]
    assert alive(nursery._program.process.pid)
    executor.close()


def test_a_nursery_that_ends_takes_no_worker_along(models):
    """Its workers answer on, and end with a notice; the next load has another nursery."""
    nursery = Nursery()
    lost = []
    one = opened(nursery, models / "scale" / "1", lost.append)
    os.kill(nursery._program.process.pid, signal.SIGKILL)
    wait_until(lambda: not nursery._program.alive)
    assert one.run("serving_default", ROW)["y"].tolist() == [[1, 2, 3]]
    other = opened(nursery, models / "scale" / "2")
    assert other.run("serving_default", ROW)["y"].tolist() == [[2, 4, 6]]
    os.kill(one._worker.pid, signal.SIGKILL)
    wait_until(lambda: lost)
    nursery.close()
    assert not alive(other._worker.pid)


def test_closing_a_nursery_stops_a_load(tmp_path):
    """A load under way ends with the nursery, and no other begins."""
    nursery = Nursery()
    load = HangingLoad(nursery, tmp_path / "1")
    pid = waited_for(nursery).pid
    nursery.close()
    assert str(load.result()) == "the load was stopped"
    assert not alive(pid)
    with pytest.raises(LoadFailed, match="the server is stopping"):
        nursery.spawn("m/1")


SERVER = """
import json, sys
from pathlib import Path
import numpy as np
import fallback_server.app
from fallback_server.executors.registry import default_registry
from fallback_server.executors.saved_model import SavedModelOptions
registry = default_registry(SavedModelOptions())
model = registry.open(Path(sys.argv[1]))
y = model.run("serving_default", {"x": np.ones((1, 3), np.float32)})["y"]
foreign = sorted(name for name in sys.modules if name.partition(".")[0] in ("tensorflow", "keras", "tf_keras"))
worker = model._worker
print(json.dumps([y.tolist(), foreign, worker.pid]), flush=True)
sys.stdin.read()
"""


def test_the_server_imports_no_tensorflow_and_takes_its_processes_along(models):
    """A model runs without TensorFlow in the server's process; when that is killed, so are nursery and workers."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, models / "scale" / "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    answer, foreign, worker = json.loads(server.stdout.readline())
    assert answer == [[1, 1, 1]]
    assert foreign == []
    nursery = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    server.kill()
    server.wait()
    server.stdin.close()
    server.stdout.close()
    wait_until(lambda: not alive(worker) and not alive(nursery))


def test_a_model_that_fails_on_its_own_is_told_apart(nursery, models, tmp_path):
    """A failure that is neither the request's nor the process's end: `ModelFault`, and the worker answers on."""
    import tensorflow as tf

    table = tf.Module()
    table.call = tf.function(
        lambda x: {"y": tf.numpy_function(lambda value: value, [x], tf.float32)},
        input_signature=[tf.TensorSpec([None], tf.float32, name="x")],
    )
    tf.saved_model.save(table, str(tmp_path / "1"), signatures={"serving_default": table.call})
    executor = opened(nursery, tmp_path / "1")
    for _ in range(2):
        with pytest.raises((ModelFault, InvalidInput)):
            executor.run("serving_default", {"x": np.float32([1])})
    executor.close()


def test_memory_is_estimated_from_the_files(models):
    """Variables once, the graph 17 times, and what any worker takes; 0 for what is no model."""
    registry = default_registry(SavedModelOptions())
    path = models / "scale" / "1"
    graph = (path / "saved_model.pb").stat().st_size
    variables = sum(file.stat().st_size for file in (path / "variables").iterdir())
    assert registry.estimated_bytes(path) == 2**26 + variables + 17 * graph
    assert registry.estimated_bytes(models) == 0
    registry.close()
