#!/bin/sh
# A GPU in software, to run what is meant for one where there is none: SwiftShader and a Vulkan loader, three files
# out of Debian's chromium packages, unpacked without installing anything.
#
#   devices/fetch-swiftshader.sh [TARGET]     (.venv/share/swiftshader if none is given)
#
# Does nothing where TARGET already holds them. Exit codes: 0 they are there, 1 they can't be had.
set -eu

repository=$(cd "$(dirname "$0")/.." && pwd)
target=${1:-$repository/.venv/share/swiftshader}
files="libvk_swiftshader.so vk_swiftshader_icd.json libvulkan.so.1"

fail() {
    echo "fetch-swiftshader: $1" >&2
    exit 1
}

complete() {
    for file in $files; do
        [ -s "$target/$file" ] || return 1
    done
}

usage() {
    full=$(cd "$target" && pwd)
    echo "export LD_LIBRARY_PATH=$full VK_ICD_FILENAMES=$full/vk_swiftshader_icd.json"
}

# What apt checks the signature and digests of. Root's downloads go without apt's own user, who may not write here.
download() {
    apt-get download -qq -o APT::Sandbox::User="$(id -un)" "$1"
}

# The newer packages keep all three in chromium-common; others may part them.
gather() {
    cd "$staging"
    for package in chromium-common chromium libvulkan1; do
        download "$package" && dpkg-deb -x "$package"_*.deb tree && rm "$package"_*.deb
        missing=
        for file in $files; do
            # -L: libvulkan1 has a link of that name.
            [ -s "files/$file" ] || cp -L "$(find -L tree -name "$file" -type f | head -n 1)" files/ || missing="$missing $file"
        done
        [ -z "$missing" ] && return
    done
    echo "the packages hold no$missing"
    return 1
}

if complete; then
    usage
    exit
fi
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
    fail "apt-get and dpkg-deb are needed: the files come out of Debian's chromium packages"

mkdir -p "$(dirname "$target")" || fail "$target can't be made"
staging=$(mktemp -d "$(dirname "$target")/.swiftshader-XXXXXX") || fail "nothing can be written beside $target"
trap 'rm -rf "$staging"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$staging/files" "$staging/tree"
log=$staging/log
(gather) >"$log" 2>&1 ||
    { apt-get update -qq && (gather); } >>"$log" 2>&1 ||
    fail "$(tail -n 5 "$log")"

# Whole or not at all: two that fetch at once end with one complete folder.
chmod 755 "$staging/files"
complete || rm -rf "$target"
mv -T "$staging/files" "$target" 2>/dev/null || complete || fail "$target can't be made"
usage
