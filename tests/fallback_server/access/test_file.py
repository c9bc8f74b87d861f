"""The file of access rules."""

import contextlib
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback_server.access import file
from fallback_server.access.file import MAX_CHARS, MAX_ENTRIES, add_token, parse_access, read_access, remove_token
from fallback_server.access.rules import EVERYTHING, AccessRules, Grants, Token
from fallback_server.config import ConfigInvalid

DIGEST = "0123456789abcdef" * 4

WHOLE = f"""
[anonymous]            # whoever shows nothing
status = ["*"]

[tokens.line-3]
sha256 = "{DIGEST}"
predict = ["press-*"]
status = ["*"]

[certificates."press-*"]
predict = ["press-*"]

[models.payroll]
only = ["line-3", "press-7"]
"""


def faults_of(text, path):
    with pytest.raises(ConfigInvalid) as caught:
        parse_access(text, path)
    return caught.value.faults


def test_a_file_is_read(tmp_path):
    """Every table of it."""
    path = tmp_path / "access.toml"
    path.write_text(WHOLE)
    assert read_access(path) == AccessRules(
        anonymous=Grants(status=EVERYTHING),
        tokens={DIGEST: Token(name="line-3", grants=Grants(predict=("press-*",), status=EVERYTHING))},
        certificates={"press-*": Grants(predict=("press-*",))},
        only={"payroll": ("token:line-3", "certificate:press-7")},
    )
    assert parse_access("", path) == AccessRules()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[token.a]", ["token is not known", "tokens"]),
        ("[anonymous]\npredikt = ['*']", ["[anonymous] predikt is not known"]),
        ("anonymous = 1", ["[anonymous] must be a table"]),
        ("[tokens.a]\npredict = ['*']", ["[tokens.a] needs sha256"]),
        ("[tokens.a]\nsha256 = 'AB'", ["[tokens.a] needs sha256"]),
        (f"[tokens.a]\nsha256 = '{DIGEST}'\nallow = []", ["[tokens.a] allow is not known"]),
        (
            f"[tokens.a]\nsha256 = '{DIGEST}'\n[tokens.b]\nsha256 = '{DIGEST}'",
            ["[tokens.b] has the same sha256 as [tokens.a]"],
        ),
        ("tokens = [1]", ["[tokens] must be tables"]),
        ("[certificates.x]\npredict = 'm'", ["[certificates.x] predict must be a list of texts, got m"]),
        ("[certificates.x]\npredict = [1]", ["must be a list of texts"]),
        ("[certificates.x]\npredict = ['']", ["must be names of 1 to 128 characters"]),
        (f"[certificates.{'x' * 129}]", ["must have from 1 to 128 characters in its name"]),
        ("[models.m]", ["[models.m] needs only"]),
        ("[models.m]\nonly = ['a']\nexcept = []", ["[models.m] except is not known"]),
        ("[models.'pay-*']\nonly = ['a']", ["[models.'pay-*'] takes names alone, no patterns"]),
        ("[models.m]\nonly = ['press-*']", ["[models.m] takes names alone, no patterns, got 'press-*'"]),
        ("[anonymous", ["Expected ']'"]),
    ],
)
def test_what_is_not_known_is_refused_by_its_name(tmp_path, text, words):
    """With the file's and the table's name: a mistyped rule must not silently allow, or forbid, something."""
    (fault,) = faults_of(text, tmp_path / "a.toml")
    assert str(tmp_path / "a.toml") in fault
    assert all(word in fault for word in words)


def test_all_faults_are_told(tmp_path):
    """Not the first alone."""
    assert len(faults_of("[a]\n[anonymous]\nx = 1\n[models.m]", tmp_path / "a.toml")) == 3


def test_entries_are_bounded(tmp_path):
    """Ten thousand of a kind."""
    text = "".join(f"[certificates.c{index}]\n" for index in range(MAX_ENTRIES + 1))
    (fault,) = faults_of(text, tmp_path / "a.toml")
    assert "at most 10000" in fault


@given(st.text())
def test_no_text_breaks_it(text):
    """It is rules, or refused with words."""
    with contextlib.suppress(ConfigInvalid):
        assert isinstance(parse_access(text, Path("a.toml")), AccessRules)


def test_a_token_is_added_and_removed(tmp_path):
    """Only its digest is in the file, which is its owner's alone; comments and other rules stay to the letter."""
    path = tmp_path / "access.toml"
    whole = WHOLE.replace('["line-3"', '["token:line-3"')
    path.write_text(whole)
    other = "f" * 64
    add_token(path, "release", other, Grants(admin=("*",), predict=("a", 'b"\\')))
    assert path.read_text().startswith(whole)
    assert read_access(path).tokens[other] == Token(name="release", grants=Grants(admin=("*",), predict=("a", 'b"\\')))
    remove_token(path, "release")
    assert path.read_text() == whole
    remove_token(path, "line-3")
    assert "# whoever shows nothing" in path.read_text()
    assert read_access(path).tokens == {}
    assert read_access(path).only["payroll"] == ("token:line-3", "certificate:press-7")


@pytest.mark.parametrize(
    ("only", "who"),
    [
        ("line-3", "token:line-3"),
        ("press-7", "certificate:press-7"),
        ("nobody", "certificate:nobody"),
        ("token:press-1", "token:press-1"),
        ("certificate:press-1", "certificate:press-1"),
        ("certificate:line-3", "certificate:line-3"),
        (f"certificate:{'x' * 128}", f"certificate:{'x' * 128}"),
    ],
)
def test_whom_a_model_is_for(tmp_path, only, who):
    """A token or a certificate, as it says, or as the name is the one or the other."""
    text = WHOLE + f'[tokens.press-1]\nsha256 = "{"f" * 64}"\n[models.m]\nonly = ["{only}"]\n'
    assert parse_access(text, tmp_path / "a.toml").only["m"] == (who,)


def test_a_name_that_is_a_tokens_and_a_certificates_is_no_rule(tmp_path):
    """It would let in one more than was meant; nor is a token added that makes it one."""
    path = tmp_path / "a.toml"
    text = WHOLE + '[models.m]\nonly = ["press-1"]\n'
    both = text + f'[tokens.press-1]\nsha256 = "{"f" * 64}"\n'
    (fault,) = faults_of(both, path)
    assert "[models.m] names press-1, which is a token and may be a certificate: write 'token:press-1'" in fault
    path.write_text(text)
    with pytest.raises(ConfigInvalid, match=r"press-1 is named below only of m, .* write 'certificate:press-1'"):
        add_token(path, "press-1", "f" * 64, Grants(status=EVERYTHING))
    assert path.read_text() == text


def test_a_token_is_not_added_by_a_name_that_means_a_certificate(tmp_path):
    """It would have the device's model and shut the device out; said as a certificate's, the name stays that."""
    path = tmp_path / "access.toml"
    text = "[anonymous]\nstatus = ['*']\n[models.payroll]\nonly = ['press-7']\n"
    path.write_text(text)
    with pytest.raises(ConfigInvalid, match=r"press-7 is named below only of payroll, .* write 'certificate:press-7'"):
        add_token(path, "press-7", DIGEST, Grants(predict=("press-*",)))
    assert path.read_text() == text
    path.write_text(text.replace("['press-7']", "['certificate:press-7']"))
    add_token(path, "press-7", DIGEST, Grants(predict=("press-*",)))
    assert read_access(path).only["payroll"] == ("certificate:press-7",)


def test_a_file_that_takes_long_to_read_is_not_read(tmp_path):
    """By its length, with the bound; ten thousand tokens are less."""
    tokens = "".join(f'[tokens."token-number-{n}"]\nsha256 = "{n:064x}"\npredict = ["*"]\n' for n in range(MAX_ENTRIES))
    (fault,) = faults_of(tokens + "#" * (MAX_CHARS + 1 - len(tokens)), tmp_path)
    assert f"has {MAX_CHARS + 1} characters, at most {MAX_CHARS} are read" in fault


def test_a_token_that_a_model_is_for_is_not_removed(tmp_path):
    """Its bare name would mean the certificate of that name; said as a token's, it means nobody then."""
    path = tmp_path / "access.toml"
    text = f"[tokens.boss]\nsha256 = '{DIGEST}'\n\n# The wages.\n# Nobody else's.\n[models.payroll]\nonly = ['boss']\n"
    path.write_text(text)
    with pytest.raises(ConfigInvalid, match=r"boss is named below only of payroll, .* write 'token:boss'"):
        remove_token(path, "boss")
    assert path.read_text() == text
    path.write_text(text.replace("['boss']", "['token:boss']"))
    remove_token(path, "boss")
    assert path.read_text() == "# The wages.\n# Nobody else's.\n[models.payroll]\nonly = ['token:boss']\n"


def test_names_are_held_against_patterns_once_and_not_without_end(tmp_path, monkeypatch):
    """However many models name them; beyond the bound a name must say what it means."""
    calls = []
    monkeypatch.setattr(file, "matches", lambda *both: calls.append(both))
    monkeypatch.setattr(file, "MAX_COMPARED", 12)
    text = "".join(f"[tokens.t{n}]\nsha256 = '{n:064x}'\n" for n in range(5))
    text += "".join(f"[certificates.'{n}*']\n" for n in range(4)) + "[certificates.exact]\n"
    text += "".join(f"[models.m{n}]\nonly = ['t0', 't1', 't2']\n" for n in range(9))
    assert len(parse_access(text, tmp_path).only) == 9
    assert len(calls) == len(set(calls)) == 12
    (fault,) = faults_of(text + "[models.x]\nonly = ['t3', 'token:t4']\n", tmp_path)
    assert "write 'token:t3'" in fault


def test_a_new_file_is_private(tmp_path):
    """Mode 0600 whatever the umask says; and the mode that a file has stays."""
    path = tmp_path / "access.toml"
    add_token(path, "a", "a" * 64, Grants(status=EVERYTHING))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    add_token(path, "b", "b" * 64, Grants(status=EVERYTHING))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert sorted(token.name for token in read_access(path).tokens.values()) == ["a", "b"]
    assert [each.name for each in tmp_path.iterdir()] == ["access.toml"]


def test_who_edits_a_file_does_not_take_it(tmp_path, monkeypatch):
    """Root does it, and the server's user reads it still; where it can't be given back nothing is changed."""
    path, given = tmp_path / "access.toml", []
    path.write_text(WHOLE)
    path.chmod(0o640)
    before = path.stat()
    other = os.stat_result((before.st_mode, *before[1:4], 4711, 4712, *before[6:]))
    monkeypatch.setattr(Path, "stat", lambda *_, **__: other)
    monkeypatch.setattr(os, "fchown", lambda _, *to: given.append(to))
    add_token(path, "a", "a" * 64, Grants(status=EVERYTHING))
    remove_token(path, "a")
    assert given == [(4711, 4712)] * 2

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(PermissionError):
        add_token(path, "b", "b" * 64, Grants(status=EVERYTHING))
    monkeypatch.undo()
    assert path.read_text() == WHOLE
    assert [each.name for each in tmp_path.iterdir()] == ["access.toml"]


def test_a_link_to_a_file_stays_one(tmp_path):
    """What it leads to is edited, wherever that is."""
    folder = tmp_path / "shared"
    folder.mkdir()
    file, link = folder / "rules.toml", tmp_path / "access.toml"
    file.write_text(WHOLE)
    link.symlink_to(file)
    add_token(link, "a", "a" * 64, Grants(status=EVERYTHING))
    assert link.is_symlink()
    assert "a" in {token.name for token in read_access(file).tokens.values()}
    remove_token(link, "a")
    assert link.is_symlink()
    assert file.read_text() == WHOLE


def test_edits_that_can_not_be_made_change_nothing(tmp_path):
    """A name that is there, one that isn't, one that is none; a file that is broken, or written otherwise."""
    path = tmp_path / "access.toml"
    path.write_text(WHOLE)
    for edit, words in (
        (lambda: add_token(path, "line-3", "f" * 64, Grants()), "already"),
        (lambda: add_token(path, "a b", "f" * 64, Grants()), "must begin with"),
        (lambda: remove_token(path, "line-4"), "has no token line-4; there is: line-3"),
    ):
        with pytest.raises(ConfigInvalid, match=words):
            edit()
        assert path.read_text() == WHOLE
    inline = f"tokens.a = {{sha256 = '{DIGEST}'}}\n"
    path.write_text(inline)
    with pytest.raises(ConfigInvalid, match="by hand"):
        remove_token(path, "a")
    path.write_text(f"tokens = {{a = {{sha256 = '{DIGEST}'}}}}\n")
    with pytest.raises(ConfigInvalid):
        add_token(path, "b", "f" * 64, Grants())
    path.write_text("[broken")
    with pytest.raises(ConfigInvalid, match="Expected"):
        add_token(path, "b", "f" * 64, Grants())
    assert path.read_text() == "[broken"
