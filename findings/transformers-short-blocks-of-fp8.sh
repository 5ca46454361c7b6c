#!/usr/bin/env bash
# Weights in FP8 whose size is no multiple of the block come out wrong where transformers decodes them.
#
# Expected: FineGrainedFP8Config(dequantize=True) gives code times the scale of its block of weight_block_size, here 128 by 128, and the last
# block of a row is short where the size is no multiple, as DeepSeek's own code has it. For 192 columns with two columns of scales
# transformers divides the columns evenly among the scales instead, 96 each: those from 96 to 127 get the scale of the next block. There is no error
# and no warning, and the size of the blocks in config.json and in the argument is passed over.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.24.0 accelerate==1.15.0 torch==2.13.0
cat >"$work/blocks.py" <<'PYTHON'
import json
import pathlib
import sys

import torch
import transformers as tf
from safetensors.torch import load_file, save_file

BLOCK, NAME = 128, "model.layers.0.mlp.down_proj.weight"


def spread(codes, scales, rows, columns):
    """Each code times the scale of its block of so many rows and columns."""
    by_row = scales.repeat_interleave(rows, 0)[: codes.shape[0]]
    return codes.float() * by_row.repeat_interleave(columns, 1)[:, : codes.shape[1]]


def load(folder, width):
    torch.manual_seed(0)
    config = tf.LlamaConfig(vocab_size=64, hidden_size=256, intermediate_size=width, num_hidden_layers=1, num_attention_heads=2,
                            num_key_value_heads=2, bos_token_id=1, eos_token_id=2)
    tf.LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        rows, columns = tensors[name].shape
        tensors[name] = (tensors[name] * 1000).to(torch.float8_e4m3fn)
        tensors[name + "_scale_inv"] = torch.rand(-(-rows // BLOCK), -(-columns // BLOCK)) + 0.5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    settings = dict(quant_method="fp8", activation_scheme="dynamic", weight_block_size=[BLOCK, BLOCK], fmt="e4m3")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": settings}))
    config = tf.FineGrainedFP8Config(weight_block_size=(BLOCK, BLOCK), dequantize=True)
    model = tf.LlamaForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.float32)
    found = model.get_parameter(NAME).detach().float()
    codes, scales = tensors[NAME], tensors[NAME + "_scale_inv"]
    true = spread(codes, scales, BLOCK, BLOCK)
    even = spread(codes, scales, codes.shape[0] // scales.shape[0], width // scales.shape[1])
    wrong = (found != true).sum().item()
    print(f"{NAME} {list(found.shape)}, scales {list(scales.shape)}: {wrong} elements are not code * scale of their block of {BLOCK} by {BLOCK}; "
          f"blocks of {codes.shape[0] // scales.shape[0]} by {width // scales.shape[1]} explain {'all' if torch.equal(found, even) else 'not all'}")
    return wrong, torch.equal(found, even)


def main():
    folder = pathlib.Path(sys.argv[1])
    print(f"transformers {tf.__version__}, torch {torch.__version__}")
    whole, _ = load(folder / "whole", 256)
    ragged, even = load(folder / "ragged", 192)
    raise SystemExit(0 if whole == 0 and ragged > 0 and even else "the behavior has changed")


main()
PYTHON
HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 "$work/venv/bin/python" "$work/blocks.py" "$work"
