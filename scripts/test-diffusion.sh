#!/usr/bin/env bash
# Compares merges of adapters of diffusion models with those of diffusers and LyCORIS, on small models, also across layouts.
#
# OPLORA names the program, without it .build/release/oplora. These libraries get an environment of their own.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(OPLORA_VENV=${OPLORA_DIFFUSION_VENV:-$HOME/.cache/oplora/venv-diffusion} scripts/make-venv.sh Tests/interop/requirements-diffusion.txt)
"$venv/bin/python" Tests/interop/adapters_diffusion.py --oplora "${OPLORA:-.build/release/oplora}"
"$venv/bin/python" Tests/interop/layouts.py --oplora "${OPLORA:-.build/release/oplora}"
"$venv/bin/python" Tests/interop/lint.py --oplora "${OPLORA:-.build/release/oplora}" --for diffusers
