"""Impostors on the network: real mDNS, real processes, and a device that trusts certificates alone."""

import contextlib
import subprocess
import time

import numpy as np
import pytest
from support.announcement_flood import AnnouncementFlood
from support.fallback_process import ServerProcess
from support.impostor import Impostor
from support.secure_servers import Site
from zeroconf import IPVersion, Zeroconf
from zeroconf._dns import DNSPointer
from zeroconf._protocol.outgoing import DNSOutgoing
from zeroconf.const import _CLASS_IN, _FLAGS_AA, _FLAGS_QR_RESPONSE, _TYPE_PTR

from edge_runtime import Runtime
from edge_runtime.remote.discovery import MAX_LATER, MAX_PENDING
from edge_runtime.remote.trust import AT_ONCE, MAX_SUBJECTS
from fallback_server.access.tokens import digest_of
from fallback_server.protocol.mdns import SERVICE_TYPE, Announcement

pytestmark = pytest.mark.slow

WAIT_S = 30
FLOOD_WAIT_S = 120
"""A socket that ten thousand packets a second come to loses most of them, the server's among them, by chance."""
TOKEN = "t-line-3"
ROWS = {"x": np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)}
QUIET = {"threads": 1, "poll_interval_s": 3600.0, "fallback": "mdns"}


def until(condition, limit_s=WAIT_S):
    end_s = time.monotonic() + limit_s
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
        # The one that replays the server's name is not looked at where the server itself is found by it.
        wanted = {(impostors[kind].address, reason) for kind, reason in shown.items() if kind != "replay"}
        end_s = time.monotonic() + WAIT_S
        while True:
            reply = model.predict(ROWS)
            np.testing.assert_array_equal(reply.outputs["y"], ROWS["x"] * 2)
            trust = runtime.stats().trust
            if wanted <= {(one.address, one.reason) for one in trust.untrusted}:
                break
            assert time.monotonic() < end_s, (wanted, trust)
        assert reply.place == f"server:{plant.real.address}"
        assert list(runtime.servers) == [plant.real.address]
        assert set(shown.values()) <= set(trust.counts)
        assert max(one.times for one in trust.untrusted) <= 3  # Handshakes follow new records, and are spaced.
        (server,) = runtime.stats().endpoints
        assert (server.state, server.certificate) == ("closed", "gpu-1")
    for kind, impostor in impostors.items():
        if kind != "silent":
            assert impostor.calls() == [], kind


def test_a_forged_withdrawal_takes_no_server_away(plant):
    """A record of nobody's says that the server goes: it is asked, and stays."""
    with Runtime.open(plant.store, tls=plant.tls, **QUIET) as runtime:
        assert runtime.wait_for_server(WAIT_S)
        trust = runtime._servers._trust
        instance = Announcement(plant.real.server_id).instance_name
        with contextlib.closing(Zeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)) as forger:
            until(lambda: instance in trust._known)
            out = DNSOutgoing(_FLAGS_QR_RESPONSE | _FLAGS_AA)
            out.add_answer_at_time(DNSPointer(SERVICE_TYPE, _TYPE_PTR, _CLASS_IN, 0, instance), 0)
            forger.loop.call_soon_threadsafe(forger.async_send, out)
            until(lambda: not trust._known[instance].subject.announced)
            asked_s = trust._known[instance].subject.asked_s
            until(lambda: trust._known[instance].subject.asked_s > asked_s)
        assert runtime.servers == {plant.real.address: "closed"}
        np.testing.assert_array_equal(runtime.model("press-a").predict(ROWS).outputs["y"], ROWS["x"] * 2)


@pytest.mark.parametrize("whole", [True, False])
def test_a_flood_of_announcements_is_bounded_and_the_server_is_found(plant, whole):
    """Ten thousand packets a second, each with another name: most are not read, and who is there is found and asked."""
    with (
        contextlib.closing(AnnouncementFlood(whole=whole)),
        Runtime.open(plant.store, tls=plant.tls, **QUIET) as runtime,
    ):
        servers = runtime._servers
        until(lambda: runtime.stats().trust.dropped > 1_000)
        assert len(servers._trust._known) <= MAX_SUBJECTS + 1
        assert len(servers._discovery._later) <= MAX_LATER
        assert len(servers._discovery._pending) <= MAX_PENDING
        assert servers._trust._asking <= AT_ONCE
        until(lambda: runtime.servers == {plant.real.address: "closed"}, FLOOD_WAIT_S)
        np.testing.assert_array_equal(runtime.model("press-a").predict(ROWS).outputs["y"], ROWS["x"] * 2)
        assert len(servers._trust._known) <= MAX_SUBJECTS + 1
        assert len(servers._discovery._pending) <= MAX_PENDING
