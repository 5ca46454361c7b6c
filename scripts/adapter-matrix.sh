#!/usr/bin/env bash
# Makes docs/adapter-matrix.md: every dialect and kind of adapter, made by its own tools, merged and compared, and written in every layout.
#
# OPLORA names the program, without it .build/release/oplora. Takes about a quarter of an hour and, once, the installation of three Python
# environments.
set -euo pipefail
cd "$(dirname "$0")/.."
export OPLORA=${OPLORA:-.build/release/oplora}
python=$(scripts/make-venv.sh)/bin/python
output=docs/adapter-matrix.md

# Lines "ok    TITLE: TEXT" as rows of a table with two columns; what failed stays visible.
rows() { sed -nE 's/^ok    (.*): (.*)$/| \1 | \2 |/p; s/^FAIL  (.*)$/| FAIL | \1 |/p'; }
table() {
    printf '\n## %s\n\n%s\n\n| adapter | result |\n|---|---|\n' "$1" "$2"
    rows
}

{
    cat <<'TEXT'
# Adapters, one by one

Made by `scripts/adapter-matrix.sh`; do not edit. Each line is a small random model with an adapter that the tool named made itself, or that was
written after its conventions and read by it; [adapters.md](adapters.md) says what each dialect means. A number is the largest relative
difference between what the tool computes or fuses and what `oplora merge` wrote, in F32.

## Written in every layout

`oplora convert` writes each adapter of PEFT in each layout; what was written is merged as it is, and converted back to PEFT and merged, and
PEFT loads it. "same bytes": both merges give the bytes that the original gives. A number: the layout has one scale for all modules, B was
multiplied, and the merged weights differ by so much.

TEXT
    "$python" Tests/interop/roundtrips.py --oplora "$OPLORA" --markdown 2>/dev/null || true
    printf '\n## PEFT\n\n'
    "$python" Tests/interop/adapters.py --oplora "$OPLORA" --markdown 2>/dev/null || true
    { scripts/test-diffusion.sh 2>/dev/null || true; } |
        table "diffusers, kohya and LyCORIS" "Against what diffusers or LyCORIS fuses, and how many tensors change; converted, diffusers and LyCORIS fuse the same."
    { scripts/test-mlx.sh 2>/dev/null || true; } | table "mlx-lm" "Against the weights that mlx-lm fuses, before and after a conversion to PEFT and back."
    { "$python" Tests/interop/adapters_gguf.py --oplora "$OPLORA" 2>/dev/null || true; } |
        table "GGUF" "What llama.cpp would add, computed from the file that \`convert\` writes, against PEFT; then merged."
    { "$python" Tests/interop/op_lora.py --oplora "$OPLORA" 2>/dev/null || true; } |
        table "Hypernetworks and VeRA" "Against the outputs and factors that PyTorch computes."
} >"$output.new"
mv "$output.new" "$output"
! grep -n FAIL "$output"
