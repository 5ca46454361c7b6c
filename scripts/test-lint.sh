#!/usr/bin/env bash
# Asks llama.cpp and vLLM whether they take adapters, and compares `oplora lint`; test-diffusion.sh and test-mlx.sh do so for the other programs.
#
# OPLORA names the program, without it .build/release/oplora. llama.cpp gets an environment of its own; of vLLM the wheel is fetched (300 MB), or
# OPLORA_VLLM_WHEEL names one.
set -euo pipefail
cd "$(dirname "$0")/.."
oplora=${OPLORA:-.build/release/oplora}
venv=$(OPLORA_VENV=${OPLORA_LLAMA_VENV:-$HOME/.cache/oplora/venv-llama} scripts/make-venv.sh Tests/interop/requirements-llama.txt)
echo "llama.cpp"
"$venv/bin/python" Tests/interop/lint_llama.py --oplora "$oplora" 2>/dev/null
echo "vLLM"
"$(scripts/make-venv.sh)/bin/python" Tests/interop/lint_vllm.py --oplora "$oplora" ${OPLORA_VLLM_WHEEL:+--wheel "$OPLORA_VLLM_WHEEL"}
