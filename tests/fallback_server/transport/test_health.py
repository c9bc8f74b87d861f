import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.fallback_fakes import FakeExecutor
from support.grpc_stand import code_of, loaded, standing

from fallback_server.core.servable import ServableId, ServableState, State
from fallback_server.transport.health import SERVER_NAMES, model_statuses

pytestmark = pytest.mark.usefixtures("transport")

STATUS = health_pb2.HealthCheckResponse


def state(name, version, state_):
    return ServableState(servable_id=ServableId(name, version), state=state_)


def test_a_model_serves_while_one_of_its_versions_does():
    """One AVAILABLE version is enough, wherever it stands among the others."""
    states = [
        state("a", 2, State.LOADING),
        state("a", 1, State.AVAILABLE),
        state("b", 1, State.END),
        state("c", 2, State.AVAILABLE),
        state("c", 1, State.UNLOADING),
    ]
    assert model_statuses(states) == {"a": STATUS.SERVING, "b": STATUS.NOT_SERVING, "c": STATUS.SERVING}


@pytest.mark.parametrize("name", [*SERVER_NAMES, "m"])
def test_every_name(tmp_path, name):
    """The server, its services by short and full names, and each model."""

    async def story():
        async with loaded(path=tmp_path) as stand:
            health = health_pb2_grpc.HealthStub(stand.channel)
            asked = health_pb2.HealthCheckRequest(service=name)
            assert (await health.Check(asked)).status == STATUS.SERVING
            await stand.server.set_serving(serving=False)
            assert (await health.Check(asked)).status == STATUS.NOT_SERVING

    asyncio.run(story())


def test_an_unknown_name_is_not_found_and_may_be_watched(tmp_path):
    """Check refuses; Watch says SERVICE_UNKNOWN, and goes on."""

    async def story():
        async with loaded(path=tmp_path) as stand:
            health = health_pb2_grpc.HealthStub(stand.channel)
            asked = health_pb2.HealthCheckRequest(service="half")
            assert (await code_of(health.Check(asked)))[0] is grpc.StatusCode.NOT_FOUND
            assert (await health.Watch(asked).read()).status == STATUS.SERVICE_UNKNOWN

    asyncio.run(story())


def test_a_watch_of_a_model_hears_that_it_was_loaded(tmp_path):
    """NOT_SERVING while it loads, SERVING after."""

    async def story():
        async with standing(FakeExecutor(), tmp_path) as stand:
            await stand.server.set_serving(serving=True)
            watch = health_pb2_grpc.HealthStub(stand.channel).Watch(health_pb2.HealthCheckRequest(service="m"))
            assert (await watch.read()).status == STATUS.NOT_SERVING
            await asyncio.to_thread(stand.load)
            assert (await asyncio.wait_for(watch.read(), 30)).status == STATUS.SERVING
            watch.cancel()

    asyncio.run(story())
