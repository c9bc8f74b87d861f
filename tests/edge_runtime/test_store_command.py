import json

import pytest
from support.edge_models import publish_scale

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


def test_a_quota_is_not_set_where_it_can_not_be_shown(store, capsys):
    """What is refused has changed nothing."""
    (store / ".quota.json").write_text('{"bytes": 5}')
    assert run("quota", "0", "--store", store) == EXIT_BAD_INPUT
    assert (store / ".quota.json").read_text() == '{"bytes": 5}'
    assert "quota: " in capsys.readouterr().err
