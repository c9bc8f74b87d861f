"""The entry point that docs/operating.md gives to those who come from TensorFlow Serving's container."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from fallback_server.flags import parse

OPERATING = (Path(__file__).parents[2] / "docs" / "operating.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("variables", "words", "expected"),
    [
        ({}, [], {"model_name": "model", "model_base_path": "/models/model"}),
        (
            {"MODEL_NAME": "a", "MODEL_BASE_PATH": "/srv"},
            ["--port=9"],
            {"model_name": "a", "model_base_path": "/srv/a", "port": 9},
        ),
        ({"MODEL_NAME": "a"}, ["--model_config_file=/models/m.config"], {"model_config_file": "/models/m.config"}),
        ({"MODEL_NAME": "a"}, ["--model_config_file", "/m"], {"model_config_file": "/m"}),
        ({}, ["--tls_dir=/tls", "--config=/server.toml"], {"config": "/server.toml", "tls_dir": "/tls"}),
        ({}, ["--port=9", "--config=/server.toml"], {"config": "/server.toml", "port": 9}),
    ],
)
def test_the_entry_point_gives_flags_that_are_taken(tmp_path, variables, words, expected):
    """Those of the variables, unless the models are listed elsewhere; what comes after the image's name wins."""
    script = tmp_path / "entry.sh"
    script.write_text(re.search(r"```sh\n(#!/bin/sh\n.*?)```", OPERATING, re.DOTALL)[1])
    server = tmp_path / "fallback-server"
    server.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    server.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **variables}
    done = subprocess.run(
        ["sh", script, *words], env=environment, capture_output=True, text=True, timeout=30, check=True
    )
    parsed = parse(done.stdout.splitlines())
    assert parsed.faults == parsed.arguments == ()
    always = {"host": "0.0.0.0", "port": 8500, "rest_api_port": 8501}
    assert parsed.values == {**always, **({} if "tls_dir" in expected else {"insecure": True}), **expected}
