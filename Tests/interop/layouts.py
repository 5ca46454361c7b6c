#!/usr/bin/env python3
"""Two layouts of one model: what merge, verify, diff and extract make of them, beside diffusers' own conversion.

    python layouts.py [--oplora PROGRAM]      prints a line for each check; exit code 1 if one fails

A small random denoiser of diffusers is written with its authors' names as well; diffusers' converter of single files must give the model back, so that
the names here are those that it knows. Then an adapter of every linear layer is merged into both, and the two merges must be one model to the
converter; verify must pass each against the other's base and fail it with parts in a wrong order or with halves that were not exchanged.
"""
import argparse
import inspect
import pathlib
import subprocess
import sys
import tempfile

import diffusers
import torch
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file, save_file

ATTENTION = {"img": ("attn.to_{}", "to_out.0", "norm_{}"), "txt": ("attn.add_{}_proj", "to_add_out", "norm_added_{}")}


def flux():
    model = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24,
        pooled_projection_dim=12, axes_dims_rope=[4, 4, 8], guidance_embeds=True)
    linear = {
        "img_in": ["x_embedder"], "txt_in": ["context_embedder"], "final_layer.linear": ["proj_out"], "final_layer.adaLN_modulation.1": ["norm_out.linear"]}
    scales = {}
    for theirs, ours in [("time_in", "timestep_embedder"), ("vector_in", "text_embedder"), ("guidance_in", "guidance_embedder")]:
        linear |= {f"{theirs}.{layer}_layer": [f"time_text_embed.{ours}.linear_{n}"] for layer, n in [("in", 1), ("out", 2)]}
    for n in range(2):
        theirs, ours = f"double_blocks.{n}.", f"transformer_blocks.{n}."
        for part, (projection, out, norm) in ATTENTION.items():
            context = "" if part == "img" else "_context"
            linear |= {
                f"{theirs}{part}_attn.qkv": [ours + projection.format(c) for c in "qkv"], f"{theirs}{part}_attn.proj": [f"{ours}attn.{out}"],
                f"{theirs}{part}_mod.lin": [f"{ours}norm1{context}.linear"], f"{theirs}{part}_mlp.0": [f"{ours}ff{context}.net.0.proj"],
                f"{theirs}{part}_mlp.2": [f"{ours}ff{context}.net.2"]}
            scales |= {f"{theirs}{part}_attn.norm.{long}_norm.scale": f"{ours}attn.{norm.format(short)}.weight" for long, short in [("query", "q"), ("key", "k")]}
        theirs, ours = f"single_blocks.{n}.", f"single_transformer_blocks.{n}."
        linear |= {
            theirs + "linear1": [*(f"{ours}attn.to_{c}" for c in "qkv"), ours + "proj_mlp"], theirs + "linear2": [ours + "proj_out"],
            theirs + "modulation.lin": [ours + "norm.linear"]}
        scales |= {f"{theirs}norm.{long}_norm.scale": f"{ours}attn.norm_{short}.weight" for long, short in [("query", "q"), ("key", "k")]}
    # It knows only the width of the published model.
    scope = dict(vars(single_file_utils))
    source = inspect.getsource(single_file_utils.convert_flux_transformer_checkpoint_to_diffusers)
    exec(source.replace("inner_dim = 3072", f"inner_dim = {model.inner_dim}"), scope)
    return model, linear, scales, scope["convert_flux_transformer_checkpoint_to_diffusers"]


def z_image():
    model = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=24, axes_dims=[4, 6, 6], axes_lens=[8, 8, 8])
    linear, scales = {}, {}
    for name, value in model.state_dict().items():
        owner, _, parameter = name.rpartition(".")
        theirs = owner.replace("all_final_layer.2-1.", "final_layer.").replace("all_x_embedder.2-1", "x_embedder")
        if ".attention.to_out.0" in owner:
            theirs = theirs.replace(".to_out.0", ".out")
        elif ".attention.to_" in owner:
            block = owner.rpartition(".")[0]
            linear[block + ".qkv"] = [f"{block}.to_{c}" for c in "qkv"]
            continue
        elif ".attention.norm_" in owner:
            theirs = theirs.replace("norm_q", "q_norm").replace("norm_k", "k_norm")
        if value.dim() == 2 and parameter == "weight":
            linear[theirs] = [owner]
        elif f"{theirs}.weight" not in linear and value.dim() == 1 and parameter == "weight" or "." not in name:
            scales[f"{theirs}.{parameter}" if owner else name] = name
    return model, linear, scales, single_file_utils.convert_z_image_transformer_checkpoint_to_diffusers


def exchanged(value):
    return torch.cat(list(reversed(value.chunk(2))))


def authors(state, linear, scales):
    made = {theirs: state[ours] for theirs, ours in scales.items()}
    for theirs, ours in linear.items():
        for parameter in ("weight", "bias"):
            if f"{ours[0]}.{parameter}" in state:
                value = torch.cat([state[f"{o}.{parameter}"] for o in ours])
                made[f"{theirs}.{parameter}"] = exchanged(value) if ours == ["norm_out.linear"] else value
    return {name: value.contiguous() for name, value in made.items()}


class Checks:
    def __init__(self, oplora, name):
        self.oplora, self.name, self.failures = oplora, name, 0

    def run(self, *arguments):
        done = subprocess.run([self.oplora, *map(str, arguments)], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def check(self, what, holds, said=""):
        self.failures += not holds
        print(f"{'ok  ' if holds else 'FAIL'} {self.name}: {what}{'' if holds else ': ' + ' '.join(said.split())[:400]}", flush=True)

    def expect(self, what, code, *arguments):
        got, said = self.run(*arguments)
        self.check(what, got == code, f"exit code {got}: {said}")
        return said


def weights(path):
    return {name: value for file in sorted(pathlib.Path(path).glob("*.safetensors")) for name, value in load_file(file).items()}


def worst(values, wanted):
    if values.keys() != wanted.keys():
        return float("inf")
    return max(float((values[n].double() - wanted[n].double()).abs().max() / wanted[n].double().abs().max().clamp_min(1e-30)) for n in wanted)


def judge(oplora, build, work):
    checks = Checks(oplora, build.__name__)
    torch.manual_seed(5)
    model, linear, scales, convert = build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.1)
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    original = authors(state, linear, scales)
    checks.check("diffusers converts the authors' names back", worst(convert(dict(original)), state) == 0, "other names or values")
    (work / "authors").mkdir()
    base, ours = work / "authors/model.safetensors", work / "diffusers"
    save_file(original, base)
    model.save_pretrained(ours)
    tensors, merged = {}, dict(state)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            a, b = torch.randn(4, module.in_features), torch.randn(module.out_features, 4) * 0.1
            tensors |= {f"transformer.{name}.lora_A.weight": a, f"transformer.{name}.lora_B.weight": b}
            merged[name + ".weight"] = (state[name + ".weight"].double() + b.double() @ a.double()).float()
    adapter = work / "pytorch_lora_weights.safetensors"
    save_file(tensors, adapter)
    bases, merges = {"authors": base, "diffusers": ours}, {}
    for name, path in bases.items():
        merges[name] = work / f"merged-{name}"
        checks.expect(f"merge into the {name}' layout", 0, "merge", "--base", path, "--adapter", adapter, "--out", merges[name])
    values = {name: weights(path) for name, path in merges.items()}
    checks.check("the merge in diffusers' layout is the definition", worst(values["diffusers"], merged) <= 1e-6)
    checks.check("so is the other, to diffusers' converter", worst(convert(dict(values["authors"])), merged) <= 1e-6)
    for name, path in bases.items():
        for other, result in merges.items():
            checks.expect(
                f"verify: base of the {name}', merge of the {other}'", 0, "verify", "--base", path, "--adapter", adapter, "--merged", result)
    said = checks.expect("diff of the two bases finds differences of layout", 1, "diff", base, ours)
    checks.check("and only such", "only names or layout differ" in said, said)

    # Wrong ones.
    fused = next(theirs for theirs, ours in linear.items() if len(ours) == 3) + ".weight"
    q, k, v = values["authors"][fused].chunk(3)
    wrong = {"query and key in each other's place": torch.cat([k, q, v]), "the base's value": torch.cat([q, k, original[fused].chunk(3)[2]])}
    changes = [(what, fused, value) for what, value in wrong.items()]
    last = "final_layer.adaLN_modulation.1.weight"
    if linear.get("final_layer.adaLN_modulation.1") == ["norm_out.linear"]:
        changes.append(("halves that were not exchanged", last, exchanged(values["authors"][last])))
    for what, tensor, value in changes:
        broken = work / "broken.safetensors"
        save_file({**values["authors"], tensor: value.contiguous()}, broken)
        checks.expect(f"verify finds {what}", 1, "verify", "--base", ours, "--adapter", adapter, "--merged", broken)

    for name, path in bases.items():
        other = next(result for key, result in merges.items() if key != name)
        # Three or four parts of rank 4 make a fused matrix of rank 12 or 16.
        found, again = work / f"extracted-{name}.safetensors", work / f"again-{name}"
        checks.expect(
            f"extract: base of the {name}', the other's merge", 0, "extract", "--base", path, "--tuned", other, "--rank", 16, "--layout", "safetensors",
            "--out", found)
        checks.expect("its merge", 0, "merge", "--base", path, "--adapter", found, "--out", again)
        checks.check("is the model again", worst(weights(again), values[name]) <= 1e-5)
    return checks.failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", default=".build/release/oplora")
    oplora = str(pathlib.Path(parser.parse_args().oplora).resolve())
    failures = 0
    for build in (flux, z_image):
        with tempfile.TemporaryDirectory() as folder:
            failures += judge(oplora, build, pathlib.Path(folder))
    sys.exit(1 if failures else 0)


main()
