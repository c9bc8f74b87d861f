import json

import numpy as np
import pytest
from support.edge_models import publish_scale, rows

from converter.artifact import InputPreprocess, Preprocess, archive_path
from edge_runtime.cli import main


@pytest.fixture
def packages(tmp_path):
    root = tmp_path / "packages"
    publish_scale(
        root, 1, 2.0, labels=("a", "b", "c", "d"), preprocess=Preprocess(inputs={"x": InputPreprocess(scale=0.5)})
    )
    return root


def test_install_list_label(packages, tmp_path, capsys):
    """An archive is installed, listed, and a label pointed to it."""
    store = tmp_path / "store"
    assert main(["install", str(archive_path(packages, "scale", 1)), "--store", str(store)]) == 0
    assert main(["label", str(store), "scale", "stable", "1"]) == 0
    assert main(["list", str(store)]) == 0
    assert "scale: 1  (stable -> 1)" in capsys.readouterr().out
    assert main(["list", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"scale": {"versions": [1], "labels": {"stable": 1}}}


def test_predict_shows_labels(packages, tmp_path, capsys):
    """A prediction from a file prints version, place and the labels of the best classes."""
    np.save(tmp_path / "x.npy", rows(2))
    assert main(["predict", str(packages), "scale", str(tmp_path / "x.npy")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("version 1, device:cpu (local)")
    assert "d 6.0000  c 4.0000" in out


def test_predict_raw_and_json(packages, tmp_path, capsys):
    """Raw values go through the package's preprocessing, and --json holds every output value."""
    np.savez(tmp_path / "x.npz", x=np.full((1, 4), 6, np.uint8))
    assert main(["predict", str(packages), "scale", str(tmp_path / "x.npz"), "--raw", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == {"y": [[6.0] * 4]}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["predict", "{packages}", "scale", "{x}", "--version", "9"], 1, "version 9 is not available"),
        (["predict", "{packages}", "other", "{x}"], 1, "'other'"),
        (["predict", "{packages}", "scale", "{packages}/none.npy"], 2, "can't be read"),
        (["predict", "{packages}/none", "scale", "{x}"], 2, "no such directory"),
        (["install", "{packages}/none.tar.gz", "--store", "{packages}"], 2, "no such file"),
        (["install", "{x}", "--store", "{packages}"], 2, "no .tar.gz"),
        (["install", "{packages}/scale/1", "--store", "{packages}"], 2, "already there"),
        (["label", "{packages}", "scale", "stable", "4"], 2, "not installed"),
    ],
)
def test_failures_are_one_line_with_an_exit_code(packages, tmp_path, capsys, arguments, code, said):
    """What can't be done is one clear line on stderr and an exit code, never a traceback."""
    x = tmp_path / "x.npy"
    np.save(x, rows(1))
    assert main([one.format(packages=packages, x=x) for one in arguments]) == code
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
