#!/usr/bin/env bash
# From a base model to a verified merge, on real data: SmolLM2-135M learns the English of the King James Bible.
#
#     scripts/demo-smollm2.sh [OUT]
#
# Trains an OP-LoRA on the Bible less four books, measures the loss on those four before and after, collapses the run to an
# ordinary LoRA, merges that, and verifies both. Fails if any check fails or the held-out loss falls by less than a quarter
# of a nat a token. OUT is a new folder for the results; without it they are thrown away. OPLORA names the program (without
# it .build/release/oplora), OPLORA_CACHE the folder that keeps the model between runs.
set -euo pipefail

STEPS=100
LEAST_DROP=0.25
HELD_OUT='Ruth|Jonah|Phi|Jas' # two histories, two letters: 43 kB
REFERENCE='[0-9]+:[0-9]+ '

oplora=$(realpath "${OPLORA:-$(dirname "$0")/../.build/release/oplora}")
if [ $# -gt 0 ]; then
    mkdir "$1"
    work=$(realpath "$1")
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
cd "$(dirname "$0")/.."
model=${OPLORA_CACHE:-$HOME/.cache/oplora}/smollm2

run() {
    echo
    echo "\$ oplora $*"
    "$oplora" "$@"
}

if [ ! -e "$model" ]; then
    venv=$(scripts/make-venv.sh fixtures/requirements.txt)
    "$venv/bin/python" fixtures/smollm2.py "$model"
fi
scripts/kjv.sh >"$work/kjv.txt" </dev/null
grep -vE "^($HELD_OUT)$REFERENCE" "$work/kjv.txt" | sed 's/^[^ ]* //' >"$work/train.txt"
grep -E "^($HELD_OUT)$REFERENCE" "$work/kjv.txt" | sed 's/^[^ ]* //' >"$work/heldout.txt"
echo "$(wc -c <"$work/train.txt") bytes to train on, $(wc -c <"$work/heldout.txt") bytes held out"

ln -s "$(realpath "$model")" "$work/SmolLM2" # so that the commands below read as a person would type them
cd "$work"
run inspect SmolLM2
run train --base SmolLM2 --data train.txt --eval-data heldout.txt --out run.opck \
    --method op-lora --rank 16 --alpha 32 --targets all-linear --batch-size 4 --seq-len 256 \
    --steps "$STEPS" | tee train.log
run collapse run.opck --out adapter --verify
run merge --base SmolLM2 --adapter adapter --out merged
run verify --base SmolLM2 --adapter adapter --merged merged
run verify --run run.opck --adapter adapter

echo
tail -n 1 train.log
drop=$(sed -n 's/^held-out loss: .* after, \(.*\) nats a token lower$/\1/p' train.log)
if ! awk -v drop="$drop" -v least="$LEAST_DROP" 'BEGIN { exit !(drop != "" && drop + 0 >= least) }'; then
    echo "demo-smollm2.sh: the held-out loss fell by ${drop:-an unknown amount}, not by $LEAST_DROP nats a token" >&2
    exit 1
fi
echo "every check held, and the held-out loss fell by $drop nats a token (at least $LEAST_DROP)"
