"""Files that harm whoever runs them, tried in real processes."""

import os
import signal

import numpy as np
import pytest
from support.edge_models import scale_model
from support.fallback_workers import alive, wait_until
from support.harmful_models import looping_model

from fallback_server.core.errors import LoadFailed
from fallback_server.core.loader import LoadStop
from fallback_server.executors import tried_litert
from fallback_server.executors.base import RunSizes
from fallback_server.executors.litert_files import SealedFile
from fallback_server.executors.trial import try_out
from fallback_server.executors.tried_litert import litert_bytes, open_tried
from fallback_server.executors.worker.messages import Load
from fallback_server.executors.worker.nursery import NOTHING, Nursery

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nursery():
    one = Nursery(NOTHING)
    yield one
    one.close()


def opened(path, nursery, **options):
    options = {"title": "m/1", "on_lost": lambda how: None, "sizes": RunSizes(), "threads": 0} | options
    return open_tried(path, nursery=nursery, **options)


def write(tmp_path, content):
    (tmp_path / "model.tflite").write_bytes(content)
    return tmp_path


def test_a_file_that_ends_its_process_is_refused_by_name(nursery, tmp_path):
    """With the signal; the server's own process never had it."""
    with pytest.raises(LoadFailed, match=r"^model\.tflite: LiteRT's trial run failed: .*\(signal 11\)"):
        opened(write(tmp_path, looping_model(itself=True)), nursery)


def test_a_file_that_hangs_is_ended(nursery):
    """After the limit, and says so."""
    with (
        SealedFileOf(looping_model()) as file,
        pytest.raises(LoadFailed, match=r"LiteRT's trial run hangs: it was ended after 1 s"),
    ):
        try_out(Load(kind="litert", path="/", beside_others=False), file.fd, nursery=nursery, title="m/1", limit_s=1.0)


class SealedFileOf:
    def __init__(self, content):
        self._file = SealedFile.of(content, "m")

    def __enter__(self):
        return self._file

    def __exit__(self, *error):
        self._file.close()


def test_a_load_that_is_stopped_ends_its_trial(nursery, tmp_path):
    """At once, though the file hangs."""
    stop = LoadStop()
    stop.ask()
    with pytest.raises(LoadFailed, match="the load was stopped"):
        opened(write(tmp_path, looping_model()), nursery, stop=stop)


def test_a_sound_file_comes_in_and_its_trial_is_gone(nursery, tmp_path, monkeypatch):
    """One process was started, and has ended; what was written over the file since changes nothing."""
    spawned = []
    spawn = nursery.spawn
    monkeypatch.setattr(nursery, "spawn", lambda title: spawned.append(spawn(title)) or spawned[-1])
    executor = opened(write(tmp_path, scale_model(2.0)), nursery)
    (worker,) = spawned
    assert executor.in_process
    wait_until(lambda: not alive(worker.pid))
    (tmp_path / "model.tflite").write_bytes(b"")
    assert executor.run("serving_default", {"x": np.ones((3, 4), np.float32)})["y"].tolist() == [[2] * 4] * 3
    executor.close()


@pytest.mark.parametrize("bound", ["LONG_S", "LARGE_BYTES"])
def test_a_large_model_stays_where_it_was_tried(nursery, tmp_path, monkeypatch, bound):
    """A hop is little beside its runs, and its plans would hold up the server; its process's loss is told."""
    monkeypatch.setattr(tried_litert, bound, 0)
    lost = []
    executor = opened(write(tmp_path, scale_model(2.0)), nursery, on_lost=lost.append)
    assert (executor.kind, executor.platform, executor.in_process) == ("litert", "tensorflow", False)
    x = np.ones((3, 4), np.float32)
    assert executor.run("serving_default", {"x": x})["y"].tolist() == (x * 2).tolist()
    os.kill(executor._worker.pid, signal.SIGKILL)
    wait_until(lambda: lost)
    assert lost == ["signal 9"]
    executor.close()


def test_memory_is_estimated_from_the_file(tmp_path):
    """The file, and its weights packed for a few shapes."""
    write(tmp_path, bytes(1000))
    assert litert_bytes(tmp_path) == 2**25 + 5 * 1000
