#!/usr/bin/env bash
# Makes the Python environment of a requirements file, and prints its folder.
#
#     scripts/make-venv.sh [REQUIREMENTS]     without it Tests/interop/requirements.txt
#
# The folder is $OPLORA_VENV, or ~/.cache/oplora/venv; what is there already is not installed again. OPLORA_PYTHON names
# the Python to make it with (3.11 or newer); python3 without it.
set -euo pipefail
requirements=$(realpath "${1:-$(dirname "$0")/../Tests/interop/requirements.txt}")
venv=${OPLORA_VENV:-$HOME/.cache/oplora/venv}
python=${OPLORA_PYTHON:-python3}

is_complete() {
    "$venv/bin/python" - "$requirements" 2>/dev/null <<'PYTHON'
import os, sys
from importlib.metadata import version
from pip._vendor.packaging.requirements import Requirement

def check(path):
    for line in open(path):
        text = line.split("#")[0].strip()
        if text.startswith("-r "):
            check(os.path.join(os.path.dirname(path), text[3:]))
        elif text:
            requirement = Requirement(text)
            assert requirement.specifier.contains(version(requirement.name)), text

check(sys.argv[1])
PYTHON
}

if ! is_complete; then
    {
        if ! "$python" -c 'import ensurepip, venv'; then
            if [ "$(id -u)" != 0 ] || ! command -v apt-get; then
                echo "make-venv.sh: Python cannot make environments here; as root: apt-get install python3-venv"
                exit 1
            fi
            apt-get -qq update
            DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends python3-venv
        fi
        "$python" -m venv "$venv"
        # A local wheel of torch, where pip is set up to find one, is a CPU build and much smaller than the index's.
        if torch=$(grep '^torch' "$requirements"); then
            "$venv/bin/pip" install --quiet --no-index --no-deps "$torch" || true
        fi
        "$venv/bin/pip" install --quiet --requirement "$requirements"
    } >&2
    is_complete
fi
echo "$venv"
