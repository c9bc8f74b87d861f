"""A runtime and servers that speak TLS: who is asked, what goes with the calls, and what is renewed meanwhile."""

import json
import time

import numpy as np
import pytest
from support.edge_models import publish_scale, rows
from support.edge_servers import scale_server
from support.plants import Plant, credentials, pin, self_signed

from edge_runtime import InvalidConfig, Runtime, ServerFailed
from edge_runtime.cli import main

WAIT_S = 30
QUIET = {"threads": 1, "poll_interval_s": 3600.0}


def until(condition):
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


@pytest.fixture
def plant(tmp_path):
    return Plant(tmp_path / "plant")


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


def answer(runtime):
    reply = runtime.model("scale").predict(rows(1), deadline_ms=WAIT_S * 1e3)
    np.testing.assert_array_equal(reply.outputs["y"], rows(1) * 2)
    return reply.place


def test_a_toml_says_who_is_trusted(plant, store, tmp_path):
    """Certificates both ways and a token; the first request waits until the server has proved itself."""
    (tmp_path / "token").write_text("t-1")
    file = tmp_path / "runtime.toml"
    with scale_server({1: 2.0}, credentials=credentials(plant.server, clients=plant.server)) as server:
        device = "plant/pki/device/press-7"
        file.write_text(
            f'store = "store"\nfallback = "{server.address}"\nthreads = 1\n[tls]\nca = "{device}/ca.pem"\n'
            f'crl = "{device}/crl.pem"\ncertificate = "{device}/cert.pem"\nkey = "{device}/key.pem"\n'
            'token_file = "token"\n'
        )
        with Runtime.open(file) as runtime:
            assert answer(runtime) == f"server:{server.address}"
            (found,) = runtime.stats().endpoints
            assert found.certificate == "gpu-1"
            assert runtime.stats().trust.counts == {}
        assert set(server.shown) == {"Bearer t-1"}


@pytest.mark.parametrize("shows", [lambda plant: plant.server, lambda plant: self_signed(plant.path / "own")])
def test_a_pin_is_enough(plant, store, shows):
    """For a leaf of any authority, and for one that signs itself."""
    folder = shows(plant)
    with (
        scale_server({1: 2.0}, credentials=credentials(folder)) as server,
        Runtime.open(store, fallback=server.address, tls={"pins": [pin(folder)]}, **QUIET) as runtime,
    ):
        assert answer(runtime) == f"server:{server.address}"


def test_a_named_server_that_is_another_is_sent_nothing(plant, store, tmp_path):
    """Neither a request nor the token; errors, statistics and metrics say why."""
    (tmp_path / "token").write_text("t-secret")
    other = Plant(tmp_path / "other")
    tls = plant.tls(token_file=tmp_path / "token")
    with (
        scale_server({1: 2.0}, credentials=credentials(other.server)) as server,
        Runtime.open(store, fallback=server.address, tls=tls, metrics="127.0.0.1:0", **QUIET) as runtime,
    ):
        until(lambda: runtime.servers == {server.address: "untrusted"})
        with pytest.raises(ServerFailed) as caught:
            runtime.model("scale", version=1).predict(rows(1))
        assert "not trusted: its certificate" in caught.value.asked[server.address]
        (one,) = runtime.stats().trust.untrusted
        assert (one.name, one.reason) == (server.address, "certificate")
        assert "t-secret" not in json.dumps(runtime.stats().as_dict())
        assert (server.asked, server.shown) == ([], [])


def test_plain_text_where_tls_is_wanted_is_no_server(plant, store):
    """Also on this machine: a configuration that says TLS means it."""
    with (
        scale_server({1: 2.0}) as server,
        Runtime.open(store, fallback=server.address, tls=plant.tls(), **QUIET) as runtime,
    ):
        until(lambda: runtime.servers == {server.address: "untrusted"})
        assert runtime.stats().trust.untrusted[0].reason == "protocol"
        assert not server.asked


def test_a_device_with_its_version_answers_beside_untrusted_servers(plant, store, tmp_path):
    """Nothing waits for a handshake."""
    publish_scale(store, 1, 2.0)
    with (
        scale_server({1: 3.0}, credentials=credentials(Plant(tmp_path / "other").server)) as server,
        Runtime.open(store, fallback=server.address, tls=plant.tls(), **QUIET) as runtime,
    ):
        assert answer(runtime) == "device:cpu"


def test_what_is_renewed_is_shown_without_a_restart(plant, store, tmp_path):
    """A token that changes goes with the next calls, a certificate with the next connection."""
    token = tmp_path / "token"
    token.write_text("t-1")
    tls = plant.tls(token_file=token, certificate=plant.device / "cert.pem", key=plant.device / "key.pem")
    with (
        scale_server({1: 2.0}, credentials=credentials(plant.server, clients=plant.server)) as server,
        Runtime.open(store, fallback=server.address, tls=tls, **QUIET) as runtime,
    ):
        answer(runtime)
        (endpoint,) = runtime._remote.endpoints.all()
        before = endpoint.way
        plant.pki.issue("device", "press-7")
        token.write_text("t-2")
        until(lambda: endpoint.way.token == "t-2" and endpoint.way.certificate != before.certificate)
        answer(runtime)
        assert [server.shown[0], server.shown[-1]] == ["Bearer t-1", "Bearer t-2"]


def test_a_server_with_a_renewed_certificate_is_known_again(plant, store):
    """Where it is held to its very certificate, because of a list of revoked ones: it proves itself once more."""
    tls = plant.tls(crl=plant.server / "crl.pem")
    with scale_server({1: 2.0}, credentials=credentials(plant.server)) as server:
        runtime = Runtime.open(store, fallback=server.address, tls=tls, **QUIET)
        answer(runtime)
        port = server.port
    plant.pki.issue("server", "gpu-1")
    with runtime, scale_server({1: 2.0}, port, credentials(plant.server)):
        (endpoint,) = runtime._remote.endpoints.all()
        fresh = (plant.server / "cert.pem").read_bytes()
        until(lambda: endpoint.way is not None and endpoint.way.roots == fresh and endpoint.away_s is None)
        until(lambda: endpoint.allows)
        answer(runtime)


def test_a_server_that_is_revoked_is_cut_off(plant, store):
    """As soon as the device has the list; what it was asked ends as a named error."""
    tls = plant.tls(crl=plant.server / "crl.pem")
    with (
        scale_server({1: 2.0}, credentials=credentials(plant.server)) as server,
        Runtime.open(store, fallback=server.address, tls=tls, **QUIET) as runtime,
    ):
        answer(runtime)
        plant.pki.revoke("gpu-1")
        until(lambda: runtime.servers == {server.address: "untrusted"})
        count = len(server.asked)
        with pytest.raises(ServerFailed, match="revoked"):
            runtime.model("scale", version=1).predict(rows(1))
        assert len(server.asked) == count


def test_files_that_can_not_be_used_are_refused_at_the_opening(plant, store):
    """With their names; so is a server in plain text beyond this machine."""
    with pytest.raises(InvalidConfig, match="absent"):
        Runtime.open(store, fallback="mdns", tls={"ca": str(plant.path / "absent")})
    with pytest.raises(InvalidConfig, match="plain text"):
        Runtime.open(store, fallback="10.0.0.7:8500")


def test_predict_on_the_command_line(plant, store, tmp_path, capsys):
    """The same options as in the TOML."""
    np.save(tmp_path / "x.npy", rows(1))
    pair = credentials(plant.server, clients=plant.server)
    device = plant.device
    with scale_server({1: 2.0}, credentials=pair) as server:
        asked = ["predict", str(store), "scale", str(tmp_path / "x.npy"), "--fallback", server.address]
        shown = ["--tls-certificate", str(device / "cert.pem"), "--tls-key", str(device / "key.pem")]
        assert main([*asked, "--tls-ca", str(device / "ca.pem"), *shown, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["place"] == f"server:{server.address}"
        assert main([*asked, "--tls-pin", "0" * 63]) == 2
        assert "64 hexadecimal digits" in capsys.readouterr().err


def test_servers_shows_who_is_trusted(plant, tmp_path, capsys):
    """Whose certificate it is and until when; else why not, and it is asked nothing."""
    other = Plant(tmp_path / "other")
    with (
        scale_server({1: 2.0}, credentials=credentials(plant.server)) as server,
        scale_server({1: 2.0}, credentials=credentials(other.server)) as foreign,
    ):
        ca = str(plant.server / "ca.pem")
        asked = ["servers", server.address, foreign.address, "--no-mdns", "--model", "scale"]
        assert main([*asked, "--tls-ca", ca]) == 0
        out = capsys.readouterr().out
        assert " gpu-1 until 20" in out
        assert " no: certificate " in out
        assert f"{foreign.address}: not asked, it is not trusted: its certificate" in out
        assert main([*asked, "--tls-ca", ca, "--json"]) == 0
        found = {one["address"]: one for one in json.loads(capsys.readouterr().out)["servers"]}
        assert found[server.address]["trust"] == "proved"
        assert found[server.address]["fingerprint"] == pin(plant.server)
        assert found[foreign.address]["trust"] == "certificate"
        assert main(["servers", "10.0.0.7:8500", "--no-mdns"]) == 1
        assert "plain text is for this machine alone" in capsys.readouterr().out
        assert main([*asked, "--tls-pin", pin(other.server)]) == 0
        assert " no: certificate " in capsys.readouterr().out
        assert main([*asked, "--tls-ca", ca, "--insecure"]) == 2
        assert main([*asked, "--tls-ca", ca + "x"]) == 2
