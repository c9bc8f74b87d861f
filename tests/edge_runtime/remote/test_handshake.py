import contextlib
import socket
import ssl
import threading
import time

import grpc
import pytest
from support.chains import Chain
from support.edge_servers import scale_server
from support.plants import Plant, credentials, pin, self_signed

from edge_runtime.remote.handshake import NotTrusted, prove
from edge_runtime.remote.tls_files import read_material
from edge_runtime.tls_options import TlsOptions
from fallback_server.protocol.methods import PREDICT
from fallback_server.protocol.proto import serving_pb2 as pb

WAIT_S = 10


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    return Plant(tmp_path_factory.mktemp("plant"))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return Plant(tmp_path_factory.mktemp("other"))


@contextlib.contextmanager
def served(folder, clients=None):
    with scale_server({1: 2.0}, credentials=credentials(folder, clients)) as server:
        yield server


def asked(address, tls):
    return prove(address, read_material(tls), limit_s=WAIT_S)


def refused(address, tls):
    with pytest.raises(NotTrusted) as caught:
        asked(address, tls)
    return caught.value.reason, caught.value.said


def spoken(address, proof):
    """What gRPC makes of a call on the way that was proved."""
    with proof.way.channel(address, ()) as channel:
        try:
            PREDICT.bind(channel)(pb.PredictRequest(model_spec={"name": "absent"}), timeout=WAIT_S)
        except grpc.RpcError as error:
            return error.code()


def test_a_server_of_the_authority_is_trusted_for_its_role(plant):
    """Whatever its address; gRPC connects on what was proved."""
    with served(plant.server) as server:
        proof = asked(server.address, plant.tls())
        assert proof.certificate.owner == "gpu-1"
        assert spoken(server.address, proof) is grpc.StatusCode.NOT_FOUND
        assert asked(server.address, plant.tls(server_name="")).way.name == ""
        assert refused(server.address, plant.tls(server_name="gpu-2")) == (
            "certificate",
            "its certificate: Hostname mismatch, certificate is not valid for 'gpu-2'.",
        )


@pytest.mark.parametrize(
    ("shows", "said"),
    [
        (lambda _, other: other.server, "unable to get local issuer certificate"),
        (lambda plant, _: plant.device, "unsuitable certificate purpose"),
        (lambda plant, _: plant.expired(), "certificate has expired"),
        (lambda plant, _: self_signed(plant.path / "self", names=("edge-fallback-server",)), "self-signed certificate"),
    ],
)
def test_other_certificates_are_not_trusted(plant, other, shows, said):
    """Of another authority that has the same name, of a device, one that has ended, and one that signs itself."""
    with served(shows(plant, other)) as server:
        reason, why = refused(server.address, plant.tls())
        assert reason == "certificate"
        assert said in why or "signature" in why
        assert not server.asked


@pytest.mark.parametrize("pinned", [False, True])
def test_where_it_is_a_matter_of_time_it_is_said_what_time_it_is(plant, pinned):
    """A board without a battery begins in the past, and a wrong clock looks like a wrong certificate."""
    folder = self_signed(plant.path / "ended", days=-1) if pinned else plant.expired()
    tls = TlsOptions(pins=(pin(folder),)) if pinned else plant.tls()
    with served(folder) as server:
        said = refused(server.address, tls)[1]
    assert f"(by this device's clock, which says {time.strftime('%Y-%m', time.gmtime())}" in said


def test_a_revoked_server_is_not_trusted_by_who_has_the_list(tmp_path):
    """And on the way that a list allows gRPC takes none but the very certificate that was looked at."""
    plant = Plant(tmp_path)
    spare = plant.pki.issue("server", "gpu-2")
    tls = plant.tls(crl=plant.server / "crl.pem")
    with served(plant.server) as server, served(spare) as second:
        proof = asked(server.address, tls)
        assert spoken(server.address, proof) is grpc.StatusCode.NOT_FOUND
        assert spoken(second.address, proof) is grpc.StatusCode.UNAVAILABLE
        plant.pki.revoke("gpu-1")
        assert refused(server.address, tls) == ("certificate", "its certificate: certificate revoked")
        assert asked(server.address, plant.tls()).certificate.owner == "gpu-1"


def test_whom_a_revoked_intermediate_has_signed_is_not_trusted(tmp_path):
    """Where the root's list is there; who has the list of the server's own signer alone is held to that."""
    chain = Chain(tmp_path)
    with served(chain.server) as server:
        for lists in (chain.lists(), chain.lists(root=False)):
            proof = asked(server.address, TlsOptions(ca=chain.ca, crl=lists))
            assert spoken(server.address, proof) is grpc.StatusCode.NOT_FOUND
        said = refused(server.address, TlsOptions(ca=chain.ca, crl=chain.lists(revoked=True)))
        assert said == ("certificate", "its certificate: certificate revoked")
        assert asked(server.address, TlsOptions(ca=chain.ca)).certificate.owner == "gpu-1"


@pytest.mark.parametrize(
    "shows",
    [
        lambda plant: plant.server,
        lambda plant: self_signed(plant.path / "own"),
        lambda plant: self_signed(plant.path / "bare", names=()),
        lambda plant: self_signed(plant.path / "star", names=("*.own.example",)),
    ],
)
def test_a_pinned_certificate_is_trusted_whoever_has_signed_it(plant, other, shows):
    """A leaf of an authority that nobody knows, or one that signs itself; gRPC takes it as its only root."""
    folder = shows(plant)
    with served(folder) as server:
        proof = asked(server.address, TlsOptions(pins=("0" * 64, pin(folder))))
        assert spoken(server.address, proof) is grpc.StatusCode.NOT_FOUND
        reason, said = refused(server.address, TlsOptions(pins=(pin(other.server),)))
        assert reason == "certificate"
        assert pin(folder) in said
        assert asked(server.address, other.tls(pins=(pin(folder),))).certificate.fingerprint == pin(folder)


def test_what_is_not_pinned_may_be_the_authoritys(plant):
    """Where both are given, either is enough."""
    with served(plant.server) as server:
        assert asked(server.address, plant.tls(pins=("0" * 64,))).way.roots == (plant.server / "ca.pem").read_bytes()


def test_a_pinned_certificate_that_has_ended_is_not_trusted(plant):
    """Who has pinned it has pinned its end too."""
    folder = self_signed(plant.path / "ended", days=-1)
    with served(folder) as server:
        reason, said = refused(server.address, TlsOptions(pins=(pin(folder),)))
        assert (reason, "has ended" in said) == ("certificate", True)


def test_the_device_shows_its_certificate(plant, other):
    """To a server that wants it; one that doesn't take it is told from one that isn't trusted."""
    with served(plant.server, clients=plant.server) as server:
        shown = {"certificate": plant.device / "cert.pem", "key": plant.device / "key.pem"}
        assert spoken(server.address, asked(server.address, plant.tls(**shown))) is grpc.StatusCode.NOT_FOUND
        assert refused(server.address, plant.tls())[0] == "refused"
        shown = {"certificate": other.device / "cert.pem", "key": other.device / "key.pem"}
        assert refused(server.address, plant.tls(**shown))[0] == "refused"


@contextlib.contextmanager
def listening(behaviour):
    """The address of a listener, whose first connection a test's function is given."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run():
            with contextlib.suppress(OSError), listener.accept()[0] as connection:
                behaviour(connection)

        thread = threading.Thread(target=run)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(WAIT_S)


def test_who_speaks_no_tls(plant):
    """Plain gRPC, something else, and one that hangs up."""
    with scale_server({1: 2.0}) as server:
        assert refused(server.address, plant.tls())[0] == "protocol"
    for answer in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 4096, b""):
        with listening(lambda connection, answer=answer: (connection.recv(1), connection.sendall(answer))) as address:
            assert refused(address, plant.tls())[0] == "protocol"


def test_who_speaks_tls_and_no_grpc(plant):
    """REST's port, say."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(plant.server / "cert.pem", plant.server / "key.pem")

    def rest(connection):
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(100)

    with listening(rest) as address:
        assert refused(address, plant.tls()) == ("protocol", "it speaks TLS and no gRPC: is it the port for REST?")


def test_who_is_silent_and_who_is_not_there(plant):
    """Both within the limit."""
    material = read_material(plant.tls())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(NotTrusted) as caught:
            prove(address, material, limit_s=0.2)
        assert caught.value.reason == "silent"
    assert refused(address, plant.tls())[0] == "unreachable"


def test_a_drip_of_bytes_ends_with_the_limit(plant):
    """A byte now and then is no handshake."""
    ended = threading.Event()

    def drip(connection):
        for byte in b"\x16\x03\x03\x40\x00" + bytes(100):
            connection.sendall(bytes((byte,)))
            if ended.wait(0.02):
                return

    with listening(drip) as address:
        begin_s = time.monotonic()
        with pytest.raises(NotTrusted) as caught:
            prove(address, read_material(plant.tls()), limit_s=0.2)
        ended.set()
    assert caught.value.reason == "silent"
    assert time.monotonic() - begin_s < WAIT_S / 2
