"""Who calls is asked first: before a byte of a request is read, before it is parsed, before a stream has a place."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.fallback_fakes import FakeExecutor
from support.grpc_stand import code_of, loaded

from fallback_server.access.certificates import Certificate
from fallback_server.access.guard import Guard
from fallback_server.access.revocations import Trust
from fallback_server.access.rules import AccessRules, Grants, Scope, Token
from fallback_server.access.tokens import digest_of
from fallback_server.protocol import methods
from fallback_server.protocol.proto import edge_pb2 as pb
from fallback_server.transport import call_guard, edge_services, health
from fallback_server.transport.call_guard import CallGuard, open_guard
from fallback_server.transport.callers import caller_metadata, secret
from fallback_server.transport.rpc import SMALL_IN_A_ROW
from fallback_server.transport.scopes import SCOPES

RULES = AccessRules(
    tokens={
        digest_of("t-run"): Token(name="line", grants=Grants(predict=("m",))),
        digest_of("t-see"): Token(name="screen", grants=Grants(status=("m",))),
    },
    certificates={"press-*": Grants(predict=("m",))},
)
RUN, SEE = ((("authorization", f"Bearer {token}"),) for token in ("t-run", "t-see"))
UNREADABLE = b"\xff\xff\xff"

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
DENIED = grpc.StatusCode.PERMISSION_DENIED
UNARIES = [
    path for path, scopes in SCOPES.items() if scopes and not path.endswith(("Watch", "StreamInfer", "Run", "Fetch"))
]
STREAMS = [path for path, scopes in SCOPES.items() if scopes and path not in UNARIES]


def guard_of(**options):
    return CallGuard(Guard(RULES), **options)


def test_every_call_says_what_it_takes():
    """A new one without a word of it keeps the server from starting."""
    named = {each.path for each in vars(methods).values() if isinstance(each, methods.Method)}
    assert named | {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"} == set(SCOPES)
    with pytest.raises(KeyError):
        guard_of().asks("/new.Service/Call")


@pytest.mark.usefixtures("transport")
def test_what_nobody_may_ask_is_not_parsed(tmp_path):
    """Bytes that are no message are refused for who sends them, and not for what they are."""

    async def story():
        async with loaded(path=tmp_path, guard=guard_of()) as stand:
            for path in UNARIES:
                call = stand.channel.unary_unary(path)
                assert (await code_of(call(UNREADABLE)))[0] is UNAUTHENTICATED, path
                wrong = RUN if Scope.PREDICT not in SCOPES[path] else SEE
                assert (await code_of(call(UNREADABLE, metadata=wrong)))[0] is DENIED, path
            code, text = await code_of(stand.channel.unary_unary(methods.PREDICT.path)(UNREADABLE, metadata=RUN))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            code, text = await code_of(stand.channel.unary_unary(methods.PREDICT.path)(UNREADABLE, metadata=SEE))
            assert text == "token 'screen' may not run (Predict) any model"

    asyncio.run(story())


async def never():
    await asyncio.Event().wait()
    yield b""


@pytest.mark.parametrize("path", UNARIES)
def test_a_refusal_waits_for_no_byte_of_the_request(tmp_path, path):
    """It comes while the caller has sent none; however many small requests came before."""

    async def story():
        async with loaded(path=tmp_path, guard=guard_of()) as stand:
            if path == methods.PREDICT.path:
                small = stand.channel.unary_unary(path)
                for _ in range(SMALL_IN_A_ROW + 1):
                    await code_of(small(UNREADABLE, metadata=RUN))
            code, text = await code_of(stand.channel.stream_unary(path)(never(), timeout=20))
            assert (code, "shows nothing" in text) == (UNAUTHENTICATED, True)

    asyncio.run(story())


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("path", STREAMS)
def test_who_may_do_nothing_gets_no_stream(tmp_path, services, path):
    """Whatever it would have sent: so it holds no place that others want."""

    async def story():
        async with loaded(path=tmp_path, guard=guard_of()) as stand:
            for metadata, code in (((), UNAUTHENTICATED), (SEE if Scope.PREDICT in SCOPES[path] else RUN, DENIED)):
                call = stand.channel.stream_stream(path)(never(), metadata=metadata, timeout=20)
                assert await call.code() is code
            assert services[0].live == 0

    asyncio.run(story())


def test_a_connections_certificate_is_asked_before_the_request_is_parsed(tmp_path, monkeypatch):
    """What it may is known to the call alone; revoked, it begins no stream either, and none of its bytes is read."""

    async def story():
        monkeypatch.setattr(call_guard, "peer_of", lambda _: "ipv4:10.0.0.7:1")
        guard = guard_of(certificates=True)
        guard.guard.take(RULES, Trust(revoked={":": frozenset({"d"})}))

        def shows(name, serial):
            return (caller_metadata(secret(), "ipv4:10.0.0.7:1", Certificate(name=name, serial=serial, until_s=1e12)),)

        async with loaded(path=tmp_path, guard=guard) as stand:
            predict = stand.channel.unary_unary(methods.PREDICT.path)
            begun = stand.channel.stream_stream(methods.MODEL_STREAM_INFER.path)
            for _ in range(2):
                for metadata, code in (
                    (shows("press-7", "7"), grpc.StatusCode.INVALID_ARGUMENT),
                    (shows("press-7", "d"), UNAUTHENTICATED),
                    (shows("drill-1", "8"), DENIED),
                ):
                    assert (await code_of(predict(UNREADABLE, metadata=metadata)))[0] is code
                    if code is not grpc.StatusCode.INVALID_ARGUMENT:
                        assert await begun(never(), metadata=metadata, timeout=20).code() is code
                half = stand.channel.stream_unary(methods.PREDICT.path)
                code, _ = await code_of(half(never(), metadata=shows("press-7", "d"), timeout=20))
                assert code is UNAUTHENTICATED
                for _ in range(SMALL_IN_A_ROW):  # However many small requests of others came before.
                    await code_of(predict(UNREADABLE, metadata=shows("press-7", "7")))

    asyncio.run(story())


@pytest.mark.usefixtures("transport")
def test_where_everybody_may_run_only_changes_are_asked_about(tmp_path):
    """As without rules."""

    async def story():
        async with loaded(FakeExecutor(factor=2), path=tmp_path, guard=open_guard(control=False)) as stand:
            for path in UNARIES:
                code, _ = await code_of(stand.channel.unary_unary(path)(UNREADABLE))
                changes = Scope.ADMIN in SCOPES[path]
                assert code is (UNAUTHENTICATED if changes else grpc.StatusCode.INVALID_ARGUMENT), path

    asyncio.run(story())


class Shelf:
    """Has one file, which is larger than what gRPC sends before anybody reads."""

    def __init__(self, path):
        self.path = path

    def open(self, *_):
        return self.path.open("rb")


@pytest.mark.usefixtures("transport")
def test_a_fetch_under_way_ends_with_the_right_to_it(tmp_path):
    """In its midst, and not when the file is over."""
    file = tmp_path / "large"
    with file.open("wb") as made:
        made.truncate(2**28)

    async def story():
        may = AccessRules(tokens={digest_of("t-run"): Token(name="line", grants=Grants(predict=("m",), status=("m",)))})
        guard = CallGuard(Guard(may))
        async with loaded(path=tmp_path, guard=guard, packages=Shelf(file)) as stand:
            method = methods.FETCH_PACKAGE
            call = stand.channel.unary_stream(
                method.path, method.request.SerializeToString, method.response.FromString
            )(pb.FetchRequest(model="m"), metadata=RUN)
            assert await call.read()
            guard.guard.take(AccessRules(), Trust())

            async def rest():
                while await call.read():
                    pass

            assert (await code_of(rest()))[0] is UNAUTHENTICATED

    asyncio.run(story())


@pytest.mark.usefixtures("transport")
def test_health_of_a_model_is_for_who_may_see_it(tmp_path):
    """Also of one that there is not; a watch ends with the right to it. Of the server everybody is told."""

    async def story():
        guard = guard_of()
        async with loaded(path=tmp_path, guard=guard) as stand:
            asks = health_pb2_grpc.HealthStub(stand.channel)
            assert (await asks.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
            for name in ("m", "none"):
                asked = health_pb2.HealthCheckRequest(service=name)
                for metadata, code in (((), UNAUTHENTICATED), (RUN, DENIED)):
                    assert (await code_of(asks.Check(asked, metadata=metadata)))[0] is code
                    assert await asks.Watch(asked, metadata=metadata).code() is code
            asked = health_pb2.HealthCheckRequest(service="m")
            assert (await asks.Check(asked, metadata=SEE)).status == health_pb2.HealthCheckResponse.SERVING
            watch = asks.Watch(asked, metadata=SEE)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            guard.guard.take(AccessRules(), Trust())
            assert await asyncio.wait_for(watch.code(), 30) is UNAUTHENTICATED

    asyncio.run(story())


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("kept", [health, edge_services])
def test_one_address_has_half_of_the_watches_at_most(tmp_path, monkeypatch, kept):
    """The other half is for others."""
    monkeypatch.setattr(kept, "MAX_WATCHERS", 8)

    async def story():
        async with loaded(path=tmp_path) as stand:
            method = health.WATCH if kept is health else methods.CATALOG_WATCH
            watch = stand.channel.unary_stream(
                method.path, method.request.SerializeToString, method.response.FromString
            )
            held = [watch(method.request()) for _ in range(4)]
            for each in held:
                await each.read()
            assert await watch(method.request()).code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    asyncio.run(story())


@pytest.mark.usefixtures("transport")
def test_a_catalog_of_other_rules_has_another_revision(tmp_path):
    """Two that differ in what is seen of them must not look like one."""

    async def story():
        guard = guard_of()
        async with loaded(path=tmp_path, guard=guard) as stand:
            get = stand.unary(methods.CATALOG_GET)
            before = await get(pb.CatalogRequest(), metadata=SEE)
            blind = AccessRules(tokens={digest_of("t-see"): Token(name="screen", grants=Grants(status=("other",)))})
            guard.guard.take(blind, Trust())
            after = await get(pb.CatalogRequest(), metadata=SEE)
            assert ([model.name for model in before.models], list(after.models)) == (["m"], [])
            assert after.revision > before.revision

    asyncio.run(story())
