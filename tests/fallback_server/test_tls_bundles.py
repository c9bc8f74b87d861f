"""Certificates and keys that are written in place, by who pauses meanwhile."""

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fallback_server.config import ConfigInvalid
from fallback_server.credentials import Credentials
from fallback_server.flags import parse
from fallback_server.poller import ConfigWatcher
from fallback_server.settings import options_of
from fallback_server.tls_files import read_tls_dir

NOW = dt.datetime.now(dt.UTC)
PAUSE_LOOKS = 3
"""One a second."""


class Site:
    """A root and an intermediate, which signs servers."""

    def __init__(self):
        self.root_key, self.middle_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        self.root = signed("root", self.root_key, "root", self.root_key)
        self.middle = signed("middle", self.middle_key, "root", self.root_key)

    def bundle(self):
        """A new server's key, and its certificate with the intermediate's."""
        key = ec.generate_private_key(ec.SECP256R1())
        form = serialization.PrivateFormat.PKCS8
        written = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        return written, (signed("server", key, "middle", self.middle_key, authority=False), self.middle)


def named(name):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def signed(name, key, issuer, issuer_key, *, authority=True):
    made = x509.CertificateBuilder().subject_name(named(name)).issuer_name(named(issuer)).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number())
    made = made.not_valid_before(NOW).not_valid_after(NOW + dt.timedelta(days=90))
    made = made.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    return made.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def site():
    return Site()


@pytest.fixture
def stand(tmp_path, site):
    """A folder with a whole bundle and two authorities; what watches it, which has looked; what is in force."""
    folder = tmp_path / "tls"
    folder.mkdir()
    key, chain = site.bundle()
    other = signed("other", site.middle_key, "other", site.middle_key)
    for name, content in {"key.pem": key, "cert.pem": b"".join(chain), "ca.pem": site.root + other}.items():
        (folder / name).write_bytes(content)
    network = options_of(parse([f"--model_repository={tmp_path}", "--port=0", f"--tls_dir={folder}"])).network
    held = Credentials(network)
    watcher = ConfigWatcher(held._tls_files, reload=held.reload_tls, wait_s=1)
    look(watcher)
    return folder, watcher, held


def look(watcher):
    for _ in range(PAUSE_LOOKS):
        watcher.look()


@pytest.mark.parametrize("key_first", [False, True])
def test_half_of_a_bundle_is_never_in_force(stand, site, key_first):
    """Whatever a pause leaves there: a chain that is cut anywhere, or a certificate of another key."""
    folder, watcher, held = stand
    before = held.tls.files
    key, (leaf, middle) = site.bundle()
    cuts = (0, 40, len(leaf) - 5, len(leaf), len(leaf) + 1, len(leaf) + 20, len(leaf) + 200)
    if key_first:
        (folder / "key.pem").write_bytes(key)
    for cut in cuts:
        (folder / "cert.pem").write_bytes((leaf + middle)[:cut])
        look(watcher)
        assert held.tls.files is before
    (folder / "cert.pem").write_bytes(leaf + middle)
    look(watcher)
    for cut in () if key_first else (0, 30, len(key) - 9):
        (folder / "key.pem").write_bytes(key[:cut])
        look(watcher)
        assert held.tls.files is before
    (folder / "key.pem").write_bytes(key)
    look(watcher)
    assert (held.tls.files.key_pem, held.tls.files.certificate_pem) == (key, leaf + middle)


def test_authorities_that_lack_are_not_taken_for_gone_at_once(stand, site):
    """A list of them is sound after each: those that it has lost count until it was seen so ten times."""
    folder, watcher, held = stand
    whole = held.tls.files.client_ca_pem
    (folder / "ca.pem").write_bytes(site.root)
    look(watcher)
    assert held.tls.files.client_ca_pem == whole
    for _ in range(10):
        watcher.look()
    assert held.tls.files.client_ca_pem == site.root
    (folder / "ca.pem").write_bytes(whole)
    look(watcher)
    assert held.tls.files.client_ca_pem == whole


@pytest.mark.parametrize("cut", [1, 11, 27])
def test_a_file_that_has_begun_a_certificate_is_cut_short(stand, site, cut):
    """Also at the start, where nothing is in force yet: TLS itself would pass over the beginning."""
    folder, _, _ = stand
    key, (leaf, middle) = site.bundle()
    (folder / "key.pem").write_bytes(key)
    (folder / "cert.pem").write_bytes(leaf + middle[:cut])
    with pytest.raises(ConfigInvalid, match=r"cert\.pem is cut short"):
        read_tls_dir(folder, clients="", tokens=False)
    (folder / "cert.pem").write_bytes((leaf + middle).rstrip() + b"\r\n\n")
    read_tls_dir(folder, clients="", tokens=False)
