#!/usr/bin/env python3
"""A gallery of merges, right and wrong, that `oplora verify` must tell apart and name: SmolLM2-135M with adapters of PEFT.

    python3 Tests/interop/fault_gallery.py --oplora PROGRAM [--base SMOLLM2] [--layers N] [--only PART]

The right ones are merged by PEFT, plainly and with safe_merge, in BF16, F16 and F32. The wrong ones are made by torch from the
same weights, one fault each, in BF16 and F32. Prints what each kind of fault was called, as a matrix, and ends with 1 if a
right merge failed, a wrong one passed, or one was called something else.
"""
import argparse
import collections
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"  # everything is a local folder

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM
from transformers.utils import logging as hf_logging

hf_logging.set_verbosity_error()
hf_logging.disable_progress_bar()
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


class Gallery:
    def __init__(self, args, work):
        self.oplora, self.work = args.oplora, work
        self.rows = []  # (kind, what, expected, found, detail)
        self.bases = {}
        weights = load_file(args.base / "model.safetensors")
        layers = {f"model.layers.{n}." for n in range(args.layers)}
        weights = {name: value for name, value in weights.items() if not name.startswith("model.layers.") or any(map(name.startswith, layers))}
        config = AutoConfig.from_pretrained(args.base)
        config.num_hidden_layers = args.layers
        for name, dtype in TYPES.items():
            self.bases[name] = work / f"base-{name}"
            config.dtype = dtype
            config.save_pretrained(self.bases[name])
            save_file({key: value.to(dtype) for key, value in weights.items()}, self.bases[name] / "model.safetensors", {"format": "pt"})

    def adapter(self, title, base, seed=0, spread=0.02, dtype=None, **options):
        """Trains nothing: an adapter whose factors are random, written by PEFT."""
        torch.manual_seed(seed)
        options = {"r": 16, "lora_alpha": 32, "target_modules": LINEAR, **options}
        model = get_peft_model(self.load(base), LoraConfig(task_type="CAUSAL_LM", **options), autocast_adapter_dtype=dtype is None)
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name or "modules_to_save" in name:
                torch.nn.init.normal_(parameter, std=spread)
            if "magnitude" in name:
                parameter.data.mul_(1 + 0.05 * torch.randn_like(parameter))
        folder = self.work / title
        model.save_pretrained(folder)
        return folder

    @staticmethod
    def load(folder):
        return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")

    def merge_with_peft(self, base, adapter, out, safe=False, autocast=True):
        from peft import PeftModel

        model = PeftModel.from_pretrained(self.load(base), adapter, autocast_adapter_dtype=autocast)
        model.merge_and_unload(safe_merge=safe).save_pretrained(out)

    def check(self, kind, what, base, adapter, merged, expected, *options):
        """Verifies and removes `merged`; expected is a verdict or the code of the first fault."""
        command = [self.oplora, "verify", "--base", base, "--adapter", adapter, "--merged", merged, "--json", *options]
        run = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        shutil.rmtree(merged)
        try:
            report = json.loads(run.stdout)
        except json.JSONDecodeError:
            report = {"verdict": f"exit {run.returncode}: {run.stderr.strip()}", "faults": []}
        found = report["faults"][0]["code"] if report["faults"] else report["verdict"]
        codes = {"pass": 0, "fail": 1, "inconclusive": 3}
        if codes.get(report["verdict"]) != run.returncode:
            found = f"{report['verdict']} with exit code {run.returncode}"
        ways = collections.Counter(module.get("recipe") or module["standing"] for module in report.get("modules", []))
        detail = report["faults"][0]["message"] if report["faults"] else ", ".join(f"{count} {way}" for way, count in ways.most_common())
        self.rows.append((kind, what, expected, found, detail))
        print(f"{'ok  ' if found == expected else 'FAIL'}  {kind}, {what}: {found}{'' if found == expected else f' instead of {expected}'} ({detail[:150]})", flush=True)


def right_merges(gallery):
    adapters = {
        "LoRA": {},
        "LoRA of rank 1": {"r": 1, "lora_alpha": 1},
        "small LoRA": {"spread": 0.0005},
        "rsLoRA": {"use_rslora": True},
        "patterns": {"rank_pattern": {"q_proj": 4, "down_proj": 24}, "alpha_pattern": {"q_proj": 7.5}},
        "DoRA": {"use_dora": True},
        "embedding": {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["norm"]},
    }
    for dtype in TYPES:
        base = gallery.bases[dtype]
        for title, options in adapters.items():
            adapter = gallery.adapter(f"right-{dtype}-{title}", base, **options)
            for safe in (False, True):
                out = gallery.work / "merged"
                gallery.merge_with_peft(base, adapter, out, safe)
                gallery.check("right", f"{title}, {dtype}, {'safe_merge' if safe else 'plain'}", base, adapter, out, "pass")
        if dtype != "f32":
            # The adapter in the base's type, as it is on a GPU without autocast.
            adapter = gallery.adapter(f"right-{dtype}-native", base, dtype=dtype)
            for safe in (False, True):
                out = gallery.work / "merged"
                gallery.merge_with_peft(base, adapter, out, safe, autocast=False)
                gallery.check("right", f"LoRA in {dtype}, {dtype}, {'safe_merge' if safe else 'plain'}", base, adapter, out, "pass")


class Merged:
    """A merge by torch that faults are put into."""

    def __init__(self, gallery, dtype, adapter):
        self.gallery, self.dtype, self.type = gallery, dtype, TYPES[dtype]
        self.base_folder, self.adapter = gallery.bases[dtype], adapter
        self.base = load_file(self.base_folder / "model.safetensors")
        config = json.loads((adapter / "adapter_config.json").read_text())
        self.scale, self.rank, self.alpha = config["lora_alpha"] / config["r"], config["r"], config["lora_alpha"]
        factors = load_file(adapter / "adapter_model.safetensors")
        self.factors = {}
        for name, value in factors.items():
            if name.endswith("lora_A.weight"):
                module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                self.factors[module + ".weight"] = (value, factors[name.replace("lora_A", "lora_B")])
        self.modules = sorted(self.factors)

    def delta(self, name, scale=None, rank=None):
        a, b = self.factors[name]
        return (b[:, :rank] @ a[:rank]) * (self.scale if scale is None else scale)

    def add(self, name, delta):
        return (self.base[name].float() + delta).to(self.type)

    def tensors(self, change=None):
        """All of them; `change` maps names to what is stored in the place of the right weight."""
        tensors = {name: value.clone() for name, value in self.base.items()}
        for name in self.modules:
            tensors[name] = self.add(name, self.delta(name))
        tensors.update(change or {})
        return tensors

    def write(self, tensors, out=None):
        out = out or self.gallery.work / "merged"
        out.mkdir()
        shutil.copy(self.base_folder / "config.json", out)
        save_file({name: value.contiguous() for name, value in tensors.items()}, out / "model.safetensors", {"format": "pt"})
        return out

    def check(self, kind, what, expected, tensors, prepare=None):
        out = self.write(tensors)
        if prepare:
            prepare(out)
        self.gallery.check(kind, f"{what}, {self.dtype}", self.base_folder, self.adapter, out, expected)


def step(value, index, steps):
    """One element some steps of its type away."""
    value = value.clone()
    bits = value.view(torch.int16 if value.element_size() == 2 else torch.int32).flatten()
    bits[index] += steps
    return value


def wrong_merges(gallery, dtype):
    base = gallery.bases[dtype]
    merged = Merged(gallery, dtype, gallery.adapter(f"wrong-{dtype}", base))
    generator = torch.Generator().manual_seed(1)
    chosen = merged.modules[::5][:6]
    everything = {"all modules": merged.modules, **{name.removesuffix(".weight"): [name] for name in chosen}}

    def each(kind, expected, make, groups=everything):
        for what, names in groups.items():
            merged.check(kind, what, expected, merged.tensors({name: make(name) for name in names}))

    each("not merged", "notMerged", lambda name: merged.base[name])
    each("merged twice", "mergedTwice", lambda name: merged.add(name, 2 * merged.delta(name)))
    each("merged twice, rounded between", "mergedTwice", lambda name: (merged.add(name, merged.delta(name)).float() + merged.delta(name)).to(merged.type))
    each("subtracted", "wrongSign", lambda name: merged.add(name, -merged.delta(name)))
    scales = {
        "scale 1% too large": 1.01 * merged.scale, "alpha ignored": 1 / merged.rank, "scale ignored": 1.0, "alpha over root of rank": merged.alpha / merged.rank**0.5,
        "alpha not divided": float(merged.alpha),
    }
    for kind, scale in scales.items():
        each(kind, "wrongScale", lambda name: merged.add(name, merged.delta(name, scale)))
    square = [name for name in merged.modules if merged.base[name].shape[0] == merged.base[name].shape[1]]
    each("transposed", "transposed", lambda name: merged.add(name, merged.delta(name).T), {"all square": square, **{name.removesuffix(".weight"): [name] for name in square[:6]}})
    layer = lambda name, number: name.replace(f"layers.{name.split('.')[2]}.", f"layers.{number}.")  # noqa: E731
    count = max(int(name.split(".")[2]) for name in merged.modules) + 1
    each("updates in another order", "swappedModules", lambda name: merged.add(name, merged.delta(layer(name, (int(name.split('.')[2]) + 1) % count))))
    for name in chosen:
        other = layer(name, (int(name.split(".")[2]) + 1) % count)
        merged.check("two updates exchanged", name, "swappedModules", merged.tensors({name: merged.add(name, merged.delta(other)), other: merged.add(other, merged.delta(name))}))
    for rank in (4, 8, 15):
        each(f"only {rank} of 16 components", "truncatedRank", lambda name: merged.add(name, merged.delta(name, rank=rank)), {"all modules": merged.modules, chosen[0]: chosen[:1], chosen[1]: chosen[1:2]})
    for amount in (0.02, 0.2, 1.0):
        other = {name: (value.float() + amount * value.float().std() * torch.randn(value.shape, generator=generator)).to(merged.type) for name, value in merged.base.items()}
        tensors = {name: (value.float() + merged.delta(name)).to(merged.type) if name in merged.factors else value for name, value in other.items()}
        merged.check("another base", f"{amount:.0%} of its spread away", "wrongBase", tensors)
    for index, name in enumerate(chosen + ["model.norm.weight", "model.embed_tokens.weight"]):
        adapted = name in merged.factors
        right = merged.tensors()[name]
        place = int(torch.randint(right.numel(), (1,), generator=generator))
        steps = (1 if index % 2 else -1) * (1 if dtype == "bf16" or not adapted else 1 << 14)
        merged.check("one element", f"{name}[{place}], {steps} steps", "elementsDiffer" if adapted else "baseChangedWithoutAdapter", merged.tensors({name: step(right, place, steps)}))
        for value in (float("nan"), float("inf")):
            spoiled = right.clone()
            spoiled.flatten()[place] = value
            merged.check("not finite", f"{name}, {value}", "notFinite", merged.tensors({name: spoiled}))
        tensors = merged.tensors()
        del tensors[name]
        merged.check("missing tensor", name, "missingTensor", tensors)
        other = torch.float16 if dtype == "bf16" else torch.bfloat16
        merged.check("other type", name, "dtypeMismatch", merged.tensors({name: right.to(other)}))
    merged.check("left over", "a factor", "extraTensor", merged.tensors({"model.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(4, 4)}))
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        merged.check("adapter files left", file, "leftoverAdapter", merged.tensors(), lambda out: shutil.copy(merged.adapter / file, out))
    # The embedding's update in a model whose head is the same matrix.
    tied = gallery.adapter(f"tied-{dtype}", base, target_modules=["embed_tokens"])
    for safe in (False, True):
        out = gallery.work / "merged"
        gallery.merge_with_peft(base, tied, out, safe)
        gallery.check("tied head", f"safe_merge {safe}, {dtype}", base, tied, out, "tiedHeadOverwritten")
    if dtype == "bf16":
        # Weights that are zero, or nearly, take any update; without them rounding erases it.
        dense = gallery.work / "dense"
        shutil.copytree(base, dense)
        weights = load_file(base / "model.safetensors")
        save_file({name: torch.where(value.abs() < 1e-3, 0.01, value.float()).to(value.dtype) for name, value in weights.items()}, dense / "model.safetensors")
        for spread in (1e-9, 1e-7):
            tiny = gallery.adapter(f"tiny-{spread}", dense, spread=spread)
            shutil.copytree(dense, gallery.work / "merged")
            gallery.check("rounded away", f"B of {spread}, not merged", dense, tiny, gallery.work / "merged", "inconclusive")
            gallery.merge_with_peft(dense, tiny, gallery.work / "merged")
            gallery.check("rounded away", f"B of {spread}, merged", dense, tiny, gallery.work / "merged", "inconclusive")


def experts(gallery, dtype):
    torch.manual_seed(3)
    config = MixtralConfig(
        vocab_size=64, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
        num_experts_per_tok=2)
    base = gallery.work / f"experts-{dtype}"
    MixtralForCausalLM(config).to(TYPES[dtype]).save_pretrained(base)
    adapter = gallery.adapter(
        f"experts-adapter-{dtype}", base, r=8, target_modules=[], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])
    for safe in (False, True):
        out = gallery.work / "merged"
        gallery.merge_with_peft(base, adapter, out, safe)
        gallery.check("right", f"experts, {dtype}, {'safe_merge' if safe else 'plain'}", base, adapter, out, "pass")
    out = gallery.work / "merged"
    gallery.merge_with_peft(base, adapter, out)
    weights, before = load_file(out / "model.safetensors"), load_file(base / "model.safetensors")
    deltas = {name: weights[name].float() - before[name].float() for name in weights}
    for what, order in {"rotated": [1, 2, 3, 0], "two exchanged": [0, 1, 3, 2]}.items():
        changed = dict(weights)
        for name in weights:
            if ".experts." in name:
                number = int(name.split(".experts.")[1].split(".")[0])
                changed[name] = (before[name].float() + deltas[name.replace(f".experts.{number}.", f".experts.{order[number]}.")]).to(TYPES[dtype])
        target = gallery.work / "changed"
        shutil.copytree(out, target)
        save_file(changed, target / "model.safetensors", {"format": "pt"})
        gallery.check("experts exchanged", f"{what}, {dtype}", base, adapter, target, "expertsPermuted")
    shutil.rmtree(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", required=True)
    parser.add_argument("--base", type=pathlib.Path, default=pathlib.Path.home() / ".cache/oplora/smollm2")
    parser.add_argument("--layers", type=int, default=5, help="how many of its 30 layers the models have")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as work:
        gallery = Gallery(args, pathlib.Path(work))
        parts = {"right": lambda: right_merges(gallery)}
        for dtype in ("bf16", "f32"):
            parts[f"wrong-{dtype}"] = lambda dtype=dtype: wrong_merges(gallery, dtype)
            parts[f"experts-{dtype}"] = lambda dtype=dtype: experts(gallery, dtype)
        for name, part in parts.items():
            if args.only in name:
                part()
        matrix = collections.defaultdict(collections.Counter)
        for kind, _, expected, found, _ in gallery.rows:
            matrix[kind, expected][found] += 1
        print("\n| made | expected | called |\n|---|---|---|")
        for (kind, expected), found in matrix.items():
            print(f"| {kind} | {expected} | {', '.join(f'{count} {code}' for code, count in found.most_common())} |")
        right = [row for row in gallery.rows if row[2] == "pass"]
        wrong = [row for row in gallery.rows if row[2] != "pass"]
        print(
            f"\n{len(right)} right merges, {sum(row[3] != 'pass' for row in right)} false alarms; {len(wrong)} wrong ones, "
            f"{sum(row[3] == 'pass' for row in wrong)} missed, {sum(row[3] not in ('pass', row[2]) for row in wrong)} called something else")
        sys.exit(any(row[2] != row[3] for row in gallery.rows))


if __name__ == "__main__":
    main()
