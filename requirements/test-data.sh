#!/bin/sh
# What some tests look at, and not every system has:
#   - wheels of wake-word models, and of a voice that says them;
#   - Fashion-MNIST, out of the system's package registry (Debian, Ubuntu), unpacked without installing anything;
#   - a browser for the report, which only root can install;
#   - a GPU in software;
#   - an environment of its own for tflite-runtime, which has wheels up to Python 3.11;
#   - another for clients of other servers, which hold libraries to other versions than ours;
#   - and one for schemathesis, which brings libraries that nothing else needs.
# What can't be had is said and passed over: the tests that need it are skipped then.
set -eu
cd "$(dirname "$0")/.."

wake_words() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
        --only-binary :all: -r requirements/models-native.txt
}

clothes() {
    target=.venv/share/fashion-mnist
    [ -d /usr/share/datasets/fashion-mnist ] || [ -d "$target" ] && return
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    staging=$(mktemp -d)
    (
        cd "$staging"
        apt-get download -qq dataset-fashion-mnist || { apt-get update -qq && apt-get download -qq dataset-fashion-mnist; }
        dpkg-deb -x ./*.deb tree
    ) >/dev/null 2>&1 || { rm -rf "$staging"; return 1; }
    mkdir -p .venv/share
    mv "$staging/tree/usr/share/datasets/fashion-mnist" "$target"
    rm -rf "$staging"
}

browser() {
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null && return
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -qq --no-install-recommends chromium >/dev/null 2>&1 && return
    apt-get update -qq && apt-get install -qq --no-install-recommends chromium >/dev/null 2>&1
}

environment() {
    target=.venv/share/$1
    cmp -s "requirements/$1.txt" "$target/.made-of" && return
    rm -rf "$target"
    .venv/bin/python -m venv "$target" &&
        "$target/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
            -r "requirements/$1.txt" &&
        cp "requirements/$1.txt" "$target/.made-of"
}

old_interpreter() {
    .venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] > (3, 11))' && environment tflite-runtime
}

wake_words || echo "no wake words, or no voice, for this system: tests of models with a state are skipped" >&2
clothes || echo "no Fashion-MNIST (apt install dataset-fashion-mnist): tests that train on it are skipped" >&2
browser || echo "no browser (apt install chromium): tests that look at the report are skipped" >&2
devices/fetch-swiftshader.sh >/dev/null || echo "no GPU in software: tests that run on one are skipped" >&2
old_interpreter || echo "no tflite-runtime for this Python: tests with it are skipped" >&2
environment schemathesis || echo "no schemathesis: REST is not held against its OpenAPI document" >&2
environment clients || echo "no tritonclient and ovmsclient: tests that call the server with them are skipped" >&2
