#!/usr/bin/env bash
# Makes the Python environment of the interoperability tests and benchmarks, and prints its folder.
#
# It is $OPLORA_VENV, or ~/.cache/oplora/venv, and is left alone when everything in Tests/interop/requirements.txt is
# there. OPLORA_PYTHON names the Python to make it with (3.11 or newer); python3 without it.
set -euo pipefail
requirements=$(cd "$(dirname "$0")/.." && pwd)/Tests/interop/requirements.txt
venv=${OPLORA_VENV:-$HOME/.cache/oplora/venv}

is_complete() {
    "$venv/bin/python" - "$requirements" 2>/dev/null <<'PYTHON'
import sys
from importlib.metadata import version
from pip._vendor.packaging.requirements import Requirement
for line in open(sys.argv[1]):
    if text := line.split("#")[0].strip():
        requirement = Requirement(text)
        assert requirement.specifier.contains(version(requirement.name)), text
PYTHON
}

if ! is_complete; then
    {
        "${OPLORA_PYTHON:-python3}" -m venv "$venv"
        # A local wheel of torch, where pip is set up to find one, is a CPU build and much smaller than the index's.
        "$venv/bin/pip" install --quiet --no-index --no-deps "$(grep '^torch' "$requirements")" || true
        "$venv/bin/pip" install --quiet --requirement "$requirements"
    } >&2
    is_complete
fi
echo "$venv"
