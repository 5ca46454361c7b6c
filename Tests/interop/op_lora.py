#!/usr/bin/env python3
"""Trains OP-LoRA in PyTorch with the code of docs/op-lora.md, collapses and merges it, and compares with PyTorch.

    python op_lora.py --oplora PROGRAM

Factors must be those that torch computes within 1e-6 of the largest, and the outputs of the merged model those of the trained one
within 1e-5; so for OP-DoRA, OP-VeRA, the first author's prototype (its layers written here from its description) and PEFT's own
VeRA. One line a case; exits 1 if any fails.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers as hf
from peft import VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import adapters

HERE = pathlib.Path(__file__).resolve().parent
DOCUMENTED = {}
exec(re.search(r"```python\n(.*?)```", (HERE.parents[1] / "docs/op-lora.md").read_text(), re.S)[1], DOCUMENTED)
TARGETS = ("q_proj", "up_proj", "down_proj")
RANK, ALPHA = 4, 7.0


def run(oplora, *arguments):
    result = subprocess.run([oplora, *map(str, arguments), "--quiet"], capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"oplora {' '.join(map(str, arguments))}: {result.stderr.strip()} {result.stdout.strip()}")


def train(model, wrapped, inputs, steps=20):
    parameters = [parameter for layer in wrapped.values() for parameter in layer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=5e-3)
    losses = []
    for _ in range(steps):
        loss = model(**inputs, labels=inputs["input_ids"]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0], losses
    return losses


class Prototype(torch.nn.Module):
    """A layer of the prototype: A [in, r] and B [r, out] from one output, the scale 2; or three heads and norms."""

    def __init__(self, linear, dora, embedding=16, width=8):
        super().__init__()
        out, inner = linear.weight.shape
        self.linear, self.dora = linear, dora
        self.input_vector = torch.nn.Parameter(torch.randn(1, embedding))
        self.hypernetwork = torch.nn.Module()
        layers = [torch.nn.Linear(embedding, width), torch.nn.ReLU()]
        if dora:
            self.hypernetwork.mlp = torch.nn.Sequential(*layers)
            for name, count in (("A", inner * RANK), ("B", RANK * out), ("C", out)):
                setattr(self.hypernetwork, f"mlp_{name}", torch.nn.Linear(width, count))
            self.weight_m_wdecomp = torch.nn.Linear(1, out, bias=False)
            self.weight_m_wdecomp.weight.data = linear.weight.data.norm(dim=1, keepdim=True)
        else:
            self.hypernetwork.mlp = torch.nn.Sequential(*layers, torch.nn.Linear(width, RANK * (inner + out)))
            self.rescale = torch.nn.Parameter(torch.tensor(0.3))

    def weight(self):
        out, inner = self.linear.weight.shape
        network = self.hypernetwork
        if not self.dora:
            v = network.mlp(self.input_vector).flatten()
            a, b = v[: inner * RANK].reshape(inner, RANK), v[inner * RANK:].reshape(RANK, out) * self.rescale
            return self.linear.weight + 2 * (a @ b).T
        h = network.mlp(self.input_vector)
        a, b = network.mlp_A(h).reshape(inner, RANK), network.mlp_B(h).reshape(RANK, out)
        whole = self.linear.weight + ALPHA / RANK * (a @ b).T
        return (self.weight_m_wdecomp.weight.flatten() + network.mlp_C(h).flatten())[:, None] * whole / whole.norm(dim=1, keepdim=True)

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight(), self.linear.bias)

    def state(self, path):
        kept = {key: value for key, value in self.state_dict().items() if not key.startswith("linear.")}
        return {f"base_model.model.{path}.{key}": value for key, value in kept.items()}


def wrap(model, make):
    wrapped = {}
    for path, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and path.rsplit(".", 1)[-1] in TARGETS:
            wrapped[path] = make(module)
            model.set_submodule(path, wrapped[path])
    return wrapped


def documented(dora):
    def make(model, inputs, file):
        wrapped = DOCUMENTED["adapt"](model, TARGETS, rank=RANK, alpha=ALPHA, z_std=1.0, dora=dora)
        train(model, wrapped, inputs)
        DOCUMENTED["export"](wrapped, file, ALPHA, base="small")
        factors = {path: layer.factors() for path, layer in wrapped.items()}
        return adapters.outputs_of(model, inputs), factors, []
    return make


def prototype(dora):
    def make(model, inputs, file):
        model.requires_grad_(False)
        wrapped = wrap(model, lambda linear: Prototype(linear, dora))
        tensors = {key: value.detach().contiguous() for path, layer in wrapped.items() for key, value in layer.state(path).items()}
        save_file(tensors, file)
        return adapters.outputs_of(model, inputs), {}, ["--alpha", ALPHA] if dora else []
    return make


class OpVeRALinear(torch.nn.Module):
    def __init__(self, linear, shared_a, shared_b, embedding=16, width=8):
        super().__init__()
        out, inner = linear.weight.shape
        self.linear, self.a, self.b = linear, shared_a[:, :inner], shared_b[:out]
        self.z = torch.nn.Parameter(torch.randn(embedding))
        self.trunk, self.d, self.l = torch.nn.Linear(embedding, width), torch.nn.Linear(width, len(shared_a)), torch.nn.Linear(width, out)

    def forward(self, x):
        h = torch.relu(self.trunk(self.z))
        return self.linear(x) + (x @ (self.d(h)[:, None] * self.a).T) @ (self.l(h)[:, None] * self.b).T


def op_vera(model, inputs, file):
    model.requires_grad_(False)
    shared_a, shared_b = 0.3 * torch.randn(RANK, 48), 0.3 * torch.randn(48, RANK)
    wrapped = wrap(model, lambda linear: OpVeRALinear(linear, shared_a, shared_b))
    tensors = {"op_lora.vera_A": shared_a, "op_lora.vera_B": shared_b}
    for path, layer in wrapped.items():
        tensors[f"{path}.op_lora.z"] = layer.z.detach()
        for name in ("trunk", "d", "l"):
            for part in ("weight", "bias"):
                tensors[f"{path}.op_lora.{name}.{part}"] = getattr(getattr(layer, name), part).detach()
    save_file(tensors, file, metadata={"format": "op-lora", "version": "1", "alpha": "1"})
    return adapters.outputs_of(model, inputs), {}, []


def vera(model, inputs, file, **fields):
    peft = get_peft_model(model, VeraConfig(**{"r": 8, "target_modules": list(TARGETS), "save_projection": True, **fields}))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    peft.save_pretrained(file)
    return adapters.outputs_of(peft, inputs), {}, []


def vera_of_conv1d(model, inputs, file):
    return vera(model, inputs, file, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)


vera_of_conv1d.build = adapters.gpt2


CASES = [
    ("OP-LoRA", documented(False)), ("OP-DoRA", documented(True)), ("OP-VeRA", op_vera), ("the prototype's OP-LoRA", prototype(False)),
    ("the prototype's OP-DoRA", prototype(True)), ("PEFT's VeRA", vera), ("PEFT's VeRA of Conv1D", vera_of_conv1d),
]


def check(oplora, make, folder):
    torch.manual_seed(3)
    getattr(make, "build", adapters.llama)().save_pretrained(folder / "base")
    model = hf.AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    inputs = adapters.inputs_of(model)
    before = adapters.outputs_of(model, inputs)
    file = folder / "state.safetensors"
    outputs, factors, arguments = make(model, inputs, file)
    changed = ((outputs - before).abs().max() / before.abs().max()).item()
    run(oplora, "collapse", file, "--out", folder / "adapter", "--base", folder / "base", *arguments)
    stored = load_file(folder / "adapter/adapter_model.safetensors")
    off = 0.0
    for path, (a, b) in factors.items():
        for name, value in (("A", a), ("B", b)):
            found = stored[f"base_model.model.{path}.lora_{name}.weight"]
            off = max(off, ((found - value).abs().max() / value.abs().max()).item())
    # What needs no alpha from outside is merged as it is, too.
    sources = [folder / "adapter"] + ([] if arguments or "hypernetwork" in str(load_file(file).keys() if file.is_file() else "") else [file])
    errors = []
    for number, source in enumerate(sources):
        merged = folder / f"merged{number}"
        run(oplora, "merge", "--base", folder / "base", "--adapter", source, "--out", merged, "--no-fsync")
        run(oplora, "verify", "--base", folder / "base", "--adapter", source, "--merged", merged)
        found = adapters.outputs_of(hf.AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32), inputs)
        errors.append(((found - outputs).abs().max() / outputs.abs().max()).item())
    text = f"outputs {max(errors):.1e} off" + (f", factors {off:.1e}" if factors else "") + f"; the adapter changes them by {changed:.2g}"
    return max(errors) <= 1e-5 and off <= 1e-6 and changed > 1e-3, text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", required=True)
    options = parser.parse_args()
    failed = 0
    for name, make in CASES:
        folder = pathlib.Path(tempfile.mkdtemp())
        try:
            is_right, text = check(options.oplora, make, folder)
        except RuntimeError as error:
            is_right, text = False, str(error)
        failed += not is_right
        print(f"{'ok  ' if is_right else 'FAIL'}  {name}: {text}", flush=True)
        shutil.rmtree(folder)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
