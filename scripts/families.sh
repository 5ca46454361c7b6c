#!/usr/bin/env bash
# Makes docs/families.md: an adapter for each class of causal language models that transformers has, merged and verified.
#
# OPLORA names the program, without it .build/release/oplora. Takes about five minutes and, once, the installation of a Python environment.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(scripts/make-venv.sh)/bin/python
output=docs/families.md

{
    cat <<'TEXT'
# Families of language models

Made by `scripts/families.sh`; do not edit. For each class that transformers has for causal language models, `Tests/interop/families.py` saves a tiny
random model in F32 and an adapter that PEFT makes of LoRA on all linear layers. **right**: `oplora merge` gives, under the names that the model has in
memory, the base's weights plus PEFT's own `get_delta_weight` in binary64, so many matrices with so large a relative difference, and every other
tensor bit for bit; `oplora extract` makes of base and merged model an adapter that is the same one to PEFT when it loads it (**extracted again**); and
`oplora verify` passes the model that PEFT merged and saved. **refused**: nothing was written, and why. **not built**:
transformers or PEFT does not make the small model here.

TEXT
    "$python" Tests/interop/families.py --oplora "${OPLORA:-.build/release/oplora}" --markdown 2>/dev/null || true
} >"$output.new"
mv "$output.new" "$output"
! grep -n WRONG "$output"
