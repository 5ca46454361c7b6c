"""Training speed beside torch, in one run: tokens a second and peak memory of LoRA and OP-LoRA.

    python3 Benchmarks/training.py --oplora .build/release/oplora --model SMOLLM2_BF16 --model-f32 SMOLLM2_F32 --data TEXT

Batch 4 of 256 tokens, rank 16, alpha 32, all linear layers, AdamW; OP-LoRA with width 32 and embedding 128. Each program
trains for --steps steps in a process of its own, one after the other; the figure is the median of the steps after the
first two. torch has PEFT's LoRA, or a module that is OP-LoRA by its definition, on all cores.

Where the processor has no BF16 products, oplora takes the BF16 weights with --precision f32, and torch, which then needs
many minutes for a step in BF16, is given one step.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version

BATCH, SEQUENCE, RANK, ALPHA, WIDTH, EMBEDDING = 4, 256, 16, 32, 32, 128


def measured(command):
    """Standard output of a command, and the peak resident memory of its process in MiB."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command[0]} ended with {process.returncode}")
    return output, usage.ru_maxrss / 1024


def processor():
    """What the system says of the processor."""
    if not os.path.exists("/proc/cpuinfo"):
        return {}
    with open("/proc/cpuinfo") as file:
        return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in file)}


def multiplies_bf16():
    return "avx512_bf16" in processor().get("flags", "").split()


def machine():
    """The processor, its cores, and those of its instruction sets that decide the speed."""
    info = processor()
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in info.get("flags", "").split()]
    return f"{info.get('model name', platform.processor())}, {os.cpu_count()} cores, {' '.join(flags)}"


def ours(args, method, model, dtype):
    with tempfile.TemporaryDirectory() as work:
        output, memory = measured([
            args.oplora, "train", "--base", model, "--data", args.data, "--out", f"{work}/run.opck", "--method", method,
            "--rank", str(RANK), "--alpha", str(ALPHA), "--lr", "1e-4",
            "--batch-size", str(BATCH), "--seq-len", str(SEQUENCE), "--steps", str(args.steps), "--json",
            "--precision", "bf16" if dtype == "bf16" and multiplies_bf16() else "f32",
            *(["--width", str(WIDTH), "--embedding", str(EMBEDDING)] if method == "op-lora" else [])])
    events = [json.loads(line) for line in output.splitlines()]
    return [event["tokensPerSecond"] for event in events if event["event"] == "step"], memory


def peer(args, method, model, dtype):
    steps = args.steps if dtype == "f32" or multiplies_bf16() else 1
    output, memory = measured([sys.executable, __file__, "--torch", method, "--dtype", dtype, "--model", model, "--steps", str(steps)])
    return [float(line) for line in output.splitlines()], memory


def run_torch(args):
    """The peer: prints the tokens a second of each step."""
    import time

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(0)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype)
    if args.torch == "lora":
        model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear"))
    else:
        adapt_with_hypernetworks(model, torch)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-4, weight_decay=0)
    for _ in range(args.steps):
        tokens = torch.randint(0, model.config.vocab_size, (BATCH, SEQUENCE))
        started = time.perf_counter()
        model(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        print(BATCH * SEQUENCE / (time.perf_counter() - started), flush=True)


def adapt_with_hypernetworks(model, torch):
    """Puts an OP-LoRA beside every linear layer of the blocks."""

    class OPLoRA(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base
            self.split = RANK * base.in_features
            p = RANK * (base.in_features + base.out_features)
            dtype = base.weight.dtype
            self.z = torch.nn.Parameter(torch.randn(EMBEDDING, dtype=dtype))
            self.first = torch.nn.Linear(EMBEDDING, WIDTH, dtype=dtype)
            self.second = torch.nn.Linear(WIDTH, p, dtype=dtype)
            with torch.no_grad():
                self.second.weight[self.split:] = 0
                self.second.bias.zero_()

        def forward(self, x):
            v = self.second(torch.relu(self.first(self.z)))
            a = v[:self.split].view(RANK, -1)
            b = v[self.split:].view(-1, RANK)
            return self.base(x) + ALPHA / RANK * (x @ a.T) @ b.T

    model.requires_grad_(False)
    for block in model.model.layers:
        for part in (block.self_attn, block.mlp):
            for name, module in list(part.named_children()):
                if isinstance(module, torch.nn.Linear):
                    setattr(part, name, OPLoRA(module))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", default=".build/release/oplora")
    parser.add_argument("--model", help="the model in BF16; without it no rows in BF16")
    parser.add_argument("--model-f32", help="the model in F32; without it no rows in F32")
    parser.add_argument("--data", help="text to train on")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--torch", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.torch:
        return run_torch(args)
    print(f"{machine()}; torch {version('torch')}\n")
    print("| model | method | oplora tokens/s | torch tokens/s | ratio | oplora MiB | torch MiB |\n|---|---|---|---|---|---|---|")
    for dtype, model in (("f32", args.model_f32), ("bf16", args.model)):
        for method in ("lora", "op-lora") if model else ():
            (a, memory), (b, peer_memory) = ours(args, method, model, dtype), peer(args, method, model, dtype)
            a, b = statistics.median(a[2:] or a), statistics.median(b[2:] or b)
            print(f"| {dtype} | {method} | {a:.0f} | {b:.{0 if b >= 10 else 2}f} | {a / b:.2f} | {memory:.0f} | {peer_memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
