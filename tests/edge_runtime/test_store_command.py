import json
import shutil

import pytest
from support.edge_models import publish_scale

from converter.artifact import Package, PackageNotFound
from edge_runtime.cli import EXIT_BAD_INPUT, EXIT_DONE, main


@pytest.fixture
def store(tmp_path):
    for version in (1, 2):
        publish_scale(tmp_path / "store", version, float(version))
    publish_scale(tmp_path / "store", 1, 5.0, model="other")
    return tmp_path / "store"


def run(*arguments):
    return main([str(one) for one in arguments])


def test_damaged_labels_are_told_of_beside_what_is_installed(store, capsys):
    """As text and as JSON; the quota is set and shown, and `use` has the labels begin anew."""
    assert run("use", "other", 1, "--store", store) == EXIT_DONE
    (store / "scale" / "labels.json").write_text("{")
    assert run("list", store) == EXIT_DONE
    said = capsys.readouterr().out
    assert said.count("scale: its labels can't be read: ") == 1
    assert all(name in said for name in ("scale/1", "scale/2", "other/1"))
    assert run("list", store, "--json") == EXIT_DONE
    found = json.loads(capsys.readouterr().out)
    assert "labels.json" in found["scale"]["labels_damage"]
    assert found["other"]["labels"] == {"stable": 1}
    assert run("quota", "100MB", "--store", store) == EXIT_DONE
    assert "the quota is" in capsys.readouterr().out
    assert run("use", "scale", 1, "--store", store) == EXIT_DONE
    assert run("list", store) == EXIT_DONE
    assert "can't be read" not in capsys.readouterr().out


def test_a_label_goes_to_no_version_that_can_not_be_loaded(store, capsys):
    """Neither by `use` nor by `rollback`: to a damaged one, or to one that lies at another one's place."""
    assert [run("use", "scale", version, "--store", store) for version in (1, 2)] == [EXIT_DONE] * 2
    shutil.copytree(store / "scale" / "2", store / "scale" / "5")
    file = store / "scale" / "1" / "variants" / "float32.tflite"
    file.write_bytes(bytes(file.stat().st_size))
    capsys.readouterr()
    refusals = [
        (["use", "scale", 1], "scale/1: "),
        (["rollback", "scale"], "scale/1: "),
        (["use", "scale", 5], "scale/5 holds scale/2, not scale/5"),
    ]
    for arguments, said in refusals:
        assert run(*arguments, "--store", store) == EXIT_BAD_INPUT
        assert said in capsys.readouterr().err
    assert json.loads((store / "scale" / "labels.json").read_text()) == {"stable": 2}
    assert run("list", store) == EXIT_DONE
    assert "scale/5 holds scale/2)" in capsys.readouterr().out


@pytest.mark.parametrize("replaced", [False, True])
def test_what_goes_while_it_is_looked_at_is_not_called_damaged(store, capsys, monkeypatch, replaced):
    """A version that is just being removed is none, and one that is just being replaced is looked at again."""
    plain = Package.open

    def opening(path, **options):
        monkeypatch.setattr(Package, "open", plain)
        shutil.copytree(path, path.with_name("copy"))
        path.rename(path.with_name(".removing-1"))
        if replaced:
            with pytest.raises(PackageNotFound):
                plain(path, **options)
            path.with_name("copy").rename(path)
            raise PackageNotFound
        return plain(path, **options)

    monkeypatch.setattr(Package, "open", opening)
    assert run("list", store, "--json") == EXIT_DONE
    found = json.loads(capsys.readouterr().out)
    assert ("other" in found) == replaced
    assert not [one for model in found.values() for one in model["details"].values() if one["damage"]]


def test_a_quota_is_not_set_where_it_can_not_be_shown(store, capsys):
    """What is refused has changed nothing."""
    (store / ".quota.json").write_text('{"bytes": 5}')
    assert run("quota", "0", "--store", store) == EXIT_BAD_INPUT
    assert (store / ".quota.json").read_text() == '{"bytes": 5}'
    assert "quota: " in capsys.readouterr().err
