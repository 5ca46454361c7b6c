"""Verifying beside deltalint and beside reading the files, in one run: seconds, peak memory and verdicts.

    python3 Benchmarks/verify.py --model SMOLLM2_BF16 [--large LLAMA_SHAPE] [--deltalint PROGRAM] [--oplora PROGRAM] [--rounds N]

PEFT makes adapters of several kinds for the model, and for small random ones of other architectures, and merges each; the merges are then
spoiled, too, by leaving one weight out. Each program is a process of
its own, timed from its start to its end, all of them once in each round; the first round only warms the page cache. With `--large` a
merge of that model by `oplora merge` is verified beside `cat base merged > /dev/null`. Figures are medians.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from training import machine

os.environ["HF_HUB_OFFLINE"] = "1"
KINDS = {
    "plain": {},
    "rsLoRA": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 4, "down_proj": 24}, "alpha_pattern": {"q_proj": 7.5}},
    "embedding": {"target_modules": ["q_proj", "v_proj", "embed_tokens"]},
    "modules_to_save": {"modules_to_save": ["model.norm"]},
    "DoRA": {"use_dora": True},
    # Of models of their own.
    "Conv1D": {"target_modules": ["c_attn", "c_fc", "c_proj"], "fan_in_fan_out": True},
    "convolution": {"target_modules": ["convolution"], "task_type": None},
    "experts": {"target_modules": [], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
}


def own_model(kind):
    """The random model of an architecture that has modules of this kind, in about 50 MB; `None` for the kinds that the given model has."""
    import transformers

    if kind == "Conv1D":
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=6, n_embd=512, n_head=8, vocab_size=4096))
    if kind == "convolution":
        return transformers.ResNetForImageClassification(transformers.ResNetConfig(depths=[2, 2, 2, 2], layer_type="basic", num_labels=10))
    if kind == "experts":
        return transformers.MixtralForCausalLM(
            transformers.MixtralConfig(
                vocab_size=1024, hidden_size=384, intermediate_size=768, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2,
                num_local_experts=8))
    return None


def make(kind, model, folder):
    """A base where the kind needs its own, an adapter with random factors, and PEFT's merge of it."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    own = own_model(kind)
    if own is None:
        os.symlink(model, f"{folder}/base")
    else:
        own.to(torch.bfloat16).save_pretrained(f"{folder}/base")

    def load():
        return type(own).from_pretrained(f"{folder}/base", dtype="auto") if own else AutoModelForCausalLM.from_pretrained(model, dtype="auto")

    options = {"task_type": "CAUSAL_LM", "r": 16, "lora_alpha": 32, "target_modules": "all-linear", **KINDS[kind]}
    adapted = get_peft_model(load(), LoraConfig(**options))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    adapted.save_pretrained(f"{folder}/adapter")
    PeftModel.from_pretrained(load(), f"{folder}/adapter").merge_and_unload().save_pretrained(f"{folder}/merged")


def spoil(folder, out):
    """The merge with the update of one weight left out."""
    from safetensors.torch import load_file, save_file

    base = load_file(f"{folder}/base/model.safetensors")
    shutil.copytree(f"{folder}/merged", out)
    weights = load_file(f"{folder}/merged/model.safetensors")
    # A weight of the fourth layer, or of whatever there is.
    adapted = [name for name in base if name in weights and not weights[name].equal(base[name])]
    name = next((name for name in adapted if "layers.3.self_attn.q_proj" in name), adapted[len(adapted) // 2])
    save_file({**weights, name: base[name]}, f"{out}/model.safetensors", {"format": "pt"})


def run(command):
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return time.perf_counter() - started, usage.ru_maxrss / 1024, process.returncode, output


def rounds(jobs, count):
    results = {name: [] for name in jobs}
    for number in range(count + 1):
        for name, command in jobs.items():
            result = run(command)
            if number:
                results[name].append(result)
    return {name: (statistics.median(r[0] for r in list_), max(r[1] for r in list_), list_[-1][2], list_[-1][3]) for name, list_ in results.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", default=".build/release/oplora")
    parser.add_argument("--deltalint", default=pathlib.Path(sys.executable).with_name("deltalint"))
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--large", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--job", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.model = args.model.resolve()
    if args.job:
        return {"make": make, "spoil": spoil}[args.job[0]](*args.job[1:])
    print(f"{machine()}\n")
    with tempfile.TemporaryDirectory() as work:
        print("| adapter, merged by PEFT | oplora | s | MiB | deltalint | s | MiB | times as long | share of its memory |\n|---|---|---|---|---|---|---|---|---|")
        for kind in KINDS:
            folder = f"{work}/{kind}"
            os.mkdir(folder)
            job = [sys.executable, __file__, "--model", str(args.model), "--job"]
            subprocess.run([*job, "make", kind, str(args.model), folder], check=True, capture_output=True)
            subprocess.run([*job, "spoil", folder, f"{folder}/spoiled"], check=True, capture_output=True)
            for merged in ("merged", "spoiled"):
                paths = ["--base", f"{folder}/base", "--adapter", f"{folder}/adapter", "--merged", f"{folder}/{merged}"]
                found = rounds({"oplora": [args.oplora, "verify", *paths, "--json"], "deltalint": [args.deltalint, "check", *paths]}, args.rounds)
                ours, theirs = found["oplora"], found["deltalint"]
                report = json.loads(ours[3])
                verdict = report["verdict"] + "".join(f": {fault['code']} {fault['module']}" for fault in report["faults"][:1])
                words = theirs[3].strip().splitlines()
                print(
                    f"| {kind}{', one weight left out' if merged == 'spoiled' else ''} | {verdict} | {ours[0]:.2f} | {ours[1]:.0f} | exit {theirs[2]}: {words[-1][:90] if words else ''} "
                    f"| {theirs[0]:.2f} | {theirs[1]:.0f} | {theirs[0] / ours[0]:.1f} | {ours[1] / theirs[1]:.3f} |", flush=True)
        if args.large:
            merged, adapter = f"{work}/large", f"{work}/large-adapter"
            merge = pathlib.Path(__file__).with_name("merge.py")
            subprocess.run([sys.executable, merge, "--model", args.large, "--job", "adapter", args.large, adapter], check=True, capture_output=True)
            subprocess.run([args.oplora, "merge", "--base", args.large, "--adapter", adapter, "--out", merged, "--quiet"], check=True)
            found = rounds(
                {
                    "`cat base merged > /dev/null`": ["sh", "-c", 'cat "$0"/*.safetensors "$1"/*.safetensors > /dev/null', str(args.large), merged],
                    "`oplora verify`": [args.oplora, "verify", "--base", str(args.large), "--adapter", adapter, "--merged", merged],
                }, args.rounds)
            print("\n| large model | s | peak MiB | says |\n|---|---|---|---|")
            for name, (seconds, peak, _, output) in found.items():
                print(f"| {name} | {seconds:.2f} | {peak:.0f} | {output.strip()[:100]} |")


if __name__ == "__main__":
    main()
