#!/usr/bin/env python3
"""Writes adapters of every kind that PEFT makes in every layout, and merges what was written.

    python roundtrips.py --oplora PROGRAM [--only WORD] [--markdown]

For each case of adapters.py the adapter is converted into each layout. What is written is merged as it is, and converted back
to PEFT and merged; both folders must hold the same bytes as the merge of the original, or, where one scale for all modules
had to be made, weights within 1e-6 of the largest. PEFT itself loads what comes back, and its outputs must be those of the
original. A layout that has no form for a kind must refuse it by the module's name with exit code 65 and leave nothing. One
line a case; exits 1 if any fails.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
from peft import PeftModel
from safetensors.torch import load_file

import adapters

LAYOUTS = ["peft", "safetensors", "mlx", "kohya", "diffusers", "gguf"]
FILES = {"safetensors": "adapter.safetensors", "kohya": "adapter.safetensors", "gguf": "adapter.gguf"}
BOUND = 1e-6


def run(oplora, *arguments):
    return subprocess.run([oplora, *map(str, arguments)], capture_output=True, text=True)


def weights(folder):
    return {key: value for path in sorted(folder.glob("*.safetensors")) for key, value in load_file(path).items()}


def merged(oplora, folder, adapter, name):
    result = run(oplora, "merge", "--base", folder / "base", "--adapter", adapter, "--out", folder / name, "--no-fsync", "--quiet", "--any-base")
    if result.returncode:
        raise ValueError(f"merge of {adapter.name}: {result.stderr.strip()}")
    found = weights(folder / name)
    shutil.rmtree(folder / name)
    return found


def difference(found, expected):
    """The largest difference relative to the largest element of its tensor; None for the same bytes."""
    if found.keys() != expected.keys():
        raise ValueError(f"other tensors: {sorted(found.keys() ^ expected.keys())[:3]}")
    same = all(torch.equal(found[key].reshape(-1).view(torch.uint8), expected[key].reshape(-1).view(torch.uint8)) for key in expected)
    if same:
        return None
    return max(((found[key].double() - expected[key].double()).abs().max() / expected[key].double().abs().max()).item() for key in expected)


def convert(oplora, folder, source, layout, target):
    arguments = ["convert", source, "--to", layout, "--out", target, "--base", folder / "base", "--quiet"]
    return run(oplora, *arguments, *(["--component", "text_encoder"] if layout in ("diffusers", "kohya") else []))


def check(oplora, folder, layout, original, kind, inputs, outputs):
    """What the table says of the layout, and what is wrong."""
    target = folder / layout / FILES.get(layout, "adapter")
    target.parent.mkdir()
    result = convert(oplora, folder, folder / "adapter", layout, target)
    if result.returncode:
        reason = result.stderr.strip()
        if result.returncode != 65 or list(target.parent.iterdir()):
            return "", f"exit code {result.returncode}, {list(target.parent.iterdir())}: {reason}"
        # Without the program's name, the path and what to do.
        return "no: " + reason.split(": ", 2)[-1].split(";")[0], ""
    there = difference(merged(oplora, folder, target, "merged"), original)
    back = target.parent / "back"
    result = convert(oplora, folder, target, "peft", back)
    if result.returncode:
        return "", f"back to PEFT: {result.stderr.strip()}"
    returned = difference(merged(oplora, folder, back, "merged"), original)
    if max(there or 0, returned or 0) > BOUND:
        return "", f"weights differ by {there}, and back by {returned}"
    base = kind.from_pretrained(folder / "base", dtype=torch.float32)
    if outputs.shape[-1] == adapters.VOCABULARY + 4:  # grown
        base.resize_token_embeddings(outputs.shape[-1])
    model = PeftModel.from_pretrained(base, back)
    error = ((adapters.outputs_of(model, inputs) - outputs).abs().max() / outputs.abs().max()).item()
    if error > adapters.BOUND:
        return "", f"what PEFT loads differs by {error}"
    return "same bytes" if there is None and returned is None else f"{max(there or 0, returned or 0):.0e}", ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    failed = 0
    if options.markdown:
        print("| PEFT's adapter | " + " | ".join(LAYOUTS) + " |\n|" + "---|" * (len(LAYOUTS) + 1))
    for case in adapters.CASES:
        if options.only.lower() not in case[0].lower() or case[0].startswith("another name"):
            continue
        folder = pathlib.Path(tempfile.mkdtemp())
        kind, inputs, outputs = adapters.make(case, folder)
        original = merged(options.oplora, folder, folder / "adapter", "merged")
        cells = []
        for layout in LAYOUTS:
            try:
                cell, wrong = check(options.oplora, folder, layout, original, kind, inputs, outputs)
            except Exception as error:  # whatever a library throws at what was written
                cell, wrong = "", f"{type(error).__name__}: {error}"
            failed += bool(wrong)
            cells.append(cell if not wrong else f"FAIL: {wrong}")
            if not options.markdown:
                print(f"{'FAIL' if wrong else 'ok  '}  {case[0]}, {layout}: {wrong or cell}", flush=True)
        if options.markdown:
            print(f"| {case[0]} | " + " | ".join(cells) + " |", flush=True)
        shutil.rmtree(folder)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
