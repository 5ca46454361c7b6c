#!/usr/bin/env bash
# Names a build of oplora by what it is made of, or makes it.
#
#     build.sh name     writes `folder` and `key` to $GITHUB_OUTPUT
#     build.sh build    builds the program into that folder
set -euo pipefail
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
folder=${RUNNER_TOOL_CACHE:-$HOME/.cache}/oplora-action

case ${1:-} in
name)
    # The compiler, the C library that is linked, and all that is compiled.
    sources=$(cd "$source" && find Package.swift Sources scripts/install-dependencies.sh -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c 1-24)
    compiler=$( (swift --version 2>&1; getconf GNU_LIBC_VERSION 2>/dev/null || true; uname -sm) | sha256sum | cut -c 1-12)
    {
        echo "folder=$folder"
        echo "key=oplora-$compiler-$sources"
    } >>"$GITHUB_OUTPUT"
    ;;
build)
    cd "$source"
    # A container with Swift has no make.
    scripts/install-dependencies.sh
    swift build -c release --static-swift-stdlib --product oplora
    mkdir -p "$folder"
    cp .build/release/oplora "$folder/oplora"
    ;;
*)
    echo "build.sh: name or build" >&2
    exit 64
    ;;
esac
