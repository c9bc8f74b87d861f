import asyncio
import functools

import grpc
import pytest
from support.fallback_fakes import FakeExecutor
from support.grpc_stand import code_of, loaded, standing

from fallback_server.core.errors import LoadFailed
from fallback_server.core.servable import ServableId, ServableState, State
from fallback_server.protocol import methods
from fallback_server.protocol.proto import edge_pb2
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.transport.settling import failure, settled

pytestmark = pytest.mark.usefixtures("transport")

CODE = grpc.StatusCode


def reload(base_path="/m", name="m"):
    request = pb.ReloadConfigRequest()
    request.config.model_config_list.config.add(name=name, base_path=base_path)
    return request


def test_states(tmp_path):
    """As the control tells them; what isn't there is not found."""

    async def story():
        async with loaded(path=tmp_path) as stand:
            status = stand.unary(methods.GET_MODEL_STATUS)
            (state,) = (await status(pb.GetModelStatusRequest(model_spec=pb.ModelSpec(name="m")))).model_version_status
            assert (state.version, state.state) == (1, pb.ModelVersionStatus.AVAILABLE)
            asked = pb.GetModelStatusRequest(model_spec=pb.ModelSpec(name="half"))
            assert await code_of(status(asked)) == (CODE.NOT_FOUND, "Could not find any versions of model half")

    asyncio.run(story())


def test_a_reload_is_answered_when_the_model_is_loaded(tmp_path):
    """Not before; and the control has had the whole configuration by then."""

    async def story():
        async with standing(FakeExecutor(), tmp_path) as stand:
            call = stand.unary(methods.RELOAD_CONFIG)(reload())
            await asyncio.to_thread(stand.loader.begun.wait, 30)
            assert not call.done()
            await asyncio.to_thread(stand.load)
            assert (await call).status.error_code == 0
            ((what, (config,)),) = stand.control.orders
            assert (what, config.name, str(config.base_path)) == ("configure", "m", "/m")

    asyncio.run(story())


def test_a_reload_whose_model_fails_says_why(tmp_path):
    """With the load's own error; and a configuration that can't be served is refused before anything is changed."""

    async def story():
        async with standing(FakeExecutor(), tmp_path) as stand:
            stand.loader.result = LoadFailed("no such op")
            await asyncio.to_thread(stand.load)
            code, text = await code_of(stand.unary(methods.RELOAD_CONFIG)(reload()))
            assert code is CODE.UNKNOWN
            assert text.startswith("1 servable(s) did not become available: {{name: m version: 1}: ")
            assert "no such op" in text
            stand.control.orders.clear()
            code, text = await code_of(stand.unary(methods.RELOAD_CONFIG)(reload(base_path="m")))
            expected = "Expected model m to have an absolute path or URI; got base_path()=m"
            assert (code, text) == (CODE.INVALID_ARGUMENT, expected)
            assert not stand.control.orders

    asyncio.run(story())


@pytest.mark.parametrize("whole", [False, True])
def test_a_reload_whose_model_is_not_on_disk_is_answered(tmp_path, whole):
    """By either way, as soon as that is seen: with what was not found; also where an older version answers."""
    lack = "base path /nothere can't be read: No such file or directory"

    async def story():
        async with standing(FakeExecutor(), tmp_path) as stand:
            if whole:
                await asyncio.to_thread(stand.load)
            else:
                stand.manager.set_aspired({})
                assert await asyncio.to_thread(functools.partial(stand.manager.wait_idle, timeout_s=30))
                stand.manager._table._ended.clear()
            stand.control.lacks = {"m": lack}
            expected = (
                f"1 servable(s) did not become available: {{{{name: m}}: {lack}{'; it is served as before' * whole}}}"
            )
            assert await code_of(stand.unary(methods.RELOAD_CONFIG)(reload())) == (CODE.UNKNOWN, expected)
            assert await code_of(stand.unary(methods.RELOAD)(edge_pb2.ReloadRequest())) == (CODE.UNKNOWN, expected)
            assert stand.control.who.startswith("ipv4:127.0.0.1:")

    asyncio.run(story())


def test_what_is_settled():
    """A version that moves is on its way, and one that could not move is told of, though it answers."""

    def state(state=State.AVAILABLE, **options):
        return [ServableState(servable_id=ServableId("m", 1), state=state, **options)]

    assert not settled([])
    assert settled([], "no version")
    assert settled(state())
    assert not settled(state(successor=State.LOADING))
    assert settled(state(successor=State.END))
    assert settled(state(State.UNLOADING))
    assert not settled(state(State.UNLOADING, successor=State.START))
    assert failure("m", state()) == ""
    assert failure("m", state(note="its files changed")) == ""
    assert failure("m", state(note="as before", successor=State.END)) == "{name: m version: 1}: as before"
    assert failure("m", [], "no version in /m") == "{name: m}: no version in /m"
