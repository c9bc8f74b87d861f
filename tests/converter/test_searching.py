import json

import numpy as np
import pytest
from support import converter_models, outlier_net

from converter.artifact import Package, installed
from converter.cli import main
from converter.config import Budget
from converter.errors import NothingFits
from converter.findings import FINDINGS_FILE, decode

pytestmark = pytest.mark.slow

CHANNELS = 96
"""Enough weights for a file that is more than its headers."""

BUDGET = Budget(points=3.0)


@pytest.fixture(scope="module")
def loud(server, tmp_path_factory):
    """A net that plain int8 ruins, and real samples for it."""
    folder = tmp_path_factory.mktemp("loud")
    server.run(outlier_net.build, 120.0, folder / "model", CHANNELS)
    np.savez(folder / "train.npz", image=converter_models.images(60, seed=1))
    np.savez(folder / "test.npz", image=converter_models.images(60, seed=2))
    return folder


def given(loud):
    return {
        "saved_model": loud / "model",
        "calibration": loud / "train.npz",
        "evaluation": loud / "test.npz",
        "variants": (),
        "budget": BUDGET,
    }


def by_name(result):
    return {one.name: one for one in result.variants}


def test_where_int8_loses_too_much_a_mixed_variant_is_searched(convert, loud, tmp_path):
    """It is within the budget, and the package says which layers were kept in float."""
    steps = []
    result = convert("loud", tmp_path, **given(loud), progress=steps.append)
    variants = by_name(result)
    package = Package.open(result.package)
    findings = decode(package.read(FINDINGS_FILE))
    loss = {name: one.outputs["features"].loss_points for name, one in findings.variants.items()}
    assert loss["int8"] > BUDGET.points
    assert loss["mixed"] <= BUDGET.points
    assert variants["mixed"].size_bytes < variants["float32"].size_bytes
    layers = findings.variants["mixed"].layers
    assert 0 < sum(one.kept_float for one in layers) < len(layers)
    assert any("mixed: tried" in step.text for step in steps)


def test_mixed_is_chosen_where_it_is_the_smallest_that_fits(convert, loud, tmp_path):
    """Asked for by name, beside the two between which it lies."""
    result = convert("loud", tmp_path, **{**given(loud), "variants": ("float32", "int8", "mixed")})
    assert [one.name for one in result.variants] == ["float32", "int8", "mixed"]
    assert result.chosen == {"default": "mixed"}


def test_without_time_there_is_no_search(convert, loud, tmp_path):
    """What fits among the plain variants is chosen then."""
    result = convert("loud", tmp_path, **given(loud), search_time_s=0.0)
    assert "mixed" not in by_name(result)
    assert result.chosen["default"] in ("float16", "int16x8")


def test_an_edge_tpu_for_which_nothing_fits_publishes_nothing(convert, loud, tmp_path):
    """It takes full int8 only: the error says what came closest, and the report is there nevertheless."""
    options = {**given(loud), "targets": ("coral-usb",), "report": True, "search_time_s": 0.0}
    with pytest.raises(
        NothingFits, match=r"coral-usb: nothing is within the budget of 3 points; int8 comes closest.*rejected\.html"
    ) as caught:
        convert("loud", tmp_path, **options)
    assert caught.value.result.report == str(tmp_path / "loud-1.rejected.html")
    assert installed(tmp_path) == {}
    assert [one.name for one in tmp_path.iterdir()] == ["loud-1.rejected.html"]
    assert "nothing was published" in (tmp_path / "loud-1.rejected.html").read_text().lower()


def test_where_nothing_fits_the_package_that_is_there_keeps_its_report(convert, loud, tmp_path):
    """What was refused has a report of its own, which goes when a package is published."""
    plain = {**given(loud), "variants": ("float32",), "budget": None, "report": True}
    convert("loud", tmp_path, **plain)
    before = (tmp_path / "loud-1.html").read_bytes(), (tmp_path / "loud-1.tar.gz").read_bytes()
    with pytest.raises(NothingFits):
        convert("loud", tmp_path, **{**plain, "budget": BUDGET, "targets": ("coral-usb",), "replace": True})
    assert ((tmp_path / "loud-1.html").read_bytes(), (tmp_path / "loud-1.tar.gz").read_bytes()) == before
    assert (tmp_path / "loud-1.rejected.html").is_file()
    convert("loud", tmp_path, **plain, replace=True)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["loud", "loud-1.html", "loud-1.tar.gz"]


def test_a_package_is_the_same_with_a_report_and_without(convert, loud, tmp_path):
    """The report alone has the layers' errors, where no search needed them; the archive's bytes are the same."""
    options = {**given(loud), "variants": ("float32", "int8"), "budget": None}
    convert("loud", tmp_path / "with", **options, report=True)
    convert("loud", tmp_path / "without", **options)
    first, second = ((tmp_path / name / "loud-1.tar.gz").read_bytes() for name in ("with", "without"))
    assert first == second
    assert "Error of each layer of int8" in (tmp_path / "with" / "loud-1.html").read_text()


def test_the_command_ends_with_3_and_says_what_came_closest(loud, tmp_path, capsys):
    """JSON on stdout with the package null; without `--json` the table is on stderr."""
    words = [str(loud / "model"), "--name", "loud", "--version", "1", "--output", str(tmp_path), "--no-latency"]
    words += ["--calibration", str(loud / "train.npz"), "--evaluation", str(loud / "test.npz"), "--variant", "int8"]
    words += ["--max-accuracy-drop", "3"]
    assert main([*words, "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["package"], found["chosen"], found["variants"][0]["status"]) == (None, {}, "ok")
    assert main(words) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "int8 comes closest" in err.splitlines()[-1]


def test_mixed_that_is_asked_for_without_data_is_refused_by_name(convert, loud, tmp_path):
    """The reason is in the result."""
    options = {**given(loud), "evaluation": None, "variants": ("float32", "mixed"), "budget": None}
    result = convert("loud", tmp_path, **options)
    assert by_name(result)["mixed"].status == "refused"
    assert "no evaluation data" in by_name(result)["mixed"].error
