"""The authority's folder, and what its certificates are good for."""

import datetime as dt
import fcntl
import stat
import subprocess

import pytest

from fallback_server.access.certificates import CertificateReader
from fallback_server.access.revocations import read_lists
from fallback_server.config import ConfigInvalid
from fallback_server.pki.folder import PkiFolder, PkiRefused

NOW = dt.datetime(2030, 5, 1, tzinfo=dt.UTC)


@pytest.fixture
def pki(tmp_path):
    folder = PkiFolder(tmp_path / "pki", lambda: NOW)
    folder.init("Plant 4")
    return folder


def verified(tmp_path, certificate, *, purpose, crl=False):
    words = ["openssl", "verify", "-CAfile", tmp_path / "pki/ca.pem", "-purpose", purpose, "-x509_strict"]
    words += ["-attime", str(int(NOW.timestamp()))]
    if crl:
        words += ["-crl_check", "-CRLfile", tmp_path / "pki/crl.pem"]
    return subprocess.run([*words, certificate], capture_output=True, check=False).returncode == 0


def test_certificates_are_good_for_what_they_are_issued_for(tmp_path, pki):
    """A server's for a server, a device's for a client, by OpenSSL's own strict word."""
    server = pki.issue("server", "gpu-1", hosts=["10.0.0.5", "gpu-1.local"]) / "cert.pem"
    device = pki.issue("device", "press-7") / "cert.pem"
    assert verified(tmp_path, server, purpose="sslserver", crl=True)
    assert not verified(tmp_path, server, purpose="sslclient")
    assert verified(tmp_path, device, purpose="sslclient", crl=True)
    assert not verified(tmp_path, device, purpose="sslserver")
    text = subprocess.run(["openssl", "x509", "-in", server, "-noout", "-text"], capture_output=True, check=True).stdout
    for word in (b"DNS:edge-fallback-server", b"IP Address:10.0.0.5", b"DNS:gpu-1.local", b"prime256v1"):
        assert word in text


def test_keys_are_their_owners_alone(tmp_path, pki):
    """Mode 0600 in folders of 0700, whatever the umask."""
    folder = pki.issue("device", "press-7")
    assert sorted(path.name for path in folder.iterdir()) == ["ca.pem", "cert.pem", "crl.pem", "key.pem"]
    for path in (tmp_path / "pki", folder):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for key in (folder / "key.pem", tmp_path / "pki" / "ca-key.pem"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_name_is_read_out_of_a_certificate(pki):
    """As PEM and as DER, with number and end; what is no certificate is none."""
    pem = (pki.issue("device", "press-7", days=3) / "cert.pem").read_bytes()
    (issued,) = pki.issued()
    reader = CertificateReader()
    found = reader.read(pem)
    assert (found.name, found.serial) == ("press-7", f"{issued.serial:x}")
    assert found.until_s == (NOW + dt.timedelta(days=3)).timestamp()
    assert reader.read(pem) is found
    assert found.from_told(found.told()) == found
    assert reader.read(b"no certificate") is None
    assert reader.read(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n") is None


def test_a_name_is_revoked_with_all_its_certificates(tmp_path, pki):
    """The list is new everywhere at once, and once more changes nothing."""
    server = pki.issue("server", "gpu-1")
    first = pki.issue("device", "press-7")
    pki.issue("device", "press-7")
    pki.issue("device", "press-8")
    revoked = pki.revoke("press-7")
    assert len(revoked) == 2
    assert (server / "crl.pem").read_bytes() == (first / "crl.pem").read_bytes()
    ca = (tmp_path / "pki" / "ca.pem").read_bytes()
    (listed,) = read_lists((server / "crl.pem").read_bytes(), ca)
    assert listed.serials == {f"{each.serial:x}" for each in revoked}
    assert not verified(tmp_path, first / "cert.pem", purpose="sslclient", crl=True)
    assert pki.revoke("press-7") == ()
    assert [each.revoked for each in pki.issued() if each.name == "press-8"] == [None]
    pki.revoke("press-8")
    assert len(read_lists((server / "crl.pem").read_bytes(), ca)[0].serials) == 3
    new = pki.issue("device", "press-7")
    assert verified(tmp_path, new / "cert.pem", purpose="sslclient", crl=True)


def test_a_list_of_another_authority_is_refused(tmp_path, pki):
    """It would have a stranger say who is let in."""
    other = PkiFolder(tmp_path / "other")
    other.init("Plant 4")
    ca = (tmp_path / "pki" / "ca.pem").read_bytes()
    with pytest.raises(ConfigInvalid, match="not signed by"):
        read_lists((tmp_path / "other" / "crl.pem").read_bytes(), ca)
    with pytest.raises(ConfigInvalid, match="can't be read"):
        read_lists(b"nothing", ca)
    assert read_lists(b"", ca) == ()


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda pki: pki.init("Again"), "holds an authority already"),
        (lambda pki: pki.issue("device", "../x"), "must begin with a letter"),
        (lambda pki: pki.issue("device", "x" * 65), "at most 64"),
        (lambda pki: pki.issue("device", "a", hosts=["h"]), "belongs to servers"),
        (lambda pki: pki.issue("server", "a", hosts=["a b"]), "name or an address"),
        (lambda pki: pki.issue("server", "a", days=0), "from 1 to 3650"),
        (lambda pki: pki.revoke("nobody"), "nobody is named nobody here; there is: gpu-1"),
        (lambda pki: pki.issue("device", "gpu-1"), "is a server already"),
    ],
)
def test_what_can_not_be_meant_is_refused(pki, ask, words):
    """With the bound, or what there is."""
    pki.issue("server", "gpu-1")
    with pytest.raises(PkiRefused, match=words):
        ask(pki)


def test_without_an_authority_nothing_is_issued(tmp_path):
    """And the text says what makes one."""
    folder = PkiFolder(tmp_path / "none")
    for ask in (lambda: folder.issue("device", "a"), lambda: folder.revoke("a"), folder.issued):
        with pytest.raises(PkiRefused, match="pki init"):
            ask()


def test_a_certificate_ends_with_its_authority(tmp_path):
    """One that would outlive it would be worth nothing, and say otherwise."""
    folder = PkiFolder(tmp_path / "pki", lambda: NOW)
    folder.init("Short", days=10)
    folder.issue("device", "a", days=100)
    (issued,) = folder.issued()
    assert issued.until == NOW + dt.timedelta(days=10)


def test_a_name_that_two_give_at_once_is_of_one_kind(pki, monkeypatch):
    """Whoever waited for the other looks for that one's name afterwards: it is revoked by the name."""
    lock = fcntl.flock

    def later(folder, how):
        monkeypatch.setattr(fcntl, "flock", lock)
        pki.issue("server", "same")
        lock(folder, how)

    monkeypatch.setattr(fcntl, "flock", later)
    with pytest.raises(PkiRefused, match="same is a server already"):
        pki.issue("device", "same")
    assert [each.kind for each in pki.issued()] == ["server"]
