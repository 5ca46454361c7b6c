#!/usr/bin/env bash
# Measures packing, inspecting, merging, verifying and training beside other programs, on SmolLM2-135M; Benchmarks/README.md says what and how.
#
# OPLORA names the program, without it .build/release/oplora; OPLORA_CACHE the folder that keeps the models between runs.
set -euo pipefail
cd "$(dirname "$0")/.."
oplora=${OPLORA:-.build/release/oplora}
cache=${OPLORA_CACHE:-$HOME/.cache/oplora}
venv=$(scripts/make-venv.sh Benchmarks/requirements.txt)
python=$venv/bin/python

[ -e "$cache/smollm2" ] || "$python" fixtures/smollm2.py "$cache/smollm2"
[ -e "$cache/smollm2-f32" ] || "$python" fixtures/smollm2.py "$cache/smollm2-f32" --dtype f32
[ -e "$cache/llama-1b-shape" ] || "$python" fixtures/llama_shape.py "$cache/llama-1b-shape"
[ -e "$cache/minilm" ] || "$python" fixtures/minilm.py "$cache/minilm"
swift build -c release --product CheckpointSpeed >&2
"$python" Benchmarks/pack.py --oplora "$oplora" "$cache/smollm2/model.safetensors" "$cache/minilm/model.safetensors"
echo
"$python" Benchmarks/headers.py --oplora "$oplora" --model "$cache/smollm2"
echo
"$python" Benchmarks/merge.py --oplora "$oplora" --model "$cache/smollm2"
echo
"$python" Benchmarks/merge.py --oplora "$oplora" --model "$cache/llama-1b-shape"
echo
"$python" Benchmarks/verify.py --oplora "$oplora" --model "$cache/smollm2" --large "$cache/llama-1b-shape"
echo
"$python" Benchmarks/training.py --oplora "$oplora" --model "$cache/smollm2" --model-f32 "$cache/smollm2-f32" \
    --data fixtures/texts/adapt-train.txt
