"""Lists of revoked certificates, and what a certificate is worth over a connection that TLS asks no more."""

import datetime as dt
import ssl
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fallback_server.access.attempts import Reason
from fallback_server.access.certificates import Certificate, CertificateReader, same_issuer
from fallback_server.access.revocations import (
    MAX_WITHDRAWN,
    Trust,
    check_newer,
    day,
    read_lists,
    trust_in,
)
from fallback_server.config import ConfigInvalid, TlsFiles
from fallback_server.pki.authority import Authority, make_authority
from fallback_server.tls_files import server_context

NOW = dt.datetime(2030, 5, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


class Site:
    """An authority: its certificate, and lists that it signs."""

    def __init__(self, name="Plant 4", now=NOW):
        pair = self.pair = make_authority(name, now=now)
        self.ca = pair.certificate_pem
        self.authority = Authority(pair.certificate_pem, pair.key_pem)

    def crl(self, *serials, number=1, since=NOW, until=None, delta=False):
        made = x509.CertificateRevocationListBuilder().issuer_name(x509.load_pem_x509_certificate(self.ca).subject)
        made = made.last_update(since).next_update(until or since + 365 * DAY)
        if number is not None:
            made = made.add_extension(x509.CRLNumber(number), critical=False)
        if delta:
            made = made.add_extension(x509.DeltaCRLIndicator(1), critical=True)
        for serial in serials:
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since)
            made = made.add_revoked_certificate(one.build())
        key = serialization.load_pem_private_key(self.pair.key_pem, password=None)
        return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def device(self, name="press-7"):
        return CertificateReader().read(self.authority.device(name, now=NOW).certificate_pem)


@pytest.fixture(scope="module")
def site():
    return Site()


@pytest.fixture(scope="module")
def other():
    return Site("Plant 5")


def test_every_block_is_read(site, other):
    """Of each authority the latest, whatever stands between them."""
    crl = b"# ours\n" + site.crl(0xA1, 0xB2, number=2) + b"\n# theirs\n" + other.crl(0xC3) + site.crl(0xA1)
    first, second = read_lists(crl, site.ca + other.ca)
    assert (first.serials, first.number, second.serials) == ({"a1", "b2"}, 2, {"c3"})
    trust = trust_in(site.ca + other.ca, (first, second), Trust())
    assert sorted(map(sorted, trust.revoked.values())) == [["a1", "b2"], ["c3"]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda one, two: one + two[: len(two) // 2], "has no end"),
        (lambda one, two: two[: len(two) // 2] + one, "can't be read|has no end"),
        (lambda *_: b"nothing", "can't be read"),
        (lambda one, _: one.replace(b"-\nMI", b"-\n!!"), "can't be read"),
    ],
)
def test_half_a_list_is_none(site, other, change, words):
    """What a block named that is cut off would be let in again."""
    with pytest.raises(ConfigInvalid, match=words):
        read_lists(change(site.crl(1), other.crl(2)), site.ca + other.ca)


def test_a_list_counts_by_who_has_signed_it(site, other):
    """One of several by a stranger refuses all; so does one that tells of changes alone."""
    with pytest.raises(ConfigInvalid, match="not signed by"):
        read_lists(site.crl(1) + other.crl(2), site.ca)
    with pytest.raises(ConfigInvalid, match="changes alone"):
        read_lists(site.crl(1, delta=True), site.ca)
    assert read_lists(b"", site.ca) == read_lists(b"\n", site.ca) == ()


@pytest.mark.parametrize(
    ("before", "after", "taken"),
    [
        ({"number": 5}, {"number": 6, "since": NOW - DAY}, True),
        ({"number": 5}, {"number": 5}, True),
        ({"number": 5}, {"number": 4, "since": NOW + DAY}, False),
        ({"number": 5}, {"number": 5, "since": NOW - DAY}, False),
        ({"number": 5}, {"number": None, "since": NOW - DAY}, False),
        ({"number": None}, {"number": None, "since": NOW + DAY}, True),
    ],
)
def test_a_list_that_is_older_is_not_taken(site, before, after, taken):
    """By its number, and by its date where there is none: who puts an old one back lets nobody in again."""
    old, new = (read_lists(site.crl(1, **each), site.ca) for each in (before, after))
    if taken:
        check_newer(new, old, site.ca)
    else:
        with pytest.raises(ConfigInvalid, match="is older than what is in force"):
            check_newer(new, old, site.ca)


def test_a_list_that_lacks_is_asked_for(site, other):
    """As long as its authority is trusted."""
    both = site.ca + other.ca
    before = read_lists(site.crl(1) + other.crl(2), both)
    after = read_lists(site.crl(1), both)
    with pytest.raises(ConfigInvalid, match=r"Plant 5.*would be let in again"):
        check_newer(after, before, both)
    check_newer(after, before, site.ca)


def test_a_list_that_has_ended_lets_nobody_in(site, other):
    """Nobody of its authority: who was revoked since can't be known. Others are not concerned."""
    both = site.ca + other.ca
    until = NOW + 7 * DAY
    lists = read_lists(site.crl(1, until=until) + other.crl(2), both)
    trust = trust_in(both, lists, Trust())
    assert trust.lack(site.device(), until.timestamp()) is None
    reason, text = trust.lack(site.device(), until.timestamp() + 1)
    assert (reason, "ended on 2030-05-08" in text) == (Reason.LIST_ENDED, True)
    assert trust.lack(other.device(), until.timestamp() + 1) is None


def test_an_authority_that_is_replaced_counts_no_more(site):
    """Over open connections too, also where the next has its name."""
    now_s = NOW.timestamp()
    first = trust_in(site.ca, (), Trust())
    again = Site()
    device = site.device()
    assert first.lack(device, now_s) is None
    second = trust_in(again.ca, (), first)
    assert second.lack(device, now_s)[0] is Reason.WITHDRAWN
    assert second.lack(again.device(), now_s) is None
    assert trust_in(again.ca + site.ca, (), first).lack(device, now_s) is None
    back = trust_in(site.ca, (), second)
    assert (back.lack(device, now_s), back.lack(again.device(), now_s)[0]) == (None, Reason.WITHDRAWN)
    # One whose signer is neither: an intermediate's, which TLS has found out.
    assert second.lack(Site("Line 3").device(), now_s) is None


def test_a_revoked_number_counts_by_who_gave_it(site, other):
    """Authorities may count from one, each; where a certificate doesn't say the key, by the name."""
    both = site.ca + other.ca
    trust = trust_in(both, read_lists(site.crl(2) + other.crl(), both), Trust())
    ours, theirs = (replace(each.device(), serial="2") for each in (site, other))
    now_s = NOW.timestamp()
    assert trust.lack(ours, now_s)[0] is trust.lack(keyless(ours), now_s)[0] is Reason.REVOKED
    assert trust.lack(theirs, now_s) is trust.lack(keyless(theirs), now_s) is None


def keyless(device):
    """As a certificate without an AuthorityKeyIdentifier is read."""
    return replace(device, issuer=device.issuer.partition(":")[0] + ":")


def test_who_says_no_key_is_out_with_the_authority_that_had_the_name(site):
    """Whoever has the key of a replaced authority can leave it out of what he signs: nobody can say who did."""
    now_s = NOW.timestamp()
    first = trust_in(site.ca, (), Trust())
    device = keyless(site.device())
    assert first.lack(device, now_s) is None
    again = trust_in(Site().ca, (), first)
    assert again.lack(device, now_s)[0] is Reason.WITHDRAWN
    assert again.lack(keyless(Site("Plant 9").device()), now_s) is None


def test_authorities_that_name_no_key_are_told_apart(site):
    """By their keys: the next of the name doesn't stand for the one before it."""

    def bare():
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Bare")])
        made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        made = made.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + 365 * DAY)
        return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    one, two, now_s = bare(), bare(), NOW.timestamp()
    first = trust_in(one, (), Trust())
    issuer = first.authorities[0].partition(":")[0]
    devices = [replace(site.device(), issuer=f"{issuer}:{key}") for key in ("", "aa")]
    assert [first.lack(each, now_s) for each in devices] == [None, None]
    assert trust_in(one, (), first).withdrawn == ()
    second = trust_in(two, (), first)
    assert [second.lack(each, now_s)[0] for each in devices] == [Reason.WITHDRAWN] * 2


def test_what_is_known_of_authorities_is_bounded(site):
    """However often they are replaced."""
    many = Trust(withdrawn=tuple(f"{index}:{index:04x}" for index in range(MAX_WITHDRAWN)), authorities=("x:ffff",))
    assert len(trust_in(site.ca, (), many).withdrawn) == MAX_WITHDRAWN
    assert "x:ffff" in trust_in(site.ca, (), many).withdrawn


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("n:aa", "n:aa", True),
        ("n:aa", "n:bb", False),
        ("n:aa", "m:aa", True),
        ("n:", "n:bb", True),
        ("n:", "m:", False),
    ],
)
def test_who_has_signed_is_known_by_the_key_and_else_by_the_name(one, other, same):
    """Names are given twice; keys are not."""
    assert same_issuer(one, other) is same_issuer(other, one) is same


def test_a_certificate_travels_as_text(site):
    """To another process of the server, with all that decides of it."""
    device = site.device("press 7 of line 3")
    assert Certificate.from_told(device.told()) == device
    assert same_issuer(device.issuer, trust_in(site.ca, (), Trust()).authorities[0])


def test_what_no_calendar_has_is_no_fault():
    """A list says when it ends, and may say anything."""
    assert day(float("inf")) == "a day that no calendar has"


def shaken(server, client):
    """What a server says of a client's certificate, in a handshake without a network; empty where it takes it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname="edge-fallback-server"),
    ]
    while sides:
        for side in tuple(sides):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
            sides.remove(side)
    return ""


@pytest.mark.parametrize(
    ("who", "lists", "said"),
    [
        ("site", lambda site, other, now: site.crl(1, since=now - DAY) + other.crl(2, since=now - DAY), ""),
        ("site", lambda site, other, now: other.crl(2, since=now - DAY), "unable to get certificate CRL"),
        ("other", lambda site, other, now: other.crl(2, since=now - DAY), ""),
        ("site", lambda site, other, now: site.crl(1, since=now - 9 * DAY, until=now - DAY), "CRL has expired"),
    ],
)
def test_rest_refuses_at_the_handshake_who_can_not_be_checked(tmp_path, who, lists, said):
    """As OpenSSL does: also an authority without a list beside one that has some."""
    now = dt.datetime.now(dt.UTC)
    sites = {"site": Site(now=now - 10 * DAY), "other": Site("Plant 5", now=now - 10 * DAY)}
    pair = sites["site"].authority.server("gpu-1", (), now=now)
    files = TlsFiles(
        key_pem=pair.key_pem,
        certificate_pem=pair.certificate_pem,
        client_ca_pem=sites["site"].ca + sites["other"].ca,
        crl_pem=lists(sites["site"], sites["other"], now),
        rest_clients="allow",
    )
    device = sites[who].authority.device("press-7", now=now)
    (tmp_path / "both.pem").write_bytes(device.certificate_pem + device.key_pem)
    client = ssl.create_default_context(cadata=sites["site"].ca.decode())
    client.maximum_version = ssl.TLSVersion.TLSv1_2  # In 1.3 the client is done before the server has looked.
    client.load_cert_chain(tmp_path / "both.pem")
    assert shaken(server_context(files, "allow"), client) == said
