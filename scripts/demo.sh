#!/usr/bin/env bash
# The main job on the small model in fixtures/: inspect, train, collapse, merge, verify.
set -euo pipefail
cd "$(dirname "$0")/.."

oplora=${OPLORA:-.build/release/oplora}
model=fixtures/tiny-llama
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

run() {
    echo "\$ oplora $*"
    "$oplora" "$@"
}

run inspect "$model"
run train --base "$model" --data "fixtures/texts/adapt-train.txt" --eval-data "fixtures/texts/adapt-heldout.txt" --out "$out/run.opck" \
    --method op-lora --rank 8 --alpha 16 --lr 3e-3 --z-std 0.1 --batch-size 8 --seq-len 128 --steps 200 | tee "$out/train.log"
run collapse "$out/run.opck" --out "$out/adapter" --verify
run merge --base "$model" --adapter "$out/adapter" --out "$out/merged"
run verify --run "$out/run.opck" --adapter "$out/adapter"
run verify --base "$model" --adapter "$out/adapter" --merged "$out/merged"

# The last line of training: "held-out loss: X before, Y after, Z nats a token lower".
lower=$(sed -n 's/^held-out loss: .* after, \(.*\) nats a token lower$/\1/p' "$out/train.log")
awk -v lower="$lower" 'BEGIN { exit !(lower >= 0.3) }' || { echo "demo: the held-out loss fell by $lower nats, less than 0.3" >&2; exit 1; }
