import json
import stat
from pathlib import PurePosixPath

import pytest
from support.converter_packages import publish_toy, tar_gz, tree_bytes
from support.edge_models import publish_scale, scale_model
from support.signing_keys import KEY, OTHER

from converter.artifact import Package, archive_path, install
from converter.artifact.archive import pack
from converter.artifact.signing import SigningKey, Trusted, read_public_key, verify
from converter.cli import main
from converter.errors import EXIT_BAD_INPUT, EXIT_DONE

TRUSTED = Trusted(keys={"mine": KEY.public})


def run(*arguments):
    return main([str(one) for one in arguments])


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "key.pem"
    path.write_bytes(KEY.pem)
    return path


def signer(place, folder):
    """The name under which a package's signature is believed, by its directory or archive."""
    package = Package.open(place) if place.is_dir() else install(place, folder)
    return verify(package.digest, package.signed, TRUSTED)


def test_a_key_is_made_for_its_owner_alone_and_never_twice(tmp_path, capsys):
    """The private half is nobody else's to read, and in no output; what is there stays, and a half made key goes."""
    assert run("keygen", tmp_path / "plant.pem") == EXIT_DONE
    said = capsys.readouterr()
    key = SigningKey.read(tmp_path / "plant.pem")
    assert key.public == read_public_key(tmp_path / "plant.pem.pub")
    assert key.public.id in said.out
    assert "PRIVATE" not in said.out + said.err
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plant.pem", "plant.pem.pub")]
    assert modes[0] == 0o600
    assert modes[1] & 0o400
    before = tree_bytes(tmp_path)
    assert run("keygen", tmp_path / "plant.pem") == EXIT_BAD_INPUT
    assert "is there already; a key is never overwritten" in capsys.readouterr().err
    (tmp_path / "half.pub").mkdir()
    assert run("keygen", tmp_path / "half") == EXIT_BAD_INPUT
    assert tree_bytes(tmp_path) == before
    assert run("keygen", tmp_path / "nowhere" / "key") == EXIT_BAD_INPUT


@pytest.mark.parametrize("given", ["directory", "link", "archive"])
def test_a_package_is_signed_where_it_lies(tmp_path, key, capsys, given):
    """A version, also by a link to it, with the archive beside it; an archive alone. All else stays, to the byte."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    archive = archive_path(tmp_path / "out", "toy", 1)
    (tmp_path / "link").symlink_to(package.path)
    path = {"directory": package.path, "link": tmp_path / "link", "archive": archive}[given]
    before = tree_bytes(package.path)
    assert run("sign", path, "--key", key, "--json") == EXIT_DONE
    told = json.loads(capsys.readouterr().out)
    assert (told["package"], told["digest"], told["key"]) == ("toy/1", package.digest, KEY.public.id)
    assert signer(archive, tmp_path / "one") == "mine"
    unpacked = tree_bytes(tmp_path / "one" / "toy" / "1")
    assert unpacked == before | {"manifest.sig": KEY.sign(package.digest)}
    assert tree_bytes(package.path) == (before if given == "archive" else unpacked)
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["toy", "toy-1.tar.gz"]
    again = tmp_path / "again.tar.gz"
    pack(tmp_path / "one" / "toy" / "1", PurePosixPath("toy/1"), again)
    assert again.read_bytes() == archive.read_bytes()


def test_an_archive_stays_where_it_is_and_whose_it_is(tmp_path, key):
    """By a link: that stays one, and what it leads to is signed; who could not read the archive still can not."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    archive, link = archive_path(tmp_path / "out", "toy", 1), tmp_path / "link.tar.gz"
    link.symlink_to(archive)
    archive.chmod(0o600)
    for path in (link, package.path):
        assert run("sign", path, "--key", key) == EXIT_DONE
        assert signer(archive, tmp_path / f"by-{path.name}") == "mine"
        assert link.readlink() == archive
        assert stat.S_IMODE(archive.stat().st_mode) == 0o600


def test_a_copy_beside_a_model_is_signed_alone(tmp_path, key):
    """It is no version of a folder of packages; an earlier signature gives way."""
    copy = tmp_path / "model" / "assets.extra" / "edge_package"
    copy.parent.mkdir(parents=True)
    publish_toy(tmp_path / "files", tmp_path / "out", copy_to=copy, sign=OTHER.sign)
    assert run("sign", copy, "--key", key) == EXIT_DONE
    assert signer(copy, None) == "mine"
    assert list(copy.parent.iterdir()) == [copy]
    assert Package.open(tmp_path / "out" / "toy" / "1").signed != Package.open(copy).signed


def test_nothing_damaged_is_signed(tmp_path, key, capsys):
    """Nor what is no package, nor with a key that is none; nothing is written."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    archive = archive_path(tmp_path / "out", "toy", 1)
    (package.path / "float32.tflite").write_bytes(bytes(500))
    bad = tar_gz(tmp_path / "bad.tar.gz", [("toy/1/x", b"x")])
    before = tree_bytes(tmp_path)
    for path, given in (
        (package.path, key),
        (bad, key),
        (tmp_path / "nowhere", key),
        (archive, tmp_path / "nowhere"),
        (archive, archive),
    ):
        assert run("sign", path, "--key", given) == EXIT_BAD_INPUT
        assert capsys.readouterr().err.startswith("edge-convert: ")
    assert tree_bytes(tmp_path) == before


def test_a_key_that_can_not_sign_is_refused_before_the_work(tmp_path, capsys):
    """A conversion takes hours; nothing of it has begun then."""
    (tmp_path / "model" / "variables").mkdir(parents=True)
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"x")
    options = ["--name", "n", "--version", 1, "--output", tmp_path / "out"]
    (tmp_path / "key").write_bytes(KEY.public.pem)
    assert run(tmp_path / "model", *options, "--sign", tmp_path / "key") == EXIT_BAD_INPUT
    assert "no PEM file of a private key" in capsys.readouterr().err
    (tmp_path / "x.tflite").write_bytes(b"x")
    assert run("wrap", tmp_path / "x.tflite", *options, "--sign", tmp_path / "key") == EXIT_BAD_INPUT
    assert "no PEM file of a private key" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_verifying_demands_the_signature_that_it_is_told_to(tmp_path, key, capsys):
    """Another key's, or none, is bad input; inspecting says which key it says, which proves nothing."""
    package = publish_scale(tmp_path / "out", 1, 1.0)
    for name, public in (("mine.pub", KEY.public), ("other.pub", OTHER.public)):
        (tmp_path / name).write_bytes(public.pem)
    assert run("verify", package.path, "--key", tmp_path / "mine.pub") == EXIT_BAD_INPUT
    assert "has no signature" in capsys.readouterr().err
    assert run("sign", package.path, "--key", key) == EXIT_DONE
    assert run("verify", package.path, "--key", tmp_path / "other.pub") == EXIT_BAD_INPUT
    assert "is not trusted" in capsys.readouterr().err
    for path in (package.path, archive_path(tmp_path / "out", "scale", 1)):
        assert run("verify", path, "--key", tmp_path / "mine.pub") == EXIT_DONE
        assert "mine.pub vouches for it" in capsys.readouterr().out
    assert run("inspect", package.path) == EXIT_DONE
    assert f"Signed with the key {KEY.public.id}" in capsys.readouterr().out


@pytest.mark.slow
def test_what_is_wrapped_can_be_signed(tmp_path, key):
    """In the directory and in the archive."""
    (tmp_path / "x.tflite").write_bytes(scale_model(2.0))
    words = ["wrap", tmp_path / "x.tflite", "--name", "n", "--version", 1, "--output", tmp_path / "out"]
    assert run(*words, "--sign", key) == EXIT_DONE
    assert signer(tmp_path / "out" / "n" / "1", None) == "mine"
    assert signer(archive_path(tmp_path / "out", "n", 1), tmp_path / "to") == "mine"
