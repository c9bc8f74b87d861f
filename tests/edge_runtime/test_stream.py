"""Streams: state that goes on from frame to frame, in one stream alone, until it is reset."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.clock import FakeClock
from support.edge_models import publish_scale
from support.stateful_models import WAKE_WORDS, counting_model, frames

from edge_runtime import Runtime
from edge_runtime.bare import BareStore
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.interpreter import InterpreterSession
from edge_runtime.errors import (
    DeadlineExceeded,
    EngineFailed,
    EngineLost,
    InvalidInput,
    Overloaded,
    RuntimeClosed,
    StreamBusy,
)
from edge_runtime.routing.router import Router
from edge_runtime.stream import Stream, StreamLimit
from edge_runtime.target import Target

ZEROS = np.zeros((1, 4), np.float32)


class _Maker:
    """Makes real engines of a file, whose runs can be told to be slow or to fail."""

    def __init__(self, path: Path, clock: FakeClock | None = None) -> None:
        store = BareStore(path)
        ((name, (version,)),) = store.installed().items()
        self.clock = clock or FakeClock()
        package = store.open(name, version)
        self._variant = package.manifest.variants[0]
        self._content = package.read(self._variant.file)
        router = Router(None, None, installed=list, clock=self.clock)
        self.target = Target(name, version, None, router, package=package)
        self.open_now = 0
        self.made = 0
        self.refused = ""
        self.lose_at: int | None = None
        self.takes_s = 0.0
        self.before = lambda: None

    def __call__(self) -> Engine:
        if self.refused:
            raise EngineFailed(self.refused)
        maker, runs = self, [0]

        class _Told(InterpreterSession):
            def run(self, signature, inputs, limit_s=None):
                maker.before()
                runs[0] += 1
                maker.clock.advance(maker.takes_s)
                if runs[0] == maker.lose_at:
                    raise EngineLost("the worker was killed by SIGABRT", "crashed")
                return super().run(signature, inputs, limit_s)

            def close(self):
                maker.open_now -= 1
                super().close()

        self.made += 1
        self.open_now += 1
        spec = SessionSpec(subject="count/1", signatures=self._variant.signatures)
        return Engine(_Told(spec, self._content), self._variant, self._variant.signatures)


@pytest.fixture
def maker(tmp_path):
    path = tmp_path / "count.tflite"
    path.write_bytes(counting_model())
    return _Maker(path)


def _count(stream: Stream, **options) -> float:
    return float(stream.predict(ZEROS, **options).outputs["y"][0, 0])


@pytest.mark.parametrize("path", WAKE_WORDS)
def test_a_wake_word_hears_the_same_again_after_a_reset(path):
    """Real models: equal frames give equal answers after a reset, and another stream in between changes nothing."""
    maker, heard = _Maker(Path(path)), frames(60)

    def run(stream, seen):
        return [next(iter(stream.predict(frame).outputs.values())).tolist() for frame in seen]

    with Stream(maker.target, maker) as one, Stream(maker.target, maker) as other:
        first = run(one, heard)
        one.reset()
        again = []
        for frame, noise in zip(heard, frames(60, seed=1), strict=True):
            again += run(one, [frame])
            run(other, [noise])
        assert again == first
        if "jarvis" not in path:  # which answers 0 to any noise
            assert run(one, heard) != first
    assert maker.open_now == 0


def test_the_state_goes_on_until_a_reset(maker):
    """A counter counts the frames of its stream; replies say the version and the place."""
    with Stream(maker.target, maker) as stream:
        assert [_count(stream) for _ in range(3)] == [1, 2, 3]
        assert stream.frames == 3
        stream.reset()
        assert stream.frames == 0
        reply = stream.predict({"x": ZEROS + 10})
        assert float(reply.outputs["y"][0, 0]) == 11
        assert (reply.version, reply.place, reply.reason) == (1, "device:cpu", "local")


def test_a_stream_that_has_not_begun_needs_no_new_engine(maker):
    """A reset before the first frame costs nothing."""
    with Stream(maker.target, maker) as stream:
        stream.reset()
        assert maker.made == 1


def test_bad_input_leaves_the_state_alone(maker):
    """What does not fit the signature is refused before it runs, and is no frame."""
    with Stream(maker.target, maker) as stream:
        _count(stream)
        for bad in (np.zeros((1, 5), np.float32), np.zeros((1, 4), np.int8), {"z": ZEROS}):
            with pytest.raises(InvalidInput):
                stream.predict(bad)
        assert _count(stream) == 2
    assert maker.target.meter.errors() == {"InvalidInput": 3}


def test_an_unknown_signature_is_refused_at_once(maker):
    """A stream is of one signature, which is looked for when it is opened."""
    with pytest.raises(InvalidInput, match="'step' is unknown"):
        Stream(maker.target, maker, signature="step")
    assert maker.made == 0


def test_a_frame_that_is_late_before_it_runs_is_no_frame(maker):
    """A deadline that passed while the frame was checked drops it; one in the run takes it into the state."""
    with Stream(maker.target, maker, clock=_Stepping(maker.clock, 0.01)) as stream:
        with pytest.raises(DeadlineExceeded, match=r"before the run 10\.0 ms"):
            _count(stream, deadline_ms=5)
        assert stream.frames == 0
    with Stream(maker.target, maker, clock=maker.clock) as stream:
        maker.takes_s = 0.02
        with pytest.raises(DeadlineExceeded, match=r"running 20\.0 ms"):
            _count(stream, deadline_ms=5)
        assert stream.predict(ZEROS, deadline_ms=50).latency_ms == pytest.approx(20)
        assert stream.frames == 2
        for deadline_ms in (0, -1, float("nan"), float("inf"), "soon"):
            with pytest.raises(InvalidInput, match="deadline_ms"):
                stream.predict(ZEROS, deadline_ms=deadline_ms)


class _Stepping:
    """A clock that goes on at every look."""

    def __init__(self, clock: FakeClock, step_s: float) -> None:
        self._clock, self._step_s = clock, step_s

    def __call__(self) -> float:
        self._clock.advance(self._step_s)
        return self._clock()


def test_a_failed_run_ends_the_state_and_says_so(maker):
    """After an engine was lost nothing runs, with the reason, until a reset opens another."""
    maker.lose_at = 2
    with Stream(maker.target, maker) as stream:
        _count(stream)
        with pytest.raises(EngineLost, match="SIGABRT"):
            _count(stream)
        assert maker.open_now == 0
        with pytest.raises(EngineFailed, match=r"state is lost \(the worker was killed by SIGABRT\); reset"):
            _count(stream)
        assert "state lost: the worker was killed" in repr(stream)
        maker.refused = "no device"
        with pytest.raises(EngineFailed, match="no device"):
            stream.reset()
        with pytest.raises(EngineFailed, match="no device"):
            _count(stream)
        maker.refused = ""
        stream.reset()
        assert _count(stream) == 1


def test_a_second_thread_is_told(maker):
    """While a run is under way others get an error, and closing waits for nothing: the engine goes with the run."""
    inside, go = threading.Event(), threading.Event()
    replies = []

    def wait():
        inside.set()
        assert go.wait(30)

    maker.before = wait
    stream = Stream(maker.target, maker)
    thread = threading.Thread(target=lambda: replies.append(_count(stream)))
    thread.start()
    assert inside.wait(30)
    for call in (stream.reset, lambda: stream.predict(ZEROS)):
        with pytest.raises(StreamBusy, match="one at a time"):
            call()
    stream.close()
    assert maker.open_now == 1
    go.set()
    thread.join()
    assert replies == [1]
    assert maker.open_now == 0


def test_a_closed_stream_says_so(maker):
    """Nothing runs after closing, which may be done twice."""
    stream = Stream(maker.target, maker)
    stream.close()
    stream.close()
    for call in (stream.reset, lambda: stream.predict(ZEROS)):
        with pytest.raises(RuntimeClosed, match="has been closed"):
            call()
    assert (maker.open_now, repr(stream)) == (0, "<Stream of count/1, closed>")


def test_a_stream_stays_with_its_version(maker):
    """When the model goes on to another version, the stream does not, and its repr tells."""
    versions = [1]
    with Stream(maker.target, maker, current_version=lambda: versions[0]) as stream:
        _count(stream)
        assert repr(stream) == "<Stream of count/1, device:cpu, 1 frames since the start>"
        versions[0] = 2
        assert repr(stream).endswith("stays while the model answers as version 2>")
        assert stream.predict(ZEROS).version == stream.version == 1


def test_streams_are_bounded(maker):
    """One more than the limit is refused with the bound; a closed one makes room, a failed one holds none."""
    limit = StreamLimit(2)
    first = limit.open(maker.target, maker)
    maker.refused = "no memory"
    with pytest.raises(EngineFailed):
        limit.open(maker.target, maker)
    maker.refused = ""
    limit.open(maker.target, maker)
    with pytest.raises(Overloaded, match=r"2 streams are open, .*max_streams"):
        limit.open(maker.target, maker)
    first.close()
    assert len(limit) == 1
    limit.open(maker.target, maker)
    assert repr(limit) == "<StreamLimit 2 of 2 open>"
    limit.close()
    assert (len(limit), maker.open_now) == (0, 0)


def test_closing_all_ends_open_streams(maker):
    """After the runtime's close streams refuse, and none is opened any more, not even one that was on its way."""
    limit = StreamLimit(2)
    stream = limit.open(maker.target, maker)

    def closing():
        limit.close(0.0)
        return maker()

    with pytest.raises(RuntimeClosed, match="the runtime"):
        limit.open(maker.target, closing)
    with pytest.raises(RuntimeClosed, match="has been closed"):
        stream.predict(ZEROS)
    with pytest.raises(RuntimeClosed, match="the runtime"):
        limit.open(maker.target, maker)
    assert maker.open_now == 0


def test_closing_waits_for_a_run_but_not_for_ever(maker):
    """A run that is under way ends before `close` returns; one that hangs is left behind when the limit is over."""
    inside, go = threading.Event(), threading.Event()
    maker.before = lambda: (inside.set(), go.wait(30))
    limit = StreamLimit()
    stream = limit.open(maker.target, maker)
    replies = []
    thread = threading.Thread(target=lambda: replies.append(_count(stream)))
    thread.start()
    assert inside.wait(30)
    limit.close(0.0)
    assert len(limit) == 1
    threading.Timer(0.05, go.set).start()
    limit.close()
    assert (len(limit), maker.open_now) == (0, 0)
    thread.join()
    assert replies == [1]


def _publish(store: Path, version: int, step: float) -> None:
    publish_scale(store, version, 1.0, model="count", content=counting_model(step), batched=False)


def test_a_models_streams_and_its_predictions_do_not_meet(tmp_path):
    """Each stream counts for itself, `predict` always begins anew, and a stream stays when a new version comes."""
    _publish(tmp_path, 1, 1.0)
    with Runtime.open(tmp_path, delegates=["cpu"], cache=None, max_streams=2, poll_interval_s=60) as runtime:
        model = runtime.model("count")
        with model.stream() as one, model.stream() as other:
            assert [_count(one), _count(one), _count(other), _count(one)] == [1, 2, 1, 3]
            assert [_count(model), _count(model)] == [1, 1]
            with pytest.raises(Overloaded, match="max_streams"):
                model.stream()
            _publish(tmp_path, 2, 10.0)
            runtime.refresh()
            assert _count(model) == 10
            assert _count(one) == 4
            assert "stays while the model answers as version 2" in repr(one)
            one.reset()
            assert (_count(one), one.version) == (1, 1)
        left_open = model.stream()
        assert _count(left_open) == 10
    with pytest.raises(RuntimeClosed):
        _count(left_open)


class _StreamMachine(RuleBasedStateMachine):
    """A stream against a count that knows what it should say."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = _Maker(_MACHINE_FILE)
        self.stream = Stream(self.maker.target, self.maker)
        self.count: int | None = 0
        self.closed = False

    @precondition(lambda self: not self.closed)
    @rule(fails=st.booleans())
    def frame(self, fails):
        self.maker.lose_at = (self.count or 0) + 1 if fails else None
        if self.count is None or fails:
            with pytest.raises(EngineFailed):
                _count(self.stream)
            self.count = None
        else:
            self.count += 1
            assert _count(self.stream) == self.count

    @precondition(lambda self: not self.closed)
    @rule(refused=st.booleans())
    def reset(self, refused):
        self.maker.refused = "no device" if refused else ""
        if refused and self.count != 0:
            with pytest.raises(EngineFailed):
                self.stream.reset()
            self.count = None
        else:
            self.stream.reset()
            self.count = 0

    @rule()
    def close(self):
        self.stream.close()
        self.closed = True
        with pytest.raises(RuntimeClosed):
            _count(self.stream)

    @invariant()
    def one_engine_at_most(self):
        assert self.maker.open_now == (0 if self.closed or self.count is None else 1)


@pytest.fixture(autouse=True, scope="module")
def _machine_file(tmp_path_factory):
    global _MACHINE_FILE  # noqa: PLW0603  hypothesis makes the machine without fixtures
    _MACHINE_FILE = tmp_path_factory.mktemp("machine") / "count.tflite"
    _MACHINE_FILE.write_bytes(counting_model())


_MACHINE_FILE = Path()

test_any_order_of_calls_keeps_count = _StreamMachine.TestCase
test_any_order_of_calls_keeps_count.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
