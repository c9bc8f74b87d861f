#!/bin/sh
# Rewrites the lock files from pyproject.toml: exact versions, hashes for every platform, no index addresses.
# Run by `make lock`, where uv is on PATH; UV=/path/to/uv names another.
set -eu
cd "$(dirname "$0")/.."
lock() {
    output=$1
    shift
    "${UV:-uv}" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --override requirements/overrides.txt --output-file "$output" "$@"
}
lock requirements/device.txt pyproject.toml
lock requirements/all.txt --all-extras --constraint requirements/device.txt pyproject.toml requirements/test-extra.in
# tflite-runtime has wheels up to Python 3.11 only, and needs numpy 1.
"${UV:-uv}" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
    --output-file requirements/tflite-runtime.txt requirements/tflite-runtime.in
# Nor do other people's clients agree with our versions.
"${UV:-uv}" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
    --output-file requirements/clients.txt requirements/clients.in
# What tests and fuzzers need and nothing else does; atheris has another version for each Python.
for name in schemathesis fuzz; do
    "${UV:-uv}" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --output-file requirements/$name.txt requirements/$name.in
done
# Nor do the servers that ours is measured beside.
"${UV:-uv}" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
    --override requirements/peers-overrides.txt --output-file requirements/peers.txt requirements/peers.in
# Nor does what audits them.
"${UV:-uv}" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
    --output-file requirements/audit.txt requirements/audit.in
