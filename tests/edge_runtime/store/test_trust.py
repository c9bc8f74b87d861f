import json
import os

import pytest
from support.edge_models import publish_scale
from support.signing_keys import KEY, OTHER

from converter.artifact import Package, SignatureRefused
from edge_runtime import InvalidConfig
from edge_runtime.cli import EXIT_BAD_INPUT, EXIT_DONE, main
from edge_runtime.store import trust
from edge_runtime.store.store import Store


def run(*arguments):
    return main([str(one) for one in arguments])


@pytest.fixture
def public(tmp_path):
    """The files of two public keys."""
    paths = (tmp_path / "plant-4.pem.pub", tmp_path / "other.pub")
    for path, key in zip(paths, (KEY, OTHER), strict=True):
        path.write_bytes(key.public.pem)
    return paths


def test_keys_are_added_listed_and_removed(tmp_path, public, capsys):
    """By the commands: by their files' names unless told otherwise, and by their ids; the store is made."""
    root = tmp_path / "new" / "store"
    assert run("trust", "add", public[0], "--store", root) == EXIT_DONE
    said = capsys.readouterr()
    assert said.out == f"trusted plant-4 ({KEY.public.id}) in {root}\n"
    assert "no signature is demanded there" in said.err
    assert run("trust", "add", public[0], "--store", root) == EXIT_DONE
    assert "trusted already: plant-4" in capsys.readouterr().out
    assert run("trust", "add", public[1], "--name", "works", "--store", root) == EXIT_DONE
    assert run("trust", "require", "on", "--store", root) == EXIT_DONE
    assert "a signature is demanded, by one of 2 keys that is trusted" in capsys.readouterr().out
    assert run("trust", "list", "--json", "--store", root) == EXIT_DONE
    assert json.loads(capsys.readouterr().out) == {
        "require_signature": True,
        "keys": {"plant-4": KEY.public.id, "works": OTHER.public.id},
        "faults": [],
    }
    assert run("trust", "remove", "plant-4", "--store", root) == EXIT_DONE
    assert run("trust", "remove", OTHER.public.id, "--store", root) == EXIT_DONE
    assert "no key is trusted: nothing can be installed" in capsys.readouterr().err
    assert run("trust", "list", "--store", root) == EXIT_DONE
    assert "a signature is demanded" in capsys.readouterr().out
    assert run("trust", "require", "off", "--store", root) == EXIT_DONE
    assert Store(root).installed() == {}


def test_what_can_not_be_trusted_is_refused_by_name(tmp_path, public, capsys):
    """A private key, another key's name, another name of a key, and a name that leads elsewhere."""
    root = tmp_path / "store"
    (tmp_path / "private").write_bytes(KEY.pem)
    assert run("trust", "add", public[0], "--store", root) == EXIT_DONE
    refusals = [
        (["add", tmp_path / "private"], "a private key, where its .pub is expected"),
        (["add", public[1], "--name", "plant-4"], f"plant-4 is the key {KEY.public.id} here: remove it first"),
        (["add", public[0], "--name", "again"], f"the key {KEY.public.id} is trusted already, as plant-4"),
        (["add", public[1], "--name", "../../x"], "key name '../../x': 1 to 64 letters"),
        (["add", tmp_path / "nowhere"], "no such file"),
        (["remove", "works"], "there is no key 'works'; trusted: plant-4"),
        (["remove", "../policy"], "there is no key"),
    ]
    for arguments, said in refusals:
        assert run("trust", *arguments, "--store", root) == EXIT_BAD_INPUT
        assert said in capsys.readouterr().err
    assert set(trust.keys(root).keys) == {"plant-4"}
    assert sorted(path.name for path in root.rglob("*") if path.is_file()) == ["plant-4.pub"]


def test_the_number_of_keys_is_bounded(tmp_path, monkeypatch):
    """One more is refused, and of files that somebody put there no more are read."""
    monkeypatch.setattr(trust, "MAX_KEYS", 1)
    trust.add(tmp_path, "one", KEY.public)
    with pytest.raises(InvalidConfig, match="at most 1 keys"):
        trust.add(tmp_path, "two", OTHER.public)
    (tmp_path / trust.FOLDER / "zwei.pub").write_bytes(OTHER.public.pem)
    assert set(trust.keys(tmp_path).keys) == {"one"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("require_signature = ", "no valid TOML"),
        ("require_signature = 1", "must be true or false, got 1"),
        ("require_signatures = true", "unknown key 'require_signatures'"),
        ("\xff", "no valid TOML"),
        ("\0" * 30, "no valid TOML"),
        ("", "says nothing of require_signature"),
        ("# the plant demands this\n", "says nothing of require_signature"),
    ],
)
def test_a_policy_that_can_not_be_read_is_not_taken_for_none(tmp_path, text, says):
    """Whoever asks the store is refused, with the file's name."""
    publish_scale(tmp_path, 1, 1.0)
    trust.require(tmp_path, required=True)
    (tmp_path / trust.FOLDER / trust.POLICY).write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidConfig, match=rf"policy\.toml: .*{says}"):
        Store(tmp_path).open("scale", 1)


@pytest.mark.parametrize("name", [trust.FOLDER, f"{trust.FOLDER}/{trust.POLICY}"])
def test_a_link_that_leads_nowhere_is_not_taken_for_none(tmp_path, name):
    """What is not mounted may demand a signature: whoever asks the store is refused, with the link's name."""
    publish_scale(tmp_path, 1, 1.0)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(tmp_path / "not-mounted")
    with pytest.raises(InvalidConfig, match=rf"{name}: a link that leads nowhere"):
        Store(tmp_path).open("scale", 1)


def test_a_key_that_another_one_is_named_after_is_removed_by_its_id(tmp_path):
    """The one of that id goes, and then the one of that name."""
    trust.add(tmp_path, "plant-4", KEY.public)
    trust.add(tmp_path, KEY.public.id, OTHER.public)
    assert trust.remove(tmp_path, KEY.public.id) == "plant-4"
    assert set(trust.keys(tmp_path).keys) == {KEY.public.id}
    assert trust.remove(tmp_path, KEY.public.id) == KEY.public.id
    assert trust.keys(tmp_path).keys == {}


def test_a_key_that_can_not_be_read_is_none_and_that_is_said(tmp_path):
    """The others are believed; a refusal names the file, neither a pipe nor a folder is read."""
    signed = publish_scale(tmp_path / "signed", 1, 1.0, key=KEY)
    trust.add(tmp_path, "good", KEY.public)
    folder = tmp_path / trust.FOLDER
    (folder / "bad.pub").write_text("no key")
    os.mkfifo(folder / "pipe.pub")
    (folder / "folder.pub").mkdir()
    held = trust.read(tmp_path, demanded=True)
    held.check(signed)
    with pytest.raises(SignatureRefused, match=r"good \(.*bad\.pub: no PEM file.*folder\.pub: .*pipe\.pub: "):
        held.check(publish_scale(tmp_path / "bare", 1, 1.0))


def test_nothing_is_read_of_keys_where_nothing_is_demanded(tmp_path):
    """So that a package is opened as fast as ever."""
    trust.add(tmp_path, "good", KEY.public)
    held = trust.read(tmp_path)
    assert not held.required
    assert not held.trusted.keys
    held.check(publish_scale(tmp_path / "bare", 1, 1.0))


def test_a_package_is_believed_for_a_key_demanded_or_not(tmp_path):
    """`vouches` asks the keys alone."""
    trust.add(tmp_path, "good", KEY.public)
    mine, others, bare = (
        publish_scale(tmp_path / name, 1, 1.0, key=key) for name, key in (("a", KEY), ("b", OTHER), ("c", None))
    )
    assert [trust.vouches(tmp_path, one) for one in (mine, others, bare)] == [True, False, False]
    assert Package.open(mine.path).digest == bare.digest
