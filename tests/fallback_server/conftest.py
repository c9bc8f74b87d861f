import pytest
from support import fallback_models


@pytest.fixture(scope="session")
def models(tensorflow, tmp_path_factory):
    """A folder of tiny SavedModels: see `support/fallback_models.py`."""
    output = tmp_path_factory.mktemp("models")
    tensorflow.run(fallback_models.write_all, 200.0, output)
    return output
