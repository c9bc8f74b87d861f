import dataclasses
import time

import numpy as np
import pytest
from support.clock import FakeClock
from support.fallback_fakes import FakeExecutor, GatedLoader, signature
from support.fallback_versions import PlainVersions

from fallback_server.batching.options import BatchingOptions
from fallback_server.classification import classes, regressions
from fallback_server.core.errors import (
    ExecutionFailed,
    InvalidInput,
    ModelNotFound,
    QueueFull,
    RequestCancelled,
    SignatureNotFound,
    VersionNotReady,
)
from fallback_server.core.manager import Manager, ManagerOptions
from fallback_server.core.servable import ServableId, State
from fallback_server.core.source import AspiredVersion
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import DataPlane, PredictCall, PredictReply, Verb
from fallback_server.executors.base import joint_name, joint_names
from fallback_server.served_model import ServedModel

OPTIONS = BatchingOptions(max_batch_size_rows=4, max_enqueued_batches=1)


class Shadowed(PlainVersions):
    """The versions as they are, and a shadow that the test names."""

    shadowed = None

    def standing(self, target):
        return super().standing(target) if self.shadowed is None else None

    def shadow(self, name, answered):
        return None if self.shadowed in (None, answered) else self._manager.acquire(name, self.shadowed)


class Stand:
    """A data plane over fake executors, versions 1 and 2 of `m`, stepped by the test."""

    def __init__(self, tmp_path):
        self.executors = {1: FakeExecutor(factor=1), 2: FakeExecutor(factor=2, poison=13)}
        self.manager = Manager(make_loader=self.loader, options=ManagerOptions())
        self.versions = Shadowed(self.manager)
        self.observed = []
        self.plane = DataPlane(
            versions=self.versions,
            options=OPTIONS,
            clock=FakeClock(),
            observe=lambda _, servable_id, answer, __: self.observed.append((servable_id, answer)),
        )
        self.path = tmp_path
        self.serve(1, self.executors[1])
        self.answers = {}
        self.settled = []

    def loader(self, servable_id, *_):
        loader = GatedLoader(ServedModel(servable_id, self.executors[servable_id.version], OPTIONS))
        loader.gate.set()
        return loader

    def serve(self, number, executor):
        self.executors[number] = executor
        version = AspiredVersion(path=self.path, fingerprint=())
        self.manager.set_aspired({ServableId("m", number): version for number in self.executors})
        assert self.manager.wait_idle(timeout_s=10)

    def figures(self, version):
        with self.manager.acquire("m", version) as handle:
            return handle.servable.statistics.figures()

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
    good, bad, poisoned, other = stand.predict(call(1), call(1, output_filter=["q"]), call(13), call(4))
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
    assert [state.servable_id.version for state in stand.versions.states(ModelTarget(name="m"))] == [2, 1]
    (state,) = stand.versions.states(ModelTarget(name="m", version=1))
    assert state.state is State.AVAILABLE
    with pytest.raises(ModelNotFound, match=r"^Could not find version 5 of model m$"):
        stand.versions.states(ModelTarget(name="m", version=5))
    with pytest.raises(ModelNotFound, match=r"^Could not find any versions of model q$"):
        stand.versions.states(ModelTarget(name="q"))


class ExampleExecutor(FakeExecutor):
    """A classifier and a regression of serialized Examples: what they say is the length of each."""

    def __init__(self):
        super().__init__()
        strings = ((-1,), object)
        self.signatures = {
            "serving_default": signature({"inputs": strings}, {"scores": (-1, 1)}),
            "regress": signature({"inputs": strings}, {"outputs": (-1,)}, name="regress"),
        }

    def run(self, name, inputs):
        lengths = np.array([len(each) for each in inputs["inputs"]], np.float32)
        self.batches.append(name)
        return {"outputs": lengths} if name == "regress" else {"scores": lengths[:, np.newaxis]}


def examples(*texts, verb=Verb.CLASSIFY, **options):
    return PredictCall(target=ModelTarget(name="m"), verb=verb, examples=[text.encode() for text in texts], **options)


def test_examples_are_classified_and_regressed(stand):
    """Serialized Examples go in as they are, and only the outputs that the verb reads come back."""
    stand.serve(3, ExampleExecutor())
    one, two = stand.predict(examples("abc", "d"), examples("ab", verb=Verb.REGRESS, signature="regress"))
    assert classes(one.outputs, 2) == [[("", 3.0)], [("", 1.0)]]
    assert regressions(two.outputs, 1) == [2.0]


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        (examples("a", signature="nope"), InvalidInput, "No signature was found with the name: nope"),
        (examples("a"), InvalidInput, "No classification inputs found"),
        (examples("a", verb=Verb.REGRESS), InvalidInput, "No regression inputs found"),
    ],
)
def test_examples_for_a_signature_that_takes_none_are_refused(stand, wrong, error, text):
    """The signature is held against the verb before anything is queued."""
    (answer,) = stand.predict(wrong)
    assert isinstance(answer, error)
    assert text in str(answer)


def test_several_calls_can_be_held_to_one_version(stand):
    """Calls of one question get one version, whichever answers when the first is admitted."""
    calls = [call(1), call(2, version=1)]
    stand.plane.multi(calls, stand.settle)
    while stand.plane.scheduler.step():
        pass
    assert {stand.answers[one].servable_id.version for one in calls} == {2}
    lost = [call(1, name="q"), call(2, name="q")]
    stand.plane.multi(lost, stand.settle)
    assert all(isinstance(stand.answers[one], ModelNotFound) for one in lost)


class JointExecutor(FakeExecutor):
    """Two signatures of one input, `classify` and `regress`, and one of another; each run is noted."""

    def __init__(self):
        super().__init__()
        one = signature({"inputs": ((-1,), object)}, {"scores": (-1, 1)}, name="classify")
        two = signature({"inputs": ((-1,), object)}, {"outputs": (-1,)}, name="regress")
        other = dataclasses.replace(one, name="other", inputs_id="inputs=b:0")
        both = [dataclasses.replace(each, inputs_id="inputs=a:0") for each in (one, two)]
        self.signatures = {each.name: each for each in (*both, other)}
        self.runs = []

    def run(self, name, inputs):
        self.runs.append((name, len(inputs["inputs"])))
        if any(text == b"13" for text in inputs["inputs"]):
            raise InvalidInput("thirteen")
        sizes = np.array([len(text) for text in inputs["inputs"]], np.float32)
        given = {
            "classify": {"scores": sizes[:, None]},
            "regress": {"outputs": sizes},
            "other": {"scores": sizes[:, None]},
        }
        names = joint_names(name)
        if len(names) == 1:
            return given[name]
        return {joint_name(each, key): value for each in names for key, value in given[each].items()}


def tasks_of(texts, *names):
    """The calls of one MultiInference."""
    encoded = [text.encode() for text in texts]
    verbs = {"regress": Verb.REGRESS}
    target = ModelTarget(name="m", version=None, label=None)
    return [
        PredictCall(target=target, signature=name, verb=verbs.get(name, Verb.CLASSIFY), examples=encoded)
        for name in names
    ]


def test_tasks_on_the_same_inputs_of_the_model_are_one_run(stand):
    """Each gets its own outputs and is counted; what reads another input runs by itself, and single calls as ever."""
    executor = JointExecutor()
    stand.serve(3, executor)
    calls = tasks_of(["a", "bcd"], "regress", "other", "classify")
    stand.plane.multi(calls, stand.settle)
    more = tasks_of(["ef"], "classify", "regress")
    stand.plane.multi(more, stand.settle)
    while stand.plane.scheduler.step():
        pass
    assert sorted(executor.runs) == [(joint_name("classify", "regress"), 3), ("other", 2)]
    regress, other, classify = (stand.answers[call] for call in calls)
    assert (regress.outputs.keys(), classify.outputs.keys()) == ({"outputs"}, {"scores"})
    assert regress.outputs["outputs"].tolist() == [1, 3]
    assert other.outputs["scores"].tolist() == classify.outputs["scores"].tolist() == [[1], [3]]
    assert stand.answers[more[0]].outputs["scores"].tolist() == [[2]]
    assert stand.figures(3).requests == 5
    alone = stand.predict(*tasks_of(["a"], "classify", "regress"))
    assert [reply.signature for reply in alone] == ["classify", "regress"]
    assert executor.runs[2:] == [("classify", 1), ("regress", 1)]


def test_tasks_of_one_run_fail_refuse_and_leave_together(stand):
    """All get what the run came to; none is run once all their callers are gone; a full queue refuses all."""
    executor = JointExecutor()
    stand.serve(3, executor)
    failing, gone = tasks_of(["13"], "classify", "regress"), tasks_of(["a"], "classify", "regress")
    stand.plane.multi(failing, stand.settle)
    stand.plane.multi(gone, stand.settle)
    many = [tasks_of(["b"], "classify", "regress") for _ in range(3)]
    for calls in many:
        stand.plane.multi(calls, stand.settle)
    for call_ in gone:
        call_.left_s = 100.0
    while stand.plane.scheduler.step():
        pass
    assert all(isinstance(stand.answers[one], InvalidInput) for one in failing)
    assert all(isinstance(stand.answers[one], RequestCancelled) for one in gone)
    assert all(isinstance(stand.answers[one], QueueFull) for one in many[2])
    assert all(isinstance(stand.answers[one], PredictReply) for calls in many[:2] for one in calls)
    assert [rows for _, rows in executor.runs] == [3, 1, 1, 1]


def test_short_runs_are_answered_before_predict_returns(stand):
    """Where the transport lets them, and the model runs in this process."""
    executor = FakeExecutor(factor=3)
    executor.in_process = True
    stand.serve(3, executor)
    first, second = call(1), call(2)
    stand.plane.predict([first], stand.settle, here=True)
    assert first not in stand.answers
    stand.predict()
    with stand.manager.acquire("m", 3) as handle:
        assert handle.servable.short
    stand.plane.predict([second], stand.settle, here=True)
    assert stand.answers[second].outputs["y"][0, 0] == 6
    with stand.manager.acquire("m", 3) as handle:
        assert handle.servable.runs_here() == 1


def test_a_shadow_answers_nobody_and_is_compared(stand):
    """The second version runs the same request; the caller gets the first one's answer, and the figures both."""
    stand.versions.shadowed = 1
    (reply,) = stand.predict(call(3))
    assert reply.servable_id.version == 2
    assert reply.outputs["y"][0, 0] == 6
    assert stand.executors[1].batches == [1]
    assert stand.figures(1).compared == 1
    assert stand.figures(1).diverged == 1
    assert stand.figures(2).compared == 0
    assert [stand.figures(version).requests for version in (1, 2)] == [1, 1]
    assert len(stand.observed) == 1


@pytest.mark.parametrize(("deadline_s", "expected_s"), [(None, 60.0), (2.0, 2.0), (1e6, 60.0)])
def test_a_shadow_has_a_deadline_of_its_own(stand, monkeypatch, deadline_s, expected_s):
    """Nobody waits for its answer: one that loops would hold its version's process for good where no caller set one."""
    stand.versions.shadowed = 1
    submit, tasks, now_s = stand.plane.scheduler.submit, [], stand.plane.clock()
    monkeypatch.setattr(stand.plane.scheduler, "submit", lambda items: tasks.extend(items) or submit(items))
    stand.predict(call(3, deadline_s=None if deadline_s is None else now_s + deadline_s))
    (shadow,) = (task for _, task in tasks if task.caller.handle.servable_id.version == 1)
    assert shadow.deadline_s == now_s + expected_s


def test_a_request_that_names_its_version_has_no_shadow(stand):
    """Whoever asks for a version is no sample of the traffic."""
    stand.versions.shadowed = 1
    stand.predict(call(3, version=2))
    assert stand.executors[1].batches == []


def test_a_shadow_that_fails_harms_nobody(stand):
    """Its error is counted, and the caller does not hear of it."""
    stand.executors[1].poison = 3
    stand.versions.shadowed = 1
    (reply,) = stand.predict(call(3))
    assert reply.outputs["y"][0, 0] == 6
    assert stand.figures(1).errors == {"ExecutionFailed": 1}
    assert stand.figures(1).compared == 0


def test_a_request_that_a_version_refuses_is_its_error(stand):
    """A canary that refuses what the other version takes has errors, and not just fewer requests."""
    wrong = PredictCall(target=ModelTarget(name="m"), inputs={"z": np.ones((1, 2), np.float32)})
    (refused,) = stand.predict(wrong)
    assert isinstance(refused, InvalidInput)
    assert stand.observed == [(ServableId("m", 2), refused)]
    assert stand.figures(2).errors == {"InvalidInput": 1}


@pytest.mark.parametrize(("signature", "columns"), [("other", 2), ("serving_default", 3)])
def test_a_shadow_that_can_not_take_a_request_says_so(stand, signature, columns):
    """Neither compared nor passed over in silence: it is counted as a failure of the shadow."""
    newer = FakeExecutor(factor=3, shape=(-1, -1))
    newer.signatures["other"] = newer.signatures["serving_default"]
    stand.serve(3, newer)
    stand.versions.shadowed = 1
    inputs = {"x": np.ones((1, columns), np.float32)}
    (reply,) = stand.predict(PredictCall(target=ModelTarget(name="m"), signature=signature, inputs=inputs))
    assert reply.servable_id.version == 3
    figures = stand.figures(1)
    assert (figures.compared, figures.uncompared, figures.requests) == (0, 1, 1)


def test_every_call_is_observed_once(stand):
    """Answers, refusals and failures are told with the version that had them, if one had."""
    stand.predict(call(1), call(1, name="q"), call(1, version=1, rows=3), call(13))
    told = [(servable_id and servable_id.version, type(answer).__name__) for servable_id, answer in stand.observed]
    assert sorted(told, key=str) == [
        (1, "PredictReply"),
        (2, "ExecutionFailed"),
        (2, "PredictReply"),
        (None, "ModelNotFound"),
    ]


def test_an_empty_batch_is_answered_by_an_empty_one(stand):
    """A request without rows is a request: alone, and beside others, whose rows stay their own."""
    (alone,) = stand.predict(call(1, rows=0))
    assert alone.outputs["y"].shape == (0, 2)
    one, none, other = stand.predict(call(1), call(1, rows=0), call(3))
    assert [each.outputs["y"][:, 0].tolist() for each in (one, none, other)] == [[2.0], [], [6.0]]
    assert stand.executors[2].batches == [0, 2]
