import hashlib

import grpc
import pytest
from support.delivery_servers import add_version, call, delivering, refusal
from support.edge_models import publish_scale

from converter.artifact import Package
from fallback_server.protocol.methods import CATALOG_GET, DESCRIBE_PACKAGE, FETCH_PACKAGE
from fallback_server.protocol.proto import edge_pb2 as pb
from fallback_server.transport import delivery

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


def test_who_does_not_read_keeps_no_place(tmp_path, monkeypatch):
    """Calls are bounded; one that takes nothing is ended after its time, and its place is free."""
    monkeypatch.setattr(delivery, "MAX_CALLS", 1)
    monkeypatch.setattr(delivery, "MAX_STREAM_S", 1.0)
    add_version(tmp_path / "models", 1)
    package = publish_scale(tmp_path / "packages", 2, 2.0, content=bytes(32 << 20))
    with delivering(tmp_path / "models", packages=tmp_path / "packages") as server:
        asked = pb.FetchRequest(model="scale", version=2, digest=package.digest, path="variants/float32.tflite")
        with grpc.insecure_channel(server.address) as channel:
            stream = channel.unary_stream(
                FETCH_PACKAGE.path,
                request_serializer=pb.FetchRequest.SerializeToString,
                response_deserializer=pb.Chunk.FromString,
            )(asked)
            next(stream)
            request = pb.PackageRequest(model="scale", version=1)
            assert refusal(server.address, DESCRIBE_PACKAGE, request)[0] is CODE.RESOURCE_EXHAUSTED
            while refusal(server.address, DESCRIBE_PACKAGE, request)[0] is not CODE.OK:
                pass
            with pytest.raises(grpc.RpcError) as caught:
                list(stream)
            assert caught.value.code() is CODE.DEADLINE_EXCEEDED
