#!/usr/bin/env bash
# Prints the King James Bible, one verse a line, each after its reference: "Ge1:1 In the beginning ...".
#
# The text is in the public domain and comes from Debian's packages bible-kjv and bible-kjv-text, which are installed if
# they are missing and this runs as root.
set -euo pipefail
if ! command -v bible >/dev/null; then
    if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
        echo "kjv.sh: the program \"bible\" is missing; as root: apt-get install bible-kjv bible-kjv-text" >&2
        exit 1
    fi
    { apt-get -qq update && apt-get -qq install --yes --no-install-recommends bible-kjv bible-kjv-text; } >&2
fi
bible -f -l100000 gen1:1-rev22:21
