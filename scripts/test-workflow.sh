#!/usr/bin/env bash
# Executes the workflow of docs/ci.md step by step, on a machine that has nothing but Debian, a compiler and git: a root of its own, made
# by debootstrap, with the packages of Swift's container image and this machine's toolchain. Needs root. Takes about five minutes.
#
# OPLORA names the program that makes the models that are verified, without it .build/release/oplora; the workflow builds its own.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${OPLORA_WORKFLOW_ROOT:-}" ]; then
    [ "$(id -u)" = 0 ] || { echo "test-workflow.sh: a root of its own needs root" >&2; exit 1; }
    command -v debootstrap >/dev/null || { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes debootstrap >/dev/null; }
    work=$(mktemp -d)
    # What is mounted below is mounted for the inner script alone: here the folders are empty, and removing them removes nothing else.
    trap 'rm -rf --one-file-system "$work"' EXIT
    OPLORA_WORKFLOW_ROOT=$work/root unshare --mount --propagation private "$0" "$@"
    exit
fi
root=$OPLORA_WORKFLOW_ROOT
venv=$(OPLORA_VENV=${OPLORA_REPORTS_VENV:-$HOME/.cache/oplora/venv-reports} scripts/make-venv.sh Tests/interop/requirements-reports.txt)

packages=binutils,ca-certificates,gcc,git,libcurl4-openssl-dev,libedit-dev,libicu-dev,libncurses-dev,libpython3-dev,libsqlite3-dev
packages+=,libstdc++-12-dev,libxml2-dev,pkg-config,tzdata,uuid-dev
debootstrap --variant=minbase --include=$packages bookworm "$root" >"$root.log" 2>&1 || { tail "$root.log" >&2; exit 1; }
cp /etc/resolv.conf "$root/etc/resolv.conf"
[ ! -f /etc/ssl/certs/ca-certificates.crt ] || cat /etc/ssl/certs/ca-certificates.crt >"$root/etc/ssl/certs/ca-certificates.crt"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
# The toolchain, and the folders that git takes in the place of other hosts here.
toolchain=$(dirname "$(dirname "$(readlink -f "$(command -v swift)")")")
folders=("$toolchain")
while read -r key value; do
    folder=${key#url.}
    folder=${folder%.insteadof}
    if [ -d "$folder" ]; then
        git config --file "$root/root/.gitconfig" --add "$key" "$value"
        [[ " ${folders[*]} " = *" $folder "* ]] || folders+=("$folder")
    fi
done < <(git config --get-regexp '^url\..*\.insteadof$' || true)
for folder in "${folders[@]}"; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
    mount -o remount,ro,bind "$root$folder"
done
git config --file "$root/root/.gitconfig" --add safe.directory '*'
git clone --quiet . "$root/oplora"
echo "a clean machine: $(chroot "$root" dpkg --list | grep -c '^ii') packages, $(chroot "$root" "$toolchain/bin/swift" --version 2>&1 | head -n 1)"
"$venv/bin/python" Tests/workflow/test_workflow.py --oplora "${OPLORA:-.build/release/oplora}" --root "$root" --toolchain "$toolchain/bin" "$@"
