"""Models that merge requests themselves, and signatures that share their inputs, in real TensorFlow."""

import threading
import time

import numpy as np
import pytest
from support import granular_models
from support.fallback_versions import PlainVersions

from fallback_server.batching.options import BatchingOptions
from fallback_server.core.manager import Manager, ManagerOptions
from fallback_server.core.servable import ServableId
from fallback_server.core.source import AspiredVersion
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import DataPlane, PredictCall, Verb
from fallback_server.executors.registry import default_registry
from fallback_server.executors.saved_model import SavedModelOptions
from fallback_server.protocol.proto import example_pb2 as pb
from fallback_server.served_model import ServedModelLoader

pytestmark = pytest.mark.slow

OPTIONS = BatchingOptions(num_batch_threads=1)


class Answers:
    """What came of calls, waited for."""

    def __init__(self):
        self.by_call = {}
        self._came = threading.Condition()

    def settle(self, answers):
        with self._came:
            self.by_call.update(answers)
            self._came.notify_all()

    def of(self, calls):
        with self._came:
            assert self._came.wait_for(lambda: all(call in self.by_call for call in calls), 60)
        return [self.by_call[call] for call in calls]


@pytest.fixture(scope="module")
def plane(tensorflow, tmp_path_factory):
    output = tmp_path_factory.mktemp("granular")
    tensorflow.run(granular_models.write_granular, 200.0, output)
    tensorflow.run(granular_models.write_counted, 200.0, output)
    registry = default_registry(SavedModelOptions())
    registry.start()
    manager = Manager(
        make_loader=lambda servable_id, path, on_lost: ServedModelLoader(
            servable_id, path, registry=registry, options=OPTIONS, on_lost=on_lost
        ),
        options=ManagerOptions(),
    )
    plane = DataPlane(versions=PlainVersions(manager), options=OPTIONS, clock=time.monotonic)
    plane.scheduler.start()
    manager.set_aspired(
        {
            ServableId(name, 1): AspiredVersion(path=output / name / "1", fingerprint=())
            for name in ("granular", "counted")
        }
    )
    assert manager.wait_idle(timeout_s=120)
    plane.manager = manager
    yield plane
    assert plane.scheduler.stop(timeout_s=30)
    manager.set_aspired({})
    assert manager.stop(timeout_s=30)
    registry.close()


def test_a_model_that_merges_its_expensive_part_gets_requests_side_by_side(plane):
    """Eight at once with one batch thread: unbatched by us, and one product of eight rows inside."""
    with plane.manager.acquire("granular", None) as handle:
        model = handle.servable
    assert {name: each.batches_inside for name, each in model.signatures.items()} == {
        "serving_default": True,
        "plain": False,
    }
    assert not model.queues["serving_default"].merges
    assert model.queues["plain"].merges
    before = model.statistics.work().sizes.get(1, (0, 0.0))[0]
    answers = Answers()
    calls = [
        PredictCall(target=ModelTarget(name="granular"), inputs={"x": np.full((1, 2), value, np.float32)})
        for value in range(-4, 4)
    ]
    for call in calls:
        plane.predict([call], answers.settle)
    replies = answers.of(calls)
    assert [reply.outputs["y"].tolist() for reply in replies] == [[[3.0 * value] * 2] for value in range(-4, 4)]
    assert {reply.outputs["merged"].item() for reply in replies} == {8}
    assert model.statistics.work().sizes[1][0] - before == 8


def multi(plane, answers, tasks, values=(1.5, 2.5)):
    examples = [
        pb.Example(
            features=pb.Features(feature={"x": pb.Feature(float_list=pb.FloatList(value=[value]))})
        ).SerializeToString()
        for value in values
    ]
    calls = [
        PredictCall(target=ModelTarget(name="counted"), signature=name, verb=verb, examples=examples)
        for name, verb in tasks
    ]
    plane.multi(calls, answers.settle)
    return answers.of(calls)


def test_tasks_that_read_the_same_input_evaluate_the_graph_once(plane):
    """The count that both give out is the same, and one more with each request; also where both give out one tensor."""
    answers = Answers()
    tasks = [("classify", Verb.CLASSIFY), ("regress", Verb.REGRESS), ("same", Verb.CLASSIFY)]
    counts = []
    for _ in range(3):
        classify, regress, same = multi(plane, answers, tasks)
        assert classify.outputs.keys() == same.outputs.keys() == {"scores"}
        assert regress.outputs.keys() == {"outputs"}
        assert classify.outputs["scores"][:, 0].tolist() == [1.5, 2.5]
        assert classify.outputs["scores"][0, 1] == regress.outputs["outputs"][0] == same.outputs["scores"][0, 1]
        assert [reply.signature for reply in (classify, regress, same)] == ["classify", "regress", "same"]
        counts.append(regress.outputs["outputs"][0])
    assert np.diff(counts).tolist() == [1.0, 1.0]


def test_a_task_with_an_input_of_its_own_is_answered_beside_them(plane):
    """Two of three are one run; the third's answer is as right."""
    tasks = [("other", Verb.CLASSIFY), ("classify", Verb.CLASSIFY), ("regress", Verb.REGRESS)]
    other, classify, regress = multi(plane, Answers(), tasks)
    assert other.outputs["scores"].tolist() == [[1.5], [2.5]]
    assert classify.outputs["scores"][0, 1] == regress.outputs["outputs"][0]
