#!/usr/bin/env bash
# Makes what lies in fixtures/ again; fixtures/README.md says from what.
#
#     scripts/fixtures.sh [STEP…]     steps of fixtures/generate.py, without any: all (about a quarter of an hour)
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(scripts/make-venv.sh)
scripts/kjv.sh >/dev/null </dev/null # installs the program "bible", where it may
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(
    cd "$work"
    apt-get download -qq r-cran-janeaustenr
    dpkg-deb -x r-cran-janeaustenr_*.deb unpacked
) >&2
[ $# -gt 0 ] || set -- all
for step in "$@"; do
    "$venv/bin/python" fixtures/generate.py "$step" --austen "$work/unpacked/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
done
