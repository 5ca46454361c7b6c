#!/usr/bin/env bash
# Installs the system libraries that the build needs, where they are missing and this user may; otherwise says in one
# sentence what to run.
set -euo pipefail

packages=()
need() { [ -e "$1" ] || packages+=("$2"); }
need /usr/include/zlib.h libz-dev
need /usr/include/json-c/json.h libjson-c-dev
need /usr/include/oneapi/dnnl/dnnl.h libdnnl-dev
need /usr/include/openssl/evp.h libssl-dev
command -v python3 > /dev/null || packages+=(python3)

[ ${#packages[@]} -eq 0 ] && exit 0
command="apt-get install -y ${packages[*]}"
if [ "$(id -u)" -eq 0 ] && command -v apt-get > /dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${packages[@]}" > /dev/null
else
    echo "oplora needs libraries that are not installed: run 'sudo $command' and try again" >&2
    exit 1
fi
