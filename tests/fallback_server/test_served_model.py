"""A loaded version as the server holds it: its waits, its loss, its package."""

import hashlib
import json

import numpy as np
import pytest
from support.clock import FakeClock
from support.converter_packages import manifest_for, write_files
from support.fallback_fakes import FakeExecutor, caller

from converter.artifact.schema import encode
from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.queue import Task
from fallback_server.config import ConfigInvalid
from fallback_server.core.errors import ExecutionFailed, LoadFailed, ServerError
from fallback_server.core.servable import ServableId
from fallback_server.executors.registry import Platform, Registry
from fallback_server.package_info import PackageInfo, read_package
from fallback_server.served_model import ServedModel, ServedModelLoader
from fallback_server.statistics import KeptStatistics
from fallback_server.warmup import RECORDS

ID = ServableId("m", 1)
OPTIONS = BatchingOptions(max_batch_size_rows=4, num_batch_threads=2)


def test_the_expected_wait_is_of_what_is_ahead():
    """0 before the first run; then batches ahead over threads and its own run, each as long as runs took."""
    clock = FakeClock()
    executor = FakeExecutor()
    run = executor.run

    def slowly(name, inputs):
        clock.advance(0.01)
        return run(name, inputs)

    executor.run = slowly
    model = ServedModel(ID, executor, OPTIONS, clock=clock)
    queue = model.queues["serving_default"]
    assert model.expected_wait_ms() == 0
    queue.run({"x": np.ones((1, 2), np.float32)})
    assert model.expected_wait_ms() == pytest.approx(10)
    for _ in range(2):
        queue.put(Task(caller=caller(), inputs={"x": np.ones((4, 2), np.float32)}, deadline_s=None, rows=4))
    assert model.queued_rows() == 8
    assert model.expected_wait_ms() == pytest.approx(20)


def test_its_queues_know_how_long_a_row_took_as_it_was_loaded():
    """Until runs say more; nothing where the executor does not know."""
    executor = FakeExecutor()
    assert ServedModel(ID, executor, OPTIONS).queues["serving_default"].costs.usual_s(2) == 0.0
    executor.run_s = 3.0
    costs = ServedModel(ID, executor, OPTIONS).queues["serving_default"].costs
    assert (costs.usual_s(1), costs.usual_s(2), costs.expected_s(1)) == (3.0, 6.0, None)


def test_a_large_request_is_not_ahead_of_the_next_one():
    """It lets others pass after each piece; nor is what has a lower priority."""
    executor, clock = FakeExecutor(), FakeClock()
    model = ServedModel(ID, executor, OPTIONS, clock=clock)
    model._meter.mean_s = 0.01
    queue = model.queues["serving_default"]
    for count, priority in ((2000, 0), (4, -1)):
        inputs = {"x": np.ones((count, 2), np.float32)}
        queue.put(Task(caller=caller(), inputs=inputs, deadline_s=None, rows=count, priority=priority))
    assert model.expected_wait_ms() == pytest.approx(10)


def registry(executor, opened):
    """A registry whose one platform gives this executor, and notes how it was asked."""

    def open_it(path, *, title, on_lost, stop, sizes):
        opened.append((title, on_lost))
        return executor

    platform = Platform(name="fake", files=("model",), open=open_it, estimated_bytes=lambda path: 7)
    return Registry([platform])


def test_a_loss_is_told_with_the_model_even_if_it_comes_before_the_load_is_done(tmp_path):
    """`on_lost` gets what was loaded, once; a loss during the warm-up waits for it."""
    (tmp_path / "model").touch()
    lost, opened = [], []
    executor = FakeExecutor()
    run = executor.run

    def ending(name, inputs):
        opened[0][1]("signal 9")
        return run(name, inputs)

    executor.run = ending
    loader = ServedModelLoader(
        ID, tmp_path, registry=registry(executor, opened), options=OPTIONS, on_lost=lambda *told: lost.append(told)
    )
    assert loader.estimated_bytes() == 7
    model = loader.load()
    assert lost == [(model, "the model's process ended (signal 9)")]
    assert opened[0][0] == "m/1"


def test_a_version_that_is_loaded_anew_goes_on_counting(tmp_path):
    """What it has answered, and what it failed when it was lost, is no less when it is there again."""
    (tmp_path / "model").touch()
    kept = KeptStatistics()

    def load(servable_id=ID):
        parts = {"registry": registry(FakeExecutor(), []), "options": OPTIONS, "kept": kept}
        return ServedModelLoader(servable_id, tmp_path, **parts).load()

    lost = load()
    lost.statistics.settled(None, 0.1)
    again = load()
    lost.statistics.settled(ExecutionFailed("the model's process ended"), 0.1)  # After its successor was there.
    again.statistics.settled(None, 0.1)
    assert (again.statistics.work().answered, again.statistics.work().failed) == (2, 1)
    assert load(ServableId("m", 2)).statistics.work().answered == 0


def test_a_failed_warm_up_closes_what_was_opened(tmp_path):
    """The load fails, and its memory is free."""
    (tmp_path / "model").touch()
    (tmp_path / RECORDS).parent.mkdir()
    (tmp_path / RECORDS).write_bytes(b"damaged")
    executor = FakeExecutor()
    with pytest.raises(LoadFailed, match="cut off at byte 0"):
        ServedModelLoader(ID, tmp_path, registry=registry(executor, []), options=OPTIONS).load()
    assert executor.closed


def test_what_the_files_make_fail_is_not_worth_another_try(tmp_path):
    """Files of no platform, damaged records, settings that are refused; all else may be the machine's fault."""

    def retriable(*, batching_for=None, error=None):
        executor = FakeExecutor()
        if error is not None:
            executor.run = lambda *_: (_ for _ in ()).throw(error)
        parts = {"registry": registry(executor, []), "options": OPTIONS, "batching_for": batching_for}
        loader = ServedModelLoader(ID, tmp_path, **parts)
        with pytest.raises(ServerError):
            loader.load()
        return loader.retriable

    def refuse(path, options):
        raise ConfigInvalid("batching_params.pbtxt: max_batch_size")

    assert not retriable()
    (tmp_path / "model").touch()
    assert not retriable(batching_for=refuse)
    assert retriable(error=ExecutionFailed("the model's process ended"))
    (tmp_path / RECORDS).parent.mkdir()
    (tmp_path / RECORDS).write_bytes(b"damaged")
    assert not retriable()


def test_a_package_is_known_by_its_manifest_or_by_what_is_said_of_it(tmp_path):
    """The manifest's digest and preprocessing; else package.json's; a bad one is as none."""
    assert read_package(tmp_path) is None
    said = {"fingerprint": "sha256:1", "preprocessing_fingerprint": "sha256:2"}
    (tmp_path / "package.json").write_text(json.dumps(said))
    assert read_package(tmp_path) == PackageInfo(**said)
    (tmp_path / "package.json").write_text("{")
    assert read_package(tmp_path) is None
    (tmp_path / "package.json").write_text(json.dumps({"fingerprint": "x" * 300}))
    assert read_package(tmp_path) is None
    manifest = encode(manifest_for(write_files(tmp_path)))
    (tmp_path / "manifest.json").write_bytes(manifest)
    found = read_package(tmp_path)
    assert found.fingerprint == f"sha256:{hashlib.sha256(manifest).hexdigest()}"
