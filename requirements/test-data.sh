#!/bin/sh
# What the tests look at beside Python's packages, from the system's package registry (Debian, Ubuntu): Fashion-MNIST,
# unpacked into .venv/share without installing anything, and a browser for the report, which only root can install.
# What can't be had is said and passed over: the tests that need it are skipped then.
set -eu
cd "$(dirname "$0")/.."
share=.venv/share
data="$share/fashion-mnist"
if [ ! -d "$data" ] && [ ! -d /usr/share/datasets/fashion-mnist ]; then
    staging=$(mktemp -d)
    trap 'rm -rf "$staging"' EXIT
    if (cd "$staging" && (apt-get download -qq dataset-fashion-mnist || { apt-get update -qq && apt-get download -qq dataset-fashion-mnist; }) && dpkg-deb -x ./*.deb tree) >"$staging/log" 2>&1; then
        mkdir -p "$share"
        mv "$staging/tree/usr/share/datasets/fashion-mnist" "$data"
    else
        echo "Fashion-MNIST can't be had from the system's packages; tests that train on it are skipped" >&2
    fi
fi
if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "no chromium: tests that look at the report in a browser are skipped (apt install chromium)" >&2
    elif ! DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium >/dev/null 2>&1; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium >/dev/null 2>&1 ||
            echo "chromium can't be installed; tests that look at the report in a browser are skipped" >&2
    fi
fi
