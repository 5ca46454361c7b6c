#!/usr/bin/env bash
# Gives the reports of `oplora verify` to junitparser, to the published schema of SARIF, and to Chromium; makes every fault, and holds
# docs/faults.md against what the program says.
#
# OPLORA names the program, without it .build/release/oplora; CHROMIUM the browser, without it Debian's, which is installed where it is
# missing. Arguments go on to Tests/interop/reports.py.
set -euo pipefail
cd "$(dirname "$0")/.."
oplora=${OPLORA:-.build/release/oplora}
venv=$(OPLORA_VENV=${OPLORA_REPORTS_VENV:-$HOME/.cache/oplora/venv-reports} scripts/make-venv.sh Tests/interop/requirements-reports.txt)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

chromium=${CHROMIUM:-$(command -v chromium || true)}
if [ -z "$chromium" ]; then
    [ "$(id -u)" = 0 ] || { echo "test-reports.sh: there is no chromium; as root: apt-get install chromium" >&2; exit 1; }
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends chromium >/dev/null
    chromium=$(command -v chromium)
fi
# The schema that OASIS publishes, as the source package of cfn-lint carries it for its own tests.
"$venv/bin/pip" download --quiet --no-deps --no-binary :all: --dest "$work" cfn-lint==1.58.0
tar -xzf "$work"/cfn_lint-1.58.0.tar.gz -C "$work" --strip-components 1 cfn_lint-1.58.0/test/fixtures/schemas/sarif/schema-2.1.0.json
echo "bb34c1740b3464d1694c93750d2f1da3833e8d11feb311230251cef2f4cb1459  $work/test/fixtures/schemas/sarif/schema-2.1.0.json" | sha256sum --check --quiet
"$venv/bin/python" Tests/interop/reports.py --oplora "$oplora" --chromium "$chromium" \
    --sarif-schema "$work/test/fixtures/schemas/sarif/schema-2.1.0.json" "$@"
echo
"$venv/bin/python" Tests/interop/fault_pages.py --oplora "$oplora"
