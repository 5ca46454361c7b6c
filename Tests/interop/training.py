#!/usr/bin/env python3
"""Trains adapters on small random models of each family that runs here, and compares with PEFT and torch.

    python training.py --oplora PROGRAM [--only WORD] [--markdown] [--keep FOLDER]

1. Logits of base + adapter against transformers, in F32.
2. Gradients: a run of one step has the first moments of AdamW, which are a tenth of the gradients. PEFT gets the same
   starting values, where B is not zero, and torch's gradients of the same batch.
3. Twenty steps of AdamW from these values: the loss before each step.

The data are one batch, so that every step sees all of it. One line a case; exits 1 if any fails.
"""

import json
import pathlib
import subprocess
import sys

import adapters  # sets the environment before the libraries are imported
import cases
import numpy as np
import torch
import transformers as hf
from adapters import run
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file
from safetensors.torch import save_file

OPCK = pathlib.Path(__file__).resolve().parents[2] / "formats" / "reference" / "opck.py"
RANK, ALPHA, BATCH, LENGTH, STEPS, RATE = 4, 8, 2, 24, 20, 1e-2
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SIZES = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=64, tie_word_embeddings=False)

FAMILIES = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**SIZES, sliding_window=None)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**SIZES, head_dim=10)),
    "qwen3, tied": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**{**SIZES, "tie_word_embeddings": True}, head_dim=8)),
}
METHODS = ["lora", "dora"]


def tensors_of(path):
    """The tensors of a run, by the reference decoder."""
    out = path.with_suffix(".safetensors")
    subprocess.run([sys.executable, OPCK, "extract", path, "--out", out], check=True, capture_output=True)
    return load_file(out)


def difference(found, expected):
    """‖found − expected‖ / ‖expected‖"""
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-30))


def train(oplora, folder, method, out, *options):
    result = run(oplora, "train", "--base", folder / "base", "--data", folder / "ids.safetensors", "--out", folder / out, "--method", method,
                 "--rank", RANK, "--alpha", ALPHA, "--batch-size", BATCH, "--seq-len", LENGTH, "--schedule", "constant", "--warmup-ratio", 0,
                 "--max-grad-norm", 0, "--json", "--quiet", *options)
    if result.returncode:
        raise RuntimeError(f"train: {result.stderr.strip()[-400:]}")
    events = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return [event["loss"] for event in events if event.get("event") == "step"]


def make(name, folder):
    torch.manual_seed(3)
    model = FAMILIES[name]().float().eval()
    # Norms of ones would hide whether they are multiplied at all.
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" in key:
                parameter.mul_(1 + 0.3 * torch.randn(parameter.shape))
    model.save_pretrained(folder / "base")
    ids = torch.randint(0, 96, (BATCH * LENGTH + 1,), generator=torch.Generator().manual_seed(7), dtype=torch.int32)
    save_file({"input_ids": ids}, folder / "ids.safetensors")
    return model, ids


def peft_name(key, method):
    """The name of a parameter of a run in PEFT."""
    module, part = key.rsplit(".", 1)
    if part == "magnitude":
        return f"base_model.model.{module}.lora_magnitude_vector.default.weight"
    return f"base_model.model.{module}.{part}.default.weight"


def check(oplora, folder, name, method):
    """Returns a text and what is wrong."""
    model, ids = make(name, folder)
    # A run whose factors have moved: B is zero at the start, and the gradient of A with it.
    train(oplora, folder, method, "start.opck", "--steps", 3, "--lr", 0.05)
    start = tensors_of(folder / "start.opck")
    peft = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, use_dora=method == "dora"))
    parameters = dict(peft.named_parameters())
    keys = [key for key in start if not key.startswith("adamw.") and key.rsplit(".", 1)[-1] in ("lora_A", "lora_B", "magnitude")]
    if len(keys) != sum(parameter.requires_grad for parameter in parameters.values()):
        return "", f"{len(keys)} parameters, and PEFT has {sum(p.requires_grad for p in parameters.values())}"

    def load(values):
        with torch.no_grad():
            for key in keys:
                parameters[peft_name(key, method)].copy_(torch.from_numpy(values[key]).reshape(parameters[peft_name(key, method)].shape))

    load(start)
    # Logits.
    logits = run(oplora, "logits", "--base", folder / "base", "--adapter", folder / "start.opck", "--data", folder / "ids.safetensors", "--seq-len", LENGTH,
                 "--out", folder / "logits.safetensors")
    if logits.returncode:
        return "", f"logits: {logits.stderr.strip()}"
    found = load_file(folder / "logits.safetensors")["logits"]
    inputs = ids[:-1].reshape(BATCH, LENGTH).long()
    with torch.no_grad():
        expected = peft(input_ids=inputs).logits.reshape(-1, 96).numpy()
    of_logits = difference(found, expected[:LENGTH])

    # Gradients, at the values of the start: two runs that differ by one step.
    def loss_of():
        targets = ids[1:].reshape(BATCH, LENGTH).long()
        return torch.nn.functional.cross_entropy(peft(input_ids=inputs).logits.reshape(-1, 96), targets.reshape(-1))

    loss_of().backward()
    optimizer_start = {key: (start["adamw.first." + key], start["adamw.second." + key]) for key in keys}
    resumed = run(oplora, "train", "--resume", folder / "start.opck", "--base", folder / "base", "--data", folder / "ids.safetensors", "--out", folder / "next.opck",
                  "--steps", 4, "--quiet")
    if resumed.returncode:
        return "", f"resume: {resumed.stderr.strip()}"
    following = tensors_of(folder / "next.opck")
    worst = 0.0
    for key in keys:
        gradient = (following["adamw.first." + key] - 0.9 * optimizer_start[key][0]) / 0.1
        worst = max(worst, difference(gradient.reshape(-1), parameters[peft_name(key, method)].grad.numpy().reshape(-1)))
    # Steps from a fresh start.
    losses = train(oplora, folder, method, "run.opck", "--steps", STEPS, "--lr", RATE, "--weight-decay", 0.01)
    train(oplora, folder, method, "first.opck", "--steps", 1, "--lr", 1e-12)
    load(tensors_of(folder / "first.opck"))
    optimizer = torch.optim.AdamW([parameters[peft_name(key, method)] for key in keys], lr=RATE, weight_decay=0.01)
    theirs = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        theirs.append(loss.item())
    of_losses = max(abs(a - b) for a, b in zip(losses, theirs))
    text = f"logits {of_logits:.1e}, gradients {worst:.1e}, losses of {STEPS} steps {of_losses:.1e} ({theirs[0]:.3f} to {theirs[-1]:.3f})"
    wrong = []
    if of_logits > 1e-5:
        wrong.append("logits differ")
    if worst > 1e-4:
        wrong.append("gradients differ")
    if of_losses > 2e-3 or theirs[-1] > theirs[0] - 0.1:
        wrong.append("losses differ")
    return text, "; ".join(wrong)


def main():
    pairs = [(f"{method}, {name}", (name, method)) for name in FAMILIES for method in METHODS]
    cases.run(__doc__, ("trained", "against PEFT and torch, relative"), pairs, check)


if __name__ == "__main__":
    main()
