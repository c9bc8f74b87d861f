import datetime as dt
import json
import math
import stat

import pytest
from cryptography import x509

from fallback_server.access import known_lists
from fallback_server.access.certificates import authority_key
from fallback_server.access.known_lists import KnownLists
from fallback_server.access.revocations import RevocationList
from fallback_server.config import ConfigInvalid
from fallback_server.pki.authority import make_authority

NOW = dt.datetime(2030, 5, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def authorities():
    """The certificates of two, and what they are known by."""
    made = [make_authority(name, now=NOW).certificate_pem for name in ("Plant 4", "Plant 5")]
    return made, [authority_key(x509.load_pem_x509_certificate(each)) for each in made]


def one(issuer, number=1, since_s=1e9):
    return RevocationList(
        issuer=issuer, name="CN=a plant", serials=frozenset({"1f"}), number=number, since_s=since_s, until_s=math.inf
    )


def test_the_latest_list_of_each_authority_is_known(tmp_path, authorities):
    """Also of one that is trusted again later; an older one that came in between changes nothing."""
    (ca, other), (key, other_key) = authorities
    known = KnownLists(tmp_path / "known.json")
    known.keep([])
    assert not list(tmp_path.iterdir())
    known.check([], ca + other)
    known.keep([one(key, 7), one(other_key, None)])
    known.keep([one(key, 6)])
    again = KnownLists(tmp_path / "known.json")
    again.check([one(key, 7), one(other_key, None)], ca + other)
    again.check([one(key, 8)], ca)
    with pytest.raises(ConfigInvalid, match=r"number 7, of .* was in force, and .*number 6, .*is older"):
        again.check([one(key, 6), one(other_key, None)], ca + other)
    with pytest.raises(ConfigInvalid, match=r"is there no more, as .*known\.json says: put that"):
        again.check([one(key, 7)], ca + other)
    with pytest.raises(ConfigInvalid, match="is older"):
        again.check([one(key, 7), one(other_key, None, since_s=9e8)], ca + other)
    assert stat.S_IMODE((tmp_path / "known.json").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        '{"lists": 1}',
        '{"lists": [1]}',
        '{"lists": [{"authority": "a", "name": "b", "number": true, "since_s": 1}]}',
        '{"lists": [{"authority": "a", "name": "b", "number": 1, "since_s": NaN}]}',
        '{"lists": [{"authority": "a", "name": "b", "number": 1, "since_s": 1%s}]}' % ("0" * 400),
        '{"lists": ' + "[" * 100_000,
        " " * (2**20 + 1),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, content):
    """It is never taken for one that knows nothing; the refusal says what to do, and is short."""
    path = tmp_path / "known.json"
    path.write_text(content)
    known = KnownLists(path)
    for ask in (lambda: known.check([], b""), lambda: known.keep([])):
        with pytest.raises(ConfigInvalid, match="is not what the server has written") as told:
            ask()
        assert len(str(told.value)) < 1000
    assert path.read_text() == content


def test_what_is_known_is_bounded(tmp_path, monkeypatch):
    """Of too many authorities the last; names are cut."""
    monkeypatch.setattr(known_lists, "MAX_KNOWN", 3)
    known = KnownLists(tmp_path / "known.json")
    for place in range(5):
        known.keep([one(f"authority {place}")])
    kept = json.loads((tmp_path / "known.json").read_bytes())["lists"]
    assert [each["authority"] for each in kept] == [f"authority {place}" for place in (2, 3, 4)]
