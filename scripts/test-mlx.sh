#!/usr/bin/env bash
# Compares merges of mlx-lm's adapters with mlx-lm's own, on small models.
#
# OPLORA names the program, without it .build/release/oplora. mlx-lm gets an environment of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(OPLORA_VENV=${OPLORA_MLX_VENV:-$HOME/.cache/oplora/venv-mlx} scripts/make-venv.sh Tests/interop/requirements-mlx.txt)
"$venv/bin/python" Tests/interop/adapters_mlx.py --oplora "${OPLORA:-.build/release/oplora}"
"$venv/bin/python" Tests/interop/lint.py --oplora "${OPLORA:-.build/release/oplora}" --for mlx
