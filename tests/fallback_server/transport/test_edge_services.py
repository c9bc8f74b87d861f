import asyncio

import grpc
import pytest
from support.fallback_fakes import FakeExecutor
from support.grpc_stand import code_of, loaded, standing

from fallback_server.protocol import methods
from fallback_server.protocol.proto import edge_pb2 as pb
from fallback_server.transport import edge_services
from fallback_server.transport.call_guard import open_guard

pytestmark = pytest.mark.usefixtures("transport")

CODE = grpc.StatusCode
WAIT_S = 30


def watch(stand):
    return stand.channel.unary_stream(
        methods.CATALOG_WATCH.path,
        request_serializer=pb.CatalogRequest.SerializeToString,
        response_deserializer=pb.CatalogUpdate.FromString,
    )(pb.CatalogRequest())


async def read(call):
    return await asyncio.wait_for(call.read(), WAIT_S)


async def read_until(call, condition):
    while not condition(update := await read(call)):
        pass
    return update


def test_the_catalog_as_it_is(tmp_path):
    """Models, versions with states and fingerprints, labels and default, what was rolled back and what shadows."""

    async def story():
        async with loaded(path=tmp_path) as stand:
            stand.control.set_label("m", "stable", 1)
            stand.control.figures.queued_rows = 3
            stand.control.figures.expected_wait_ms = 1.26
            (model,) = (await stand.unary(methods.CATALOG_GET)(pb.CatalogRequest())).models
            (version,) = model.versions
            assert (model.name, dict(model.labels), model.default_version) == ("m", {"stable": 1}, 1)
            assert (version.version, version.state) == (1, pb.Version.AVAILABLE)
            assert (version.package_fingerprint, version.preprocessing_fingerprint) == ("f1", "p1")
            assert (version.queued_rows, round(version.expected_wait_ms, 3)) == (3, 1.3)
            assert (model.hold, model.shadow) == (pb.Hold(version=1, above=2), pb.Shadow(version=2, share=0.5))

    asyncio.run(story())


def test_a_watch_hears_of_states_labels_and_figures(tmp_path):
    """One update at once, then a complete one for each change, with a revision that grows; none without a change."""

    async def story():
        async with standing(FakeExecutor(), tmp_path) as stand:
            call = watch(stand)
            first = await read(call)
            assert (first.server_id, first.models[0].versions[0].state) == ("s1", pb.Version.LOADING)
            assert dict(first.models[0].waiting_labels) == {"next": 9}
            await asyncio.to_thread(stand.load)
            loaded_ = await read_until(call, lambda update: update.models[0].versions[0].state == pb.Version.AVAILABLE)
            stand.control.set_label("m", "stable", 1)
            labelled = await read_until(call, lambda update: dict(update.models[0].labels) == {"stable": 1})
            stand.control.figures.queued_rows = 7
            queued = await read_until(call, lambda update: update.models[0].versions[0].queued_rows == 7)
            assert first.revision < loaded_.revision < labelled.revision < queued.revision
            stand.control.changed()
            again = await stand.unary(methods.CATALOG_GET)(pb.CatalogRequest())
            assert again.revision == queued.revision
            call.cancel()

    asyncio.run(story())


def test_watchers_are_bounded_and_leave_room_when_they_go(tmp_path, monkeypatch):
    """One too many is refused; when one leaves, its place is free; at the end all are let go."""
    monkeypatch.setattr(edge_services, "MAX_WATCHERS", 1)

    async def story():
        async with loaded(path=tmp_path) as stand:
            first = watch(stand)
            await read(first)
            code, _ = await code_of(watch(stand).read())
            assert code is CODE.RESOURCE_EXHAUSTED
            first.cancel()
            while True:
                second = watch(stand)
                if (await code_of(second.read()))[0] is CODE.OK:
                    break
            await asyncio.wait_for(stand.server.stop(grace_s=60), WAIT_S)
            assert await read(second) is grpc.aio.EOF

    asyncio.run(story())


def test_an_operators_calls(tmp_path):
    """Labels are moved and taken away, a rollback says from where to where, a reload what is served."""

    async def story():
        async with loaded(path=tmp_path) as stand:
            label = stand.unary(methods.SET_LABEL)
            assert (await label(pb.SetLabelRequest(model="m", label="stable", version=1))).previous == 0
            assert (await label(pb.SetLabelRequest(model="m", label="stable"))).previous == 1
            assert stand.control.labels == {}
            code, text = await code_of(label(pb.SetLabelRequest(model="m", label="stable", version=7)))
            assert (code, text) == (CODE.FAILED_PRECONDITION, "Request to assign label to version 7 of model m")
            done = await stand.unary(methods.ROLLBACK)(pb.RollbackRequest(model="m", label="stable"))
            assert (done.from_version, done.to_version, done.label) == (2, 1, "stable")
            assert list(done.moves) == [pb.Move(label="stable", before={2: 1}, after={1: 1})]
            await stand.unary(methods.ROLLBACK)(pb.RollbackRequest(model="m", undo=True))
            both = pb.RollbackRequest(model="m", label="stable", undo=True)
            assert (await code_of(stand.unary(methods.ROLLBACK)(both)))[0] is CODE.INVALID_ARGUMENT
            split = stand.unary(methods.SET_TRAFFIC)
            done = await split(pb.SetTrafficRequest(model="m", traffic={1: 1, 2: 3}))
            assert done.move == pb.Move(before={2: 1}, after={1: 0.25, 2: 0.75})
            assert stand.control.orders == [
                ("rollback", "stable", False),
                ("rollback", "", True),
                ("split", "m", {1: 1, 2: 3}),
            ]
            assert (await code_of(split(pb.SetTrafficRequest())))[0] is CODE.INVALID_ARGUMENT
            assert await stand.unary(methods.RELOAD)(pb.ReloadRequest()) == pb.ReloadResponse(models=["m"])
            code, _ = await code_of(label(pb.SetLabelRequest(model="m")))
            assert code is CODE.INVALID_ARGUMENT

    asyncio.run(story())


@pytest.mark.parametrize(
    "method",
    [
        methods.SET_LABEL,
        methods.SET_TRAFFIC,
        methods.ROLLBACK,
        methods.RELOAD,
        methods.RELOAD_CONFIG,
        methods.REPOSITORY_MODEL_LOAD,
        methods.REPOSITORY_MODEL_UNLOAD,
    ],
)
def test_without_remote_control_nothing_is_changed(tmp_path, method):
    """Every call that changes what is served is refused, and says by which flag."""

    async def story():
        async with loaded(path=tmp_path, guard=open_guard(control=False)) as stand:
            code, text = await code_of(stand.unary(method)(method.request()))
            assert code is CODE.UNAUTHENTICATED
            assert "--allow_remote_control" in text
            assert not stand.control.orders

    asyncio.run(story())
