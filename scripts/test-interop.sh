#!/usr/bin/env bash
# Compares the release build with torch, transformers, PEFT, tokenizers and numpy, on the fixture and on SmolLM2-135M: merges
# adapters of every kind and family, of tied and grown vocabularies and of experts, writes them in every layout, extracts and resizes them, verifies
# right and wrong merges, runs merged models beside base and adapter, interrupts merges, and packs real models.
#
# OPLORA names the program, without it .build/release/oplora; arguments go on to Tests/interop/interop.py.
set -euo pipefail
cd "$(dirname "$0")/.."
oplora=${OPLORA:-.build/release/oplora}
venv=$(scripts/make-venv.sh)
python=$venv/bin/python
cache=${OPLORA_CACHE:-$HOME/.cache/oplora}
smollm2=$cache/smollm2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

[ -e "$smollm2" ] || "$python" fixtures/smollm2.py "$smollm2"
scripts/kjv.sh >"$work/kjv.txt" </dev/null
"$python" Tests/interop/interop.py --oplora "$oplora" --bible "$work/kjv.txt" --smollm2 "$smollm2" "$@"
echo
"$python" Tests/interop/adapters.py --oplora "$oplora"
echo
"$python" Tests/interop/vocabulary.py --oplora "$oplora"
echo
"$python" Tests/interop/experts.py --oplora "$oplora"
echo
"$python" Tests/interop/encodings.py --oplora "$oplora"
echo
"$python" Tests/interop/training.py --oplora "$oplora"
echo
"$python" Tests/interop/roundtrips.py --oplora "$oplora"
echo
"$python" Tests/interop/families.py --oplora "$oplora"
echo
"$python" Tests/interop/families.py --oplora "$oplora" --task IMAGE_TEXT_TO_TEXT
echo
"$python" Tests/interop/adapters_gguf.py --oplora "$oplora"
echo
"$python" Tests/interop/op_lora.py --oplora "$oplora"
echo
"$python" Tests/interop/low_rank.py --oplora "$oplora" --base "$smollm2"
echo
"$python" Tests/interop/fault_gallery.py --oplora "$oplora" --base "$smollm2"
echo
"$python" Tests/interop/function.py --oplora "$oplora" --base "$smollm2"
echo
"$python" Tests/interop/merged_folder.py --oplora "$oplora"
echo
"$python" Tests/interop/interrupted_merge.py --oplora "$oplora" --model "$smollm2"
echo
"$python" Tests/interop/outputs.py --oplora "$oplora"
echo
"$python" Tests/interop/packing.py --oplora "$oplora" --cache "$cache"
