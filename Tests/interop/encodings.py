#!/usr/bin/env python3
"""Merges adapters into bases that are stored as codes with scales, and compares with numpy and with the encoding's library.

    python encodings.py --oplora PROGRAM [--only WORD] [--markdown] [--keep FOLDER]

Each case is a small random model whose matrices are quantized here, with numpy, in the published layout of one encoding.

1. Values: what `oplora merge` writes in F32 for a weight without an update is what the codes stand for. It must have the bits of
   a decoder written here, which shares no code with the program.
2. Merge: every adapted weight, in F32, BF16 and F16, must be y = v + s·(B·A), summed in binary64 and rounded once, where v is
   that decoder's value. No code, scale or field of the quantization may be left.
3. Library: where a library decodes the model on a CPU, the outputs of its base + adapter in F32 and those of the merged
   folder must be the same within 1e-5 of the largest; `oplora verify` must pass the merge, and what the library merged itself.

One line a case; exits 1 if any fails.
"""

import json
import shutil

import adapters  # sets the environment before the libraries are imported
import cases
import numpy as np
import torch
import transformers as hf
from adapters import run
from merge_definition import round_bits
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file, save_file

BOUND = 1e-5


# MARK: FP8 in blocks

def e4m3_values():
    codes = np.arange(256)
    exponent, fraction = codes >> 3 & 15, codes & 7
    size = np.where(exponent == 0, fraction / 8 * 2.0**-6, (1 + fraction / 8) * 2.0 ** (exponent - 7.0))
    size[codes & 127 == 127] = np.nan
    return np.where(codes & 128, -size, size).astype(np.float32)


E4M3 = e4m3_values()


def spread(scales, block, shape):
    """A scale for each element."""
    return scales.repeat(block[0], -2)[..., :shape[-2], :].repeat(block[1], -1)[..., :shape[-1]]


def quantize_fp8(weight, block, scale_type):
    """Codes, scales, and what they stand for."""
    rows, columns = (-(-size // step) for size, step in zip(weight.shape[-2:], block))
    padded = np.zeros(weight.shape[:-2] + (rows * block[0], columns * block[1]), np.float32)
    padded[..., :weight.shape[-2], :weight.shape[-1]] = weight
    tiles = padded.reshape(weight.shape[:-2] + (rows, block[0], columns, block[1]))
    scales = torch.from_numpy(np.maximum(np.abs(tiles).max((-3, -1)) / 448, 1e-12))
    if scale_type == "e8m0":
        exponents = torch.ceil(torch.log2(scales)).clamp(-127, 127)
        stored, scales = (exponents + 127).to(torch.uint8), torch.pow(2.0, exponents)
    else:
        stored = scales.to(scale_type)
        scales = stored.float()
    each = spread(scales.numpy(), block, weight.shape)
    codes = torch.from_numpy(weight / each).to(torch.float8_e4m3fn)
    values = E4M3[codes.view(torch.uint8).numpy()] * each
    assert values.dtype == np.float32
    return {".weight": codes, ".weight_scale_inv": stored}, values


def qwen3(**changes):
    fields = dict(vocab_size=96, hidden_size=256, intermediate_size=384, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
                  max_position_embeddings=64, tie_word_embeddings=False)
    return hf.Qwen3ForCausalLM(hf.Qwen3Config(**{**fields, **changes}))


RAGGED = dict(hidden_size=200, intermediate_size=330, head_dim=34)


def fp8(name, block, scale_type, library=True, **changes):
    return dict(name=f"FP8 in blocks, {name}", model=lambda: qwen3(**changes), library=library,
                quantize=lambda weight: quantize_fp8(weight, block, scale_type),
                settings=dict(quant_method="fp8", activation_scheme="dynamic", weight_block_size=list(block), fmt="e4m3"))


# transformers 5.24 spreads the blocks of a ragged weight evenly, which is another weight; ours is held against numpy alone.
CASES = [
    fp8("128×128, F32 scales", (128, 128), torch.float32),
    fp8("128×128, BF16 scales", (128, 128), torch.bfloat16),
    fp8("128×128, scales as powers of two", (128, 128), "e8m0", library=False),
    fp8("64×32, F32 scales", (64, 32), torch.float32),
    fp8("ragged, F32 scales", (128, 128), torch.float32, library=False, **RAGGED),
    fp8("ragged, BF16 scales", (128, 128), torch.bfloat16, library=False, **RAGGED),
    fp8("ragged, blocks of 48×80", (48, 80), torch.float32, library=False, **RAGGED),
]


# MARK: Cases

def make(case, folder):
    """Writes base and adapter; returns the values that codes stand for, by name."""
    torch.manual_seed(3)
    model = case["model"]().float().eval()
    model.to(torch.bfloat16).save_pretrained(folder / "base")
    stored, values = {}, {}
    for name, tensor in load_file(folder / "base" / "model.safetensors").items():
        if tensor.dim() != 2 or "embed" in name or "lm_head" in name:
            stored[name] = tensor
            continue
        parts, values[name] = case["quantize"](tensor.float().numpy())
        stem = name.removesuffix(".weight")
        stored |= {stem + ending: part.contiguous() for ending, part in parts.items()}
    save_file(stored, folder / "base" / "model.safetensors", metadata={"format": "pt"})
    path = folder / "base" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": case["settings"]}, indent=2))
    peft = get_peft_model(case["model"]().float(), LoraConfig(r=4, lora_alpha=7, target_modules=["q_proj", "v_proj", "down_proj"]))
    adapters.randomise(peft, torch.Generator().manual_seed(11))
    peft.save_pretrained(folder / "adapter")
    return values


def updates(folder):
    """A, B and the scale by the name of the weight."""
    fields = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    factors = load_numpy(folder / "adapter" / "adapter_model.safetensors")
    scale = fields["lora_alpha"] / fields["r"]
    return {
        key.removeprefix("base_model.model.").replace(".lora_A", ""): (a.astype(np.float64), factors[key.replace("lora_A", "lora_B")].astype(np.float64), scale)
        for key, a in factors.items() if "lora_A" in key}


def check_values(oplora, folder, values):
    """Compares every weight with the definition; returns what is wrong."""
    changes = updates(folder)
    for dtype, word in (("F32", "f32"), ("BF16", "bf16"), ("F16", "f16"), ("BF16", None)):
        out = folder / f"merged-{word}"
        asked = ["--dtype", word] if word else []
        merge = run(oplora, "merge", "--base", folder / "base", "--adapter", folder / "adapter", "--out", out, "--no-fsync", *asked)
        if merge.returncode:
            return f"merge: {merge.stderr.strip()}"
        merged = load_file(out / "model.safetensors")
        if [name for name in merged if "scale" in name]:
            return "scales are left"
        if "quantization_config" in json.loads((out / "config.json").read_text()):
            return "config.json still says that the model is quantized"
        for name, value in values.items():
            exact = value.astype(np.float64)
            if name in changes:
                a, b, scale = changes[name]
                total = np.zeros(exact.shape)
                for k in range(a.shape[0]):
                    total = total + b[:, k:k + 1] * a[k:k + 1]
                exact = exact + scale * total
            width = torch.int32 if dtype == "F32" else torch.int16
            found = merged[name].view(width).numpy().view(np.uint32 if dtype == "F32" else np.uint16)
            off = int((found != round_bits(dtype, exact)).sum())
            if off:
                return f"{off} of {exact.size} elements of {name} in {dtype} are off"
        verify = run(oplora, "verify", "--base", folder / "base", "--adapter", folder / "adapter", "--merged", out, *asked)
        if verify.returncode:
            return f"verify, {word}: {(verify.stdout + verify.stderr).strip()[:400]}"
    return ""


@torch.no_grad()
def check_library(oplora, case, folder):
    """Compares with what the library decodes and merges; returns the relative error and what is wrong."""
    def decoded(dtype):
        configuration = hf.FineGrainedFP8Config(weight_block_size=tuple(case["settings"]["weight_block_size"]), dequantize=True)
        return hf.AutoModelForCausalLM.from_pretrained(folder / "base", quantization_config=configuration, dtype=dtype)
    ids = torch.randint(1, 96, (2, 24), generator=torch.Generator().manual_seed(7))
    expected = PeftModel.from_pretrained(decoded(torch.float32), folder / "adapter").eval()(input_ids=ids).logits
    found = hf.AutoModelForCausalLM.from_pretrained(folder / "merged-f32", dtype=torch.float32).eval()(input_ids=ids).logits
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    if error > BOUND:
        return error, "outputs differ"
    for dtype, word in ((torch.bfloat16, "bf16"), (torch.float32, "f32")):
        out = folder / f"peft-{word}"
        model = PeftModel.from_pretrained(decoded(dtype), folder / "adapter").merge_and_unload()
        for owner in (model.config, model.generation_config):
            if hasattr(owner, "quantization_config"):
                del owner.quantization_config
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, out_file(out), metadata={"format": "pt"})
        model.config.save_pretrained(out)
        verify = run(oplora, "verify", "--base", folder / "base", "--adapter", folder / "adapter", "--merged", out)
        if verify.returncode:
            return error, f"verify of PEFT's merge in {word}: {(verify.stdout + verify.stderr).strip()[:600]}"
    # The same without the adapter is no merge of it.
    base = decoded(torch.bfloat16)
    out = folder / "unmerged"
    save_file({key: value.contiguous() for key, value in base.state_dict().items()}, out_file(out), metadata={"format": "pt"})
    shutil.copy(folder / "peft-bf16" / "config.json", out)
    if run(oplora, "verify", "--base", folder / "base", "--adapter", folder / "adapter", "--merged", out).returncode != 1:
        return error, "verify passes a model without the adapter"
    return error, ""


def out_file(folder):
    folder.mkdir()
    return folder / "model.safetensors"


def check(oplora, folder, case):
    values = make(case, folder)
    wrong = check_values(oplora, folder, values)
    if wrong or not case["library"]:
        return "values and merges to the bit", wrong
    error, wrong = check_library(oplora, case, folder)
    return f"values and merges to the bit; outputs within {error:.1e}", wrong


def main():
    heading = ("base", "against numpy, and transformers with PEFT where it decodes the base")
    cases.run(__doc__, heading, [(case["name"], (case,)) for case in CASES], check)


if __name__ == "__main__":
    main()
