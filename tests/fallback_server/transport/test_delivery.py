import contextlib
import hashlib
import time
from collections import Counter
from contextlib import contextmanager

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.delivery_servers import WAIT_S, add_version, call, delivering, refusal
from support.edge_models import publish_scale
from support.relays import relayed

from converter.artifact import Package
from fallback_server.core.errors import QueueFull
from fallback_server.protocol.methods import CATALOG_GET, DESCRIBE_PACKAGE, FETCH_PACKAGE
from fallback_server.protocol.proto import edge_pb2 as pb
from fallback_server.transport import delivery
from fallback_server.transport.places import Places, may_take

CODE = grpc.StatusCode


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Serves scale/1 to 3, the second without a package; those of scale/2 and other/7 lie in a folder of packages."""
    root = tmp_path_factory.mktemp("delivery")
    add_version(root / "models", 1)
    add_version(root / "models", 2, package=False)
    add_version(root / "models", 3, inside=".")
    publish_scale(root / "packages", 2, 2.0)
    publish_scale(root / "packages", 7, 7.0, model="other")
    with delivering(root / "models", packages=root / "packages") as server:
        server.control.set_label("scale", "stable", 2)
        server.root = root
        yield server


def describe(server, **which):
    return call(server.address, DESCRIBE_PACKAGE, pb.PackageRequest(model=which.pop("model", "scale"), **which))


def fetch(server, package, path, offset=0):
    request = pb.FetchRequest(
        model=package.model, version=package.version, digest=package.digest, path=path, offset=offset
    )
    return [chunk.data for chunk in call(server.address, FETCH_PACKAGE, request)]


@pytest.mark.parametrize(
    ("which", "version", "place"),
    [
        ({"version": 1}, 1, "models/scale/1/assets.extra/edge_package"),
        ({"version": 3}, 3, "models/scale/3"),
        ({"label": "stable"}, 2, "packages/scale/2"),
        ({}, 3, "models/scale/3"),
        ({"model": "other"}, 7, "packages/other/7"),
    ],
)
def test_a_package_is_described_by_what_it_holds(server, which, version, place):
    """By number, label or what answers: of a version's folder, or of the folder of packages, all files as they are."""
    found = describe(server, **which)
    package = Package.open(server.root / place)
    assert (found.version, found.digest) == (version, package.digest)
    told = {file.path: (file.bytes, file.sha256) for file in found.files}
    assert set(told) == {"manifest.json", "manifest.sha256", *package.manifest.files}
    for path, (size, sha256) in told.items():
        data = (package.path / path).read_bytes()
        assert (size, sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_the_catalog_tells_the_packages_that_can_be_fetched(server):
    """By the same digest, wherever in a version's folder the package lies: it is what answers are held against."""
    (model,) = call(server.address, CATALOG_GET, pb.CatalogRequest()).models
    told = {version.version: version.package_fingerprint for version in model.versions}
    assert told == {version: describe(server, version=version).digest for version in (1, 3)} | {2: ""}


def test_files_come_in_pieces_from_any_offset(server, monkeypatch):
    """The whole of it, the rest of it, and nothing from its end on."""
    monkeypatch.setattr(delivery, "CHUNK_BYTES", 100)
    package = describe(server, version=1)
    data = (server.root / "models/scale/1/assets.extra/edge_package/manifest.json").read_bytes()
    pieces = fetch(server, package, "manifest.json")
    assert b"".join(pieces) == data
    assert {len(piece) for piece in pieces[:-1]} == {100}
    assert b"".join(fetch(server, package, "manifest.json", 150)) == data[150:]
    assert fetch(server, package, "manifest.json", len(data)) == []


def test_a_file_that_is_cut_short_while_it_is_fetched_is_a_loss(server, monkeypatch):
    """And no end: whoever fetches without counting would take the part for the whole."""
    package = describe(server, version=7, model="other")
    path = server.root / "packages/other/7/manifest.json"
    whole, read = path.read_bytes(), delivery.DeliveryService._in_thread

    async def cut(service, work, *arguments):
        if arguments == (100,):
            path.write_bytes(whole[:150])
        return await read(service, work, *arguments)

    monkeypatch.setattr(delivery, "CHUNK_BYTES", 100)
    monkeypatch.setattr(delivery.DeliveryService, "_in_thread", cut)
    request = pb.FetchRequest(model="other", version=7, digest=package.digest, path="manifest.json")
    try:
        said = refusal(server.address, FETCH_PACKAGE, request)
    finally:
        path.write_bytes(whole)
    text = f"'manifest.json' of other/7 was cut short while it was read: {len(whole) - 150} bytes are missing"
    assert said == (CODE.DATA_LOSS, text)


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ({"path": "../../saved_model.pb"}, CODE.INVALID_ARGUMENT, "no file"),
        ({"path": "/etc/passwd"}, CODE.INVALID_ARGUMENT, "no file"),
        ({"path": ""}, CODE.INVALID_ARGUMENT, "no file"),
        ({"offset": 10**9}, CODE.INVALID_ARGUMENT, "offset 1000000000 is beyond 'manifest.json', which has"),
        ({"offset": -1}, CODE.INVALID_ARGUMENT, "offset -1"),
        ({"digest": "sha256:0"}, CODE.FAILED_PRECONDITION, "not 'sha256:0'"),
        ({"version": 9}, CODE.NOT_FOUND, "no package of model 'scale' version 9"),
        ({"model": "../scale"}, CODE.NOT_FOUND, "no package of model '../scale'"),
        ({"model": ""}, CODE.INVALID_ARGUMENT, "no name"),
    ],
)
def test_what_is_no_file_of_the_package_is_refused(server, change, code, text):
    """Nothing outside of it is read, and the refusal names what was asked for."""
    package = describe(server, version=1)
    asked = {"model": "scale", "version": 1, "digest": package.digest, "path": "manifest.json", **change}
    said = refusal(server.address, FETCH_PACKAGE, pb.FetchRequest(**asked))
    assert said[0] is code
    assert text in said[1]


def test_what_is_not_described_is_named(server):
    """A label, version or model that there is not."""
    for which, code in (
        ({"label": "canary"}, CODE.INVALID_ARGUMENT),
        ({"version": 9}, CODE.NOT_FOUND),
        ({"model": "unknown"}, CODE.NOT_FOUND),
        ({"model": "other", "label": "stable"}, CODE.INVALID_ARGUMENT),
    ):
        request = pb.PackageRequest(**{"model": "scale", **which})
        assert refusal(server.address, DESCRIBE_PACKAGE, request)[0] is code


def test_only_the_package_that_a_version_was_published_with_is_its(tmp_path):
    """A package of another digest, model or version at its place is refused; one that is not whole is none."""
    folder = add_version(tmp_path / "models", 1, package=False)
    add_version(tmp_path / "models", 2)
    package = publish_scale(tmp_path / "packages", 1, 1.0)
    place = tmp_path / "models/scale/2/assets.extra/edge_package"
    (folder / "package.json").write_text('{"fingerprint": "sha256:another"}')
    with delivering(tmp_path / "models", packages=tmp_path / "packages") as server:
        request = pb.PackageRequest(model="scale", version=1)
        code, text = refusal(server.address, DESCRIBE_PACKAGE, request)
        assert (code, package.digest in text, "sha256:another" in text) == (CODE.FAILED_PRECONDITION, True, True)
        (place / "variants/float32.tflite").rename(place / "elsewhere")
        request = pb.PackageRequest(model="scale", version=2)
        assert refusal(server.address, DESCRIBE_PACKAGE, request)[0] is CODE.NOT_FOUND
        (place / "elsewhere").rename(place / "variants/float32.tflite")
        described = describe(server, version=2)
        (place / "variants/float32.tflite").write_bytes(b"short")
        asked = pb.FetchRequest(model="scale", version=2, digest=described.digest, path="variants/float32.tflite")
        assert refusal(server.address, FETCH_PACKAGE, asked)[0] is CODE.FAILED_PRECONDITION


def test_an_operator_may_hand_out_nothing(tmp_path):
    """With --allow_package_delivery=false both calls are refused, and the refusal names the flag."""
    add_version(tmp_path / "models", 1)
    with delivering(tmp_path / "models", allowed=False) as server:
        for method, request in ((DESCRIBE_PACKAGE, pb.PackageRequest()), (FETCH_PACKAGE, pb.FetchRequest())):
            code, text = refusal(server.address, method, request)
            assert code is CODE.PERMISSION_DENIED
            assert "--allow_package_delivery=false" in text


@pytest.mark.parametrize(
    ("own", "free", "may"),
    [(0, 64, True), (31, 33, True), (32, 32, False), (15, 17, True), (0, 1, True), (0, 0, False)],
)
def test_nobody_has_more_calls_than_places_are_free(own, free, may):
    """Half for one alone, half of the rest for the next, and the last one for whoever has none."""
    assert may_take(own, free) is may


@given(st.lists(st.sampled_from("abcdef")))
def test_however_many_calls_come_of_a_few_addresses_another_has_its_place(callers):
    """They can't keep it away, and when all calls have ended nothing of them is remembered."""
    places, ends = Places("Fetch", 64), []
    with contextlib.ExitStack() as held:
        for caller in callers:
            with contextlib.suppress(QueueFull):
                held.enter_context(places.taken(caller, ends.append))
        held.enter_context(places.taken("another", ends.append))
    for end in ends:
        end(None)
    assert not places._open


def test_who_shows_nothing_has_half_of_the_places_by_however_many_addresses():
    """The other half is for those who are known."""
    places = Places("Watch", 8)
    with contextlib.ExitStack() as held:
        for number in range(4):
            held.enter_context(places.taken(str(number), [].append, stranger=True))
        with pytest.raises(QueueFull):
            held.enter_context(places.taken("5", [].append, stranger=True))
        for number in range(4):
            held.enter_context(places.taken(f"known {number}", [].append))
    with places.taken("5", [].append, stranger=True):
        pass


@contextmanager
def unread(address, asked, *, calls=1):
    """Calls of Fetch over one connection, of each of which the first piece has come, if any, and no other is read."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(address, options=options) as channel:
        fetch = channel.unary_stream(
            FETCH_PACKAGE.path,
            request_serializer=pb.FetchRequest.SerializeToString,
            response_deserializer=pb.Chunk.FromString,
        )
        yield [fetch(asked) for _ in range(calls)] if calls else fetch


def code_of(stream):
    """How it begins: OK where a piece of it comes."""
    try:
        next(stream)
    except grpc.RpcError as error:
        return error.code()
    return CODE.OK


def begin_until(server, code):
    """How a call begins, of one after the other, until one does so; each is given up at once."""
    until_s, found = time.monotonic() + WAIT_S, None
    while found is not code and time.monotonic() < until_s:
        with unread(server.address, server.asked) as (stream,):
            found = code_of(stream)
    return found


@pytest.fixture
def large(tmp_path):
    """A server that delivers a file of 32 MiB, and the request for it."""
    package = publish_scale(tmp_path / "packages", 2, 2.0, content=bytes(32 << 20))
    add_version(tmp_path / "models", 1)
    with delivering(tmp_path / "models", packages=tmp_path / "packages") as server:
        server.asked = pb.FetchRequest(model="scale", version=2, digest=package.digest, path="variants/float32.tflite")
        yield server


def test_one_who_fetches_and_does_not_read_leaves_places_to_others(large):
    """Half of them, and all of Describe's: its own address's too."""
    with unread(large.address, large.asked, calls=70) as streams:
        seen = Counter(code_of(stream) for stream in streams)
        assert seen == {CODE.OK: 32, CODE.RESOURCE_EXHAUSTED: 38}
        assert describe(large, version=1).version == 1
        with relayed(large.port, source="127.0.0.2") as port, unread(f"127.0.0.1:{port}", large.asked) as others:
            assert [code_of(stream) for stream in others] == [CODE.OK]


@pytest.mark.parametrize(
    ("bound", "said"),
    [
        ("STALL_S", "nothing of it was taken for 1.0 s"),
        ("MAX_STREAM_S", "took longer than 1.0 s"),
        ("UNKNOWN_STALL_S", "nothing of it was taken for 1.0 s"),
        ("UNKNOWN_STREAM_S", "took longer than 1.0 s"),
    ],
)
def test_who_does_not_read_keeps_no_place(monkeypatch, request, bound, said):
    """One that takes nothing is ended after its time, or as one that has taken too long, and its place is free."""
    monkeypatch.setattr(delivery, "MAX_CALLS", 2)
    monkeypatch.setattr(delivery, bound, 1.0)
    if bound.startswith("UNKNOWN"):  # As if they came over a socket that doesn't tell whose they are.
        monkeypatch.setattr(delivery, "UNKNOWN", "ipv4:127.0.0.1")
    large = request.getfixturevalue("large")
    with unread(large.address, large.asked) as (stream,):
        assert code_of(stream) is CODE.OK
        assert begin_until(large, CODE.RESOURCE_EXHAUSTED) is CODE.RESOURCE_EXHAUSTED
        assert begin_until(large, CODE.OK) is CODE.OK
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() is CODE.DEADLINE_EXCEEDED
        assert said in caught.value.details()


def test_calls_that_are_over_and_not_taken_count_against_their_address_alone(monkeypatch, request):
    """Memory is kept for them until they are taken or cancelled: so they are bounded, and others keep their places."""
    monkeypatch.setattr(delivery, "MAX_CALLS", 4)
    monkeypatch.setattr(delivery, "STALL_S", 0.2)
    large = request.getfixturevalue("large")
    with unread(large.address, large.asked, calls=0) as fetch, relayed(large.port, source="127.0.0.2") as port:
        streams, until_s = [], time.monotonic() + WAIT_S
        while len(streams) < 4 and time.monotonic() < until_s:
            stream = fetch(large.asked)
            if code_of(stream) is CODE.OK:
                streams.append(stream)
        assert len(streams) == 4
        assert code_of(fetch(large.asked)) is CODE.RESOURCE_EXHAUSTED
        with unread(f"127.0.0.1:{port}", large.asked, calls=2) as others:
            assert [code_of(stream) for stream in others] == [CODE.OK, CODE.OK]
    assert begin_until(large, CODE.OK) is CODE.OK
