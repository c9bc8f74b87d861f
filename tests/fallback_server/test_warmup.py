"""Warming up: what is run, in which sizes, and what fails a load."""

import contextlib

import numpy as np
import pytest
from support.clock import FakeClock
from support.fallback_fakes import FakeExecutor, signature
from support.fallback_workers import record

from fallback_server.batching.options import BatchingOptions
from fallback_server.core.errors import ExecutionFailed, LoadFailed
from fallback_server.protocol.proto import example_pb2, serving_pb2
from fallback_server.protocol.tensors import encode
from fallback_server.warmup import MAX_RECORDS, RECORDS, sizes, warm_up
from fallback_server.warmup_records import RecordDamaged, crc32c, read_records

OPTIONS = BatchingOptions(max_batch_size_rows=8)


def written(path, *records):
    file = path / RECORDS
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(records))
    return file


def predict(x, name=""):
    log = serving_pb2.PredictionLog()
    log.predict_log.request.model_spec.signature_name = name
    log.predict_log.request.inputs["x"].CopyFrom(encode(x))
    return log.SerializeToString()


@pytest.mark.parametrize(
    ("options", "rows", "expected"),
    [
        (BatchingOptions(max_batch_size_rows=8), 1, (2, 4, 8)),
        (BatchingOptions(max_batch_size_rows=10), 2, (1, 4, 8, 10)),
        (BatchingOptions(max_batch_size_rows=500), 1, (2, 4, 8, 16, 32, 64)),
        (BatchingOptions(max_batch_size_rows=100, allowed_batch_sizes=(5, 100)), 1, (5, 100)),
        (BatchingOptions(max_batch_size_rows=8, enabled=False), 1, ()),
    ],
)
def test_sizes_are_those_that_batches_will_have(options, rows, expected):
    """Allowed sizes if there are any, else powers of two to the largest; none where nothing is merged."""
    assert sizes(FakeExecutor().signatures["serving_default"], {"x": np.ones((rows, 2))}, options) == expected


def test_large_rows_are_not_multiplied_without_end():
    """A size whose inputs would pass the bound is left out."""
    image = {"x": np.ones((1, 2**21), np.float64)}
    assert sizes(FakeExecutor().signatures["serving_default"], image, OPTIONS) == (2, 4)


def test_without_records_zeros_are_run_in_all_sizes(tmp_path):
    """Where nothing was recorded, rows of zeros are, for each size but the one that loading has run."""
    executor = FakeExecutor()
    assert warm_up(executor, tmp_path, OPTIONS) == 3
    assert executor.batches == [2, 4, 8]


def test_runs_step_back_while_it_warms_up(tmp_path):
    """An executor that can make room for others is asked to, for all runs and no longer."""

    class Polite(FakeExecutor):
        stepped_back = False
        runs = ()

        @contextlib.contextmanager
        def stepping_back(self):
            self.stepped_back = True
            yield
            self.stepped_back = False

        def run(self, signature, inputs):
            self.runs += (self.stepped_back,)
            return super().run(signature, inputs)

    executor = Polite()
    assert warm_up(executor, tmp_path, OPTIONS) == 3
    assert executor.runs == (True, True, True)
    assert not executor.stepped_back


def test_warming_up_can_be_turned_off(tmp_path):
    """Then nothing runs, and a bad file does no harm."""
    written(tmp_path, b"damaged")
    executor = FakeExecutor()
    assert warm_up(executor, tmp_path, OPTIONS, enabled=False) == 0
    assert executor.batches == []


def test_records_are_run_as_recorded_and_then_in_all_sizes(tmp_path):
    """Each request once, and the last of a signature in the other sizes."""
    written(tmp_path, record(predict(np.ones((3, 2), np.float32))), record(predict(np.ones((1, 2), np.float32))))
    executor = FakeExecutor()
    assert warm_up(executor, tmp_path, OPTIONS) == 5
    assert executor.batches == [3, 1, 2, 4, 8]


def test_examples_are_run_with_their_context(tmp_path):
    """Classify and regress logs become serialized examples, the context before each; both tasks of a multi log run."""
    executor = FakeExecutor()
    executor.signatures = {
        name: signature({"x": ((-1,), object)}, {"y": ((-1,), object)}, name=name) for name in ("a", "b")
    }
    seen = []
    executor.run = lambda name, inputs: seen.append((name, inputs["x"].tolist()))
    example, context = example_pb2.Example(), example_pb2.Example()
    example.features.feature["k"].int64_list.value.append(1)
    context.features.feature["c"].float_list.value.append(2)
    classify, multi = serving_pb2.PredictionLog(), serving_pb2.PredictionLog()
    classify.classify_log.request.model_spec.signature_name = "a"
    classify.classify_log.request.input.example_list.examples.append(example)
    for name in "ab":
        multi.multi_inference_log.request.tasks.add().model_spec.signature_name = name
    both = multi.multi_inference_log.request.input.example_list_with_context
    both.examples.append(example)
    both.context.CopyFrom(context)
    written(tmp_path, record(classify.SerializeToString()), record(multi.SerializeToString()))
    assert warm_up(executor, tmp_path, BatchingOptions(enabled=False)) == 3
    plain = example.SerializeToString()
    merged = context.SerializeToString() + plain
    assert seen == [("a", [plain]), ("a", [merged]), ("b", [merged])]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (predict(np.ones((1, 5), np.float32)), r"warm-up record 2 of .* failed: input 'x': expected float32 \[-1, 2\]"),
        (predict(np.ones((1, 2), np.float32), "other"), r'record 2 .*Serving signature key "other" not found'),
        (b"\xff\xff", "record 2 of .* is no PredictionLog"),
        (b"", "record 2 .*holds no request that is served here"),
        (predict(np.full((1, 2), 7, np.float32)), "record 2 .*secret"),
    ],
)
def test_a_record_that_fails_fails_the_load(tmp_path, content, text):
    """The error has the record's number and the reason."""
    written(tmp_path, record(predict(np.ones((1, 2), np.float32))), record(content))
    with pytest.raises(LoadFailed, match=text):
        warm_up(FakeExecutor(poison=7), tmp_path, OPTIONS)


def test_too_many_records_fail_the_load(tmp_path):
    """As in TensorFlow Serving, a thousand are the most."""
    written(tmp_path, record(predict(np.ones((1, 2), np.float32))) * (MAX_RECORDS + 1))
    with pytest.raises(LoadFailed, match="has more than 1000 records"):
        warm_up(FakeExecutor(), tmp_path, OPTIONS)


def test_made_up_rows_may_be_refused_but_may_not_end_the_process(tmp_path):
    """A model that refuses zeros loads all the same; one whose process ends on them does not."""
    assert warm_up(FakeExecutor(poison=0), tmp_path, OPTIONS) == 0
    executor = FakeExecutor()

    def end(name, inputs):
        raise ExecutionFailed("the model's process ended (signal 6) while it ran the request")

    executor.run = end
    with pytest.raises(LoadFailed, match="with 2 rows failed: the model's process ended"):
        warm_up(executor, tmp_path, OPTIONS)


def test_sizes_end_when_the_time_is_up(tmp_path):
    """What is made up takes some seconds at most; what is recorded always runs."""
    clock = FakeClock()
    executor = FakeExecutor()
    run = executor.run

    def slowly(name, inputs):
        clock.advance(2.0)
        return run(name, inputs)

    executor.run = slowly
    assert warm_up(executor, tmp_path, BatchingOptions(max_batch_size_rows=64), clock=clock) == 3


def test_damaged_files_are_told_by_the_byte(tmp_path):
    """Cut off in the head or the content, or altered: the place is named."""
    whole = record(b"content")
    for content, text in [
        (whole[:5], "cut off at byte 0"),
        (whole + whole[:-6], f"the record at byte {len(whole)} has 7 bytes, and the file ends before"),
        (record(b"content", damage=b"\0\0\0\0"), "the record at byte 0 has another checksum"),
        (b"\1" + whole[1:], "the length at byte 0 has another checksum"),
    ]:
        with pytest.raises(RecordDamaged, match=text):
            list(read_records(written(tmp_path, content)))


def test_checksums_are_castagnolis():
    """The check value of CRC-32C, and long data in lanes as in one piece."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, appendix B.4
    long = bytes(range(256)) * 40 + b"end"
    crc = 0xFFFFFFFF
    for byte in long:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    assert crc32c(long) == crc ^ 0xFFFFFFFF


@pytest.mark.slow
def test_tensorflows_own_files_are_read(tmp_path):
    """What TFRecordWriter writes, long records too, is read."""
    import tensorflow as tf

    contents = [b"", b"short", bytes(range(256)) * 500]
    file = str(tmp_path / "records")
    with tf.io.TFRecordWriter(file) as writer:
        for content in contents:
            writer.write(content)
    assert list(read_records(tmp_path / "records")) == contents
