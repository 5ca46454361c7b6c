"""Merging beside `cp -r` and PEFT, in one run: seconds and peak memory for a rank-16 adapter on every linear layer.

    python3 Benchmarks/merge.py --model SMOLLM2_BF16 [--oplora PROGRAM] [--rounds N]

Each job is a process of its own and is timed from its start to its end: `cp -r` of the model's folder, `oplora merge` with
and without waiting for the disk, and a Python program that loads the model, merges the adapter with PEFT and saves the
result. Its imports count, and are measured alone, too. Every round runs all jobs once, in turn, each into a new folder after a
copy of the model was made there and removed; the first round only warms the page cache. Figures are medians.
"""
import argparse
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time
from importlib.metadata import version

from training import machine, measured

RANK, ALPHA = 16, 32


def import_libraries():
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401


def make_adapter(model, out):
    """A PEFT folder with both factors random, so that the merge changes every adapted weight."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    adapted = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    adapted.save_pretrained(out)


def merge_with_peft(model, adapter, out):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(out)
    if os.path.exists(f"{model}/tokenizer.json"):
        AutoTokenizer.from_pretrained(model).save_pretrained(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", default=".build/release/oplora")
    parser.add_argument("--model", required=True, help="the model's folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--job", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    args.model = os.path.realpath(args.model)  # cp -r would copy a link as a link
    if args.job:
        job, *paths = args.job
        return {"imports": import_libraries, "adapter": make_adapter, "peft": merge_with_peft}[job](*paths)

    def python(*job):
        return [sys.executable, __file__, "--model", args.model, "--job", *job]

    with tempfile.TemporaryDirectory() as work:
        adapter, out = f"{work}/adapter", f"{work}/out"
        measured(python("adapter", args.model, adapter))
        merge = [args.oplora, "merge", "--base", args.model, "--adapter", adapter, "--out", out, "--quiet"]
        jobs = {
            "`cp -r`": ["cp", "-r", args.model, out],
            "`cp -r && sync`": ["sh", "-c", 'cp -r "$0" "$1" && sync', args.model, out],
            "`oplora merge --no-fsync`": [*merge, "--no-fsync"],
            "`oplora merge`": merge,
            "PEFT: load, merge, save": python("peft", args.model, adapter, out),
            "of which imports": python("imports"),
        }
        seconds, peaks = ({name: [] for name in jobs} for _ in range(2))
        for number in range(args.rounds + 1):
            for name, command in jobs.items():
                # What memory is free, and whether the machine below has given it away, decides how fast files are written.
                shutil.copytree(args.model, out)
                shutil.rmtree(out)
                started = time.perf_counter()
                _, peak = measured(command)
                if number:
                    seconds[name].append(time.perf_counter() - started)
                    peaks[name].append(peak)
                shutil.rmtree(out, ignore_errors=True)

    size = sum(path.stat().st_size for path in pathlib.Path(args.model).iterdir())
    print(f"{machine()}; peft {version('peft')}, torch {version('torch')}\n{size / 1e6:.0f} MB, median of {args.rounds} rounds\n")
    print("| job | seconds | from, to | beside `cp -r` | peak MiB |\n|---|---|---|---|---|")
    copying = statistics.median(seconds["`cp -r`"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"| {name} | {median:.2f} | {min(times):.2f}, {max(times):.2f} | {median / copying:.1f} | {max(peaks[name]):.0f} |")


if __name__ == "__main__":
    main()
