"""Impostors on the network: real mDNS, real processes, and a device that trusts certificates alone."""

import contextlib
import subprocess
import time

import numpy as np
import pytest
from support.fallback_process import ServerProcess
from support.impostor import Impostor
from support.secure_servers import Site

from edge_runtime import Runtime
from fallback_server.access.tokens import digest_of
from fallback_server.protocol.mdns import Announcement

pytestmark = pytest.mark.slow

WAIT_S = 30
TOKEN = "t-line-3"
ROWS = {"x": np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)}
QUIET = {"threads": 1, "poll_interval_s": 3600.0, "fallback": "mdns"}


def until(condition):
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def self_signed(folder):
    """A certificate that says it is of the servers' role."""
    subject = "-subj /CN=gpu-1 -addext subjectAltName=DNS:edge-fallback-server"
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 {subject}"
    files = folder / "self.pem", folder / "self.key"
    subprocess.run([*command.split(), "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


class Plant:
    """A site, its server, which is announced and wants a token, and what a device is configured with."""

    def __init__(self, path):
        self.site = Site(path)
        rules = path / "access.toml"
        rules.write_text(f'[tokens.line]\nsha256 = "{digest_of(TOKEN)}"\npredict = ["*"]\nstatus = ["*"]\n')
        (path / "token").write_text(f"{TOKEN}\n")
        self.store = path / "store"
        self.store.mkdir()
        self.flags = ("--port=0", "--mdns", f"--model_repository={self.site.models}", f"--access_file={rules}")
        self.real = ServerProcess(*self.flags, f"--tls_dir={self.site.server}")
        device = self.site.press
        self.tls = {
            "ca": device / "ca.pem",
            "crl": device / "crl.pem",
            "certificate": device / "cert.pem",
            "key": device / "key.pem",
            "token_file": path / "token",
        }
        self.tls = {name: str(path) for name, path in self.tls.items()}


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    made = Plant(tmp_path_factory.mktemp("plant"))
    yield made
    made.real.close()


@pytest.fixture(scope="module")
def impostors(plant):
    """One of each kind, by what is wrong with it."""
    foreign, device = plant.site.foreign, plant.site.press
    own, real = self_signed(plant.site.path), plant.real.server_id
    fingerprint = "ab" * 32
    with contextlib.ExitStack() as stack:

        def impostor(name, record, *pair, **options):
            return stack.enter_context(contextlib.closing(Impostor(name, record.to_txt(), *pair, **options)))

        def named(name, **options):
            record = Announcement(f"impostor-{name}", **options)
            return record.instance_name, record

        yield {
            "plain-text": impostor(*named("plain")),
            "no TLS": impostor(*named("liar", tls=True)),
            "self-signed": impostor(*named("self", tls=True), *own),
            "other CA": impostor(*named("foreign", tls=True), foreign / "cert.pem", foreign / "key.pem"),
            "device": impostor(*named("device", tls=True), device / "cert.pem", device / "key.pem"),
            "fingerprint": impostor(*named("fp", tls=True, fingerprint=fingerprint), *own),
            "silent": impostor(*named("silent", tls=True), silent=True),
            "replay": impostor(
                Announcement(real).instance_name, Announcement(real, tls=True, fingerprint=fingerprint), *own
            ),
        }


def test_impostors_cost_a_handshake_and_get_nothing(plant, impostors):
    """Whoever announces itself and can't prove it is counted, shown, and sent no call and no token; the server is."""
    shown = {
        "plain-text": "plain-text",
        "no TLS": "protocol",
        "self-signed": "certificate",
        "other CA": "certificate",
        "device": "certificate",
        "fingerprint": "certificate",
        "silent": "silent",
        "replay": "certificate",
    }
    with Runtime.open(plant.store, tls=plant.tls, **QUIET) as runtime:
        assert runtime.wait_for_server(WAIT_S)
        model = runtime.model("press-a")
        wanted = {impostors[kind].address: reason for kind, reason in shown.items()}
        answered = 0
        end_s = time.monotonic() + WAIT_S
        while True:
            reply = model.predict(ROWS)
            np.testing.assert_array_equal(reply.outputs["y"], ROWS["x"] * 2)
            answered += 1
            trust = runtime.stats().trust
            found = {one.address: one.reason for one in trust.untrusted}
            # The one that replays the server's name is looked at only where the server itself isn't found by it.
            if {**wanted, impostors["replay"].address: None}.items() <= {
                **found,
                impostors["replay"].address: None,
            }.items():
                break
            assert time.monotonic() < end_s, (wanted, found)
        assert reply.place == f"server:{plant.real.address}"
        assert list(runtime.servers) == [plant.real.address]
        assert set(shown.values()) <= set(trust.counts)
        (server,) = runtime.stats().endpoints
        assert (server.state, server.certificate) == ("closed", "gpu-1")
    for kind, impostor in impostors.items():
        if kind != "silent":
            assert impostor.calls() == [], kind
