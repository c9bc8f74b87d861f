"""Signatures where they are demanded: by what way a package may come, and what is loaded."""

import json
import shutil
import sys
from pathlib import PurePosixPath

import pytest
from support.edge_models import publish_scale, rows
from support.edge_stores import fake_trial, leftovers, state
from support.fetch_stands import Stand
from support.package_senders import sending
from support.signing_keys import KEY, OTHER

from converter.artifact import Package, SignatureRefused, SigningUnavailable, archive_path
from converter.artifact.archive import pack
from edge_runtime import InvalidConfig, PackageRefused, Runtime, VersionNotAvailable
from edge_runtime.bare import PackageStore, open_store
from edge_runtime.cli import EXIT_BAD_INPUT, EXIT_DONE, main
from edge_runtime.installing.install import install
from edge_runtime.installing.inventory import inventory
from edge_runtime.store import trust
from edge_runtime.store.store import Store


@pytest.fixture
def root(tmp_path):
    """A store that demands signatures by KEY."""
    folder = tmp_path / "store"
    trust.add(folder, "plant-4", KEY.public)
    trust.require(folder, required=True)
    return folder


@pytest.fixture
def packages(tmp_path):
    """By name, the directory of version 1: signed, signed by a stranger, and not at all; all one package."""
    made = {
        name: publish_scale(tmp_path / name, 1, 1.0, key=key).path
        for name, key in (("signed", KEY), ("strange", OTHER), ("bare", None))
    }
    for name, data in (("damaged", b"{}"), ("moved", publish_scale(tmp_path / "two", 2, 2.0, key=KEY).signed)):
        made[name] = tmp_path / name / "scale" / "1"
        shutil.copytree(made["bare"], made[name])
        (made[name] / "manifest.sig").write_bytes(data)
    return made


REFUSED = {
    "bare": r"has no signature",
    "strange": rf"key {OTHER.public.id}, which is not trusted",
    "damaged": r"is damaged",
    "moved": rf"key {KEY.public.id} \(plant-4\) is damaged, or of another manifest",
}


def never(_package):
    raise AssertionError("it was given to an interpreter")


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("form", ["directory", "archive"])
def test_nothing_else_is_installed_or_run(root, packages, name, form):
    """By directory or archive: refused before its first run with what is trusted, and the store is as it was."""
    source = packages[name]
    if form == "archive":
        source = source.parents[1] / "made.tar.gz"
        pack(packages[name], PurePosixPath("scale/1"), source)
    with pytest.raises(SignatureRefused, match=rf"scale/1: .*{REFUSED[name]}.*trusted: plant-4 \({KEY.public.id}\)"):
        install(source, root, trial=never)
    assert state(root) == {}
    assert not leftovers(root)


@pytest.mark.parametrize("form", ["directory", "archive"])
def test_what_is_signed_is_installed_with_its_signature(root, packages, form):
    """And can be loaded."""
    source = packages["signed"] if form == "directory" else archive_path(packages["signed"].parents[1], "scale", 1)
    done = install(source, root, trial=fake_trial)
    assert done.package.signed == Package.open(packages["signed"]).signed
    assert Store(root).open("scale", 1).digest == done.package.digest
    (one,) = inventory(Store(root))
    assert (one.signed, one.damage) == (KEY.public.id, "")


def test_what_the_application_demands_the_store_need_not(tmp_path, packages):
    """The keys are the store's; without any, that is said."""
    root = tmp_path / "store"
    install(packages["bare"], root, trial=None)
    assert Store(root).open("scale", 1)
    with pytest.raises(PackageRefused, match=r"has no signature.*trusted: none in .*\.trust: edge-run trust add"):
        Store(root, require_signature=True).open("scale", 1)
    with pytest.raises(SignatureRefused):
        install(packages["bare"], root, require_signature=True, trial=never)


def test_what_was_installed_before_is_not_loaded_until_it_is_signed(tmp_path, packages, capsys):
    """Where signatures are demanded later: no load, no label; installing it once more, signed, is all it takes."""
    root = tmp_path / "store"
    install(packages["bare"], root, trial=None)
    trust.add(root, "plant-4", KEY.public)
    trust.require(root, required=True)
    with pytest.raises(PackageRefused, match=r"scale/1: it has no signature"):
        Store(root).open("scale", 1)
    assert main(["use", "scale", "1", "--store", str(root)]) == EXIT_BAD_INPUT
    assert "scale/1: it has no signature" in capsys.readouterr().err
    assert main(["list", str(root), "--json"]) == EXIT_DONE
    assert "no signature" in json.loads(capsys.readouterr().out)["scale"]["details"]["1"]["damage"]
    with pytest.raises(SignatureRefused):
        install(packages["strange"], root, trial=never)
    said = []
    done = install(packages["signed"], root, trial=never, say=said.append)
    assert done.was_there
    assert said == ["scale/1 is there, and has this signature now"]
    assert main(["use", "scale", "1", "--store", str(root)]) == EXIT_DONE
    assert not leftovers(root)


def test_no_unknown_signature_takes_a_known_one_s_place(tmp_path, packages):
    """A signature comes to a version without one; a stranger's gives way to a trusted key's, and not the reverse."""
    root = tmp_path / "store"
    trust.add(root, "plant-4", KEY.public)

    def signed_after(name):
        install(packages[name], root, trial=None)
        return Store(root).open("scale", 1).signed

    by = {name: Package.open(packages[name]).signed for name in packages}
    assert signed_after("bare") is None
    assert signed_after("strange") == by["strange"]
    assert signed_after("bare") == by["strange"]
    assert signed_after("damaged") == by["strange"]
    assert signed_after("signed") == by["signed"]
    assert signed_after("strange") == by["signed"]


def test_going_back_to_an_older_signed_version_is_allowed(root, packages, tmp_path):
    """That is what a rollback is; to one without a signature nothing goes back."""
    newer = publish_scale(tmp_path / "newer", 2, 2.0, key=KEY)
    for source in (packages["signed"], newer.path):
        install(source, root, trial=None)
    store = Store(root)
    store.label("scale", "stable", 1, verify=True)
    store.label("scale", "stable", 2, verify=True)
    assert store.roll_back("scale", verify=True) == (2, 1)
    store.label("scale", "stable", 2, verify=True)
    (root / "scale" / "1" / "manifest.sig").unlink()
    with pytest.raises(PackageRefused, match="has no signature"):
        store.roll_back("scale", verify=True)
    assert store.labels("scale") == {"stable": 2}


def test_one_version_of_a_store_is_held_to_the_store_s_demand(root, packages, tmp_path):
    """Also by a link; one that lies in no store is trusted by nobody, whatever keys lie in it; nor is a bare file."""
    install(packages["signed"], root, trial=None)
    place = root / "scale" / "1"
    PackageStore(place).open("scale", 1)
    (place / "manifest.sig").unlink()
    (tmp_path / "link").symlink_to(place)
    for path in (place, tmp_path / "link"):
        with pytest.raises(PackageRefused, match="has no signature"):
            PackageStore(path).open("scale", 1)
    alone = tmp_path / "alone"
    shutil.copytree(packages["strange"], alone)
    trust.add(alone, "self", OTHER.public)
    with pytest.raises(PackageRefused, match="lies in no folder of packages"):
        open_store(alone, require_signature=True).open("scale", 1)
    (tmp_path / "x.tflite").write_bytes(b"x")
    with pytest.raises(InvalidConfig, match="a bare file, which has none"):
        open_store(tmp_path / "x.tflite", require_signature=True)


@pytest.mark.parametrize("key", [None, KEY])
def test_no_manifest_says_that_a_package_lies_elsewhere(root, packages, tmp_path, key):
    """Unsigned it is refused by its place, whatever it calls itself; signed it is not what the place says."""
    install(packages["signed"], root, trial=None)
    place = root / "scale" / "1"
    (tmp_path / "link").symlink_to(place)
    other = publish_scale(tmp_path / "other", 1, 1.0, model="another", key=key)
    shutil.rmtree(place)
    shutil.copytree(other.path, place)
    for path in (place, tmp_path / "link"):
        for demanded in (False, True):
            store = PackageStore(path, require_signature=demanded)
            says = "has no signature" if key is None else r"scale/1 holds another/1"
            with pytest.raises(PackageRefused, match=says):
                store.open("another", 1)
    trust.require(root, required=False)
    assert PackageStore(place).open("another", 1)


def test_no_bare_file_is_run_out_of_a_store_that_demands_signatures(root, packages, tmp_path):
    """By its own path and by a link; a store that demands none runs what it has."""
    install(packages["signed"], root, trial=None)
    (file,) = (root / "scale" / "1").rglob("*.tflite")
    (tmp_path / "link.tflite").symlink_to(file)
    for path in (file, tmp_path / "link.tflite"):
        with (
            Runtime.open(path, cache=None, poll_interval_s=3600.0) as runtime,
            pytest.raises((PackageRefused, VersionNotAvailable), match="a bare file, which nobody vouches for"),
        ):
            runtime.model()
    trust.require(root, required=False)
    with Runtime.open(file, cache=None, poll_interval_s=3600.0) as runtime:
        assert runtime.model()


def test_without_the_library_nothing_is_believed(root, packages, monkeypatch):
    """Installing and loading are refused with what to install; where nothing is demanded it is not missed."""
    install(packages["signed"], root, trial=None)
    for name in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(PackageRefused, match=r"edge-runtime\[signed\]"):
        Store(root).open("scale", 1)
    with pytest.raises(SigningUnavailable, match=r"edge-runtime\[signed\]"):
        install(packages["signed"], root, trial=never)
    trust.require(root, required=False)
    assert Store(root).open("scale", 1)


def test_a_runtime_loads_only_what_is_signed(root, packages):
    """The option or the store demands it; a version without is passed over as one that is damaged is."""
    install(packages["signed"], root, trial=None)
    with Runtime.open(root, cache=None, poll_interval_s=3600.0, require_signature=True) as runtime:
        assert runtime.model("scale").predict({"x": rows(1)}).outputs["y"].tolist() == rows(1).tolist()
    (root / "scale" / "1" / "manifest.sig").write_bytes(Package.open(packages["strange"]).signed)
    with (
        Runtime.open(root, cache=None, poll_interval_s=3600.0) as runtime,
        pytest.raises((PackageRefused, VersionNotAvailable), match="which is not trusted"),
    ):
        runtime.model("scale")


def fetched(root, *sources):
    """What a fetcher has of these servers after a turn."""
    stand = Stand(root, *(sender.address for sender in sources))
    stand.step()
    return stand


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_else_is_fetched(root, packages, caplog, name):
    """A server that lacks the right signature sends a manifest at most; the log says why, and what is trusted."""
    with sending(Package.open(packages[name])) as sender:
        stand = fetched(root, sender)
        assert {path for path, _ in sender.asked} <= {"manifest.json", "manifest.sig"}
    assert stand.versions == []
    assert len(stand.come) <= 1  # The manifest, for the next server; no signature that was refused.
    said = " ".join(one.getMessage() for one in caplog.records)
    assert f"plant-4 ({KEY.public.id})" in said
    assert name != "bare" or not sender.asked


def test_a_server_with_a_wrong_signature_spoils_nothing(root, packages):
    """The same package comes from the next one, which has the right one; what had come of it is not sent again."""
    with sending(Package.open(packages["moved"])) as bad, sending(Package.open(packages["signed"])) as good:
        stand = fetched(root, bad)
        assert stand.versions == []
        stand.servers.addresses = (good.address,)
        stand.clock.advance(60)
        stand.step()
        assert stand.versions == [1]
        assert [path for path, _ in good.asked] == ["manifest.sig", "variants/float32.tflite"]
    assert stand.store.open("scale", 1).signed == Package.open(packages["signed"]).signed
    assert not list(root.glob(".fetching/*"))


def test_a_signature_is_fetched_with_its_package_where_nobody_demands_it(tmp_path, packages):
    """So that it is there when it is demanded; a server without one brings none."""
    for name, signed in (("signed", Package.open(packages["signed"]).signed), ("bare", None)):
        with sending(Package.open(packages[name])) as sender:
            stand = fetched(tmp_path / f"store-{name}", sender)
        assert stand.store.open("scale", 1).signed == signed


def test_with_no_key_nothing_is_asked_for(tmp_path, packages):
    """Whatever a server has could not be believed."""
    trust.require(tmp_path / "store", required=True)
    with sending(Package.open(packages["signed"])) as sender:
        stand = fetched(tmp_path / "store", sender)
        assert (stand.versions, sender.asked) == ([], [])
