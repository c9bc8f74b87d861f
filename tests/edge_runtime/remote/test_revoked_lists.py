import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from support.clock import FakeClock
from support.plants import Plant

from edge_runtime import InvalidConfig
from edge_runtime.remote.revoked_lists import check_newer, read_lists
from edge_runtime.remote.tls_files import MaterialFiles
from edge_runtime.remote.trust import LOOK_S
from fallback_server.pki.authority import Authority, make_authority

NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


class Signer:
    """An authority, and its lists; each as PEM."""

    def __init__(self, name="Plant 4"):
        pair = make_authority(name, now=NOW)
        self.ca, self._authority = pair.certificate_pem, Authority(pair.certificate_pem, pair.key_pem)

    def crl(self, number, serials=(), *, now=NOW):
        return self._authority.revocations([(serial, now) for serial in serials], number, now=now)


@pytest.fixture(scope="module")
def signer():
    return Signer()


def plain(key, *, days=0, name="Plant 4", extensions=(), text=_ASN1Type.UTF8String):
    """A list without what ours have: a number, and which key of the authority has signed it."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name, text)]))
        .last_update(NOW + days * DAY)
        .next_update(NOW + 99 * DAY)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_what_lists_say_of_themselves(signer):
    """Of our own, and of one that says no more than it must."""
    old, new = read_lists(signer.crl(3, range(1, 2000)) + signer.crl(300, now=NOW + DAY))
    assert (old.number, new.number) == (3, 300)
    assert new.since_s - old.since_s == DAY.total_seconds()
    assert old.issuer == new.issuer
    assert old.issuer.key
    assert str(old) == "the list of revoked certificates of 'Plant 4' number 3"
    (bare,) = read_lists(plain(ec.generate_private_key(ec.SECP256R1())))
    assert bare.number is None
    assert bare.since_s == NOW.timestamp()
    assert bare.issuer.is_maybe(old.issuer)
    assert read_lists(b"") == ()


def test_an_older_list_is_refused_and_a_later_one_taken(signer):
    """By its number; the same again is no older."""
    check_newer(signer.crl(3), signer.crl(2), signer.ca)
    check_newer(signer.crl(2, now=NOW + DAY), signer.crl(2), signer.ca)
    with pytest.raises(InvalidConfig, match=r"'Plant 4' number 2 is older than what is in force, which is .* number 3"):
        check_newer(signer.crl(2, now=NOW + DAY), signer.crl(3), signer.ca)
    check_newer(signer.crl(2) + signer.crl(3), signer.crl(3), signer.ca)


def test_lists_without_numbers_are_older_by_their_time(signer):
    """And a list that tells no key may be any of its authority's, in whatever kind of text that is named."""
    key = ec.generate_private_key(ec.SECP256R1())
    printable = plain(key, days=1, text=_ASN1Type.PrintableString)
    check_newer(printable, plain(key), signer.ca)
    with pytest.raises(InvalidConfig, match="is older"):
        check_newer(plain(key), printable, signer.ca)


def test_a_list_that_lacks_is_refused_as_long_as_its_authority_is_trusted(signer):
    """Of several authorities each has its own."""
    other = Signer("Plant 5")
    both, bundle = signer.crl(3) + other.crl(9), signer.ca + other.ca
    for crl in (signer.crl(4), b"", signer.crl(4) + other.crl(9)[:-30]):
        with pytest.raises(InvalidConfig, match="'Plant 5' number 9 lacks"):
            check_newer(crl, signer.crl(3) * bool(crl) + other.crl(9), bundle)
    check_newer(signer.crl(4), both, signer.ca)
    check_newer(signer.crl(4) + other.crl(9), both, bundle)


def test_a_new_key_of_an_authority_counts_from_one(signer):
    """Where the key before is trusted no more."""
    renewed = Signer("Plant 4")
    check_newer(renewed.crl(1), signer.crl(7), renewed.ca)
    with pytest.raises(InvalidConfig, match="lacks"):
        check_newer(renewed.crl(1), signer.crl(7), renewed.ca + signer.ca)


def test_a_list_of_changes_alone_is_none(signer):
    """It names not all who are revoked."""
    key = ec.generate_private_key(ec.SECP256R1())
    changes = plain(key, extensions=[x509.CRLNumber(9), x509.DeltaCRLIndicator(8)])
    assert read_lists(changes) == ()
    with pytest.raises(InvalidConfig, match="lacks"):
        check_newer(changes, signer.crl(7), signer.ca)


@pytest.mark.parametrize("content", [b"MAA=", b"AAAA", b"MIIB", b"MAQwAjAA", "ä".encode()])
def test_what_is_no_list_is_refused(content):
    """By name."""
    with pytest.raises(InvalidConfig, match=r"tls\.crl: a list of revoked certificates can't be read"):
        read_lists(b"-----BEGIN X509 CRL-----\n" + content + b"\n-----END X509 CRL-----\n")


def test_an_older_list_leaves_the_newer_in_force_and_is_told_once(tmp_path, caplog):
    """Who puts an old list back has nobody trusted again."""
    plant, clock = Plant(tmp_path), FakeClock()
    crl = plant.device / "crl.pem"
    old = crl.read_bytes()
    files = MaterialFiles(plant.tls(crl=crl), clock)

    def look():
        files.look()
        clock.advance(LOOK_S)
        return files.look()

    plant.pki.revoke("gpu-1")
    new = crl.read_bytes()
    assert look()
    crl.write_bytes(old)
    assert not look()
    assert not look()
    assert files.now.crl == new
    assert caplog.text.count("is older than what is in force") == 1
    assert "is older than what is in force" in files.refused
    plant.pki.issue("device", "press-8")
    plant.pki.revoke("press-8")
    assert look()
    assert not files.refused
