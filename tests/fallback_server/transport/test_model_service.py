import asyncio

import grpc
from support.fallback_fakes import FakeExecutor
from support.grpc_stand import code_of, loaded, standing

from fallback_server.core.errors import LoadFailed
from fallback_server.protocol import methods
from fallback_server.protocol.proto import serving_pb2 as pb

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
