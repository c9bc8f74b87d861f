import pytest
from support import tflite_files


@pytest.fixture(scope="session")
def tflite(server, tmp_path_factory):
    """The folder of TFLite files."""
    return tflite_files.built(server, tmp_path_factory.getbasetemp())
