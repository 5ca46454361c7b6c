#!/usr/bin/env bash
# The verifier's evaluation of a method must not use the merge's: prints the lines that do, and fails if there are any.
set -euo pipefail
cd "$(dirname "$0")/.."
merge='MergeKernel|MergeFactors|MagnitudeKernel|MergeReference|PreparedUpdate|\bReadyUpdate\b|ColumnScaling\(|\.(merged|prepared|ready)\('
if grep -nE "$merge" $(find Sources/Methods -name '*Check.swift') || grep -rnE "$merge" Sources/Verification; then
    echo "lint-checks.sh: the verifier uses the merge's arithmetic" >&2
    exit 1
fi
