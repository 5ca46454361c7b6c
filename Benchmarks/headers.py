"""Looking into safetensors files beside Python's safetensors, in one run: milliseconds of whole processes.

    python3 Benchmarks/headers.py --model SMOLLM2_BF16 [--oplora PROGRAM] [--rounds N]

The second file has 100,000 tensors and is made here. The Python program asks for every name, type and shape; its start
without safetensors is measured alone, too. `--stats` is given as the bytes of the model a second, the whole process counted.
Every round runs all jobs once, in turn; the first only warms the page cache. Figures are medians.
"""
import argparse
import json
import os
import pathlib
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version

from training import machine

PARTS = [f"self_attn.{part}_proj.weight" for part in "qkvo"] + [f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
PARTS += ["input_layernorm.weight", "post_attention_layernorm.weight", "mlp.experts.bias"]


def make_file(path, tensors=100_000):
    """A file of many small tensors, named as a model's are."""
    header, offset = {}, 0
    for number in range(tensors):
        name = f"model.layers.{number // len(PARTS)}.{PARTS[number % len(PARTS)]}"
        header[name] = {"dtype": "BF16", "shape": [2, 2], "data_offsets": [offset, offset + 8]}
        offset += 8
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + bytes(offset))


def names_and_shapes(path):
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        for name in file.keys():
            tensor = file.get_slice(name)
            tensor.get_shape(), tensor.get_dtype()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", default=".build/release/oplora")
    parser.add_argument("--model", required=True, help="the model's folder, with one model.safetensors")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--names", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.names:
        return names_and_shapes(args.names)

    with tempfile.TemporaryDirectory() as work:
        weights, many = f"{args.model}/model.safetensors", f"{work}/many.safetensors"
        make_file(many)
        python = [sys.executable, __file__, "--model", args.model, "--names"]
        jobs = {
            "`oplora inspect`, the model": [args.oplora, "inspect", args.model],
            "safetensors, the model": [*python, weights],
            "`oplora inspect`, 100,000 tensors": [args.oplora, "inspect", many],
            "safetensors, 100,000 tensors": [*python, many],
            "start of Python alone": [sys.executable, "-c", ""],
            "`oplora inspect --stats`, the model": [args.oplora, "inspect", "--stats", args.model],
        }
        times = {name: [] for name in jobs}
        for number in range(args.rounds + 1):
            for name, command in jobs.items():
                started = time.perf_counter()
                subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
                if number:
                    times[name].append(1000 * (time.perf_counter() - started))

    size = pathlib.Path(weights).stat().st_size
    print(f"{machine()}; safetensors {version('safetensors')}, {os.path.basename(os.path.normpath(args.model))} of {size / 1e6:.0f} MB, "
          f"median of {args.rounds} rounds\n")
    print("| job | ms | from, to | GB/s |\n|---|---|---|---|")
    for name, measured in times.items():
        median = statistics.median(measured)
        rate = f"{size / median / 1e6:.1f}" if "--stats" in name else ""
        print(f"| {name} | {median:.1f} | {min(measured):.1f}, {max(measured):.1f} | {rate} |")


if __name__ == "__main__":
    main()
