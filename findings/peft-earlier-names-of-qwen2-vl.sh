#!/usr/bin/env bash
# An adapter of Qwen2-VL whose modules have the names of transformers before 4.52 loads, and does nothing.
#
# Expected: transformers moved the layers of Qwen2-VL from model.layers to model.language_model.layers and still reads files with the
# earlier names; PEFT follows such renamings for adapters. For this family it does not: every factor of such an adapter is passed over. A warning names the missing keys, the call
# returns, and base + adapter, and what merge_and_unload makes of it, is the base to the bit.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet peft==0.21.2 transformers==5.24.0 torch==2.13.0
cat >"$work/names.py" <<'PYTHON'
import json
import pathlib
import sys
import warnings

import peft
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

TOKENS = dict(bos_token_id=1, eos_token_id=2)
TEXT = dict(vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            rope_scaling={"rope_type": "default", "mrope_section": [2, 1, 1]}, **TOKENS)
VISION = dict(depth=1, embed_dim=32, hidden_size=32, num_heads=4, mlp_ratio=2, patch_size=4, spatial_merge_size=2, temporal_patch_size=2)


def main():
    folder = pathlib.Path(sys.argv[1])
    torch.manual_seed(0)
    config = tf.Qwen2VLConfig(text_config=TEXT, vision_config=VISION, image_token_id=300, video_token_id=301, vision_start_token_id=302, vision_end_token_id=303)
    model = tf.Qwen2VLForConditionalGeneration(config).eval()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder / "current")
    model = adapted.unload().eval()
    factors = load_file(folder / "current" / "adapter_model.safetensors")
    (folder / "earlier").mkdir()
    save_file({k.replace("model.language_model.layers", "model.layers"): v for k, v in factors.items()}, folder / "earlier" / "adapter_model.safetensors")
    fields = json.loads((folder / "current" / "adapter_config.json").read_text())
    (folder / "earlier" / "adapter_config.json").write_text(json.dumps(fields))

    tokens = torch.arange(10)[None]
    before = model(input_ids=tokens).logits
    moved = {}
    for which in ("current", "earlier"):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            loaded = peft.PeftModel.from_pretrained(model, folder / which).eval()
        moved[which] = (loaded(input_ids=tokens).logits - before).abs().max().item()
        missing = any("missing adapter keys" in str(w.message) for w in said)
        print(f"{which} names: logits move by {moved[which]:.3g}; an error: no; a warning of missing keys: {'yes' if missing else 'no'}")
        model = loaded.unload()
    print(f"peft {peft.__version__}, transformers {tf.__version__}")
    raise SystemExit(0 if moved["current"] > 0.01 and moved["earlier"] == 0 else "the behavior has changed")


main()
PYTHON
HF_HUB_OFFLINE=1 "$work/venv/bin/python" "$work/names.py" "$work"
