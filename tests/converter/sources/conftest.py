import pytest
from support import source_models


@pytest.fixture(scope="session")
def sources(server, tmp_path_factory):
    """The folder of models of every kind."""
    folder = tmp_path_factory.mktemp("sources")
    server.run(source_models.build_all, 240.0, folder)
    return folder
