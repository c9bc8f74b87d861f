"""The programs of docs/from-pycoral.md, run as they stand there."""

import ast
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.picture_models import brightest_model, colours_detector

import devices
import edge_runtime.tasks
from edge_runtime import Model, Runtime

GUIDE = (Path(__file__).parents[2] / "docs" / "from-pycoral.md").read_text("utf-8")
PROGRAMS = dict(re.findall(r"<!-- run: (\S+) -->\n```python\n(.*?)```", GUIDE, re.DOTALL))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a program of the guide on a model, labels and a picture of 200 x 100, green in its upper right quarter."""
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:50, 100:, 1] = 192
    Image.fromarray(pixels).save(tmp_path / "picture.png")

    def run(name, content, labels):
        (tmp_path / "model.tflite").write_bytes(content)
        (tmp_path / "labels.txt").write_text(labels)
        (tmp_path / name).write_text(PROGRAMS[name])
        files = [str(tmp_path / file) for file in ("model.tflite", "labels.txt", "picture.png")]
        monkeypatch.setattr(sys, "argv", [name, *files])
        runpy.run_path(str(tmp_path / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run


def test_the_classifier(run):
    """A bare uint8 file without signatures: the best classes with their labels, and where they were found."""
    # The classes are the channels of the four pixels: green of the second is 4.
    best, *_, place = run("classify_image.py", brightest_model(2, 3), "4 upper right green\n")
    label, score = best.split(": ")
    assert label == "upper right green"
    assert 0.4 < float(score) <= 0.75
    assert place.endswith("ms on device:cpu")


def test_the_detector(run):
    """A detector's file with the real operator: the box is in the picture's pixels."""
    (line,) = run("detect_image.py", colours_detector(), "green\nblue\n")
    assert re.fullmatch(r"green 0\.\d\d \(100, 0, 200, 50\)", line)


def test_the_detector_with_a_camera(run):
    """The same through OpenCV, which reads a picture as a film of one frame."""
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    (line,) = run("detect_camera.py", colours_detector(), "green\nblue\n")
    assert re.fullmatch(r"green 0\.\d\d \(100, 0, 200, 50\)", line)


def test_every_program_is_valid():
    """Also that which can't be run here; and the guide has the three."""
    assert sorted(PROGRAMS) == ["classify_image.py", "detect_camera.py", "detect_image.py"]
    for program in (*PROGRAMS.values(), *re.findall(r"```py\n(.*?)```", GUIDE, re.DOTALL)):
        ast.parse(program)


def test_what_the_table_names_is_there():
    """Every function and form that it offers."""
    for name in ("classify", "detect", "segment", "read_labels", "BBox", "Class", "Object", "Postprocessed"):
        assert name in GUIDE
        assert hasattr(edge_runtime.tasks, name)
    assert callable(devices.find_edge_tpus)
    assert all(hasattr(Model, name) for name in ("signature", "predict", "predict_many"))
    assert hasattr(Runtime, "model")
