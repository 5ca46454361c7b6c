#!/usr/bin/env python3
"""Compares what `oplora verify --prompts` says of base + adapter and merged model, and what `oplora logits --adapter` computes, with torch:
SmolLM2-135M, adapters and merges of PEFT.

    python3 Tests/interop/function.py --oplora PROGRAM [--base SMOLLM2]

torch runs the unmerged model of PEFT and the merged one with all weights widened to F32, as oplora does, and finds the same largest
difference of a logit, the same divergence of each token and the same agreement. Ends with 1 if a figure is not the same.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"  # everything is a local folder

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

hf_logging.set_verbosity_error()
hf_logging.disable_progress_bar()
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROMPTS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "In the beginning God created the heaven and the earth.",
    "def fibonacci(n):",
    "Ünïcödé 漢字 \U0001f600",
]
KINDS = {
    "lora": {},
    "rslora": {"use_rslora": True, "r": 8},
    "dora": {"use_dora": True},
    "embedding": {"target_modules": ["embed_tokens", "v_proj"], "ensure_weight_tying": False},
    "modules_to_save": {"modules_to_save": ["lm_head", "norm"]},
}


def logits_distance(oplora, base, adapters, right, tokenizer, work):
    """The largest difference of a logit between oplora's base + adapters and a model of torch in F32."""
    (work / "passage.txt").write_text(" ".join(PROMPTS), encoding="utf-8")
    out = work / "logits.safetensors"
    named = [word for adapter in adapters for word in ("--adapter", adapter)]
    run = subprocess.run(
        [oplora, "logits", "--base", base, "--data", work / "passage.txt", "--seq-len", "32", "--out", out, "--force", *named],
        capture_output=True, text=True)
    if run.returncode != 0:
        print(run.stderr)
        return float("inf")
    found = load_file(out)
    ids = tokenizer((work / "passage.txt").read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"][:32]
    if found["input_ids"].tolist() != ids:
        return float("inf")
    with torch.no_grad():
        return (found["logits"] - right(torch.tensor([ids])).logits[0]).abs().max().item()


def load(path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)


def distance(right, other):
    """The largest difference of a logit, KL(right || other) of each token, and where the likeliest tokens are the same."""
    p, q = (torch.log_softmax(x.double(), -1) for x in (right, other))
    return (right - other).abs().max().item(), (p.exp() * (p - q)).sum(-1), right.argmax(-1) == other.argmax(-1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", required=True)
    parser.add_argument("--base", type=pathlib.Path, default=pathlib.Path.home() / ".cache/oplora/smollm2")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        (work / "prompts.txt").write_text("\n".join(PROMPTS) + "\n\n", encoding="utf-8")
        for kind, options in KINDS.items():
            torch.manual_seed(1)
            settings = {"r": 16, "lora_alpha": 32, "target_modules": LINEAR, **options}
            model = get_peft_model(load(args.base), LoraConfig(task_type="CAUSAL_LM", **settings))
            for name, parameter in model.named_parameters():
                if "lora_B" in name or "lora_embedding_A" in name or "modules_to_save" in name:
                    parameter.data.add_(0.02 * torch.randn_like(parameter))
                if "magnitude" in name:
                    parameter.data.mul_(1 + 0.05 * torch.randn_like(parameter))
            model.save_pretrained(work / kind)
            # The unmerged model in F32: what it is, without the rounding of a forward pass in BF16.
            right = PeftModel.from_pretrained(load(args.base).float(), work / kind).float().eval()
            merged_path = work / f"{kind}-merged"
            subprocess.run(
                [args.oplora, "merge", "--base", args.base, "--adapter", work / kind, "--out", merged_path, "--no-fsync", "--quiet"], check=True)
            merged, base = (load(path).float().eval() for path in (merged_path, args.base))
            run = subprocess.run(
                [args.oplora, "verify", "--base", args.base, "--adapter", work / kind, "--merged", merged_path, "--prompts", work / "prompts.txt",
                 "--json"], capture_output=True, text=True)
            found = json.loads(run.stdout)["prompts"]
            figures = []
            with torch.no_grad():
                for prompt in PROMPTS:
                    ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
                    logits = [m(ids).logits[0] for m in (right, merged, base)]
                    figures.append((distance(logits[0], logits[1]), distance(logits[0], logits[2])))
            worst = 0.0
            for number, item in enumerate(found["prompts"]):
                expected = figures[number][0]
                # Two forward passes in F32 are a few 1e-5 apart in a logit of about 20.
                worst = max(worst, abs(item["maxLogitDifference"] - expected[0]) / max(expected[0], 1e-2))
                for a, b in zip(item["kl"], expected[1].tolist()):
                    worst = max(worst, abs(a - b) / max(b, 1e-4))
                if len(item["kl"]) != len(expected[1]) or item["disagreements"] != [i for i, same in enumerate(expected[2].tolist()) if not same]:
                    worst = float("inf")
            for which, value in ((0, found), (1, found["base"])):
                kl = torch.cat([f[which][1] for f in figures]).mean().item()
                agreement = torch.cat([f[which][2] for f in figures]).double().mean().item()
                largest = max(f[which][0] for f in figures)
                worst = max(worst, abs(value["meanKL"] - kl) / max(kl, 1e-4), abs(value["maxLogitDifference"] - largest) / max(largest, 1e-2))
                if value["argmaxAgreement"] != agreement:
                    worst = float("inf")
            ok = run.returncode == 0 and worst < 1e-2
            failures += not ok
            print(
                f"{'ok  ' if ok else 'FAIL'} {kind}: {found['tokens']} tokens, merged off by {found['maxLogitDifference']:.3g} and "
                f"{found['meanKL']:.3g} nats, the base by {found['base']['maxLogitDifference']:.3g}; torch's figures within {worst:.1e}", flush=True)
            if run.returncode != 0:
                print(run.stderr)
            layouts = {kind: work / kind}
            if kind == "lora":
                layouts["lora as GGUF"] = work / "lora.gguf"
                subprocess.run(
                    [args.oplora, "convert", work / kind, "--to", "gguf", "--base", args.base, "--out", work / "lora.gguf", "--quiet"], check=True)
            for name, path in layouts.items():
                off = logits_distance(args.oplora, args.base, [path], right, tokenizer, work)
                # The largest logit is about 20.
                failures += not off < 2e-3
                print(f"{'ok  ' if off < 2e-3 else 'FAIL'} {name}: logits of base + adapter within {off:.1e} of torch", flush=True)
        both = PeftModel.from_pretrained(load(args.base).float(), work / "lora", adapter_name="one")
        both.load_adapter(work / "rslora", adapter_name="two")
        both.add_weighted_adapter(["one", "two"], [0.5, 1.0], "both", combination_type="cat")
        both.set_adapter("both")
        off = logits_distance(args.oplora, args.base, [f"{work / 'lora'}:0.5", work / "rslora"], both.float().eval(), tokenizer, work)
        failures += not off < 2e-3
        print(f"{'ok  ' if off < 2e-3 else 'FAIL'} two adapters, one with a weight: logits within {off:.1e} of torch")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
