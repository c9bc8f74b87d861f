import os
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from support.converter_packages import publish_toy, tree_bytes
from support.signing_keys import KEY, OTHER

from converter.artifact import (
    DigestMismatch,
    KeyInvalid,
    ManifestInvalid,
    Package,
    SignatureRefused,
    SigningUnavailable,
    archive_path,
    install,
)
from converter.artifact.signing import PublicKey, SigningKey, Trusted, key_named, public_key, read_public_key, verify

TRUSTED = Trusted(keys={"plant-4": KEY.public})
DIGEST = "sha256:" + "12" * 32


def test_a_key_s_signature_is_believed_and_named():
    """By the name under which the key is trusted; the same key says the same of the same package, to the byte."""
    assert verify(DIGEST, KEY.sign(DIGEST), TRUSTED) == "plant-4"
    assert KEY.sign(DIGEST) == KEY.sign(DIGEST)
    assert key_named(KEY.sign(DIGEST)) == KEY.public.id != SigningKey.make().public.id
    assert len(KEY.public.id) == 16


def swapped(signed, old, new):
    assert old in signed
    return signed.replace(old, new)


@pytest.mark.parametrize(
    ("signed", "says"),
    [
        (None, r"has no signature \(manifest.sig\), and one is demanded"),
        (OTHER.sign(DIGEST), f"the key {OTHER.public.id}, which is not trusted"),
        (
            KEY.sign("sha256:" + "13" * 32),
            rf"with the key {KEY.public.id} \(plant-4\) is damaged, or of another manifest",
        ),
        (
            swapped(OTHER.sign(DIGEST), OTHER.public.id.encode(), KEY.public.id.encode()),
            "damaged, or of another manifest",
        ),
        (b"", "is damaged"),
        (b"{}", "is damaged"),
        (b"[" * 2000, "is damaged"),
        (KEY.sign(DIGEST) + b" ", "not what is written"),
        (KEY.sign(DIGEST)[:-1], "not what is written"),
        (KEY.sign(DIGEST)[:-9], "is damaged"),
        (swapped(KEY.sign(DIGEST), b"ed25519", b"rot13"), "algorithm 'rot13'; ed25519 is known"),
        (swapped(KEY.sign(DIGEST), b"{", b'{"more":1,'), "is damaged"),
        (swapped(KEY.sign(DIGEST), KEY.public.id.encode(), b"a" * 15), "not what is written"),
        (swapped(KEY.sign(DIGEST), KEY.public.id.encode(), b"/" * 16), "not what is written"),
    ],
    ids=range(14),
)
def test_each_other_signature_is_refused_by_what_is_wrong_with_it(signed, says):
    """Missing, of an unknown key, of another manifest, another's under a trusted key's name, damaged, unknown."""
    with pytest.raises(SignatureRefused, match=says) as raised:
        verify(DIGEST, signed, TRUSTED)
    assert f"trusted: plant-4 ({KEY.public.id})" in str(raised.value)


def test_whom_nobody_trusts_is_said():
    """Of many the first are named, and what can't be read is."""
    many = Trusted(keys={f"key-{number}": KEY.public for number in range(20)}, faults=("x.pub: no key",))
    with pytest.raises(SignatureRefused, match="trusted: none"):
        verify(DIGEST, None, Trusted(keys={}))
    with pytest.raises(SignatureRefused, match=r"12 more; x\.pub: no key"):
        verify(DIGEST, None, many)


def test_no_bit_of_it_can_be_turned():
    """Whichever it is, the signature is refused, and nothing else happens."""
    signed = KEY.sign(DIGEST)
    for at in range(len(signed)):
        for bit in range(8):
            turned = bytearray(signed)
            turned[at] ^= 1 << bit
            with pytest.raises(SignatureRefused):
                verify(DIGEST, bytes(turned), TRUSTED)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_are_a_signature_or_a_key(data):
    """They are refused by name, and nothing else happens."""
    assert key_named(data) == ""
    with pytest.raises(KeyInvalid):
        public_key(data)


def test_a_public_key_is_read_as_it_was_written():
    """As any program writes it, too."""
    assert public_key(KEY.public.pem) == KEY.public
    assert public_key(b"\r\n".join(KEY.public.pem.splitlines())) == KEY.public


P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493


def added(one, other):
    """The sum of two points of the curve (RFC 8032, section 5.1)."""
    (x1, y1), (x2, y2) = one, other
    crossed = -121665 * pow(121666, -1, P) * x1 * x2 * y1 * y2
    return (x1 * y2 + x2 * y1) * pow(1 + crossed, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - crossed, -1, P) % P


def times(number, point):
    total = (0, 1)
    for bit in f"{number:b}":
        total = added(total, total)
        if bit == "1":
            total = added(total, point)
    return total


def small_points():
    """All of an order that divides 8: what the large prime order leaves of whatever points there are."""
    found = set()
    for y in range(2, 40):
        squared = (y * y - 1) * pow(-121665 * pow(121666, -1, P) * y * y + 1, -1, P) % P
        x = pow(squared, (P + 3) // 8, P)
        x = x if x * x % P == squared else x * pow(2, (P - 1) // 4, P) % P
        if x * x % P == squared:
            found.update(times(number, times(L, (x, y))) for number in range(8))
    return found


def test_a_key_that_anybody_can_sign_with_is_none():
    """Each point of small order, however it is written; a signature of zeros would be its own for any package."""
    points = small_points()
    assert len(points) == 8
    for x, y in points:
        for written in [y, *([y + P] if y + P < 2**255 else [])]:
            for sign in {x % 2, 0 if x else 1}:
                weak = PublicKey((written | sign << 255).to_bytes(32, "little"))
                with pytest.raises(KeyInvalid, match="anybody can make signatures"):
                    public_key(weak.pem)


def pem(key, encryption):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (pem(ec.derive_private_key(5, ec.SECP256R1()), NoEncryption()), "another kind than Ed25519"),
        (pem(ed25519.Ed25519PrivateKey.generate(), BestAvailableEncryption(b"x")), "behind a password"),
        (KEY.public.pem, "no PEM file of a private key"),
        (b"", "no PEM file of a private key"),
        (bytes(20_000), "at most 16384 bytes"),
    ],
    ids=["kind", "password", "public", "empty", "large"],
)
def test_what_can_not_sign_is_named(tmp_path, data, says):
    """With its file."""
    (tmp_path / "key").write_bytes(data)
    with pytest.raises(KeyInvalid, match=rf"key: .*{says}"):
        SigningKey.read(tmp_path / "key")


def test_a_private_key_is_not_taken_for_a_public_one(tmp_path):
    """Whoever mixes them up is told, and nobody's text holds the key; nor is a folder or a pipe read."""
    (tmp_path / "key").write_bytes(KEY.pem)
    assert SigningKey.read(tmp_path / "key").public == KEY.public
    with pytest.raises(KeyInvalid, match=r"a private key, where its \.pub is expected"):
        read_public_key(tmp_path / "key")
    os.mkfifo(tmp_path / "pipe")
    for name in ("", "pipe", "nowhere"):
        with pytest.raises(KeyInvalid, match=r"no file|no such file"):
            read_public_key(tmp_path / name)
    assert KEY.public.id in repr(KEY)


def test_without_the_library_that_is_said(monkeypatch):
    """Keys and signatures can be looked at; signing and verifying are refused with what to install."""
    signed = KEY.sign(DIGEST)
    for name in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert public_key(KEY.public.pem).id == key_named(signed)
    for attempt in (lambda: verify(DIGEST, signed, TRUSTED), SigningKey.make):
        with pytest.raises(SigningUnavailable, match=r"edge-runtime\[signed\]"):
            attempt()


def test_a_signature_goes_wherever_its_package_goes(tmp_path):
    """Into the archive, first but for manifest and digest, the copy beside a model, and stores, to the byte."""
    package = publish_toy(tmp_path / "files", tmp_path / "out", sign=KEY.sign, copy_to=tmp_path / "model" / "extra")
    assert verify(package.digest, package.signed, TRUSTED) == "plant-4"
    tree = tree_bytes(package.path)
    assert tree["manifest.sig"] == KEY.sign(package.digest)
    assert tree_bytes(tmp_path / "model" / "extra") == tree
    for number, source in enumerate((package.path, archive_path(tmp_path / "out", "toy", 1))):
        found = install(source, tmp_path / f"store-{number}")
        assert found.signed == package.signed
        assert tree_bytes(found.path) == tree


def test_a_package_is_the_same_with_a_signature_and_without(tmp_path):
    """Its digest is; one without has none, and is as it ever was."""
    bare = publish_toy(tmp_path / "files", tmp_path / "bare")
    signed = publish_toy(tmp_path / "files", tmp_path / "signed", sign=KEY.sign)
    assert bare.digest == signed.digest
    assert bare.signed is None
    assert "manifest.sig" not in tree_bytes(bare.path)


@pytest.mark.parametrize("kind", ["link", "folder", "large", "pipe"])
def test_what_can_be_no_signature_is_damage(tmp_path, kind):
    """A link, a folder or a pipe of its name is followed, or waited for, by nobody; nor is a large file read."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    place = package.path / "manifest.sig"
    {
        "link": lambda: place.symlink_to(package.path / "manifest.json"),
        "folder": place.mkdir,
        "large": lambda: place.write_bytes(bytes(5000)),
        "pipe": lambda: os.mkfifo(place),
    }[kind]()
    with pytest.raises(DigestMismatch, match=r"manifest\.sig"):
        Package.open(package.path)
    with pytest.raises(DigestMismatch, match=r"manifest\.sig"):
        install(package.path, tmp_path / "store")


def test_no_manifest_lists_a_signature(tmp_path):
    """It would vouch for itself."""
    with pytest.raises(ManifestInvalid, match="can't list itself, its digest or its signature"):
        publish_toy(tmp_path / "files", tmp_path / "out", content={"manifest.sig": b"x", "b": b"y"})
