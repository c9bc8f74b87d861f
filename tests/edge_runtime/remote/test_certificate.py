import datetime as dt
import ssl

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from support.plants import Plant, der, pin, self_signed

from edge_runtime.remote.certificate import MAX_BYTES, read_certificate


def test_what_is_told_is_what_another_library_reads(tmp_path):
    """Owner, DNS names, begin, end and fingerprint of certificates of our own authority, and of itself."""
    plant = Plant(tmp_path)
    for folder in (plant.server, plant.device):
        data = der(folder)
        found, other = read_certificate(data), x509.load_der_x509_certificate(data)
        assert found.owner == folder.name
        assert found.since_s == other.not_valid_before_utc.timestamp()
        assert found.until_s == other.not_valid_after_utc.timestamp()
        assert found.until == other.not_valid_after_utc.date().isoformat()
        assert found.fingerprint == pin(folder)
        assert found.pem == (folder / "cert.pem").read_bytes()
    assert read_certificate(der(plant.server)).names[:2] == ("edge-fallback-server", "gpu-1")
    authority = ssl.PEM_cert_to_DER_cert((plant.server / "ca.pem").read_text())
    assert read_certificate(authority).owner == "Plant 4"


@pytest.mark.parametrize(
    ("owner", "names", "found"),
    [
        ("own", ("a.example", "*.b.example"), ("a.example", "*.b.example")),
        ("own", (), ("own",)),
        ("", (), ()),
        ("übel", (), ()),
    ],
)
def test_names(tmp_path, owner, names, found):
    """DNS names stand before the common name, which stands for them where there are none, and may be none."""
    assert read_certificate(der(self_signed(tmp_path, owner=owner, names=names))).names == found


def test_an_owner_writes_no_lines(tmp_path):
    """A stranger's common name goes into the log: without control characters, and cut."""
    owner = read_certificate(der(self_signed(tmp_path, owner="a\n\x1b[31mb" + "c" * 50))).owner
    assert owner.isascii()
    assert owner.isprintable()
    assert "\\n\\x1b[31mb" in owner


def test_times_after_2049(tmp_path):
    """They are written in another form."""
    found = read_certificate(der(self_signed(tmp_path, days=365 * 40)))
    assert found.until_s > dt.datetime(2060, 1, 1, tzinfo=dt.UTC).timestamp()


@pytest.mark.parametrize("data", [b"", b"0", b"\x30\x80", b"\x30\x84" + b"\xff" * 9, bytes(MAX_BYTES + 1), b"\x30\x00"])
def test_what_is_no_certificate_is_refused(data):
    """By name, also where it is larger than any."""
    with pytest.raises(ValueError, match="certificate"):
        read_certificate(data)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return der(Plant(tmp_path_factory.mktemp("plant")).server)


@given(st.data())
def test_any_bytes_are_read_or_refused(sound, data):
    """A certificate with some bytes changed, cut or added raises ValueError, or tells something."""
    changed = bytearray(sound)
    for _ in range(data.draw(st.integers(0, 8))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(changed[: data.draw(st.integers(0, len(changed)))]) + data.draw(st.binary(max_size=8))
    try:
        found = read_certificate(cut)
    except ValueError:
        return
    assert found.owner.isprintable()
    assert found.until[4] == "-"
