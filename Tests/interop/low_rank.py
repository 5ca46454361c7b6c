#!/usr/bin/env python3
"""Checks extract, resize, combine and unmerge against numpy's singular value decomposition and PEFT's own combinations.

    python low_rank.py --oplora PROGRAM [--base DIR]

On SmolLM2, or the model at --base, in F32: a random adapter of rank 16 on all linear layers is merged by numpy; `extract` of rank
16 must give back s·B·A within the rounding of the merged weights, and from a merge in BF16 the residual that it reports must be
the one that numpy finds. On a small model that was changed everywhere, the energies of `extract` and `resize` must be numpy's.
`combine` is compared with the sums and with PEFT's add_weighted_adapter. `unmerge` must give back the base except for the elements
that it calls uncertain, and those within half a unit in the last place of the merged element. One line a case; exits 1 if any fails.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import adapters

LINEAR = adapters.LINEAR
failed = 0


def say(name, is_right, text):
    global failed
    failed += not is_right
    print(f"{'ok  ' if is_right else 'FAIL'}  {name}: {text}", flush=True)


def run(oplora, *arguments):
    result = subprocess.run([oplora, *map(str, arguments), "--json"], capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"oplora {' '.join(map(str, arguments))}: {result.stderr.strip()}")
    return json.loads(result.stdout) if result.stdout.strip() else None


def weights(folder):
    return {key: value for path in sorted(pathlib.Path(folder).glob("*.safetensors")) for key, value in load_file(path).items()}


def products(folder):
    """s·B·A of each module of a PEFT folder, in binary64."""
    folder = pathlib.Path(folder)
    fields = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    found = {}
    for name, a in tensors.items():
        if name.endswith("lora_A.weight"):
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            key = next((key for key in fields.get("alpha_pattern", {}) if module.endswith(key)), None)
            alpha = fields["alpha_pattern"][key] if key else fields["lora_alpha"]
            b = tensors[name.replace("lora_A", "lora_B")]
            found[module] = alpha / len(a) * (b.double().numpy() @ a.double().numpy())
    return found


def copy_with(base, tensors, target):
    shutil.copytree(base, target)
    for path in target.glob("*.safetensors"):
        save_file({key: tensors[key].contiguous() for key in load_file(path)}, path, metadata={"format": "pt"})


def known_adapter(tensors, folder, rank=16, alpha=32):
    generator = torch.Generator().manual_seed(5)
    found = {}
    for name, weight in tensors.items():
        if any(name.endswith(f".{part}.weight") for part in LINEAR):
            module = "base_model.model." + name.removesuffix(".weight")
            found[f"{module}.lora_A.weight"] = 0.02 * torch.randn(rank, weight.shape[1], generator=generator)
            found[f"{module}.lora_B.weight"] = 0.02 * torch.randn(weight.shape[0], rank, generator=generator)
    folder.mkdir()
    save_file(found, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": LINEAR}))


def check_extract(oplora, base, folder):
    tensors = {key: value.float() for key, value in weights(base).items()}
    known_adapter(tensors, folder / "known")
    updates = products(folder / "known")
    copy_with(base, tensors, folder / "base32")
    for dtype in (torch.float32, torch.bfloat16):
        name = "F32" if dtype == torch.float32 else "BF16"
        merged = {key: (torch.from_numpy(value.double().numpy() + updates[key.removesuffix(".weight")]) if key.removesuffix(".weight") in updates
                        else value).to(dtype) for key, value in tensors.items()}
        start = {key: value.to(dtype) for key, value in tensors.items()}
        copy_with(base, merged, folder / f"merged{name}")
        copy_with(base, start, folder / f"start{name}")
        report = run(oplora, "extract", "--base", folder / f"start{name}", "--tuned", folder / f"merged{name}", "--rank", 16, "--out",
                     folder / f"extracted{name}")
        found = products(folder / f"extracted{name}")
        stated = {module["module"]: module["relativeResidual"] for module in report["modules"]}
        if found.keys() != updates.keys():
            say(f"extract, {name}", False, f"modules {sorted(found.keys() ^ updates.keys())[:3]}")
            continue
        # What rounding each element of the merged weight to its type makes of an update.
        bound, error, off = 0.0, 0.0, 0.0
        for module, update in updates.items():
            weight = merged[f"{module}.weight"].double().numpy()
            difference = weight - start[f"{module}.weight"].double().numpy()
            rounding = np.linalg.norm(difference - update)
            error = max(error, np.linalg.norm(found[module] - update) / rounding)
            bound = max(bound, rounding / np.linalg.norm(update))
            off = max(off, abs(np.linalg.norm(difference - found[module]) / np.linalg.norm(difference) / stated[module] - 1))
        is_right = error <= 1.0 and off < 1e-6 and not report["whole"]
        say(f"extract, {name}", is_right,
            f"{len(found)} modules; s·B·A is off the known one by at most {error:.2f} of the rounding of W' ({bound:.1e} of ‖ΔW‖); "
            f"stated residuals {min(stated.values()):.1e} to {max(stated.values()):.1e}, off numpy's by {off:.0e}")


def check_spectra(oplora, folder):
    torch.manual_seed(1)
    model = adapters.llama(hidden_size=48, intermediate_size=80)
    model.save_pretrained(folder / "small")
    tuned = folder / "tuned"
    base = weights(folder / "small")
    generator = np.random.default_rng(2)
    changed = {key: (value.double() + torch.from_numpy(0.1 * generator.standard_normal(value.shape))).float() for key, value in base.items()}
    copy_with(folder / "small", changed, tuned)
    spectra = {key.removesuffix(".weight"): np.linalg.svd(changed[key].double().numpy() - base[key].double().numpy(), compute_uv=False)
               for key in base if base[key].ndim == 2}
    for arguments in (["--rank", 8], ["--energy", 0.7], ["--energy", 0.999], ["--energy", 0.9, "--rank", 12]):
        out = folder / "extracted"
        report = run(oplora, "extract", "--base", folder / "small", "--tuned", tuned, "--out", out, "--force", *arguments)
        fields = dict(zip(arguments[::2], arguments[1::2]))
        worst, ranks = 0.0, 0
        for module in report["modules"]:
            energies = np.cumsum(spectra[module["module"]] ** 2) / np.sum(spectra[module["module"]] ** 2)
            wanted = fields.get("--rank", len(energies))
            if "--energy" in fields:
                wanted = min(wanted, int(np.searchsorted(energies, fields["--energy"])) + 1)
            ranks += module["rank"] != wanted
            worst = max(worst, abs(energies[module["rank"] - 1] - module["energy"]))
        norms = sum(key.endswith("norm.weight") for key in base)
        say(f"extract {' '.join(map(str, arguments))}", worst < 1e-6 and not ranks and len(report["whole"]) == norms,
            f"{len(report['modules'])} modules, energies off numpy's by {worst:.0e}, {ranks} other ranks, {len(report['whole'])} norms whole")
    # Base and adapter are the fine-tuned model where nothing was truncated.
    run(oplora, "extract", "--base", folder / "small", "--tuned", tuned, "--out", folder / "full", "--energy", 1)
    run(oplora, "merge", "--base", folder / "small", "--adapter", folder / "full", "--out", folder / "again", "--no-fsync")
    again = weights(folder / "again")
    error = max(((again[key].double() - changed[key].double()).abs().max() / changed[key].abs().max()).item() for key in changed)
    say("extract of everything, merged", error < 1e-6 and again.keys() == changed.keys(), f"{error:.0e} off the fine-tuned model")
    full = products(folder / "full")
    for arguments in (["--rank", 6], ["--energy", 0.6]):
        report = run(oplora, "resize", folder / "full", "--out", folder / "resized", "--force", *arguments)
        found = products(folder / "resized")
        worst = 0.0
        for module in report["modules"]:
            if module["module"] not in found:
                continue
            s = np.linalg.svd(full[module["module"]], compute_uv=False)
            best = np.sqrt(np.sum(s[module["rank"]:] ** 2))
            distance = np.linalg.norm(full[module["module"]] - found[module["module"]])
            energy = 1 - np.sum(s[module["rank"]:] ** 2) / np.sum(s ** 2)
            worst = max(worst, abs(distance / best - 1), abs(energy - module["energy"]))
        say(f"resize {' '.join(map(str, arguments))}", worst < 1e-6, f"distances and energies off numpy's best by {worst:.0e}")


def check_combine(oplora, folder):
    torch.manual_seed(3)
    base = folder / "combine-base"
    adapters.llama().save_pretrained(base)
    model = hf.LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=7, target_modules=LINEAR), adapter_name="one")
    peft.add_adapter("two", LoraConfig(r=4, lora_alpha=3, target_modules=LINEAR))
    adapters.randomise(peft, torch.Generator().manual_seed(4))
    for name in ("one", "two"):
        peft.set_adapter(name)
        adapters.randomise(peft, torch.Generator().manual_seed(len(name) + ord(name[0])))
    peft.save_pretrained(folder / "pair")
    one, two = products(folder / "pair/one"), products(folder / "pair/two")
    inputs = ["--adapter", folder / "pair/one", "--adapter", f"{folder / 'pair/two'}:-0.4"]
    for method, extra in (("cat", []), ("svd", ["--rank", 5]), ("linear", [])):
        report = run(oplora, "combine", *inputs, "--method", method, "--out", folder / f"combined-{method}", *extra)
        found = products(folder / f"combined-{method}")
        worst = 0.0
        for module in report["modules"]:
            total = one[module["module"]] - 0.4 * two[module["module"]]
            expected = total
            if method == "svd":
                u, s, v = np.linalg.svd(total, full_matrices=False)
                expected = u[:, :5] * s[:5] @ v[:5]
            if method != "linear":
                worst = max(worst, np.abs(found[module["module"]] - expected).max() / np.abs(expected).max())
        if method == "linear":
            peft.add_weighted_adapter(["one", "two"], [1.0, -0.4], "three", combination_type="linear")
            peft.save_pretrained(folder / "linear", selected_adapters=["three"])
            expected = products(folder / "linear/three")
            worst = max(np.abs(found[module] - expected[module]).max() / np.abs(expected[module]).max() for module in expected)
        say(f"combine, {method}", worst < 1e-6, f"{len(found)} modules, {worst:.0e} off")


def check_unmerge(oplora, base, folder):
    for dtype in ("bf16", "f32"):
        start = folder / ("startBF16" if dtype == "bf16" else "startF32")
        run(oplora, "merge", "--base", start, "--adapter", folder / "known", "--out", folder / f"m-{dtype}", "--no-fsync")
        report = run(oplora, "unmerge", "--merged", folder / f"m-{dtype}", "--adapter", folder / "known", "--out", folder / f"u-{dtype}", "--no-fsync")
        original, found = weights(start), weights(folder / f"u-{dtype}")
        places = {torch.bfloat16: torch.int16, torch.float32: torch.int32}
        merged = weights(folder / f"m-{dtype}")
        differing, largest, ratio = 0, 0.0, 0.0
        for key, value in original.items():
            unlike = value.view(places[value.dtype]) != found[key].view(places[value.dtype])
            differing += unlike.sum().item()
            if unlike.any():
                x, y = value[unlike].double(), found[key][unlike].double()
                digits = 7 if value.dtype == torch.bfloat16 else 23
                half = torch.exp2(torch.floor(torch.log2(merged[key][unlike].double().abs())) - digits - 1)
                ratio = max(ratio, ((x - y).abs() / half).max().item())
                largest = max(largest, (x - y).abs().max().item())
        is_right = differing <= report["uncertain"] and largest <= report["maximumError"] and ratio <= 1.5 and report["uncertain"] < report["elements"]
        say(f"unmerge, {dtype}", is_right,
            f"{differing} elements differ from the base and {report['uncertain']} of {report['elements']} are called uncertain; "
            f"by {largest:.1e} at most, {report['maximumError']:.1e} is stated")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", required=True)
    parser.add_argument("--base", type=pathlib.Path, default=pathlib.Path.home() / ".cache/oplora/smollm2")
    options = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        check_spectra(options.oplora, folder)
        check_combine(options.oplora, folder)
        check_extract(options.oplora, options.base, folder)
        check_unmerge(options.oplora, options.base, folder)
    finally:
        shutil.rmtree(folder)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
