"""Whether TensorFlow is imported before the first load."""

import pytest

from fallback_server.config import SourceOptions
from fallback_server.core.model_config import ModelConfig
from fallback_server.first_look import may_need_tensorflow


@pytest.mark.parametrize(
    ("files", "needs"),
    [
        (["1/saved_model.pb"], True),
        (["1/saved_model.pbtxt"], True),
        (["1.tar.zst"], True),
        (["1/model.tflite"], False),
        (["1/model.py"], False),
        (["1/manifest.json"], False),
        (["1/model.tflite", "2/saved_model.pb"], True),
        (["notes.txt"], True),
    ],
)
def test_it_is_unless_all_that_stands_there_is_of_other_kinds(tmp_path, files, needs):
    """In a repository, and below a base path; where nothing is yet, a SavedModel may come."""
    base_path = tmp_path / "models" / "m"
    for file in files:
        (base_path / file).parent.mkdir(parents=True, exist_ok=True)
        (base_path / file).touch()
    assert may_need_tensorflow(SourceOptions(repository=tmp_path / "models")) == needs
    assert may_need_tensorflow(SourceOptions(configs=(ModelConfig(name="m", base_path=base_path),))) == needs
    gone = ModelConfig(name="m", base_path=tmp_path / "gone")
    assert may_need_tensorflow(SourceOptions(configs=(gone,)))
