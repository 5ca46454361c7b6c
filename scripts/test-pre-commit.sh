#!/usr/bin/env bash
# Runs the hooks of .pre-commit-hooks.yaml in a repository of their own: pre-commit builds the last commit of this one, which takes a minute
# or two, and must pass a right merge and stop a wrong one and a file that is cut short.
#
# OPLORA names the program that makes the models, without it .build/release/oplora.
set -euo pipefail
cd "$(dirname "$0")/.."
source=$PWD
oplora=$(realpath "${OPLORA:-.build/release/oplora}")
venv=$(OPLORA_VENV=${OPLORA_REPORTS_VENV:-$HOME/.cache/oplora/venv-reports} scripts/make-venv.sh Tests/interop/requirements-reports.txt)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PRE_COMMIT_HOME=$work/home

mkdir "$work/repository"
cd "$work/repository"
git init --quiet .
mkdir models
cp -r "$source/fixtures/tiny-llama" models/base
PYTHONPATH=$source/Tests/interop "$venv/bin/python" -c '
import pathlib, reports
reports.make_adapter(pathlib.Path("models/adapter"), reports.read(pathlib.Path("models/base/model.safetensors")))'
"$oplora" merge --base models/base --adapter models/adapter --out models/merged --no-fsync --quiet
cat >.pre-commit-config.yaml <<EOF
repos:
  - repo: $source
    rev: $(git -C "$source" rev-parse HEAD)
    hooks:
      - id: oplora-check
      - id: oplora-verify-merge
        args: [--base, models/base, --adapter, models/adapter, --merged, models/merged]
EOF

# STATUS WHAT TEXT: the hooks on all that is staged end with the status and say the text.
expect() {
    git add --all
    local status=0
    "$venv/bin/pre-commit" run >"$work/log" 2>&1 || status=$?
    if [ "$status" = "$1" ] && grep -q "$3" "$work/log"; then
        echo "ok   $2"
    else
        cat "$work/log"
        echo "FAIL $2: exit code $status"
        exit 1
    fi
}
expect 0 "a right merge passes" "verify a merged model.*Passed"
cp models/base/model.safetensors models/merged/
expect 1 "a merge that was not made is stopped" "fail: the model is the base: nothing was merged"
head -c 1000 models/base/model.safetensors >models/cut.safetensors
expect 1 "a file that is cut short is stopped" "models/cut.safetensors: headerPastEnd"
