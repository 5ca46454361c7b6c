#!/usr/bin/env bash
# Measures training and merging beside torch, PEFT and cp, on SmolLM2-135M; Benchmarks/README.md says what and how.
#
# OPLORA names the program, without it .build/release/oplora; OPLORA_CACHE the folder that keeps the models between runs.
set -euo pipefail
cd "$(dirname "$0")/.."
oplora=${OPLORA:-.build/release/oplora}
cache=${OPLORA_CACHE:-$HOME/.cache/oplora}
venv=$(scripts/make-venv.sh)
python=$venv/bin/python

[ -e "$cache/smollm2" ] || "$python" fixtures/smollm2.py "$cache/smollm2"
[ -e "$cache/smollm2-f32" ] || "$python" fixtures/smollm2.py "$cache/smollm2-f32" --dtype f32
"$python" Benchmarks/merge.py --oplora "$oplora" --model "$cache/smollm2"
echo
"$python" Benchmarks/training.py --oplora "$oplora" --model "$cache/smollm2" --model-f32 "$cache/smollm2-f32" \
    --data fixtures/texts/adapt-train.txt
