import os

import pytest
from cryptography.hazmat.primitives import serialization
from support.clock import FakeClock
from support.plants import Plant

from edge_runtime import InvalidConfig
from edge_runtime.remote.tls_files import FEWER_SETTLED_S, MAX_BYTES, SETTLED_S, MaterialFiles, read_material
from edge_runtime.remote.trust import LOOK_S
from edge_runtime.tls_options import TlsOptions


@pytest.fixture
def plant(tmp_path):
    return Plant(tmp_path)


def full(plant, **other):
    (plant.path / "token").write_text("t-1\n")
    device = plant.device
    return plant.tls(
        **{
            "crl": device / "crl.pem",
            "certificate": device / "cert.pem",
            "key": device / "key.pem",
            "token_file": plant.path / "token",
            **other,
        }
    )


def test_what_the_files_hold(plant):
    """And whose certificate the device's own is; secrets are in no text of it."""
    material = read_material(full(plant))
    assert material.ca == (plant.device / "ca.pem").read_bytes()
    assert material.token == "t-1"
    assert material.own.owner == "press-7"
    assert "t-1" not in repr(material)
    assert "PRIVATE" not in repr(material)
    assert read_material(plant.tls()).own is None


def test_a_token_of_several_lines_is_none(plant):
    """Nor is an empty file, one with spaces, or with what no header may hold."""
    for text in ("", "\n", "a b", "a\nb", "ä", "a\x00"):
        (plant.path / "other").write_text(text)
        with pytest.raises(InvalidConfig, match=r"tls\.token_file: .*other"):
            read_material(full(plant, token_file=plant.path / "other"))


@pytest.mark.parametrize("name", ["ca", "crl", "certificate", "key"])
@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\n", b" " * (MAX_BYTES + 1)])
def test_what_can_not_be_used_is_refused_by_name(plant, name, content):
    """A file that lacks, is empty, too large, or holds something else."""
    path = plant.path / "broken.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidConfig, match=r"broken\.pem"):
        read_material(full(plant, **{name: path}))


def test_a_key_of_another_certificate_is_refused(plant):
    """They must go together."""
    with pytest.raises(InvalidConfig, match="key values mismatch"):
        read_material(full(plant, key=plant.server / "key.pem"))


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked(plant):
    """OpenSSL would ask at the terminal, where nobody may be."""
    key = serialization.load_pem_private_key((plant.device / "key.pem").read_bytes(), None)
    sealed = plant.path / "sealed.pem"
    sealed.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(InvalidConfig, match="passphrase"):
        read_material(full(plant, key=sealed))


def looking(plant):
    """The files, and what looks at them until they have settled; whether anything was taken."""
    clock = FakeClock()
    files = MaterialFiles(full(plant), clock)

    def look():
        taken = files.look()
        clock.advance(LOOK_S)
        return files.look() or taken

    return files, look


def test_what_is_renewed_is_taken(plant):
    """A new certificate, list or token is in force within seconds; without a change nothing is read."""
    files, look = looking(plant)
    before = files.now
    assert not look()
    plant.pki.issue("device", "press-7")
    assert look()
    assert files.now.certificate != before.certificate
    (plant.path / "token").write_text("t-2\n")
    assert look()
    assert files.now.token == "t-2"
    plant.pki.revoke("gpu-1")
    assert look()
    assert files.now.crl != before.crl
    os.utime(plant.path / "token", (1, 1))
    assert not look()


def test_a_broken_file_leaves_what_was_and_is_told_once(plant, caplog):
    """Until it is whole again."""
    files, look = looking(plant)
    before, key = files.now, (plant.device / "key.pem").read_bytes()
    (plant.device / "key.pem").write_bytes((plant.server / "key.pem").read_bytes())
    assert not look()
    assert not look()
    assert files.now is before
    assert caplog.text.count("those before stay in force") == 1
    (plant.device / "key.pem").write_bytes(key)
    assert not look()
    (plant.path / "token").unlink()
    assert not look()
    assert files.now.token == "t-1"
    (plant.path / "token").write_text("t-3")
    assert look()


def test_a_bundle_that_is_being_written_is_not_taken_half(plant, tmp_path):
    """At each length that a look may find: with an authority less, others would be trusted no more."""
    other = Plant(tmp_path / "other")
    path = plant.path / "both.pem"
    both = (plant.server / "ca.pem").read_bytes() + (other.server / "ca.pem").read_bytes()
    path.write_bytes(both)
    clock = FakeClock()
    files = MaterialFiles(TlsOptions(ca=path), clock)
    before = files.now
    for length in range(0, len(both), 7):
        path.write_bytes(both[:length])
        assert not files.look(), length
        clock.advance(SETTLED_S / 2)
    path.write_bytes(both)
    assert not files.look()
    clock.advance(LOOK_S)
    assert not files.look()
    assert files.now is before
    path.write_bytes(both + b"\n")
    assert not files.look()
    clock.advance(LOOK_S)
    assert files.look()


@pytest.mark.parametrize("begun", ["-", "-----BEGIN CERT", "-----BEGIN CERTIFICATE-----\nMIIB"])
def test_a_bundle_that_ends_where_a_certificate_begins_is_refused(plant, begun):
    """OpenSSL takes what is before it."""
    path = plant.path / "cut.pem"
    path.write_text((plant.server / "ca.pem").read_text() + begun)
    with pytest.raises(InvalidConfig, match=r"cut short|can't be read"):
        read_material(TlsOptions(ca=path))


def test_fewer_authorities_are_taken_once_they_have_stayed_for_long(plant, tmp_path):
    """A bundle that is written with pauses is sound after each authority; one that was replaced is taken at once."""
    first, second, third = ((Plant(tmp_path / name).server / "ca.pem").read_bytes() for name in "abc")
    path, clock = plant.path / "both.pem", FakeClock()
    path.write_bytes(first + second)
    files = MaterialFiles(TlsOptions(ca=path), clock)
    before = files.now

    def look():
        files.look()
        clock.advance(LOOK_S)
        return files.look()

    path.write_bytes(first)
    assert not any(look() for _ in range(int(FEWER_SETTLED_S / LOOK_S) - 1))
    assert files.now is before
    assert look()
    assert files.now.withdraws(before)
    path.write_bytes(third)
    assert look()
