import time

import numpy as np
import pytest
from support.clock import FakeClock
from support.fallback_fakes import FakeExecutor, GatedLoader

from fallback_server.batching.options import BatchingOptions
from fallback_server.core.errors import (
    ExecutionFailed,
    InvalidInput,
    ModelNotFound,
    QueueFull,
    SignatureNotFound,
    VersionNotReady,
)
from fallback_server.core.manager import Manager, ManagerOptions
from fallback_server.core.servable import ServableId, State
from fallback_server.core.source import AspiredVersion
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import DataPlane, PredictCall
from fallback_server.served_model import ServedModel

OPTIONS = BatchingOptions(max_batch_size_rows=4, max_enqueued_batches=1)


class Stand:
    """A data plane over fake executors, versions 1 and 2 of `m`, stepped by the test."""

    def __init__(self, tmp_path):
        self.executors = {1: FakeExecutor(factor=1), 2: FakeExecutor(factor=2, poison=13)}
        self.manager = Manager(make_loader=self.loader, options=ManagerOptions())
        self.plane = DataPlane(manager=self.manager, options=OPTIONS, clock=FakeClock())
        version = AspiredVersion(path=tmp_path, fingerprint=())
        self.manager.set_aspired({ServableId("m", number): version for number in self.executors})
        assert self.manager.wait_idle(timeout_s=10)
        self.answers = {}
        self.settled = []

    def loader(self, servable_id, _):
        loader = GatedLoader(ServedModel(servable_id, self.executors[servable_id.version], OPTIONS))
        loader.gate.set()
        return loader

    def settle(self, answers):
        self.settled.append(len(answers))
        for call, answer in answers:
            assert call not in self.answers
            self.answers[call] = answer

    def predict(self, *calls):
        self.plane.predict(calls, self.settle)
        while self.plane.scheduler.step():
            pass
        return [self.answers[call] for call in calls]


@pytest.fixture
def stand(tmp_path):
    stand = Stand(tmp_path)
    yield stand
    assert stand.manager.stop(timeout_s=5)


def call(value=1.0, *, rows=1, version=None, label=None, name="m", **options):
    target = ModelTarget(name=name, version=version, label=label)
    return PredictCall(target=target, inputs={"x": np.full((rows, 2), value, np.float32)}, **options)


def test_a_list_of_calls_is_answered_in_one_settling(stand):
    """Calls that come together run together and come back together, with who answered."""
    replies = stand.predict(call(1), call(2), call(3, version=1))
    assert [reply.outputs["y"][0, 0] for reply in replies] == [2, 4, 3]
    assert [reply.servable_id.version for reply in replies] == [2, 2, 1]
    assert {reply.signature for reply in replies} == {"serving_default"}
    assert stand.executors[2].batches == [2]
    assert stand.settled == [2, 1]


@pytest.mark.parametrize(
    ("asked", "error", "text"),
    [
        ({"name": ""}, InvalidInput, "ModelSpec has no name specified."),
        ({"label": "canary"}, InvalidInput, "Unrecognized servable version label: canary"),
        ({"name": "half"}, ModelNotFound, "Servable not found for request: Latest(half)"),
        ({"version": 5}, ModelNotFound, "Servable not found for request: Specific(m, 5)"),
        ({"signature": "x"}, SignatureNotFound, 'Serving signature key "x" not found.'),
        ({"output_filter": ["q"]}, InvalidInput, "output tensor alias not found in signature: q"),
    ],
)
def test_refusals(stand, asked, error, text):
    """What can't be answered is settled at once with the named error; nothing stays held."""
    (answer,) = stand.predict(call(**asked))
    assert isinstance(answer, error)
    assert text in str(answer)


def test_a_refused_call_harms_no_other_in_its_list(stand):
    """Good and bad calls in one list: each gets its own answer."""
    good, bad, poisoned, other = stand.predict(call(1), call(1, rows=0), call(13), call(4))
    assert good.outputs["y"].tolist() == [[2, 2]]
    assert isinstance(bad, InvalidInput)
    assert isinstance(poisoned, ExecutionFailed)
    assert other.outputs["y"].tolist() == [[8, 8]]


def test_a_full_queue_refuses(stand):
    """Beyond the bound, at once, and the accepted ones are answered."""
    answers = stand.predict(*[call(value) for value in range(6)])
    assert [type(answer) for answer in answers[4:]] == [QueueFull, QueueFull]
    assert [answer.outputs["y"][0, 0] for answer in answers[:4]] == [0, 2, 4, 6]


def test_output_filter(stand):
    """Only what was asked for comes back."""
    (answer,) = stand.predict(call(output_filter=["y"]))
    assert list(answer.outputs) == ["y"]


def test_a_version_that_was_accepted_from_is_not_unloaded_before_it_has_answered(stand, tmp_path):
    """Unloading begins while a request waits: the request is answered by that version, then it goes."""
    waiting = call(7, version=1)
    stand.plane.predict([waiting], stand.settle)
    stand.manager.set_aspired({ServableId("m", 2): AspiredVersion(path=tmp_path, fingerprint=())})
    assert not stand.executors[1].closed
    (refused,) = stand.predict(call(version=1))
    assert isinstance(refused, VersionNotReady)
    assert stand.answers[waiting].servable_id.version == 1
    deadline = time.monotonic() + 10
    while not stand.executors[1].closed and time.monotonic() < deadline:
        stand.manager.wait_idle(timeout_s=0.01)
    assert stand.executors[1].closed


def test_metadata_and_states(stand):
    """The signatures of the version that answers; the states of all, or of the one that is named."""
    assert stand.plane.signature_defs(ModelTarget(name="m")) == (ServableId("m", 2), b"signatures")
    assert [state.servable_id.version for state in stand.plane.states(ModelTarget(name="m"))] == [2, 1]
    (state,) = stand.plane.states(ModelTarget(name="m", version=1))
    assert state.state is State.AVAILABLE
    with pytest.raises(ModelNotFound, match=r"^Could not find version 5 of model m$"):
        stand.plane.states(ModelTarget(name="m", version=5))
    with pytest.raises(ModelNotFound, match=r"^Could not find any versions of model q$"):
        stand.plane.states(ModelTarget(name="q"))
