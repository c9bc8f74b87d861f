"""The programs of docs/from-pycoral.md, run as they stand there."""

import ast
import re
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import edge_delegates
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

    def run(name, content, labels, frames=1):
        if frames > 1:
            film = [Image.fromarray(pixels)] * frames
            film[0].save(tmp_path / "film.tiff", save_all=True, append_images=film[1:])
        (tmp_path / "model.tflite").write_bytes(content)
        (tmp_path / "labels.txt").write_text(labels)
        (tmp_path / name).write_text(PROGRAMS[name])
        files = [
            str(tmp_path / file)
            for file in ("model.tflite", "labels.txt", "film.tiff" if frames > 1 else "picture.png")
        ]
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


@pytest.fixture
def opencv(monkeypatch):
    """OpenCV, which reads a picture as a film of one frame; or what stands in for it where it is not installed."""
    if find_spec("cv2") is None:
        monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "support" / "opencv"))
        monkeypatch.delitem(sys.modules, "cv2", raising=False)


def test_the_detector_with_a_camera(run, opencv):
    """The same, frame by frame."""
    (line,) = run("detect_camera.py", colours_detector(), "green\nblue\n")
    assert re.fullmatch(r"green 0\.\d\d \(100, 0, 200, 50\)", line)


@pytest.mark.slow
@pytest.mark.skipif(edge_delegates.COMPILER is None, reason="no C compiler to build a delegate's library with")
def test_a_frame_that_fails_ends_no_film(run, opencv, tmp_path, monkeypatch):
    """A compiled file on the one stick, which fails at the second frame: the third is answered."""
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "before_frame"):
        pytest.skip("the real OpenCV can't be told when to break the stick")
    edge_delegates.build_edgetpu(tmp_path)
    broken = tmp_path / "broken"
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("FAKE_EDGETPU", edge_delegates.environment(when_file=broken, fail_at=1))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cv2, "before_frame", [lambda number: broken.touch() if number == 1 else None])
    lines = run("detect_camera.py", colours_detector(compiled=True), "green\nblue\n", frames=3)
    assert len(lines) == 2
    assert all(line.startswith("green 0.") for line in lines)


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
