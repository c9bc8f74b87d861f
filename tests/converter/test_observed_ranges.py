import numpy as np
import pytest
from support import lowerings, residual_net

from converter.quantize import lower
from converter.recipes import recipe

pytestmark = pytest.mark.slow

LIMIT_S = 120.0


def test_a_residual_branch_has_its_own_range_and_not_the_sums(server, tmp_path):
    """Each range in the calibrated model is that of a plain run, though an ADD writes over what it adds."""
    server.run(residual_net.build, LIMIT_S, tmp_path / "model")
    task = lowerings.task(tmp_path / "model", recipe("int8"), tmp_path)
    server.run(lower, LIMIT_S, task)
    found = server.run(residual_net.ranges, LIMIT_S, task.calibrated_file)
    images = np.load(task.calibration.files["image"])
    real = server.run(residual_net.real_ranges, LIMIT_S, task.float_file, images)
    assert any("Conv2D" in name for name in found)
    for name, bounds in found.items():
        assert bounds == pytest.approx(real[name], rel=1e-5, abs=1e-5), name


def test_a_residual_net_loses_less_than_with_plain_tensorflow(server, tmp_path):
    """On the same samples, against the float file."""
    server.run(residual_net.build, LIMIT_S, tmp_path / "model")
    task = lowerings.task(tmp_path / "model", recipe("int8-float-io"), tmp_path)
    server.run(lower, LIMIT_S, task)
    data = task.calibration.files["image"]
    images = np.load(data)
    server.run(lowerings.plain_conversion, LIMIT_S, tmp_path / "model", tmp_path / "plain", "int8-float-io", data)
    files = {"float": task.float_file, "ours": task.file, "plain": tmp_path / "plain"}
    answers = {
        kind: server.run(lowerings.answers, LIMIT_S, file, "scores", {"image": images}) for kind, file in files.items()
    }
    error = {kind: float(np.square(found - answers["float"]).mean()) ** 0.5 for kind, found in answers.items()}
    assert error["ours"] < 0.25 * error["plain"]
